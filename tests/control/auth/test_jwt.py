"""RELAY_AUTH=jwt: tokens as Supabase makes them, over real sockets."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from litestar import Litestar, Response, get
from litestar.di import NamedDependency, Provide

from config.loader import load
from config.settings import CONFIG_DIR
from control.api.problems import answer_error
from control.app import create_app
from control.auth.current_user import USER_ID, User
from control.auth.jwks import PAUSE_SECONDS, Jwks, KeysUnavailable
from control.auth.jwt import LONGEST_TOKEN, Bearer
from control.errors import ProblemError
from control.http.client import Remote
from tests.closed_network import egress_of, settings_of
from tests.relay.wires import listening

SECRET = "a-secret-of-at-least-thirty-two-bytes"
ISSUER = "https://project.supabase.co/auth/v1"
RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
OTHER_KEY = ec.generate_private_key(ec.SECP256R1())
USER = "5b1d3a5e-9f3c-4f7e-9d8e-111111111111"


def claims(**more):
    now = int(time.time())
    known = {"sub": USER, "aud": "authenticated", "iss": ISSUER, "iat": now, "exp": now + 3600}
    merged = known | more
    return {name: value for name, value in merged.items() if value is not None}


def sign(key=SECRET, algorithm="HS256", kid=None, **more):
    headers = {"kid": kid} if kid else None
    return jwt.encode(claims(**more), key, algorithm=algorithm, headers=headers)


def jwk(key, kid, **more):
    made = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else None
    made = made or jwt.algorithms.ECAlgorithm
    return made.to_jwk(key.public_key(), as_dict=True) | {"kid": kid, "use": "sig"} | more


class KeyServer:
    """A JWKS URL; `keys` may change, `status` may be an error."""

    def __init__(self):
        self.keys = [jwk(RSA_KEY, "rsa-1"), jwk(EC_KEY, "ec-1")]
        self.status = 200
        self.asked = 0
        self.url = ""


@pytest.fixture
async def server():
    it = KeyServer()

    @get("/keys")
    async def keys() -> Response[dict[str, object]]:
        it.asked += 1
        return Response({"keys": it.keys}, status_code=it.status)

    async with listening(Litestar([keys], openapi_config=None)) as (port, _):
        it.url = f"http://127.0.0.1:{port}/keys"
        yield it


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def jwks(server, clock):
    jwks = Jwks(Remote(egress_of(), server.url), clock=clock)
    async with jwks.running():
        yield jwks


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def make_bearer(jwks=None, secret=SECRET):
    known = {"RELAY_JWT_SECRET": secret} if secret else {"RELAY_JWT_JWKS_URL": "https://keys.test"}
    return Bearer(settings_of(RELAY_AUTH="jwt", RELAY_JWT_ISSUER=ISSUER, **known), jwks)


async def refusal(bearer, token):
    with pytest.raises(ProblemError) as caught:
        await bearer.read_subject(token)
    return str(caught.value)


async def test_a_good_token_of_each_kind_names_its_user(jwks):
    bearer = make_bearer(jwks)

    assert await bearer.read_subject(sign()) == USER
    assert await bearer.read_subject(sign(RSA_KEY, "RS256", "rsa-1")) == USER
    assert await bearer.read_subject(sign(EC_KEY, "ES256", "ec-1")) == USER
    assert await bearer.read_subject(sign(aud=["other", "authenticated"])) == USER


@pytest.mark.parametrize(
    ("token", "said"),
    [
        (sign(exp=int(time.time()) - 60), "expired"),
        (sign(nbf=int(time.time()) + 86400), "not valid yet"),  # collected long before it runs
        (sign(aud="anon"), "another audience"),
        (sign(aud=None), "no aud"),
        (sign(iss="https://evil.example"), "another issuer"),
        (sign(sub=None), "no sub"),
        (sign(sub=""), "names no user"),
        (sign(sub="x" * 256), "names no user"),
        (sign(sub="a\0b"), "names no user"),
        (sign(exp=None), "no exp"),
        (sign("another-secret-of-thirty-two-bytes-or-more"), "signature"),
        (sign("", "none"), "way that is not taken"),
        (sign(SECRET + SECRET, "HS512"), "way that is not taken"),
        ("a.b.c", "cannot be read"),
        ("x" * (LONGEST_TOKEN + 1), "too long"),
    ],
)
async def test_a_bad_token_is_refused_with_its_reason(token, said):
    assert said in await refusal(make_bearer(), token)


async def test_a_token_without_a_signature_is_refused_whatever_else_it_has():
    head, body, _ = sign().split(".")
    assert await refusal(make_bearer(), f"{head}.{body}.")


async def test_a_public_key_is_never_taken_for_a_secret(jwks, monkeypatch):
    pem = RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    # PyJWT itself refuses to make such a token, so we make it as an attacker would.
    monkeypatch.setattr("jwt.algorithms.is_pem_format", lambda _: False)
    forged = jwt.encode(claims(), pem, algorithm="HS256", headers={"kid": "rsa-1"})
    monkeypatch.undo()

    assert "way that is not taken" in await refusal(make_bearer(jwks, secret=None), forged)
    assert "signature" in await refusal(make_bearer(jwks), forged)


async def test_a_key_of_another_kind_is_not_used(jwks):
    forged = sign(EC_KEY, "ES256", "rsa-1")

    assert "unknown key" in await refusal(make_bearer(jwks), forged)


async def test_keys_are_read_once_and_again_when_a_new_one_is_used(server, jwks, clock):
    bearer = make_bearer(jwks)
    for _ in range(3):
        await bearer.read_subject(sign(EC_KEY, "ES256", "ec-1"))
    assert server.asked == 1

    server.keys = [jwk(OTHER_KEY, "ec-2")]
    clock.now += PAUSE_SECONDS
    assert await bearer.read_subject(sign(OTHER_KEY, "ES256", "ec-2")) == USER
    assert server.asked == 2
    assert "unknown key" in await refusal(bearer, sign(EC_KEY, "ES256", "ec-1"))


async def test_unknown_keys_do_not_make_us_ask_more_often(server, jwks):
    bearer = make_bearer(jwks)
    tokens = [sign(OTHER_KEY, "ES256", f"made-up-{n}") for n in range(20)]
    for token in tokens:
        await refusal(bearer, token)

    assert server.asked == 1


async def test_many_at_once_make_one_request(server, jwks):
    bearer = make_bearer(jwks)
    token = sign(EC_KEY, "ES256", "ec-1")
    async with asyncio.TaskGroup() as tasks:
        for _ in range(20):
            tasks.create_task(bearer.read_subject(token))

    assert server.asked == 1


async def test_known_keys_go_on_counting_while_their_server_does_not_answer(server, jwks, clock):
    bearer = make_bearer(jwks)
    token = sign(EC_KEY, "ES256", "ec-1")
    await bearer.read_subject(token)

    server.status = 500
    clock.now += 10_000
    assert await bearer.read_subject(token) == USER
    assert server.asked == 2


async def test_without_any_key_it_is_our_trouble_and_not_the_users(server, jwks):
    server.status = 500

    with pytest.raises(KeysUnavailable):
        await make_bearer(jwks).read_subject(sign(EC_KEY, "ES256", "ec-1"))


# --- as the program composes it --------------------------------------------------------------


@asynccontextmanager
async def serving(**variables):
    """A handler behind the dependency `user`."""
    settings = settings_of(RELAY_AUTH="jwt", **variables)
    url = settings.jwt_jwks_url
    jwks = Jwks(Remote(egress_of(), url)) if url else None

    @get("/me")
    async def me(user: NamedDependency[User]) -> str:
        return user.id

    app = Litestar(
        [me],
        dependencies={"user": Provide(Bearer(settings, jwks).find_user)},
        exception_handlers={Exception: answer_error},
        lifespan=[lambda _: jwks.running()] if jwks else [],
        openapi_config=None,
    )
    async with (
        listening(app) as (port, _),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        yield client


async def test_the_user_of_a_request_is_that_of_its_token(server):
    async with serving(RELAY_JWT_SECRET=SECRET, RELAY_JWT_JWKS_URL=server.url) as client:
        for token in (sign(), sign(RSA_KEY, "RS256", "rsa-1")):
            answer = await client.get("/me", headers={"Authorization": f"Bearer {token}"})
            assert (answer.status_code, answer.text) == (200, USER)


@pytest.mark.parametrize(
    ("header", "challenge"),
    [
        (None, 'Bearer realm="voice-relay"'),
        ("Basic dXNlcjpwYXNz", 'Bearer realm="voice-relay"'),
        (f"Bearer {sign(exp=1)}", "the token has expired"),
        ("Bearer nonsense", "invalid_token"),
    ],
)
async def test_a_refusal_is_a_problem_with_a_challenge(header, challenge):
    async with serving(RELAY_JWT_SECRET=SECRET) as client:
        answer = await client.get("/me", headers={"Authorization": header} if header else {})

    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "unauthorized"
    assert challenge in answer.headers["www-authenticate"]


async def test_keys_that_cannot_be_had_are_503(server):
    server.status = 500
    async with serving(RELAY_JWT_JWKS_URL=server.url) as client:
        token = sign(RSA_KEY, "RS256", "rsa-1")
        answer = await client.get("/me", headers={"Authorization": f"Bearer {token}"})

    assert answer.status_code == 503
    assert answer.json()["code"] == "sign_in_unavailable"
    assert answer.headers["retry-after"]


async def test_each_user_has_conversations_of_their_own(database_url, tmp_path):
    settings = settings_of(
        DATABASE_URL=database_url,
        RELAY_DATA_DIR=str(tmp_path),
        RELAY_AUTH="jwt",
        RELAY_JWT_SECRET=SECRET,
        RELAY_DIAL_AHEAD="0",
    )
    app = create_app(settings, load(CONFIG_DIR, {}))
    mine = {"Authorization": f"Bearer {sign()}"}
    others = {"Authorization": f"Bearer {sign(sub=USER_ID)}"}
    async with (
        listening(app) as (port, _),
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}/api/v1/voice", trust_env=False
        ) as client,
    ):
        begun = (await client.post("/session", headers=mine)).json()
        path = f"/conversations/{begun['conversation_id']}"

        assert (await client.get(path)).status_code == 401
        assert (await client.post("/session")).status_code == 401
        assert (await client.get(path, headers=mine)).status_code == 200
        assert (await client.get(path, headers=others)).status_code == 404
        assert (await client.get("/conversations", headers=others)).json()["items"] == []
