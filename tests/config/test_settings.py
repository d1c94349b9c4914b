"""config/settings.py: the environment, read once and completely."""

import pickle
from pathlib import Path

import pytest

from config.env_types import Secret
from config.errors import ConfigError
from config.settings import VARIABLES, Settings, find_missing, from_environment

NEEDED = {
    "DEEPGRAM_API_KEY": "dg-key-1234",
    "DATABASE_URL": "postgresql://relay:pass-word@db/relay",
    "ORCHESTRATOR_URL": "http://orchestrator:9000/",
}


def problems_of(**variables):
    with pytest.raises(ConfigError) as caught:
        from_environment(NEEDED | variables)
    return caught.value.problems


def test_three_variables_are_enough():
    settings = from_environment(NEEDED)

    assert settings == Settings(
        deepgram_api_key=Secret("dg-key-1234"),
        database_url=Secret("postgresql://relay:pass-word@db/relay"),
        orchestrator_url="http://orchestrator:9000",
    )
    assert (settings.config_dir / "agent.yaml").is_file()


def test_every_needed_variable_that_is_missing_is_named():
    with pytest.raises(ConfigError) as caught:
        from_environment({"DATABASE_URL": "  "})

    assert [problem.split(": ")[1] for problem in caught.value.problems] == [
        "DEEPGRAM_API_KEY",
        "DATABASE_URL",
        "ORCHESTRATOR_URL",
    ]
    assert all("got nothing; set it" in problem for problem in caught.value.problems)


def without_key(**variables):
    return {name: text for name, text in NEEDED.items() if name != "DEEPGRAM_API_KEY"} | variables


def test_the_key_may_be_in_a_file(tmp_path):
    file = tmp_path / "key"
    file.write_text(" dg-key-of-a-file\n")
    environ = without_key(DEEPGRAM_API_KEY_FILE=str(file))

    assert from_environment(environ).deepgram_api_key == Secret("dg-key-of-a-file")
    assert find_missing(environ) == {}
    assert find_missing(without_key()) == {"DEEPGRAM_API_KEY": "sandbox"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        (b" \n", "an empty one"),
        (b"\xff", "not UTF-8"),
        (b"hush hush", "printable ASCII"),
    ],
)
def test_a_file_without_a_key_is_one_mistake_and_not_shown(tmp_path, content, said):
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        from_environment(without_key(DEEPGRAM_API_KEY_FILE=str(file)))

    (problem,) = caught.value.problems
    assert said in problem
    assert "hush" not in problem


def test_the_key_and_its_file_are_one_too_many(tmp_path):
    (problem,) = problems_of(DEEPGRAM_API_KEY_FILE=str(tmp_path))

    assert "got both; remove one" in problem


