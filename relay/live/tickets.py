"""Tickets: what lets somebody attach, once. Random, and only their hash is stored."""

from __future__ import annotations

import hashlib
import secrets

TICKET_BYTES = 32


def new_ticket() -> str:
    """Only letters, digits, '-' and '_': it may stand in a subprotocol list."""
    return secrets.token_urlsafe(TICKET_BYTES)


def hash_ticket(ticket: str) -> bytes:
    """What is stored of a ticket."""
    # Plain SHA-256 will do: a ticket has 256 random bits and cannot be guessed.
    return hashlib.sha256(ticket.encode("utf-8", "surrogateescape")).digest()
