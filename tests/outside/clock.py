"""A wall clock that a test sets, for relay processes: libfaketime. Monotonic time stays true."""

from __future__ import annotations

import glob
from pathlib import Path

import pytest

LIBRARY = "/usr/lib/*/faketime/libfaketimeMT.so.1"
DAY = 86_400


class Clock:
    """`environ` puts a relay under it; it is true until `shift` says otherwise."""

    def __init__(self, file: Path) -> None:
        found = glob.glob(LIBRARY)
        if not found:
            pytest.skip("libfaketime is not installed")
        self._file = file
        self.shift(0)
        self.environ = {
            "LD_PRELOAD": found[0],
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def shift(self, seconds: int) -> None:
        """From now on it is so far ahead, or (negative) behind."""
        self._file.write_text(f"{seconds:+d}s")
