"""The workers of one parent, who tell each other what they count.

Each listens on a socket in a folder that their parent made, which only our account may enter. Who
connects is told, and that is all: so whichever worker is asked for metrics can answer for all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

ASK_SECONDS = 2.0  # a scrape gives up after 10 s
SUFFIX = ".sock"


class Siblings:
    """Those of `folder`; we are worker `number` and not among them."""

    def __init__(self, folder: Path, number: int) -> None:
        self.number = number
        self._folder = folder
        self._path = folder / f"{number}{SUFFIX}"

    def __repr__(self) -> str:
        return f"<Siblings of {self._path}>"

    def path(self, suffix: str) -> Path:
        """Where we listen for what this suffix stands for."""
        return self._path.with_suffix(suffix)

    def others(self, suffix: str) -> list[Path]:
        """Where the others do, as far as they have begun to, in the order of their numbers."""
        others = (path for path in self._folder.glob(f"*{suffix}") if path.stem != self._path.stem)
        return sorted(others, key=lambda path: int(path.stem))

    @asynccontextmanager
    async def telling(self, tell: Callable[[], bytes]) -> AsyncIterator[None]:
        """Whoever of them asks is told, while inside."""

        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(tell())
            writer.close()

        self._path.unlink(missing_ok=True)  # of the one in whose place we are
        server = await asyncio.start_unix_server(answer, self._path)
        try:
            yield
        finally:
            server.close()

    async def ask(self) -> list[bytes]:
        """What each says, in the order of their numbers; one that does not answer is left out."""
        said = await asyncio.gather(*map(_ask, self.others(SUFFIX)))
        return [text for text in said if text]


async def _ask(path: Path) -> bytes:
    try:
        async with asyncio.timeout(ASK_SECONDS):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                return await reader.read()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return b""
