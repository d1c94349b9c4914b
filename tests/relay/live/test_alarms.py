"""One timer for all sessions: each is woken, not before its time, whatever another does."""

from __future__ import annotations

import asyncio
import weakref

import pytest
import uvloop

from relay.live.alarms import EARLY_SECONDS, Alarm, Alarms


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop])
def run(request):
    def run_in(main):
        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(asyncio.wait_for(main, 10))

    return run_in


class Ringing:
    """Sets alarms, and notes which ring at which second."""

    def __init__(self):
        self.alarms = Alarms()
        self.rung = []
        self._changed = asyncio.Event()

    def at(self, due, name):
        alarm = Alarm(self.alarms, lambda: self._note(name))
        alarm.set(due)
        return alarm

    def _note(self, name):
        self.rung.append((name, asyncio.get_running_loop().time()))
        self._changed.set()

    async def until(self, count):
        while len(self.rung) < count:
            self._changed.clear()
            await self._changed.wait()
        return [name for name, _ in self.rung]


def test_all_ring_in_order_and_none_before_its_time(run):
    async def main():
        ringing, now = Ringing(), asyncio.get_running_loop().time()
        dues = {f"a{n}": now + n % 7 * 0.01 for n in range(50)}
        for name, due in dues.items():
            ringing.at(due, name)
        names = await ringing.until(50)
        assert sorted(names) == sorted(dues)
        assert [dues[name] for name in names] == sorted(dues.values())
        assert all(at >= dues[name] - EARLY_SECONDS for name, at in ringing.rung)

    run(main())


def test_those_of_one_moment_have_one_timer():
    async def main():
        loop = asyncio.get_running_loop()
        timers, call_at = [], loop.call_at
        loop.call_at = lambda when, *what: timers.append(when) or call_at(when, *what)
        ringing, due = Ringing(), loop.time() + 0.02
        for n in range(100):
            ringing.at(due, n)
        assert await ringing.until(100) == list(range(100))
        assert timers == [due]

    asyncio.run(main())


def test_an_earlier_second_counts_and_it_rings_once(run):
    async def main():
        ringing, now = Ringing(), asyncio.get_running_loop().time()
        alarm = ringing.at(now + 30, "moved")
        alarm.set(now + 0.01)
        alarm.set(now + 0.02)  # put off: it may ring before
        ringing.at(now + 0.04, "last")
        assert await ringing.until(2) == ["moved", "last"]

    run(main())


def test_one_that_rings_may_set_itself_for_the_same_moment(run):
    async def main():
        ringing = Ringing()
        due = asyncio.get_running_loop().time()
        alarm = ringing.at(due, "again")
        await ringing.until(1)
        alarm.set(due)
        await ringing.until(2)

    run(main())


def test_one_that_raises_keeps_nobody_asleep(run):
    async def main():
        loop, seen = asyncio.get_running_loop(), []
        loop.set_exception_handler(lambda _, context: seen.append(context["exception"]))
        ringing, due = Ringing(), loop.time() + 0.01
        Alarm(ringing.alarms, lambda: 1 // 0).set(due)
        ringing.at(due, "neighbour")
        assert await ringing.until(1) == ["neighbour"]
        assert [type(error) for error in seen] == [ZeroDivisionError]

    run(main())


def test_one_that_was_stopped_never_rings_and_holds_nobody(run, no_collector):
    class Owner:
        def ring(self):
            raise AssertionError

    async def main():
        ringing, owner = Ringing(), Owner()
        due = asyncio.get_running_loop().time() + 0.01
        alarm = Alarm(ringing.alarms, owner.ring)
        alarm.set(due)
        alarm.stop()
        alarm.set(due)
        gone = weakref.ref(owner)
        del owner
        assert gone() is None
        ringing.at(due + 0.01, "last")
        await ringing.until(1)
        assert "waiting=0" in repr(ringing.alarms)

    run(main())
