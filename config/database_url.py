"""DATABASE_URL as dashboards and other programs write it, made into what our driver reads.

What no Postgres knows, only some client library, is ignored by name. What cannot be meant is
refused, in words that have nothing of the URL in them: a part that was misread may be one of the
password. A name that is neither ours to read nor ignored is a setting for the server, which says
whether it knows it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote, unquote, urlencode

import msgspec

from config.env_types import Secret
from config.errors import listed
from config.origins import is_loopback

FORM = 'expected "postgresql://user:password@host/name", got another form'
# Of other client libraries, of poolers' dashboards, of libpq where our driver does not have it, or
# what this program decides itself.
_IGNORED = """
pgbouncer schema connection_limit pool_timeout socket_timeout sslaccept sslidentity
statement_cache_size max_idle_connection_lifetime single_use_connections pool_max_conns
pool_min_conns pool_size max_overflow pool_max_conn_lifetime pool_max_conn_idle_time
pool_health_check_period pool_mode poolclass pool_recycle pool_pre_ping max_connections
min_connections maximum_pool_size conn_max_age conn_health_checks engine ssl_require
uselibpqcompat workaround supa prepared_statements prepare prepare_threshold
preparethreshold prepared_statement_cache_size prepared_statement_name_func
preparedstatementcachequeries currentschema binarytransfer rewritebatchedinserts
applicationname sslfactory sslhostnameverifier tcpkeepalive targetservertype logintimeout
sockettimeout connecttimeout stringtype reconnect charset encoding default_query_exec_mode
statement_cache_capacity description_cache_capacity
channel_binding connect_timeout client_encoding fallback_application_name keepalives
keepalives_idle keepalives_interval keepalives_count tcp_user_timeout load_balance_hosts
require_auth requirepeer requiressl gssencmode gssdelegation sslcompression sslcertmode
sslsni sslcrldir scram_client_key scram_server_key min_protocol_version
max_protocol_version replication timeout command_timeout async_fallback
"""
IGNORED = frozenset(_IGNORED.split())
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
# What other libraries write where libpq has `sslmode`.
_OTHER_MODES = {"no-verify": "require", "true": "require", "1": "require"}
_OTHER_MODES |= {"false": "disable", "0": "disable"}
TARGETS = ("any", "primary", "standby", "prefer-standby", "read-write", "read-only")
_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl", "passfile")
_PEOPLE = ("user", "password")  # an @ in their values is no sign of an unescaped password
_PLACEHOLDER = re.compile(r"\[?<?your[-_ ]?password>?\]?", re.IGNORECASE)
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+(%\w+)?\]|[^\s:@\[\]]*)(:(?P<port>\d+))?")
_ESCAPE = "write each @ : / ? # [ ] % and space of a name or password as %XX (%40 for @)"


class DatabaseUrl(msgspec.Struct, frozen=True):
    """`dsn` is for the driver; `ignored` are the names of parameters that are not in it."""

    dsn: Secret
    ignored: tuple[str, ...]
    trust_system: bool  # check the server's certificate against the system's authorities
    names_application: bool
    is_exposed: bool  # it leads to another machine, and TLS is not insisted on
    files: Mapping[str, str]  # parameters that name one, with its path


def read_database_url(text: str) -> DatabaseUrl:
    """Raises `ValueError("expected ..., got ...")` with nothing of the text in it."""
    scheme, _, rest = _unwrap(text).partition("://")
    if scheme.lower().removeprefix("jdbc:").partition("+")[0] not in ("postgresql", "postgres"):
        raise ValueError(FORM)
    address, mark, _ = rest.partition("#")
    address, _, query = address.partition("?")
    authority, _, path = address.partition("/")
    pairs, ignored = _read_query(query)
    if mark or "@" in path:
        raise ValueError(f"expected no # and no @ behind the host, got one; {_ESCAPE}")
    # The last @ counts: a host has none, a password may.
    person, _, hosts = authority.rpartition("@")
    user, _, password = person.partition(":")
    named = {
        "user": _decode(user, "the user"),
        "password": _decode(password, "the password"),
        **_read_hosts(hosts),
        "dbname": _decode(path, "the database's name"),
    }
    parameters = pairs | {name: value for name, value in named.items() if value}
    if _PLACEHOLDER.fullmatch(parameters.get("password", "")):
        raise ValueError("expected a password, got the placeholder of a dashboard; put yours in")
    trust_system = _settle_tls(parameters)
    _check(parameters)
    return DatabaseUrl(
        # All of it as parameters: the driver reads a host or a password with odd letters wrongly.
        Secret("postgresql:?" + urlencode(parameters, quote_via=quote, safe="")),
        tuple(sorted(ignored)),
        trust_system,
        "application_name" in parameters,
        not trust_system and _is_exposed(parameters),
        {name: parameters[name] for name in _FILES if parameters.get(name)},
    )


def read_as_secret(text: str) -> Secret:
    """For the settings: the text as it is, if it can be read. Raises ValueError."""
    read_database_url(text)
    return Secret(text)


def ignored_parameters(text: str) -> tuple[str, ...]:
    """Names in the URL that say nothing to us; none where it cannot be read."""
    try:
        return read_database_url(text).ignored
    except ValueError:
        return ()  # whoever connects says so


def is_exposed(text: str) -> bool:
    """Whether what is stored may cross a network in the open."""
    try:
        return read_database_url(text).is_exposed
    except ValueError:
        return False


def passwords(text: str) -> tuple[str, ...]:
    """The password in a URL, as it is written and as it is meant; for masks. Takes any text."""
    authority = text.partition("://")[2].rpartition("@")[0]
    written = [authority.partition(":")[2], *re.findall(r"[?&]password=([^&#]*)", text)]
    return tuple({form for one in written if one for form in (one, unquote(one))})


def _unwrap(text: str) -> str:
    """Without what comes along when it is copied: white space, quotes, `psql`, the name."""
    text = text.strip()
    text = re.sub(r"^(export\s+)?DATABASE_URL\s*=\s*|^psql\s+", "", text)
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1].strip()
    return text


def _read_hosts(text: str) -> dict[str, str]:
    """Hosts and ports apart: the driver takes a port behind a socket for a part of its name."""
    if not text:
        return {}
    hosts, ports = [], []
    for one in text.split(","):
        match = _HOST.fullmatch(_decode(one, "the host"))
        port = int(match["port"]) if match and match["port"] else 5432
        if match is None or not match[1] or not 0 < port < 65536:
            raise ValueError(
                f"expected host or host:port behind the @, got something else; {_ESCAPE}"
            )
        hosts.append(match[1])
        ports.append(match["port"])
    found = {"host": ",".join(hosts)}
    if any(ports):
        found["port"] = ",".join(port or "5432" for port in ports)
    return found


def _read_query(text: str) -> tuple[dict[str, str], set[str]]:
    pairs: dict[str, str] = {}
    ignored: set[str] = set()
    for part in filter(None, text.split("&")):
        name, equals, value = part.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][\w.]*", name, re.ASCII):
            raise ValueError(f"expected name=value behind the ?, got something else; {_ESCAPE}")
        if "@" in value and name not in _PEOPLE:
            raise ValueError(f"expected no @ behind the ?, got one; {_ESCAPE}")
        if name.lower() in IGNORED:
            ignored.add(name)
        else:
            pairs[name] = _decode(value, name)
    return pairs, ignored


def _decode(text: str, part: str) -> str:
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        decoded = "\0"
    if "\0" in decoded:
        raise ValueError(f"{part}: expected UTF-8 without a NUL, got something else; {_ESCAPE}")
    return decoded


def _settle_tls(parameters: dict[str, str]) -> bool:
    """One spelling of the mode; whether it is the system's authorities that are trusted."""
    other = parameters.pop("ssl", None)
    mode = parameters.get("sslmode", other)
    if mode is not None:
        mode = mode.lower().replace("_", "-")
        parameters["sslmode"] = _OTHER_MODES.get(mode, mode)
    if parameters.get("sslrootcert") != "system":
        return False
    del parameters["sslrootcert"]
    if parameters.pop("sslmode", "verify-full") not in SSL_MODES[3:]:
        wanted = "expected sslmode=verify-full beside sslrootcert=system"
        raise ValueError(f"{wanted}, got a weaker one; change it or leave it out")
    return True