def test_every_variable_sets_its_field():
    values = {
        "ORCHESTRATOR_TOKEN": "tok",
        "ORCHESTRATOR_SECRET": "sec",
        "DEEPGRAM_AGENT_URL": "ws://127.0.0.1:1/v1/agent/converse",
        "DEEPGRAM_AGENT_FALLBACK_URL": "wss://api.eu.deepgram.com/v1/agent/converse",
        "DEEPGRAM_API_URL": "http://127.0.0.1:1/",
        "RELAY_EGRESS_PROXY": "socks5h://user:pw@proxy",
        "HTTPS_PROXY": "proxy:3128",
        "HTTP_PROXY": "http://proxy",
        "ALL_PROXY": "https://proxy/",
        "NO_PROXY": "localhost, .Example.com,10.0.0.0/8",
        "RELAY_TLS_CA_FILE": "ca.pem",
        "RELAY_TLS_CERT_FILE": "cert.pem",
        "RELAY_TLS_KEY_FILE": "key.pem",
        "RELAY_TLS_MIN_VERSION": "1.3",
        "RELAY_AUTH": "JWT",
        "RELAY_JWT_SECRET": "s" * 32,
        "RELAY_JWT_JWKS_URL": "https://keys.example.com/jwks.json",
        "RELAY_JWT_ISSUER": "https://keys.example.com/",
        "RELAY_JWT_AUDIENCE": "voice",
        "RELAY_DIRECT_TRANSPORT": "on",
        "RELAY_HOST": "::",
        "RELAY_PORT": "0",
        "RELAY_WORKERS": "4",
        "RELAY_DATA_DIR": "data",
        "RELAY_PUBLIC_URL": "https://voice.example.com/",
        "RELAY_ALLOWED_ORIGINS": "https://App.example.com, http://localhost:3000,",
        "RELAY_CONFIG_DIR": "conf",
        "RELAY_TICKET_SECONDS": "5",
        "RELAY_SETUP_SECONDS": "2.5",
        "RELAY_ROLL_OVER_SECONDS": "600",
        "RELAY_GRACE_SECONDS": "0",
        "RELAY_PING_SECONDS": "1",
        "RELAY_MAX_MESSAGE_BYTES": "2048",
        "RELAY_HELD_AUDIO_BYTES": "4096",
        "RELAY_LANE_BYTES": "8192",
        "RELAY_LANE_SECONDS": "7.5",
        "RELAY_JOURNAL_BYTES": "1048576",
        "RELAY_OUTBOX_HOURS": "0.5",
        "RELAY_CLIENT": "off",
        "RELAY_DIAL_AHEAD": "7",
        "RELAY_BROWSER_MESSAGE_BYTES": "65536",
        "RELAY_MESSAGES_PER_SECOND": "2.5",
        "RELAY_AUDIO_SPEED": "0",
        "RELAY_AUDIO_BURST_SECONDS": "5",
        "RELAY_IDLE_SECONDS": "0",
        "RELAY_DATABASE_CONNECTIONS": "3",
        "RELAY_DATABASE_STATEMENT_SECONDS": "4",
        "RELAY_DATABASE_LOCK_SECONDS": "2",
        "DATABASE_DIRECT_URL": "postgresql://relay@direct/relay",
        "RELAY_SESSION_SECONDS": "60",
        "RELAY_SESSIONS": "11",
        "RELAY_DAILY_MINUTES_PER_USER": "90",
        "RELAY_DAILY_MINUTES": "6000.5",
        "RELAY_PRICE_PER_MINUTE": "0.08",
        "RELAY_SESSIONS_PER_USER": "0",
        "RELAY_SESSIONS_PER_ADDRESS": "12",
        "RELAY_REQUESTS_PER_USER": "2.5",
        "RELAY_REQUESTS_PER_ADDRESS": "0",
        "RELAY_DIRECT_REPORTS_PER_MINUTE": "60",
        "RELAY_AGENT_SESSIONS": "45",
        "RELAY_HANDSHAKES": "13",
        "RELAY_HANDSHAKE_SECONDS": "3",
        "RELAY_TRUSTED_PROXIES": "10.0.0.0/8, 2001:db8::1",
        "RELAY_METRICS_NETWORKS": "10.1.2.3/16, ::1",
        "RELAY_RETENTION_DAYS": "30",
        "RELAY_RECORD_DIR": "/recordings",
        "RELAY_RECORD_CONTENT": "on",
        "RELAY_RECORD_AUDIO": "on",
        "RELAY_RECORD_AUDIO_BYTES": "2097152",
        "RELAY_RECORD_SESSION_BYTES": "65536",
        "RELAY_RECORD_BYTES": "1048576",
        "RELAY_RECORD_DAYS": "1.5",
        "RELAY_METRICS_HOST": "0.0.0.0",
        "RELAY_METRICS_PORT": "9464",
        "RELAY_METRICS_TOKEN": "met",
        "RELAY_ADMIN_KEY": "sixteen-letters-",
        "RELAY_ADMIN_CLAIM": "app.role=admin",
        "RELAY_LOG_LEVEL": "DEBUG",
        "RELAY_LOG_FORMAT": "json",
        "RELAY_ACCESS_LOG": "on",
        "OTEL_TRACES_EXPORTER": "console",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces",
        "OTEL_SDK_DISABLED": "TRUE",
    }

    # The file of the key is in its place, not beside it.
    assert {*values, *NEEDED, "DEEPGRAM_API_KEY_FILE"} == {variable.name for variable in VARIABLES}
    assert from_environment(NEEDED | values) == Settings(
        deepgram_api_key=Secret("dg-key-1234"),
        database_url=Secret("postgresql://relay:pass-word@db/relay"),
        orchestrator_url="http://orchestrator:9000",
        orchestrator_token=Secret("tok"),
        orchestrator_secret=Secret("sec"),
        deepgram_agent_url="ws://127.0.0.1:1/v1/agent/converse",
        deepgram_agent_fallback_url="wss://api.eu.deepgram.com/v1/agent/converse",
        deepgram_api_url="http://127.0.0.1:1",
        egress_proxy=Secret("socks5h://user:pw@proxy:1080"),
        https_proxy=Secret("http://proxy:3128"),
        http_proxy=Secret("http://proxy:80"),
        all_proxy=Secret("https://proxy:443"),
        no_proxy=("localhost", ".example.com", "10.0.0.0/8"),
        tls_ca_file=Path("ca.pem"),
        tls_cert_file=Path("cert.pem"),
        tls_key_file=Path("key.pem"),
        tls_min_version="1.3",
        auth="jwt",
        jwt_secret=Secret("s" * 32),
        jwt_jwks_url="https://keys.example.com/jwks.json",
        jwt_issuer="https://keys.example.com/",
        jwt_audience="voice",
        direct_transport=True,
        host="::",
        port=0,
        workers=4,
        data_dir=Path("data"),
        public_url="https://voice.example.com",
        allowed_origins=("https://app.example.com", "http://localhost:3000"),
        config_dir=Path("conf"),
        ticket_seconds=5,
        setup_seconds=2.5,
        roll_over_seconds=600,
        grace_seconds=0,
        ping_seconds=1,
        max_message_bytes=2048,
        held_audio_bytes=4096,
        lane_bytes=8192,
        lane_seconds=7.5,
        journal_bytes=1 << 20,
        database_connections=3,
        database_statement_seconds=4,
        database_lock_seconds=2,
        database_direct_url=Secret("postgresql://relay@direct/relay"),
        outbox_hours=0.5,
        client=False,
        dial_ahead=7,
        browser_message_bytes=65536,
        messages_per_second=2.5,
        audio_speed=0.0,
        audio_burst_seconds=5.0,
        idle_seconds=0.0,
        session_seconds=60.0,
        sessions=11,
        daily_minutes_per_user=90.0,
        daily_minutes=6000.5,
        price_per_minute=0.08,
        sessions_per_user=0,
        sessions_per_address=12,
        requests_per_user=2.5,
        requests_per_address=0.0,
        direct_reports_per_minute=60.0,
        agent_sessions=45,
        handshakes=13,
        handshake_seconds=3.0,
        trusted_proxies=("10.0.0.0/8", "2001:db8::1"),
        metrics_networks=("10.1.0.0/16", "::1"),
        retention_days=30.0,
        record_dir=Path("/recordings"),
        record_content=True,
        record_audio=True,
        record_audio_bytes=2 << 20,
        record_session_bytes=65536,
        record_bytes=1 << 20,
        record_days=1.5,
        metrics_host="0.0.0.0",
        metrics_port=9464,
        metrics_token=Secret("met"),
        admin_key=Secret("sixteen-letters-"),
        admin_claim=("app.role", "admin"),
        log_level="debug",
        log_format="json",
        access_log=True,
        otel_traces_exporter="console",
        otel_exporter_otlp_endpoint=Secret("http://collector:4318"),
        otel_exporter_otlp_traces_endpoint=Secret("http://collector:4318/v1/traces"),
        otel_sdk_disabled="TRUE",
    )


