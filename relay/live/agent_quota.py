"""This process's part of the agents that all relays may have at once, and who has them. Pure.

Deepgram counts the sessions of a project. Each process has a part of the number and lets sessions
begin within it without asking anybody; how large the part is, the control plane says (capacity.py).
"""

from __future__ import annotations

from collections.abc import Hashable

SPARE_PART = 10  # one in so many of all agents is kept by each process before it is needed


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
    def wanted(self) -> int:
        """What this process would like to have."""
        return self.used + max(1, self.limit // SPARE_PART)

    def enter(self, key: Hashable) -> bool:
        """An agent for `key`, which may have one already; False: not within the present size."""
        if key not in self._keys and self.limit and self.used >= self.size:
            return False
        self._keys.add(key)
        return True

    def hold(self, key: Hashable) -> None:
        """An agent that is there, whether or not there is room: it counts."""
        self._keys.add(key)

    def leave(self, key: Hashable) -> None:
        """It is gone. May be repeated."""
        self._keys.discard(key)

    def resize(self, size: int, free: int) -> None:
        """What the database says."""
        self.size, self.free = size, free
