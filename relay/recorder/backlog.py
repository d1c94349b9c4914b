"""What waits for the recorder's thread: the event loop puts, the thread takes. Bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Backlog(Generic[Item]):
    """In order; all that waits has `most` bytes together."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._items: deque[tuple[Item, int]] = deque()
        self._put = 0  # bytes; changed by the event loop alone
        self._taken = 0  # by who takes

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Item, size: int) -> bool:
        """False: there is no room for so many bytes, and it does not wait."""
        if self._put - self._taken + size > self._most:
            return False
        self._put += size
        self._items.append((item, size))
        return True

    def take(self) -> Iterator[Item]:
        """What waits now."""
        for _ in range(len(self._items)):
            item, size = self._items.popleft()
            self._taken += size
            yield item