def test_the_table_has_every_field_once_and_its_true_default():
    fields = [variable.field for variable in VARIABLES]
    assert sorted(fields) == sorted(Settings.__struct_fields__)

    plain = from_environment(NEEDED)
    for variable in VARIABLES:
        if variable.default and variable.name != "RELAY_CONFIG_DIR":
            assert variable.read(variable.default) == getattr(plain, variable.field)


def test_all_mistakes_are_reported_at_once():
    problems = problems_of(RELAY_PORT="80800", RELAY_PING_SECONDS="0", RELAY_PROT="1")

    assert problems == [
        "environment: RELAY_PORT: expected a whole number from 0 to 65535, got 80800",
        "environment: RELAY_PING_SECONDS: expected a number above 0, got 0.0",
        "environment: RELAY_PROT: expected a known RELAY_ variable, got this one"
        '; did you mean "RELAY_PORT"?',
    ]


@pytest.mark.parametrize(
    ("name", "text", "read"),
    [
        ("RELAY_TRUSTED_PROXIES", "10.0.0.1/8", ("10.0.0.0/8",)),
        ("RELAY_TRUSTED_PROXIES", " ::ffff:127.0.0.1,,[::1]", ("::ffff:7f00:1", "::1")),
        ("RELAY_TRUSTED_PROXIES", "2001:db8::5/32", ("2001:db8::/32",)),
        ("RELAY_ALLOWED_ORIGINS", "HTTPS://A.example:443", ("https://a.example",)),
        ("RELAY_ALLOWED_ORIGINS", "http://[0::1]:80", ("http://[::1]",)),
        (
            "RELAY_ALLOWED_ORIGINS",
            "https://b\u00fccher.example",
            ("https://xn--bcher-kva.example",),
        ),
        (
            "RELAY_ALLOWED_ORIGINS",
            "capacitor://localhost, app://.",
            ("capacitor://localhost", "app://."),
        ),
    ],
)
def test_a_value_may_be_written_in_other_ways(name, text, read):
    (field,) = [variable.field for variable in VARIABLES if variable.name == name]

    assert getattr(from_environment(NEEDED | {name: text}), field) == read


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("RELAY_WORKERS", "-1", "whole number from 1 to 256, got -1"),
        ("RELAY_WORKERS", "²", 'got "²"'),
        ("RELAY_LANE_BYTES", "1000", "from 1024"),
        ("RELAY_JOURNAL_BYTES", "1000", "from 1048576"),
        ("RELAY_PORT", "tcp://10.0.0.1:8080", "enableServiceLinks"),
        ("RELAY_CLIENT", "no", 'expected on or off, got "no"'),
        ("RELAY_OUTBOX_HOURS", "0", "expected a number above 0, got 0.0"),
        ("RELAY_RETENTION_DAYS", "never", 'expected a number from 0, got "never"'),
        ("RELAY_TRUSTED_PROXIES", "10.0.0.1, proxy", 'such as "10.0.0.0/8"'),
        ("RELAY_TRUSTED_PROXIES", "10.0.0.0/33", 'got "10.0.0.0/33"'),
        ("RELAY_TRUSTED_PROXIES", "*", 'got "*"'),
        ("RELAY_METRICS_NETWORKS", "prometheus", 'such as "10.0.0.0/8"'),
        ("RELAY_HANDSHAKES", "0", "from 1"),
        ("RELAY_SETUP_SECONDS", "soon", 'expected a number above 0, got "soon"'),
        ("RELAY_SETUP_SECONDS", "nan", 'got "nan"'),
        ("RELAY_SETUP_SECONDS", "inf", 'got "inf"'),
        ("RELAY_GRACE_SECONDS", "-1", "expected a number from 0, got -1"),
        ("RELAY_LOG_LEVEL", "warn", 'did you mean "warning"?'),
        ("ORCHESTRATOR_URL", "orchestrator:9000", "begins with http:// or https://"),
        ("ORCHESTRATOR_URL", "http://", "begins with"),
        ("ORCHESTRATOR_URL", "http://a b/", "begins with"),
        ("ORCHESTRATOR_URL", "http://host:port/", "begins with"),
        ("DEEPGRAM_AGENT_URL", "https://agent.deepgram.com", "begins with wss:// or ws://"),
        ("RELAY_ALLOWED_ORIGINS", "https://a.example/", "and no path"),
        ("RELAY_ALLOWED_ORIGINS", "*", 'got "*"'),
        ("RELAY_ALLOWED_ORIGINS", "https://*.example.com", "expected origins"),
        ("RELAY_PUBLIC_URL", "https://voice example.com", "begins with https://"),
        ("RELAY_PUBLIC_URL", "https://a%41.example", "as its host"),
        ("RELAY_ALLOWED_ORIGINS", "https://a.example, null", 'got "null"'),
        ("RELAY_ALLOWED_ORIGINS", "file://", "expected origins"),
        ("RELAY_ALLOWED_ORIGINS", "wss://a.example", "expected origins"),
        ("RELAY_ALLOWED_ORIGINS", "a.example", "expected origins"),
        ("RELAY_ALLOWED_ORIGINS", "https://a.example:99999", "expected origins"),
        ("RELAY_ALLOWED_ORIGINS", "https://[::g]", "expected origins"),
        ("RELAY_ALLOWED_ORIGINS", "https://[", "expected origins"),
        ("RELAY_ALLOWED_ORIGINS", "https://", "expected origins"),
        ("RELAY_NONSENSE_ENTIRELY", "1", "got this one; remove it"),
        ("RELAY_EGRESS_PROXY", "socks4://proxy", "or socks5://"),
        ("RELAY_EGRESS_PROXY", "http://proxy/path", "expected a proxy"),
        ("HTTPS_PROXY", "http://proxy:port", "expected a proxy"),
        ("RELAY_TLS_MIN_VERSION", "1.1", 'expected one of "1.2", "1.3", got "1.1"'),
        ("RELAY_TLS_KEY_FILE", "key.pem", "RELAY_TLS_CERT_FILE beside it"),
        ("RELAY_RECORD_CONTENT", "on", "RELAY_RECORD_DIR beside it"),
        ("RELAY_RECORD_AUDIO", "on", "RELAY_RECORD_DIR beside it"),
        ("RELAY_AUTH", "none", 'expected one of "jwt", "mock"'),
        ("RELAY_AUTH", "jwt", "RELAY_JWT_SECRET or RELAY_JWT_JWKS_URL"),
        ("RELAY_DIRECT_TRANSPORT", "yes", 'expected on or off, got "yes"'),
        ("DEEPGRAM_API_URL", "wss://api", "begins with https:// or http://"),
    ],
)
def test_a_wrong_value_is_explained(name, text, said):
    (problem,) = problems_of(**{name: text})

    assert problem.startswith(f"environment: {name}: expected ")
    assert said in problem


