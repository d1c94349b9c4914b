"""The one thread for whatever is slow with the files of a process's journal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

_T = TypeVar("_T")
_Arguments = TypeVarTuple("_Arguments")


class FileThread(ThreadPoolExecutor):
    """One thing after another; it is carried out even if who waits for it is cancelled."""

    def __init__(self) -> None:
        super().__init__(1, thread_name_prefix="journal")

    async def run(self, function: Callable[[*_Arguments], _T], *args: *_Arguments) -> _T:
        return await asyncio.shield(asyncio.wrap_future(self.submit(function, *args)))
