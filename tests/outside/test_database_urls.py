"""DATABASE_URL as dashboards hand it out, other libraries write it and people mistype it.

Each is taken and works, or is one line that says what to do and has nothing of the password in it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import pytest

from config.database_url import read_database_url
from config.errors import ConfigError
from config.settings import STAND_INS, from_environment
from control.db.migrate import MigrationError, migrate
from control.db.pool import ConnectFailed, connect
from tests.outside.secure_postgres import refusing_pooler, tls_before

VOICE_RELAY = str(Path(sys.executable).with_name("voice-relay"))
PASSWORD = "p@s:s/w?o#r%d[1] &=+'\"ü"
WRONG = "word-of-no-dictionary"


async def run(command, database_url, tmp_path, **environ):
    """Exit code and all output of a command that ends by itself."""
    anywhere = ("--port", "0") if command == "orchestrator" else ()
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("RELAY_", "DATABASE_"))}
    ours = {
        "DATABASE_URL": database_url,
        "DEEPGRAM_API_KEY": "sandbox",
        "ORCHESTRATOR_URL": "http://127.0.0.1:1",
        "RELAY_AUTH": "mock",
        "RELAY_PORT": "0",
        "RELAY_DATA_DIR": str(tmp_path),
        "HOME": str(tmp_path),
    }
    process = await asyncio.create_subprocess_exec(
        *(VOICE_RELAY, command, *anywhere),
        env=kept | ours | environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(40):
            output, _ = await process.communicate()
    except BaseException:
        process.kill()
        raise
    return process.returncode, output.decode()


@pytest.fixture(scope="module")
def account(secure):
    """An account whose password has every letter that a URL reserves."""
    literal = PASSWORD.replace("'", "''")
    asyncio.run(
        secure.run(f"CREATE ROLE odd LOGIN PASSWORD '{literal}'", "CREATE DATABASE odd OWNER odd")
    )
    return "odd"


ESCAPED = quote(PASSWORD, safe="")
TAKEN = [
    "postgresql://odd:{escaped}@{place}/odd",
    "postgres://odd:{escaped}@{place}/odd?pgbouncer=true&connection_limit=1&pool_timeout=0",
    "postgresql://odd:{escaped}@{place}/odd?schema=public&sslaccept=accept_invalid_certs",
    "postgresql://odd:{escaped}@{place}/odd?channel_binding=require",
    "postgresql://odd:{escaped}@{place}/odd?sslmode=prefer&",
    "postgresql://odd:{escaped}@{place}/odd?connect_timeout=10&keepalives_idle=5&gssencmode=disable",
    "postgresql://odd:{escaped}@{place}/odd?application_name=mine&options=-c%20work_mem%3D8MB",
    "postgresql://odd:{escaped}@{place}/odd?target_session_attrs=read-write&client_encoding=utf8",
    "postgresql+asyncpg://odd:{escaped}@{place}/odd?prepared_statement_cache_size=0",
    "POSTGRESQL://odd:{escaped}@{place}/odd",
    "jdbc:postgresql://{place}/odd?user=odd&password={escaped}&prepareThreshold=0",
    ' "postgresql://odd:{escaped}@{place}/odd"\n',
    "psql 'postgresql://odd:{escaped}@{place}/odd'",
    "postgresql://odd:{escaped}@127.0.0.1:1,{place}/odd",
    "postgresql://odd:{escaped}@/odd?host={sockets}&port={port}",
    "postgresql://odd@{quoted_sockets}:{port}/odd",
]


@pytest.mark.parametrize("form", TAKEN)
async def test_a_url_as_it_is_handed_out_is_taken(secure, account, form):
    url = form.format(
        escaped=ESCAPED,
        place=secure.place,
        port=secure.port,
        sockets=secure.sockets,
        quoted_sockets=quote(secure.sockets, safe=""),
    )

    connection = await connect(url)

    assert await connection.fetchval("SELECT current_user") == account
    name = await connection.fetchval("SHOW application_name")
    assert name == ("mine" if "application_name=mine" in url else "voice-relay")
    await connection.close()


@pytest.mark.parametrize(
    "query",
    [
        "sslmode=require&channel_binding=require",
        "sslmode=no-verify",
        "ssl=true",
        "sslmode=VERIFY_FULL&sslrootcert={authority}",
        "sslmode=verify-ca&sslrootcert={authority}",
        "sslrootcert={authority}&sslmode=require",
    ],
)
async def test_a_mode_of_tls_is_taken_in_every_spelling(secure, account, query):
    async with tls_before(secure) as place:
        wanted = query.format(authority=secure.authority.file)
        connection = await connect(f"postgresql://odd:{ESCAPED}@{place}/odd?{wanted}")

        assert connection.is_closed() is False
        await connection.close()


@pytest.mark.parametrize("letter", list("@:/?#%[]&=+ '\"~$!,;ü"))
async def test_a_letter_of_a_password_that_is_not_escaped_is_taken_or_named(secure, letter):
    password = f"secret1{letter}secret2"
    literal = password.replace("'", "''")
    role = f"letter_{ord(letter)}"
    await secure.run(f"CREATE ROLE {role} LOGIN PASSWORD '{literal}'")

    unescaped = secure.url(role, password, "postgres")
    if letter in "/?#":
        with pytest.raises(ConnectFailed, match="%XX") as failed:
            await connect(unescaped)
        assert "secret" not in str(failed.value)
        assert "\n" not in str(failed.value)
    else:
        await (await connect(unescaped)).close()
    connection = await connect(secure.url(role, quote(password, safe=""), "postgres"))
    await connection.close()


REFUSED = [
    ("postgresql://user:secret1/secret2@host/db", "%XX"),
    ("postgresql://user:1/secret2@host/db", "%XX"),
    ("postgresql://user:secret1?secret2@host/db", "%XX"),
    ("postgresql://user:1?secret2=secret3@host/db", "%XX"),
    ("postgresql://user:1#secret2@host/db", "%XX"),
    ("postgresql://user:secret@host/db#secret", "%XX"),
    ("postgresql://user:secret@host:secret/db", "host:port"),
    ("postgresql://user:secret@host:70000/db", "host:port"),
    ("postgresql://user:secret@a,,b/db", "host:port"),
    ("postgresql://user:secret@[::1/db", "host:port"),
    ("postgresql://user:secret%FF@host/db", "UTF-8"),
    ("postgresql://user:secret%00@host/db", "NUL"),
    ("postgresql://user:secret@host/db?secret", "name=value"),
    ("postgresql://user:secret@host/db?sslmode=secret", '"verify-full"'),
    ("postgresql://user:secret@host/db?sslmode=parse", '"verify-full"'),
    ("postgresql://user:secret@host/db?sslmode=prefer&sslrootcert=system", "verify-full"),
    ("postgresql://user:secret@host/db?target_session_attrs=secret", '"read-write"'),
    ("postgresql://user:secret@/db?host=a,b&port=1,2,3", "port"),
    ("postgresql://user:secret@/db?host=a&port=secret", "port"),
    ("postgresql://postgres.secret:[YOUR-PASSWORD]@host/db", "placeholder"),
    ("host=h user=u password=secret", "postgresql://"),
    ("prisma://secret@host/db", "postgresql://"),
    ("mysql://user:secret@host/db", "postgresql://"),
]


@pytest.mark.parametrize(("url", "said"), REFUSED)
def test_a_url_that_cannot_be_meant_is_one_line_without_a_piece_of_it(url, said):
    with pytest.raises(ValueError, match="expected") as refused:
        read_database_url(url)

    assert said in str(refused.value)
    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "secret" not in repr(refused.value.__cause__)


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("pgbouncer=true&schema=public", ("pgbouncer", "schema")),
        ("sslmode=require&channel_binding=require", ("channel_binding",)),
        ("prepareThreshold=0", ("prepareThreshold",)),
        ("application_name=x&options=a", ()),
    ],
)
def test_what_is_ignored_is_named(query, names):
    read = read_database_url(f"postgresql://user:secret@host/db?{query}")

    assert read.ignored == names
    assert "secret" not in f"{read} {read!r}"


# --- the same line from every command ------------------------------------------------------------


async def mistakes(secure, stack):
    """Name to (URL, what has to be said)."""
    user, odd = "odd", ESCAPED
    tls = await stack.enter_async_context(tls_before(secure))
    other = await stack.enter_async_context(tls_before(secure, "other.example"))
    full = await stack.enter_async_context(
        refusing_pooler("MaxClientsInSessionMode: max clients reached")
    )
    unknown = await stack.enter_async_context(
        refusing_pooler("unsupported startup parameter: search_path", "08P01")
    )
    tenant = await stack.enter_async_context(refusing_pooler("Tenant or user not found"))
    return {
        "wrong password": (
            secure.url(user, WRONG, "odd"),
            "the database refuses our account: password authentication failed",
        ),
        "no such database": (
            secure.url(user, odd, "nothing"),
            'there is no such database: database "nothing" does not exist',
        ),
        "no such host": (
            f"postgresql://user:{WRONG}@db.nowhere.invalid/db",
            "the database does not answer: ",
        ),
        "refused": (
            f"postgresql://user:{WRONG}@127.0.0.1:1/db",
            "the database does not answer: ",
        ),
        "no TLS offered": (
            f"postgresql://user:{WRONG}@{unknown}/db?sslmode=require",
            "the database offers no TLS",
        ),
        "a rule of pg_hba.conf": (
            secure.url(user, odd, "closed"),
            "the database refuses our account: pg_hba.conf rejects connection",
        ),
        "no root certificate": (
            secure.url(user, odd, "odd", "?sslmode=verify-full"),
            "there is no root certificate for the database",
        ),
        "another authority": (
            f"postgresql://{user}:{odd}@{tls}/odd?sslrootcert=system",
            "the certificate of the database is not trusted",
        ),
        "another name": (
            f"postgresql://{user}:{odd}@{other}/odd?sslmode=verify-full"
            f"&sslrootcert={secure.authority.file}",
            "the certificate of the database is not trusted",
        ),
        "no such file": (
            secure.url(user, odd, "odd", "?sslmode=verify-ca&sslrootcert=/no/such/file"),
            "DATABASE_URL cannot be used: no file to read at /no/such/file; check sslrootcert",
        ),
        "an unknown parameter": (
            secure.url(user, odd, "odd", "?nonsense=1"),
            "the database refuses a parameter of DATABASE_URL: unrecognized configuration "
            'parameter "nonsense"',
        ),
        "an unescaped password": (
            secure.url(user, f"1/{WRONG}", "odd"),
            "DATABASE_URL",
        ),
        "a parameter that a pooler does not know": (
            f"postgresql://user:{WRONG}@{unknown}/db",
            "the database refuses a parameter of DATABASE_URL: unsupported startup parameter",
        ),
        "a tenant that a pooler does not know": (
            f"postgresql://user:{WRONG}@{tenant}/db",
            "the database refuses our account: Tenant or user not found",
        ),
        "a pooler that is full": (
            f"postgresql://user:{WRONG}@{full}/db",
            "the database takes no more connections: MaxClientsInSessionMode",
        ),
        "an over-long host": (
            f"postgresql://user:{WRONG}@{'a' * 70}.example/db",
            "DATABASE_URL cannot be used",
        ),
    }


async def test_a_mistake_is_one_line_with_the_reason_and_without_the_password(
    secure, account, monkeypatch, tmp_path
):
    monkeypatch.setenv("HOME", str(tmp_path))
    async with AsyncExitStack() as stack:
        for name, (url, said) in (await mistakes(secure, stack)).items():
            with pytest.raises(MigrationError) as failed:
                await migrate(url, log=logging.getLogger("tests"))

            line = str(failed.value)
            assert said in line, name
            assert WRONG not in line, name
            assert ESCAPED not in line, name
            assert "\n" not in line, name


COMMANDS = [
    *((command, "wrong password") for command in ("serve", "migrate", "dev", "orchestrator")),
    *(("doctor", name) for name in ("wrong password", "an unescaped password")),
    *(("serve", name) for name in ("no root certificate", "an unescaped password")),
]


@pytest.mark.parametrize(("command", "name"), COMMANDS)
async def test_the_same_mistake_is_the_same_line_from_every_command(
    secure, account, tmp_path, command, name
):
    async with AsyncExitStack() as stack:
        url, said = (await mistakes(secure, stack))[name]
        code, output = await run(command, url, tmp_path)

    assert code == 1
    assert said in output
    assert WRONG not in output
    assert ESCAPED not in output
    assert "Traceback" not in output
    lines = [line for line in output.splitlines() if "program_started" not in line]
    assert command == "doctor" or len(lines) == 1


async def test_check_names_what_is_ignored_and_hides_the_rest(tmp_path):
    url = "postgresql://user:secret@host/db?pgbouncer=true&schema=public"

    code, output = await run("check", url, tmp_path)

    assert code == 0, output
    assert "DATABASE_URL: pgbouncer says nothing to this program: ignored" in output
    assert "DATABASE_URL: schema says nothing to this program: ignored" in output
    assert "secret" not in output

    code, output = await run("check", "postgresql://user:1/secret@host/db", tmp_path)

    assert code == 1
    assert "DATABASE_URL: expected" in output
    assert "secret" not in output


async def test_a_password_that_is_changed_while_the_relay_runs_is_named_and_shows_nothing(
    stage, secure
):
    await secure.run("CREATE ROLE changing LOGIN PASSWORD 'first'", "CREATE DATABASE changing")
    await secure.run("ALTER DATABASE changing OWNER TO changing")
    url = secure.url("changing", "first", "changing", "?pgbouncer=true")
    code, output = await run("migrate", url, stage.folder / "migrate")
    assert code == 0, output
    relay = stage.relay(DATABASE_URL=url)
    await relay.start()
    ready = f"{relay.url}/health/ready"
    assert (await stage.http.get(ready)).status_code == 200

    await secure.run(
        "ALTER ROLE changing PASSWORD 'second'",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'changing'",
    )

    answer = await _until_it_refuses(stage.http, ready)
    assert answer.json()["reasons"] == ["the database refuses our account"]
    async with asyncio.timeout(20):  # the next heartbeat
        while "password authentication failed" not in relay.output:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert "database_parameters_ignored names=pgbouncer" in relay.output
    assert "Traceback" not in relay.output

    await secure.run("ALTER ROLE changing PASSWORD 'first'")
    async with asyncio.timeout(20):
        while (await stage.http.get(ready)).status_code != 200:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def _until_it_refuses(http, url):
    async with asyncio.timeout(20):
        while True:
            answer = await http.get(url)
            reasons = answer.json()["reasons"]
            if reasons and "does not answer" not in reasons[0]:
                return answer
            await asyncio.sleep(0.1)


async def test_a_database_that_takes_nobody_at_the_moment_is_waited_for(stage):
    async with refusing_pooler("MaxClientsInSessionMode: max clients reached") as place:
        relay = stage.relay(DATABASE_URL=f"postgresql://user:secret@{place}/db")
        await relay.start()

        answer = await stage.http.get(f"{relay.url}/health/ready")

    assert answer.status_code == 503
    assert answer.json()["reasons"] == ["the database takes no more connections"]
    assert "MaxClientsInSessionMode" in relay.output
    assert "secret" not in relay.output


# --- the other settings that are URLs ------------------------------------------------------------


@pytest.mark.parametrize("letter", list("@:/?#[]% &=+~!$,;'"))
@pytest.mark.parametrize("name", ["RELAY_EGRESS_PROXY", "HTTPS_PROXY", "ALL_PROXY"])
def test_a_letter_of_a_proxys_password_that_is_not_escaped_is_taken_or_named(name, letter):
    password = f"secret1{letter}secret2"

    def read(text):
        settings = from_environment(STAND_INS | {name: f"http://clerk:{text}@proxy.example:3128"})
        return urlsplit(getattr(settings, name.removeprefix("RELAY_").lower()).reveal())

    if letter in "/?#":
        with pytest.raises(ConfigError, match="%XX") as refused:
            read(password)
        assert "secret" not in str(refused.value)
    else:
        assert unquote(read(password).password) == password
        assert read(password).hostname == "proxy.example"
    assert unquote(read(quote(password, safe="")).password) == password


@pytest.mark.parametrize("name", ["ORCHESTRATOR_URL", "RELAY_PUBLIC_URL", "RELAY_JWT_JWKS_URL"])
@pytest.mark.parametrize(
    "url",
    [
        "https://clerk:secret@host/path",
        "https://clerk:se/cret@host/path",
        "https://clerk:1/secret@host/path",
        "https://clerk:1?secret@host/path",
        "https://clerk:1#secret@host/path",
        "https://clerk:[secret@host/path",
        "htps://host/path?code=secret",
        "host/path?key=secret",
    ],
)
def test_a_url_with_a_secret_in_the_wrong_place_is_refused_and_not_shown(name, url):
    with pytest.raises(ConfigError, match=name) as refused:
        from_environment(STAND_INS | {name: url})

    assert "secret" not in str(refused.value)
    assert "cret" not in str(refused.value)