@pytest.mark.parametrize(
    ("variables", "is_open"),
    [
        ({"RELAY_AUTH": "mock"}, False),
        ({"RELAY_AUTH": "mock", "RELAY_PUBLIC_URL": "http://localhost:8080"}, False),
        ({"RELAY_AUTH": "mock", "RELAY_HOST": "0.0.0.0"}, True),
        ({"RELAY_AUTH": "mock", "RELAY_HOST": "::"}, True),
        ({"RELAY_AUTH": "mock", "RELAY_PUBLIC_URL": "https://voice.example.com"}, True),
        ({"RELAY_AUTH": "jwt", "RELAY_JWT_SECRET": "s" * 32, "RELAY_HOST": "::"}, False),
    ],
)
def test_it_is_known_that_nobody_signs_in_where_others_reach_it(variables, is_open):
    assert from_environment({**NEEDED, **variables}).lets_everybody_in is is_open


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("DEEPGRAM_API_KEY", "hush hush"),
        ("DATABASE_URL", "mysql://u:hush@db"),
        ("ORCHESTRATOR_TOKEN", "hush\nhush"),
        ("ORCHESTRATOR_URL", "ftp://u:hush@host"),
        ("ORCHESTRATOR_URL", "https://u:hush@host"),
        ("RELAY_EGRESS_PROXY", "ftp://u:hush@host"),
        ("RELAY_EGRESS_PROXY", "http://u:hush\u00fc@host"),
        ("RELAY_JWT_SECRET", "hush"),
        ("RELAY_ALLOWED_ORIGINS", "https://u:hush@host"),
    ],
)
def test_a_wrong_secret_is_not_printed(name, text):
    (problem,) = problems_of(**{name: text})

    assert "hush" not in problem


