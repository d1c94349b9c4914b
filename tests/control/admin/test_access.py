"""Who is an administrator, and where nobody is."""

from __future__ import annotations

import pytest

from config.errors import ConfigError
from config.loader import load
from config.settings import CONFIG_DIR
from control.app import create_app
from tests.closed_network import settings_of
from tests.control.admin.program import API, KEY, bearer, running, token

ASKED = [
    ("GET", "/sessions"),
    ("GET", "/sessions/01a20382-27f0-70ab-b457-344c1527a455"),
    ("POST", "/sessions/01a20382-27f0-70ab-b457-344c1527a455/hang-up"),
    ("GET", "/admin/sessions/01a20382-27f0-70ab-b457-344c1527a455/timeline"),
    ("GET", "/nodes"),
    ("POST", "/nodes/01a20382-27f0-70ab-b457-344c1527a455/drain"),
    ("POST", "/nodes/01a20382-27f0-70ab-b457-344c1527a455/undrain"),
    ("GET", "/state"),
    ("GET", "/intents"),
    ("POST", "/intents/retry"),
    ("POST", "/intents/discard"),
    ("GET", "/user?id=x"),
    ("GET", "/user/conversations?id=x"),
    ("GET", "/user/export?id=x"),
    ("DELETE", "/user?id=x"),
    ("POST", "/condemned/restore"),
    ("GET", "/audit"),
    ("GET", "/costs"),
]


@pytest.mark.parametrize(("method", "path"), ASKED)
async def test_nothing_is_answered_without_the_key(program, method, path):
    for secret in (None, KEY + "x", KEY[:-1], token("user")):
        async with program.administrator(secret) as client:
            url = program.admin_url + path if path.startswith("/admin") else path
            answer = await client.request(method, url)
        assert answer.status_code == 401, answer.text
        assert answer.json()["code"] == "unauthorized"
        assert "www-authenticate" in answer.headers

    assert await program.fetch("SELECT FROM voice.audit") == []


def test_every_route_is_tried_without_the_key():
    settings = settings_of(RELAY_ADMIN_KEY=KEY, RELAY_METRICS_PORT="9")
    app = create_app(settings, load(CONFIG_DIR, {}))
    paths = app.state.operations.openapi_schema.paths
    count = sum(getattr(item, m) is not None for item in paths.values() for m in ("get", "post"))
    count += sum(item.delete is not None for item in paths.values())

    assert count == len(ASKED)


async def test_none_of_it_is_on_the_public_address(program):
    async with program.user("user") as client:
        for path in ("/admin", "/admin/api/state", "/admin/schema"):
            assert (await client.get(path, headers=bearer(KEY))).status_code == 404


def test_without_a_key_and_a_claim_there_is_no_route():
    app = create_app(settings_of(RELAY_METRICS_PORT="9"), load(CONFIG_DIR, {}))

    assert [route.path for route in app.state.operations.routes] == ["/metrics"]


@pytest.mark.parametrize(
    ("claim", "claims", "is_one"),
    [
        ("role=voice-admin", {"role": "voice-admin"}, True),
        ("role=voice-admin", {"role": "authenticated"}, False),
        ("role=voice-admin", {}, False),
        ("app.roles=voice-admin", {"app": {"roles": ["other", "voice-admin"]}}, True),
        ("app.roles=voice-admin", {"app": {"roles": ["other"]}}, False),
        ("app.roles=voice-admin", {"app": "roles"}, False),
    ],
)
async def test_a_claim_of_a_token_makes_an_administrator(
    database_url, tmp_path, agent_url, claim, claims, is_one
):
    async with (
        running(database_url, tmp_path, agent_url, RELAY_ADMIN_CLAIM=claim) as program,
        program.administrator(token("ada", **claims)) as client,
    ):
        answer = await client.get("/user/conversations", params={"id": "x"})

        if is_one:
            assert answer.status_code == 200, answer.text
            [line] = (await program.ask("GET", "/audit"))["items"]
            assert line["who"] == "jwt:ada"
        else:
            assert answer.status_code == 403
            assert answer.json()["code"] == "not_administrator"


async def test_the_key_is_in_no_line_of_the_log_and_no_answer(program, caplog):
    async with program.administrator(KEY + "x") as client:
        answer = await client.get("/state")

    assert "admin_refused" in caplog.text
    assert KEY not in caplog.text + answer.text


async def test_answers_are_not_kept(program):
    async with program.administrator() as client:
        assert (await client.get("/state")).headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("variables", "wrong"),
    [
        ({"RELAY_ADMIN_KEY": "fifteen-letters"}, "at least 16 characters"),
        ({"RELAY_ADMIN_CLAIM": "role"}, "a claim and its value"),
        ({"RELAY_ADMIN_CLAIM": "=x"}, "a claim and its value"),
        ({"RELAY_ADMIN_KEY": KEY}, "RELAY_METRICS_PORT"),
        ({"RELAY_ADMIN_CLAIM": "role=x"}, "RELAY_METRICS_PORT"),
        ({"RELAY_ADMIN_CLAIM": "role=x"}, "RELAY_JWT_SECRET or RELAY_JWT_JWKS_URL"),
    ],
)
def test_settings_that_let_nobody_in_are_refused(variables, wrong):
    with pytest.raises(ConfigError) as error:
        settings_of(**variables)

    assert wrong in str(error.value)
    assert "fifteen-letters" not in str(error.value)


async def test_with_a_public_url_only_the_address_itself_is_answered(
    database_url, tmp_path, agent_url
):
    public = {"RELAY_PUBLIC_URL": "https://voice.example.com"}
    async with (
        running(database_url, tmp_path, agent_url, **public) as program,
        program.administrator() as client,
    ):
        odd = await client.get("/state", headers={"Host": "evil.example"})

        assert (await client.get("/state")).status_code == 200
        assert (odd.status_code, odd.json()["code"]) == (400, "host")


async def test_a_page_of_another_site_can_do_nothing(program):
    async with program.administrator() as client:
        answer = await client.post(
            "/intents/retry", json={}, headers={"Origin": "https://evil.example"}
        )

    assert (answer.status_code, answer.json()["code"]) == (403, "origin")


async def test_a_user_of_the_public_address_is_no_administrator(program):
    async with program.user("user") as client:
        assert (await client.get(f"{API}/conversations")).status_code == 200
    async with program.administrator(token("user", role="voice-admin")) as client:
        assert (await client.get("/state")).status_code == 401
