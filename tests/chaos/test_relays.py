"""Two relays on one Postgres; one of them is killed, stopped or drained, and the other goes on.

Each has a data directory of its own. The browsers never cease to talk, and come back to either.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec
import pytest

from control.db.pool import connected
from relay.sandbox.script import Script
from tests.chaos.audit import compare, misnumbered, stored_of
from tests.chaos.stage import SCRIPT, staged, until

pytestmark = pytest.mark.timeout(1800)
PEOPLE = 4
SECONDS = 60.0  # for everybody to be answered, on a machine with other things to do
DRAINED = 15.0  # control/http/server.py: after this uvicorn cancels
BEYOND = 22.0  # longer than an owner without a heartbeat is taken to live
ON_ITS_WAY = timedelta(seconds=1)  # a text, on a busy machine
FAULTS = ("kill", "kill unstored", "stop", "stop for long", "drain")


class Round(msgspec.Struct):
    """All that is chosen at random: it depends on the seed alone."""

    fault: str
    faulty: int  # which relay, if anybody is there
    hops: list[bool]  # who changes the relay before, perhaps
    stays: list[bool]  # who waits until a stopped relay goes on
    moment: float  # seconds until the fault
    longer: float  # seconds that it lasts after everybody has gone on


def rounds_of(chance, is_long):
    faults = ["kill", "kill unstored", "stop", "drain"] * 7 + ["stop for long"] * 2
    chance.shuffle(faults)
    return [
        Round(
            fault=fault,
            faulty=chance.randrange(2),
            hops=[chance.random() < 0.5 for _ in range(PEOPLE)],
            stays=[chance.random() < 0.3 for _ in range(PEOPLE)],
            moment=chance.uniform(0.0, 1.0),
            longer=chance.uniform(0.0, 3.0) if is_long else 0.0,
        )
        for fault in (faults if is_long else ("stop", "kill unstored"))
    ]


class Talk:
    """A browser that says one line after the other."""

    def __init__(self, browser):
        self.browser = browser
        self.said = self.answered = 0
        self.place = None  # where it was answered last

    async def run(self, is_over):
        while not is_over.is_set():
            place = self.browser.place
            self.said += 1
            if await self.browser.turn(20):
                self.answered, self.place = self.said, place


class Two:
    """Two relays, and who talks to them."""

    def __init__(self, stage, relays, talks):
        self.stage = stage
        self.relays = relays
        self.talks = talks
        self.recovered = {fault: [] for fault in FAULTS}
        self.lost_at = []  # when somebody was cut off from a relay, by the clock of the wall
        self.only_on_disk = 0  # messages that were told and not stored until a restart

    def at(self, relay):
        return [talk for talk in self.talks if talk.browser.place == relay.url]

    async def answered(self, talks, relay=None):
        """Until each has said something from now on, to this relay, and was answered."""
        said = {talk: talk.said for talk in talks}

        async def are_answered():
            return all(
                talk.answered > said[talk] and (relay is None or talk.place == relay.url)
                for talk in talks
            )

        try:
            await until(are_answered, SECONDS)
        except TimeoutError:
            waiting = [talk.browser for talk in talks if talk.answered <= said[talk]]
            pytest.fail(f"not answered: {waiting}\n{await self.scene()}")

    async def round(self, chosen):
        self.lost_at.append(datetime.now(UTC))
        for talk, hops in zip(self.talks, chosen.hops, strict=True):
            if hops:
                talk.browser.cut()
        await self.answered(self.talks)
        await asyncio.sleep(chosen.moment)
        faulty, other = self.relays[chosen.faulty], self.relays[1 - chosen.faulty]
        if not self.at(faulty):
            faulty, other = other, faulty
        moved, untouched = self.at(faulty), self.at(other)
        assert len(moved) + len(untouched) == PEOPLE
        broken = {talk: len(talk.browser.codes) for talk in untouched}
        async with AsyncExitStack() as stack:
            began = time.monotonic()
            match chosen.fault:
                case "kill":
                    self.lost_at.append(datetime.now(UTC))
                    await faulty.kill()
                case "kill unstored":
                    began = await self.kill_unstored(faulty, moved)
                case "stop" | "stop for long":
                    self.lost_at.append(datetime.now(UTC))
                    await stack.enter_async_context(stopped(faulty))
                    stays = dict(zip(self.talks, chosen.stays, strict=True))
                    moved = [talk for talk in moved if not stays[talk]] or moved[:1]
                    for talk in moved:
                        talk.browser.cut()  # somebody who hears nothing loads the page again
                case "drain":
                    faulty.signal(signal.SIGTERM)
            told = [(talk.browser, len(talk.browser.told)) for talk in moved]
            await self.answered(moved, other)
            self.recovered[chosen.fault].append(time.monotonic() - began)
            await self.answered(untouched, other)
            lasted = time.monotonic() - began
            least = BEYOND - lasted if chosen.fault == "stop for long" else 0.0
            await asyncio.sleep(max(chosen.longer, least))
        if chosen.fault.startswith("kill"):
            self.only_on_disk += await self.missing(told)
        if chosen.fault == "drain":
            assert await faulty.end(DRAINED) == 0
        # Nobody who was at the other one noticed anything.
        assert broken == {talk: len(talk.browser.codes) for talk in untouched}
        if not faulty.is_running:
            await faulty.start()

    async def scene(self):
        """What a failure looks like from outside: browsers, locks, logs."""
        lines = [
            f"{b} at {b.place} session={b.session_id} {b.codes[-6:]} refused={b.refusals[-6:]}"
            for b in (talk.browser for talk in self.talks)
        ]
        async with connected(self.stage.database_url) as connection:
            for row in await connection.fetch(
                """
                SELECT pid, state, wait_event, pg_blocking_pids(pid) AS behind,
                       now() - state_change AS since, left(query, 200) AS query
                FROM pg_stat_activity WHERE datname = current_database() AND state <> 'idle'
                """
            ):
                lines.append(str(dict(row)))
        for relay in self.relays:
            lines += [f"--- {relay.url}", *relay.output.splitlines()[-40:]]
        return "\n".join(lines)

    async def kill_unstored(self, relay, talks):
        """While Postgres takes no messages, as soon as somebody was told one."""
        async with connected(self.stage.database_url) as connection, connection.transaction():
            await connection.execute("LOCK voice.messages IN SHARE MODE")
            told = [len(talk.browser.told) for talk in talks]

            async def is_told():
                return told != [len(talk.browser.told) for talk in talks]

            await until(is_told, SECONDS)
            began = time.monotonic()
            self.lost_at.append(datetime.now(UTC))
            await relay.kill()
        return began

    async def missing(self, told):
        """How many of the first so many messages of each browser are not in Postgres."""
        async with connected(self.stage.database_url) as connection:
            lost = 0
            for browser, count in told:
                stored = await stored_of(connection, browser)
                lost += compare(browser.told[:count], [*stored.values()], [*stored]).lost
            return lost

    async def unseen(self):
        """What is stored and was not shown to somebody whose session never ended.

        But for what was said as the connection was lost: it may have been on its way.
        """
        found = []
        async with connected(self.stage.database_url) as connection:
            for browser in (talk.browser for talk in self.talks if talk.browser.sessions == 1):
                stored = await stored_of(connection, browser)
                for seq, line in misnumbered(stored, browser.bubbles).items():
                    said = await connection.fetchval(
                        "SELECT created_at FROM voice.messages"
                        " WHERE conversation_id = $1 AND seq = $2",
                        UUID(browser.conversation_id),
                        seq,
                    )
                    if not any(abs(at - said) < ON_ITS_WAY for at in self.lost_at):
                        found.append((browser, seq, line, said))
        return found


@asynccontextmanager
async def stopped(relay):
    """It does nothing, and nobody is told."""
    relay.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        relay.signal(signal.SIGCONT)


async def test_the_other_relay_goes_on(database_url, tmp_path, chance, is_long, publish):
    rounds = rounds_of(chance, is_long)
    async with staged(tmp_path, database_url) as stage:
        # As docs/deploy.md has it: nobody knows at which one the WebSocket will open.
        relays = [stage.relay(RELAY_DIAL_AHEAD="0") for _ in range(2)]
        await asyncio.gather(*(relay.start() for relay in relays))
        whims = random.Random(chance.random())
        urls = [relay.url for relay in relays]
        async with stage.people(whims, PEOPLE, *urls) as browsers:
            two = Two(stage, relays, [Talk(browser) for browser in browsers])
            async with asyncio.TaskGroup() as tasks:
                is_over = asyncio.Event()
                for talk in two.talks:
                    talk.browser.patience = 3.0 if is_long else 1.5
                    tasks.create_task(talk.run(is_over), name=f"talk {talk.browser.name}")
                for chosen in rounds:
                    await two.round(chosen)
                await two.answered(two.talks)
                is_over.set()
            verdict = await stage.settle(browsers, hurry=not is_long)
            assert await two.unseen() == []
    for relay in relays:
        assert "Traceback" not in relay.output
    recovered = [seconds for took in two.recovered.values() for seconds in took]
    publish("two relays", len(rounds), verdict, recovered, note_of(two))
    assert two.only_on_disk > 0


async def test_an_answer_that_only_a_dead_relay_has_is_given_once_more(
    database_url, tmp_path, chance
):
    script = Script(turns=SCRIPT.turns[:1], loop=True)
    async with staged(tmp_path, database_url, script=script, think_delay=1.0) as stage:
        relays = [stage.relay(RELAY_DIAL_AHEAD="0") for _ in range(2)]
        await asyncio.gather(*(relay.start() for relay in relays))
        async with stage.people(chance, 1, *(relay.url for relay in relays)) as (browser,):
            dead = next(relay for relay in relays if relay.url == browser.place)
            line, said = browser.coming_line(), len(browser.told)
            async with connected(database_url) as connection:

                async def is_stored():
                    return ("user", line) in (await stored_of(connection, browser)).values()

                await browser.say(line)
                await until(is_stored, SECONDS)
                async with connection.transaction():
                    await connection.execute("LOCK voice.messages IN SHARE MODE")
                    assert await browser.until(lambda: len(browser.told) > said + 1, SECONDS)
                    await dead.kill()
            assert await browser.until(lambda: len(browser.told) > said + 2, SECONDS)
            await dead.start()
            verdict = await stage.settle([browser], hurry=True)
    assert browser.takeovers == 1
    answer = "assistant", SCRIPT.turns[0].say[0]
    assert browser.told[said : said + 3] == [("user", line), answer, answer]
    assert verdict.told == verdict.stored


def note_of(two):
    browsers = [talk.browser for talk in two.talks]
    each = "; ".join(
        f"{fault} {len(took)}: {sorted(took)[len(took) // 2]:.1f} s, {max(took):.1f} s"
        for fault, took in two.recovered.items()
        if took
    )
    return (
        f"{each}; sessions {sum(browser.sessions for browser in browsers)},"
        f" taken over {sum(browser.takeovers for browser in browsers)},"
        f" only on a disk {two.only_on_disk}"
    )