def test_the_usual_names_of_proxies_count_in_small_letters_too():
    settings = from_environment(NEEDED | {"https_proxy": "proxy:1", "HTTP_PROXY": "proxy:2"})

    assert settings.https_proxy == Secret("http://proxy:1")
    assert settings.http_proxy == Secret("http://proxy:2")


def test_a_secret_is_masked_wherever_it_is_printed():
    settings = from_environment(NEEDED | {"ORCHESTRATOR_TOKEN": "tok-en"})
    secret = settings.deepgram_api_key

    printed = f"{settings} {settings!r} {secret} {secret!r} {secret!s:>20}"
    for hidden in ("dg-key", "pass-word", "tok-en"):
        assert hidden not in printed
    assert secret.reveal() == "dg-key-1234"


def test_secrets_compare_by_value_and_travel_between_processes():
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a")}) == 1
    assert pickle.loads(pickle.dumps(Secret("a"))) == Secret("a")


@pytest.mark.parametrize(
    ("variables", "exporter"),
    [
        ({}, "none"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, "otlp"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, "otlp"),
        ({"OTEL_TRACES_EXPORTER": "Console"}, "console"),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c"}, "none"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"}, "none"),
    ],
)
def test_there_are_traces_if_it_is_said_where_to(variables, exporter):
    assert from_environment(NEEDED | variables).traces_exporter == exporter
