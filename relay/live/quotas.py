"""Quotas of this process: how many sessions there may be, by user and by address, and its part of
the agents that all relays may have at once. Pure.

An address is the peer's, or what a trusted proxy says; a whole /64 of IPv6 is one address, because
one customer has all of it. Deepgram counts the sessions of a project: each process has a part of
the number and lets sessions begin within it without asking anybody; how large the part is, the
control plane says (control/cluster/capacity.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from functools import partial
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple
from uuid import UUID

from config.limits import Limits
from relay.protocol.refusal import Refused

RETRY_SECONDS = 10  # what Retry-After says: a session ends some time
SPARE_PART = 10  # one in so many of all agents is kept by the processes before it is needed


class Attached(NamedTuple):
    """Who has a session: `where` is the `block` of the address."""

    user_id: str
    where: str
    conversation_id: UUID | None = None


class Room(NamedTuple):
    """For whom there is to be room: `where` as above. The session of a conversation is left out,
    because its next one takes its place."""

    where: str
    user_id: str | None
    conversation_id: UUID | None


class Counted(NamedTuple):
    """Sessions: in all, from the address and of the user of a `Room`."""

    sessions: int
    of_address: int
    of_user: int


NOBODY = Counted(0, 0, 0)


def count(attached: Collection[Attached], room: Room) -> Counted:
    others = [
        one
        for one in attached
        if room.conversation_id is None or one.conversation_id != room.conversation_id
    ]
    of_address = sum(one.where == room.where for one in others)
    return Counted(len(others), of_address, sum(one.user_id == room.user_id for one in others))


def check_room(
    limits: Limits,
    attached: Collection[Attached],
    room: Room,
    elsewhere: Counted = NOBODY,
) -> None:
    """Raises `Refused` if those that are attached here, and the others of address and user
    elsewhere, leave no room for one more; without a user, not by user. A limit of 0: any number of
    them."""
    here = count(attached, room)
    if limits.sessions and here.sessions >= limits.sessions:
        detail = "there are as many sessions as there may be; try again later"
        raise Refused(503, "sessions", detail, retry_after=RETRY_SECONDS)
    most = limits.sessions_per_address
    if most and here.of_address + elsewhere.of_address >= most:
        detail = f"expected at most {most} sessions from one address"
        raise Refused(429, "address_sessions", detail, retry_after=RETRY_SECONDS)
    most = limits.sessions_per_user
    if most and here.of_user + elsewhere.of_user >= most:
        detail = f"expected at most {most} sessions of one user at a time"
        raise Refused(429, "user_sessions", detail, retry_after=RETRY_SECONDS)


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


class AgentQuota:
    """`limit` is for all relays together; 0: no limit.

    An agent belongs to a key: a session, from the dial to its end, also while it has none for a
    moment; or one that is being let go beside the next one of its session.
    """

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit
        self.size = 0  # what this process may have; the last that was heard
        self.free = limit  # what nobody had then
        self._keys: set[Hashable] = set()

    def __repr__(self) -> str:
        return f"<AgentQuota used={self.used} size={self.size} limit={self.limit}>"

    @property
    def used(self) -> int:
        return len(self._keys)

    @property
    def headroom(self) -> float:
        """How many agents more there may be, as far as this process knows; none: infinite."""
        return max(0, self.size - self.used) + self.free if self.limit else float("inf")

    @property
    def spare(self) -> int:
        """What all processes together would like to have before they need it."""
        return self.limit // SPARE_PART

    def enter(self, key: Hashable) -> bool:
        """An agent for `key`, which may have one already; False: not within the present size."""
        if key not in self._keys and self.limit and self.used >= self.size:
            return False
        self._keys.add(key)
        return True

    def linger(self) -> Callable[[], None]:
        """An agent is let go and still there, whether or not there is room: it counts until what is
        returned is called."""
        key = object()
        self._keys.add(key)
        return partial(self.leave, key)

    def leave(self, key: Hashable) -> None:
        """It is gone. May be repeated."""
        self._keys.discard(key)

    def resize(self, size: int, free: int) -> None:
        """What the database says."""
        self.size, self.free = size, free