def _is_exposed(parameters: Mapping[str, str]) -> bool:
    hosts = parameters.get("host", "").split(",")
    is_elsewhere = any(host and host[0] != "/" and not is_loopback(host) for host in hosts)
    return is_elsewhere and parameters.get("sslmode") not in SSL_MODES[3:]


def _check(parameters: dict[str, str]) -> None:
    """What the driver would stumble over."""
    for name, known in (("sslmode", SSL_MODES), ("target_session_attrs", TARGETS)):
        if name in parameters and parameters[name] not in known:
            raise ValueError(f"{name}: expected one of {listed(known)}, got another word")
    if "hostaddr" in parameters:  # libpq's, for who would not have the name looked up
        parameters.setdefault("host", parameters.pop("hostaddr"))
        parameters.pop("hostaddr", None)
    host = parameters.get("host", "")
    if re.fullmatch(r"[0-9A-Fa-f.]*(:[0-9A-Fa-f.]*){2,}", host):
        host = f"[{host}]"
    if host:
        parameters |= _read_hosts(host)
    ports = parameters.get("port", "5432").split(",")
    if not all(re.fullmatch(r"\d{1,5}", port) and 0 < int(port) < 65536 for port in ports):
        raise ValueError("port: expected a number from 1 to 65535, got something else")
    if len(ports) > 1 and len(ports) != len(parameters.get("host", "").split(",")):
        raise ValueError("port: expected one, or one for each host, got another number of them")
