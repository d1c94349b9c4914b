"""What went wrong with a connection that leaves, by name: for a log line and for the doctor.

The names are for programs and searches; the rest says what to do. Never in it: a URL, a credential,
what the other side said.
"""

from __future__ import annotations

import socket
import ssl

from python_socks import ProxyConnectionError, ProxyError, ProxyTimeoutError

NOTHING = "failed"

_ADVICE = {
    "dns": "the name is not known: check the host, the DNS, or set RELAY_EGRESS_PROXY",
    "refused": "nobody listens there: check host and port, or set RELAY_EGRESS_PROXY",
    "unreachable": "no way there: a firewall, or set RELAY_EGRESS_PROXY",
    "timeout": "no answer in time: a firewall drops it, or set RELAY_EGRESS_PROXY",
    "reset": "the connection was cut: by a firewall, or it takes no TLS of ours, or wants a client "
    "certificate",
    "proxy_unreachable": "the proxy does not answer: check RELAY_EGRESS_PROXY",
    "proxy_auth": "the proxy does not take the name and password of its URL",
    "proxy_refused": "the proxy does not let this host and port pass: ask who runs it",
    "tls_untrusted": "the certificate is of an authority that is not trusted: if it is yours, set "
    "RELAY_TLS_CA_FILE",
    "tls_expired": "the certificate has expired, or is not valid yet: renew it, check the clock",
    "tls_name": "the certificate is for another name: check the URL",
    "tls_version": "no TLS version in common: RELAY_TLS_MIN_VERSION",
    "tls_client": "the other side refuses us: it wants a client certificate, or another one: set "
    "RELAY_TLS_CERT_FILE",
    "tls": "the TLS handshake failed: it may speak no TLS at this port",
}
NAMES = frozenset(_ADVICE)
_TO_THE_NEXT = ("dns", "refused", "unreachable")

# Numbers of OpenSSL (X509_V_ERR_…), as ssl.SSLCertVerificationError has them; any other: untrusted.
_CERTIFICATE = {9: "tls_expired", 10: "tls_expired"} | dict.fromkeys((62, 63, 64), "tls_name")
_TLS_REASONS = {  # parts of OpenSSL's names
    "UNSUPPORTED_PROTOCOL": "tls_version",
    "NO_PROTOCOLS_AVAILABLE": "tls_version",
    "TLSV1_ALERT_PROTOCOL_VERSION": "tls_version",
    "NO_SHARED_CIPHER": "tls_version",
    "WRONG_SSL_VERSION": "tls_version",
    "CERTIFICATE_REQUIRED": "tls_client",
    "BAD_CERTIFICATE": "tls_client",
    "ALERT_UNKNOWN_CA": "tls_client",
    "ACCESS_DENIED": "tls_client",
    "HANDSHAKE_FAILURE": "tls_client",  # of TLS 1.2, for want of a certificate
}


def find_word(error: BaseException, *, proxied: bool = False) -> str:
    """The name of what went wrong, from the error or what caused it; `failed`: it has none.

    `proxied`: there is a proxy on the way, so that it is the one that was to be connected to.
    """
    for one in _causes(error):
        word = _name(one)
        if word is not None:
            return "proxy_unreachable" if proxied and word in _TO_THE_NEXT else word
    return NOTHING


def explain(error: BaseException, *, proxied: bool = False) -> str:
    """`name: what it means and what to do`."""
    word = find_word(error, proxied=proxied)
    if word == NOTHING:
        return f"{NOTHING}: {type(error).__name__}"
    found = (one for one in _causes(error) if isinstance(one, ssl.SSLCertVerificationError))
    said = next((f" ({one.verify_message})" for one in found), "")
    return f"{word}: {_ADVICE[word]}{said}"


def _causes(error: BaseException) -> list[BaseException]:
    """The error, then what it came from; the innermost is what names it best, so it comes first."""
    chain: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in chain:
        chain.append(one)
        one = one.__cause__ or one.__context__  # httpcore raises from None, and it matters
    return chain[::-1]


def _name(error: BaseException) -> str | None:
    match error:
        case ssl.SSLCertVerificationError():
            return _CERTIFICATE.get(error.verify_code, "tls_untrusted")
        case ssl.SSLError():
            reason = error.reason or ""
            return next((word for part, word in _TLS_REASONS.items() if part in reason), "tls")
        case ProxyConnectionError() | ProxyTimeoutError():
            return "proxy_unreachable"
        case socket.gaierror() | UnicodeError():  # the latter: what can be no name at all
            return "dns"
        case ConnectionRefusedError():
            return "refused"
        case ConnectionError():
            return "reset"
        case TimeoutError():
            return "timeout"
        case OSError():
            return "unreachable"
    # httpx has a class of this name, too; its text is "407 …" or the reply of SOCKS.
    if isinstance(error, ProxyError) or type(error).__name__ == "ProxyError":
        text = str(error)
        wanted = ("407", "uthentication", "username/password")
        return "proxy_auth" if any(word in text for word in wanted) else "proxy_refused"
    if type(error).__name__ == "IncompleteReadError":  # of python-socks, which does not offer it
        return "proxy_refused"
    return None
