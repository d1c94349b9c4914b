"""Who is here: the sessions of this process by user and by address, and how many there may be.

Pure. An address is the peer's, or what a trusted proxy says; a whole /64 of IPv6 is one address,
because one customer has all of it.
"""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv6Address, ip_address
from uuid import UUID

import msgspec

from relay.protocol.refusal import Refused

RETRY_SECONDS = 10  # what Retry-After says: a session ends some time


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """How many sessions there may be; 0: any number. `exempt` are users without a limit."""

    total: int = 0
    per_user: int = 0
    per_address: int = 0
    exempt: frozenset[str] = frozenset()


class SessionQuotas:
    """The sessions that are live."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._here: dict[UUID, tuple[str, str]] = {}
        self._users: Counter[str] = Counter()
        self._addresses: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<SessionQuotas sessions={len(self._here)}>"

    def __len__(self) -> int:
        return len(self._here)

    def check(self, address: str, user_id: str | None = None) -> None:
        """Raises `Refused` if there is no room for one more; without a user, not by user."""
        room = self._room
        if room.total and len(self._here) >= room.total:
            detail = "there are as many sessions as there may be; try again later"
            raise Refused(503, "sessions", detail, retry_after=RETRY_SECONDS)
        if room.per_address and self._addresses[block(address)] >= room.per_address:
            detail = f"expected at most {room.per_address} sessions from one address"
            raise Refused(429, "address_sessions", detail, retry_after=RETRY_SECONDS)
        if user_id is None or user_id in room.exempt:
            return
        if room.per_user and self._users[user_id] >= room.per_user:
            detail = f"expected at most {room.per_user} sessions of one user at a time"
            raise Refused(429, "user_sessions", detail, retry_after=RETRY_SECONDS)

    def enter(self, session_id: UUID, user_id: str, address: str) -> None:
        """A session begins; one that comes back from another relay may be here still."""
        self.leave(session_id)
        where = block(address)
        self._here[session_id] = user_id, where
        self._users[user_id] += 1
        self._addresses[where] += 1

    def leave(self, session_id: UUID) -> None:
        """It is over, or as good as over. May be repeated."""
        if session_id not in self._here:
            return
        user_id, where = self._here.pop(session_id)
        for counter, key in ((self._users, user_id), (self._addresses, where)):
            counter[key] -= 1
            if not counter[key]:
                del counter[key]


def block(address: str) -> str:
    """What counts as one address; anything that is none is taken as it is."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if not isinstance(parsed, IPv6Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(IPv6Address(int(parsed) >> 64 << 64)) + "/64"
