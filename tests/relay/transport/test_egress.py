"""relay/transport/egress.py: which proxy for which URL, and the files of certificates."""

from __future__ import annotations

import ssl

import pytest

from config.errors import ConfigError
from relay.transport import network_errors
from tests.closed_network import Authority, egress_of

AGENT = "wss://agent.deepgram.com/v1/agent/converse"
PROXY = "http://proxy.example.com:3128"


def proxy_of(url, **variables):
    found = egress_of(**variables).find_proxy(url)
    return found.reveal() if found else None


def test_ours_goes_before_the_usual_ones():
    assert proxy_of(AGENT) is None
    assert proxy_of(AGENT, HTTPS_PROXY=PROXY) == PROXY
    assert proxy_of(AGENT, ALL_PROXY=PROXY) == PROXY
    assert proxy_of(AGENT, HTTP_PROXY=PROXY) is None
    assert proxy_of("http://planner", HTTP_PROXY=PROXY) == PROXY
    assert proxy_of(AGENT, HTTPS_PROXY="http://other:1", RELAY_EGRESS_PROXY=PROXY) == PROXY
    assert proxy_of(AGENT, HTTPS_PROXY="http://other:1", ALL_PROXY=PROXY) == "http://other:1"


@pytest.mark.parametrize(
    ("rules", "url", "directly"),
    [
        ("", "https://localhost/", True),
        ("", "http://127.0.0.1:8091", True),
        ("", "http://[::1]:8091", True),
        ("", AGENT, False),
        ("*", AGENT, True),
        ("deepgram.com", AGENT, True),
        (".deepgram.com", AGENT, True),
        ("*.deepgram.com", AGENT, True),
        ("AGENT.deepgram.com", AGENT, True),
        ("gram.com", AGENT, False),
        ("agent.deepgram.com:443", "wss://agent.deepgram.com:443/", True),
        ("agent.deepgram.com:8443", "wss://agent.deepgram.com:443/", False),
        ("10.0.0.0/8", "http://10.1.2.3:9000", True),
        ("10.0.0.0/8", "http://11.1.2.3:9000", False),
        ("10.0.0.0/8", "http://planner:9000", False),
        ("fd00::/8", "http://[fd00::1]:9000", True),
        ("[fd00::1]:9000", "http://[fd00::1]:9000", True),
        ("fd00::1", "http://[fd00::1]:9000", True),
        ("a, planner ,b", "http://planner", True),
    ],
)
def test_what_is_reached_without_a_proxy(rules, url, directly):
    assert (proxy_of(url, RELAY_EGRESS_PROXY=PROXY, NO_PROXY=rules) is None) is directly


def test_no_secret_is_in_its_representation():
    egress = egress_of(RELAY_EGRESS_PROXY="http://user:hush@proxy:1")

    assert repr(egress) == "<Egress tls>=TLSv1_2>"
    assert "hush" not in repr(egress.find_proxy(AGENT))


def test_the_oldest_tls_and_the_authorities_are_in_the_context(tmp_path):
    authority = Authority(tmp_path)
    plain = len(egress_of().tls.get_ca_certs())
    egress = egress_of(RELAY_TLS_CA_FILE=str(authority.file), RELAY_TLS_MIN_VERSION="1.3")

    assert egress.tls.minimum_version is ssl.TLSVersion.TLSv1_3
    assert egress.tls.check_hostname
    assert egress.tls.verify_mode is ssl.CERT_REQUIRED
    assert len(egress.tls.get_ca_certs()) == plain + 1  # besides the system's
    assert egress_of().tls.minimum_version is ssl.TLSVersion.TLSv1_2


def test_without_authorities_of_the_system_there_are_some(monkeypatch):
    nothing = ssl.DefaultVerifyPaths(None, None, "", "", "", "")
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: nothing)

    assert egress_of().tls.get_ca_certs()


@pytest.mark.parametrize("variable", ["RELAY_TLS_CA_FILE", "RELAY_TLS_CERT_FILE"])
def test_a_file_that_is_not_there_or_something_else_is_named(tmp_path, variable):
    (tmp_path / "nonsense.pem").write_text("nonsense")
    for name in ("missing.pem", "nonsense.pem"):
        with pytest.raises(ConfigError, match=f"{variable}: expected .* got .*{name}"):
            egress_of(**{variable: str(tmp_path / name)})


def test_a_key_that_is_encrypted_is_named_and_nobody_is_asked_for_a_password(tmp_path):
    from cryptography.hazmat.primitives import serialization

    chain, key = Authority(tmp_path).issue_files("relay.example")
    opened = serialization.load_pem_private_key(key.read_bytes(), None)
    locked = opened.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"password"),
    )
    key.write_bytes(locked)

    with pytest.raises(ConfigError, match="not encrypted"):
        egress_of(RELAY_TLS_CERT_FILE=str(chain), RELAY_TLS_KEY_FILE=str(key))


def test_what_has_no_name_is_told_by_its_kind():
    assert network_errors.explain(ValueError("hush")) == "failed: ValueError"
    assert network_errors.find_word(KeyError()) == network_errors.NOTHING


def test_what_is_behind_an_error_names_it_also_where_it_was_put_aside():
    refused, failed, quiet = ConnectionRefusedError(), RuntimeError(), RuntimeError()
    failed.__cause__ = refused
    quiet.__context__, quiet.__suppress_context__ = refused, True

    for error in (failed, quiet):
        assert network_errors.find_word(error) == "refused"
        assert network_errors.find_word(error, proxied=True) == "proxy_unreachable"
