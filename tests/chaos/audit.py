"""What browsers were told and calls accepted, held against Postgres and the Orchestrator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from uuid import UUID

import asyncpg
import msgspec

from tests.chaos.browser import Browser

LEAP = 100_000  # numbers that skip so many went on in another process on purpose
Line = tuple[str, str]  # role and content
Mark = tuple[str, str, str, int]  # a line with where it belongs


class Verdict(msgspec.Struct):
    """Sums over conversations. Right is: nothing lost, doubled, out of order or open."""

    told: int = 0  # messages that a browser received
    stored: int = 0
    lost: int = 0  # told, and not in Postgres
    doubled: int = 0  # in Postgres more than once
    disordered: int = 0  # in Postgres in another order than they were told, or with a gap
    misnumbered: int = 0  # not in Postgres under the number that the browser knows
    accepted: int = 0  # calls that a browser was told of or that are stored
    undelivered: int = 0  # of these, not at the Orchestrator
    delivered_twice: int = 0

    def __add__(self, other: Verdict) -> Verdict:
        pairs = zip(msgspec.structs.astuple(self), msgspec.structs.astuple(other), strict=True)
        return Verdict(*(one + two for one, two in pairs))

    @property
    def is_right(self) -> bool:
        of_messages = self.lost + self.doubled + self.disordered + self.misnumbered
        return not (of_messages + self.undelivered + self.delivered_twice)


def marked(lines: Iterable[Line]) -> list[Mark]:
    """Each line with the user's line before it and its number among equal ones since then.

    A user never says a line twice and an agent says no sentence twice in a turn, so that two equal
    marks are one message.
    """
    marks: list[Mark] = []
    user, counts = "", dict[Line, int]()
    for role, content in lines:
        if role == "user" and content != user:
            user, counts = content, {}
        counts[role, content] = counts.get((role, content), 0) + 1
        marks.append((user, role, content, counts[role, content]))
    return marks


def compare(told: Sequence[Line], stored: Sequence[Line], seqs: Sequence[int]) -> Verdict:
    """One conversation; `stored` and `seqs` in the order of `seq`."""
    marks = marked(stored)
    places = {mark: place for place, mark in enumerate(marks)}
    heard = marked(told)
    found = [places[mark] for mark in heard if mark in places]
    in_order = sum(one < two for one, two in pairwise(found))
    missing = sum(0 < two - one - 1 < LEAP for one, two in pairwise([0, *seqs]))
    return Verdict(
        told=len(told),
        stored=len(stored),
        lost=len(heard) - len(found),
        doubled=_doubled(marks, seqs),
        disordered=max(len(found) - 1, 0) - in_order + missing,
    )


def _doubled(marks: Iterable[Mark], seqs: Iterable[int]) -> int:
    """How many lines are there again. An agent of the next process may say what the one before it
    had said to the same words: that is on a dead process's disk, and nobody knows of it yet.
    """
    seen = set[tuple[str, str, str, int]]()
    process = before = doubled = 0
    for (user, role, content, _), seq in zip(marks, seqs, strict=True):
        process += seq - before >= LEAP
        before = seq
        line = user, role, content, process if role == "assistant" else 0
        doubled += line in seen
        seen.add(line)
    return doubled


def misnumbered(bubbles: Mapping[int, Line], stored: Mapping[int, Line]) -> dict[int, Line]:
    """What a browser shows under a number that something else has, or nothing."""
    return {seq: line for seq, line in bubbles.items() if stored.get(seq) != line}


async def stored_of(connection: asyncpg.Connection, browser: Browser) -> dict[int, Line]:
    """The messages of its conversation by `seq`, in this order."""
    assert browser.conversation_id is not None, f"{browser} has never begun"
    rows = await connection.fetch(
        "SELECT seq, role, content FROM voice.messages WHERE conversation_id = $1 ORDER BY seq",
        UUID(browser.conversation_id),
    )
    return {row["seq"]: (row["role"], row["content"]) for row in rows}


async def audit(
    database_url: str, browsers: Sequence[Browser], *, planner_url: str | None = None
) -> Verdict:
    """The conversations of these browsers, with their calls."""
    verdict = Verdict()
    accepted, everybodys = set[str](), set[str]()
    ours = {browser.conversation_id for browser in browsers}
    connection = await asyncpg.connect(database_url)
    try:
        for browser in browsers:
            accepted |= set(browser.accepted)
            if browser.conversation_id is None:
                continue
            stored = await stored_of(connection, browser)
            verdict += compare(browser.told, [*stored.values()], [*stored])
            verdict += Verdict(
                misnumbered=browser.clashes + len(misnumbered(browser.bubbles, stored))
            )
        for row in await connection.fetch(
            "SELECT id, conversation_id FROM voice.intents WHERE intent IS NOT NULL"
        ):
            everybodys.add(str(row["id"]))
            if str(row["conversation_id"]) in ours:
                accepted.add(str(row["id"]))
    finally:
        await connection.close()
    return verdict + await _delivered(planner_url or database_url, accepted, everybodys | accepted)


async def _delivered(planner_url: str, accepted: set[str], everybodys: set[str]) -> Verdict:
    connection = await asyncpg.connect(planner_url)
    try:
        keys = await connection.fetch("SELECT key FROM local_orchestrator.answers")
        goals = await connection.fetchval("SELECT count(*) FROM local_orchestrator.goals")
    finally:
        await connection.close()
    arrived = {row["key"] for row in keys}
    return Verdict(
        accepted=len(accepted),
        undelivered=len(accepted - arrived),
        # Each call of the scripts is a goal: one more than there were calls is one twice.
        delivered_twice=len(arrived - everybodys) + max(goals - len(arrived), 0),
    )
