"""The REST of administrators, asked from a terminal (cli.py).

Control plane; a door to httpx.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from config.errors import Explained

SECONDS = 60.0  # erasing waits for sessions and files
PAGE = 200
CHUNK = 1 << 16


class AdminError(Explained):
    """It was not done; the text says why."""


class AdminClient:
    """Asks the relay at `url`, which is that of its metrics. `key`: or a token."""

    def __init__(self, url: str, key: str, transport: httpx.BaseTransport | None = None) -> None:
        self._url = url.rstrip("/")
        self._client = httpx.Client(
            base_url=f"{self._url}/admin/api",
            headers={"Authorization": f"Bearer {key}"},
            timeout=SECONDS,
            trust_env=False,
            transport=transport,
        )

    def __enter__(self) -> AdminClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def ask(self, method: str, path: str, *, body: object = None, **query: str | int | None) -> Any:
        """The answer, as JSON has it. Raises `AdminError`."""
        given = {name: value for name, value in query.items() if value is not None}
        try:
            answer = self._client.request(method, path, params=given, json=body)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        self._check(answer)
        return answer.json() if answer.content else None

    def list(self, path: str, most: int, **query: str | int | None) -> Iterator[Any]:
        """The first items of a list, page by page. Raises `AdminError`."""
        cursor: str | None = None
        while most > 0:
            page = self.ask("GET", path, limit=min(most, PAGE), cursor=cursor, **query)
            yield from page["items"]
            most -= PAGE
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def save(self, path: str, file: Path, **query: str) -> int:
        """Write an answer to a new file that nobody else may read; its bytes. Raises
        `AdminError`, and then there is no file."""
        size = 0
        try:
            file.touch(0o600, exist_ok=False)
        except OSError as error:
            raise AdminError(f"{file}: {error.strerror}") from None
        try:
            with self._client.stream("GET", path, params=query) as answer, file.open("wb") as out:
                if not answer.is_success:
                    answer.read()
                    self._check(answer)
                for chunk in answer.iter_bytes(CHUNK):
                    size += out.write(chunk)
        except BaseException as error:
            file.unlink()  # a half of it is no export
            if isinstance(error, httpx.HTTPError):
                raise self._unreachable(error) from None
            raise
        return size

    def _unreachable(self, error: httpx.HTTPError) -> AdminError:
        said = str(error) or type(error).__name__
        return AdminError(f"{self._url} does not answer ({said}): is it RELAY_METRICS_PORT?")

    def _check(self, answer: httpx.Response) -> None:
        if answer.is_success:
            return
        try:
            problem = answer.json()
            code, detail = str(problem["code"]), str(problem["detail"])
        except (ValueError, KeyError, TypeError):
            code, detail = "unexpected", f"HTTP {answer.status_code}, and no answer of a relay"
        if answer.status_code == 404 and detail == "Not Found":
            detail = "the relay has nothing for administrators here: set RELAY_ADMIN_KEY"
        raise AdminError(f"{code}: {show(detail)}")


def show(value: object) -> str:
    """One line that cannot steer a terminal."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", "-" if value is None else str(value))
