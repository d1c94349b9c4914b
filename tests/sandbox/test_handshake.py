"""Credentials and plain HTTP, without a socket."""

import json

import msgspec
import pytest

from relay.sandbox.handshake import Credential, Gate, answer_post, credential


@pytest.mark.parametrize(
    ("authorization", "offered", "found"),
    [
        ("Token k", "", Credential("token", "k")),
        ("bearer j", "", Credential("bearer", "j")),
        (None, "token, k", Credential("token", "k")),
        (None, "bearer,j,x-deepgram-session-id, 1", Credential("bearer", "j")),
        ("Basic x", "", None),
        ("Token", "", None),
        (None, "token", None),
        (None, "token, ", None),
        (None, "", None),
    ],
)
def test_credentials_come_by_header_or_subprotocol(authorization, offered, found):
    assert credential(authorization, offered) == found


def test_a_granted_token_opens_until_it_expires():
    gate = Gate("key")
    token = json.loads(gate.grant(b"", now=100.0))["access_token"]

    assert gate.admits(Credential("bearer", token), 129.0)
    assert not gate.admits(Credential("bearer", token), 131.0)


def test_without_a_key_any_credential_will_do_but_there_must_be_one():
    assert Gate(None).admits(Credential("bearer", "x"), 0.0)
    assert not Gate(None).admits(None, 0.0)


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        (b"", 30),
        (b"{}", 30),
        (b'{"ttl_seconds":5}', 5),
    ],
)
def test_a_grant_has_the_length_that_was_asked_for(body, seconds):
    assert json.loads(Gate("key").grant(body, now=0.0))["expires_in"] == seconds


@pytest.mark.parametrize("body", [b'{"ttl_seconds":3601}', b"x"])
def test_other_lengths_of_a_grant_are_refused(body):
    with pytest.raises(msgspec.DecodeError):
        Gate("key").grant(body, now=0.0)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"POST /v1/auth/grant HTTP/1.1\r\n", None),
        (b"POST /v1/auth/grant HTTP/1.1\r\nContent-Length: 2\r\n\r\n{", None),
        (b"POST /v1/auth/grant?x=1 HTTP/1.1\r\nAuthorization: Token key\r\n\r\n", 200),
    ],
)
def test_a_post_is_answered_when_it_is_complete(request_bytes, status):
    answer = answer_post(request_bytes, Gate("key"), 0.0)

    assert (None if answer is None else int(answer.split()[1])) == status
