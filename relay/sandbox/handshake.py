"""Who may come in: Deepgram's answers before the upgrade, and the token endpoint. Pure.

Credentials come as `Authorization: Token KEY`, `Authorization: Bearer JWT`, or, from browsers, as
`Sec-WebSocket-Protocol: token, KEY` or `bearer, JWT`. An API key offered as a bearer is refused,
as is a token that we did not grant.
"""

from __future__ import annotations

import email
import secrets
import uuid
from http import HTTPStatus
from typing import Annotated

import msgspec

AGENT_PATH = "/v1/agent/converse"
GRANT_PATH = "/v1/auth/grant"
SCHEMES = ("token", "bearer")

_PROBLEMS = {
    401: ("INVALID_AUTH", "Invalid credentials."),
    402: ("PAYMENT_REQUIRED", "Project does not have enough credits."),
    403: ("INSUFFICIENT_PERMISSIONS", "Insufficient permissions."),
}
"""Where Deepgram has words of its own."""


class Credential(msgspec.Struct, frozen=True):
    scheme: str  # lower case
    secret: str


def problem_body(status: int, request_id: str) -> bytes:
    """Deepgram's JSON for a refused request."""
    http = HTTPStatus(status)
    code, text = _PROBLEMS.get(status, (http.name, f"{http.phrase}."))
    return msgspec.json.encode({"err_code": code, "err_msg": text, "request_id": request_id})


def credential(authorization: str | None, offered: str) -> Credential | None:
    """From the header, or else from the header of offered subprotocols; None if there is none."""
    pair = offered.split(",")[:2] if authorization is None else authorization.split(maxsplit=1)
    scheme, secret = [part.strip() for part in pair] if len(pair) == 2 else ("", "")
    if scheme.lower() not in SCHEMES or not secret:
        return None
    return Credential(scheme.lower(), secret)


class _GrantBody(msgspec.Struct):
    ttl_seconds: Annotated[float, msgspec.Meta(ge=1, le=3600)] = 30


class Gate:
    """Knows the API key and the tokens that were granted with it."""

    def __init__(self, api_key: str | None) -> None:
        self._api_key = api_key
        self._granted: dict[str, float] = {}

    def admits(self, who: Credential | None, now: float) -> bool:
        if who is None:
            return False
        if self._api_key is None:
            return True
        if who.scheme == "token":
            return secrets.compare_digest(who.secret.encode(), self._api_key.encode())
        return self._granted.get(who.secret, float("-inf")) > now

    def grant(self, body: bytes, now: float) -> bytes:
        """A new token, in the JSON of `/v1/auth/grant`; it looks like a JWT and is none.

        Raises msgspec.DecodeError for a body that is not accepted."""
        ttl = msgspec.json.decode(body.strip() or b"{}", type=_GrantBody).ttl_seconds
        token = ".".join(secrets.token_urlsafe(n) for n in (12, 24, 24))
        self._granted[token] = now + ttl
        return msgspec.json.encode({"access_token": token, "expires_in": ttl})


def answer_post(request: bytes, gate: Gate, now: float) -> bytes | None:
    """The whole HTTP answer, or None while the request is not complete."""
    head, blank, body = request.partition(b"\r\n\r\n")
    line, _, fields = head.partition(b"\r\n")
    headers = email.message_from_bytes(fields)
    if not blank or len(body) < int(headers.get("Content-Length", "0")):
        return None
    who = credential(headers["Authorization"], "")
    status = 200
    if line.split()[1].partition(b"?")[0] != GRANT_PATH.encode():
        status = 404
    elif who is None or who.scheme != "token" or not gate.admits(who, now):
        status = 401
    else:
        try:
            answer = gate.grant(body, now)
        except msgspec.DecodeError:
            status = 400
    if status != 200:
        answer = problem_body(status, str(uuid.uuid4()))
    return (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(answer)}\r\n"
        f"Connection: close\r\n\r\n"
    ).encode() + answer
