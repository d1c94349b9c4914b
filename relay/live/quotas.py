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

from config.limits import Limits
from relay.protocol.refusal import Refused

RETRY_SECONDS = 10  # what Retry-After says: a session ends some time
SPARE_PART = 10  # one in so many of all agents is kept by the processes before it is needed


class Attached(NamedTuple):
    """Who has a session: `where` is the `block` of the address."""

    user_id: str
    where: str


def check_room(
    limits: Limits, attached: Collection[Attached], address: str, user_id: str | None = None
) -> None:
    """Raises `Refused` if those that are attached leave no room for one more; without a user, not
    by user. A limit of 0: any number of them."""
    if limits.sessions and len(attached) >= limits.sessions:
        detail = "there are as many sessions as there may be; try again later"
        raise Refused(503, "sessions", detail, retry_after=RETRY_SECONDS)
    most, where = limits.sessions_per_address, block(address)
    if most and sum(one.where == where for one in attached) >= most:
        detail = f"expected at most {most} sessions from one address"
        raise Refused(429, "address_sessions", detail, retry_after=RETRY_SECONDS)
    most = limits.sessions_per_user
    if most and sum(one.user_id == user_id for one in attached) >= most:
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
