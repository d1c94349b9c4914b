"""What came of a family of faults, in one line; all of them as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tests.chaos.audit import Verdict


class Figure(msgspec.Struct, kw_only=True):
    """`recovered` are seconds from a fault, or from its end, to the next turn that was answered."""

    family: str
    seed: int
    rounds: int
    verdict: Verdict
    recovered: list[float] = []
    note: str = ""

    @property
    def line(self) -> str:
        return f"chaos {self.family}: " + " ".join(
            f"{name}={value}" for name, value in zip(HEADS[1:], self._cells(), strict=True)
        )

    @property
    def row(self) -> tuple[str, ...]:
        return (self.family, *self._cells())

    def _cells(self) -> tuple[str, ...]:
        verdict = self.verdict
        return (
            str(self.rounds),
            str(verdict.told),
            str(verdict.lost),
            str(verdict.doubled),
            str(verdict.disordered + verdict.misnumbered),
            f"{verdict.accepted - verdict.undelivered}/{verdict.accepted}",
            str(verdict.delivered_twice),
            _seconds(self.recovered),
            str(self.seed),
            self.note or "-",
        )


HEADS = (
    "family",
    "rounds",
    "told",
    "lost",
    "doubled",
    "disordered",
    "delivered",
    "twice",
    "recovered",
    "seed",
    "note",
)


def _seconds(values: Sequence[float]) -> str:
    """Median and longest."""
    if not values:
        return "-"
    ordered = sorted(values)
    return f"{ordered[len(ordered) // 2]:.1f}s..{ordered[-1]:.1f}s"


def table(figures: Sequence[Figure]) -> list[str]:
    rows = [HEADS, *(figure.row for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADS))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
