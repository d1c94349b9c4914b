"""A function call from its start to its outcome, or to the outbox; pauses pass on a fake clock."""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from uuid import UUID, uuid4

import msgspec
import pytest

from config.intents import Intent, Registry
from relay.backoff import Backoff
from relay.core.events import FunctionReturned, FunctionStarted
from relay.core.records import CallDecided, SessionEnded
from relay.functions import submission
from relay.functions.executor import CHECKED_AT_ONCE, LEASE_MARGIN, MAX_KEPT, UNSAVED, Functions
from relay.functions.submission import MAX_ATTEMPTS, UNCERTAIN, Delayed, Failed, Rejected, Submitted
from relay.journal.journal import Journal
from relay.protocol import deepgram
from relay.protocol.relay_events import IntentStatus
from relay.telemetry.metrics import Metrics
from tests.relay.wires import agent_and_relay, next_event


def registry(*, retry=True, timeout=10.0, **more):
    return Registry(
        (
            Intent(
                name="GOAL",
                title="A goal",
                function="create_goal",
                description="Makes a goal",
                parameters={"type": "object", "properties": {"title": {"type": "string"}}},
                path="/goals",
                timeout=timeout,
                retry=retry,
                **more,
            ),
        )
    )


def refused(wait=0.0):
    return Delayed(reason="not there", cause="refused", attempts=1, unsent=True, wait=wait)


def busy(wait=0.0):
    return Delayed(reason="busy", cause="status 503", attempts=1, wait=wait)


CLOSED_DOOR = Delayed(reason="not there", cause="breaker open", attempts=0, unsent=True, wait=5.0)
DONE = Submitted({"id": 7}, 1)


class Planner:
    """Answers each submission with the next of `answers`; the last one again and again.

    An answer of None never comes; an answer that is an exception is raised.
    """

    def __init__(self, desk, answers):
        self.desk = desk
        self.answers = list(answers)
        self.asked = []
        self.records_when_asked = []
        self.reached = asyncio.Event()

    async def submit(self, what):
        self.asked.append(what)
        self.records_when_asked.append(len(self.desk.noted))
        self.reached.set()
        await self.desk.may_answer.wait()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        if answer is None:
            await asyncio.Event().wait()
        return answer


class Noting(Journal):
    """The real journal, and a list of what was handed to it."""

    noted: list
    full = False

    def append(self, record, saved=None, **more):
        if self.full:
            return False
        self.noted.append(record)
        return super().append(record, saved, **more)


class Desk:
    """Functions with a journal, a clock that only pauses move, and what the session heard."""

    journal: Noting
    registry: Registry
    functions: Functions
    planner: Planner

    def __init__(self, admitted):
        self.admitted = admitted
        self.noted = []
        self.heard = []
        self.news = asyncio.Event()
        self.now = 0.0
        self.pauses = []
        self.resting = asyncio.Event()
        self.sleeps = True
        self.wake = asyncio.Event()
        self.metrics = Metrics()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    def report(self, event):
        self.heard.append(event)
        self.news.set()

    async def sleep(self, seconds):
        self.pauses.append(seconds)
        self.resting.set()
        if not self.sleeps:
            await self.wake.wait()
        self.now += seconds

    def call(self, id="call_1", *, name="create_goal", arguments='{"title":"Run"}'):
        function = deepgram.FunctionCall(id=id, name=name, arguments=arguments, client_side=True)
        row = uuid4()
        self.functions.start(self.registry, self.admitted, function, 3, self.report, row_id=row)
        return row

    async def until(self, count):
        async with asyncio.timeout(5):
            while len(self.heard) < count:
                self.news.clear()
                await self.news.wait()
        return self.heard[count - 1]


@pytest.fixture
def work(tmp_path, admitted):
    @asynccontextmanager
    async def working(*answers, grace=2.0, jitter=1.0, **intent):
        desk = Desk(admitted)

        async def write(records):
            pass

        desk.journal = Noting(write, desk.metrics, tmp_path)
        desk.journal.noted = desk.noted
        desk.registry = registry(**intent)
        desk.functions = Functions(
            desk.journal,
            desk.metrics,
            sleep=desk.sleep,
            clock=lambda: desk.now,
            jitter=lambda: jitter,
        )
        desk.planner = Planner(desk, answers or (DONE,))
        async with (
            desk.journal.running(grace=2.0),
            desk.functions.running(desk.planner.submit, grace=grace),
        ):
            yield desk

    return working


# --- what is settled while the model waits --------------------------------------------------------


async def test_a_call_is_noted_before_the_planner_hears_of_it(work):
    async with work() as desk:
        desk.call()
        returned = await desk.until(2)

    assert isinstance(desk.heard[0], FunctionStarted)
    assert desk.planner.records_when_asked == [1]
    accepted, done = desk.noted
    assert (accepted.status, accepted.attempts) == (IntentStatus.SUBMITTING, 0)
    assert (accepted.due_in, accepted.in_doubt) == (10.0 + LEASE_MARGIN, True)
    assert (done.id, done.status, done.attempts) == (accepted.id, IntentStatus.SUBMITTED, 1)
    assert done.due_in is None
    assert json.loads(returned.content) == {"status": "submitted", "result": {"id": 7}}


async def test_a_call_that_no_journal_takes_is_not_sent(work):
    async with work() as desk:
        desk.journal.full = True
        desk.call()
        returned = await desk.until(1)

    assert desk.planner.asked == []
    assert json.loads(returned.content) == {"status": "failed", "error": UNSAVED}


async def test_trouble_is_tried_again_while_the_model_waits(work):
    async with work(refused(), busy(), DONE) as desk:
        row = desk.call()
        returned = await desk.until(2)

    assert returned.shown.status is IntentStatus.SUBMITTED
    assert desk.pauses == [0.2, 0.4]
    assert desk.noted[-1].attempts == 3
    assert {one.call_id for one in desk.planner.asked} == {str(row)}
    assert [one.in_doubt for one in desk.planner.asked] == [False, False, True]
    assert [round(one.seconds, 1) for one in desk.planner.asked] == [10.0, 9.8, 9.4]


async def test_retry_after_is_waited_for(work):
    async with work(busy(wait=3.0), DONE) as desk:
        desk.call()
        await desk.until(2)

    assert desk.pauses == [3.0]


async def test_a_refusal_is_final_and_told_with_its_reason(work):
    async with work(Rejected("no such task", {"code": 4}, 1)) as desk:
        desk.call()
        returned = await desk.until(2)

    assert (returned.shown.status, returned.shown.result) == (IntentStatus.REJECTED, {"code": 4})
    assert json.loads(returned.content) == {"status": "rejected", "error": "no such task"}
    assert desk.noted[-1].error == "no such task"


async def test_a_doubt_is_final_when_the_intent_may_not_be_sent_twice(work):
    async with work(busy(), retry=False) as desk:
        desk.call()
        returned = await desk.until(2)

    assert returned.shown.status is IntentStatus.FAILED
    assert len(desk.planner.asked) == 1


async def test_a_refused_connection_is_tried_again_even_when_the_intent_may_not_be_sent_twice(work):
    async with work(refused(), DONE, retry=False) as desk:
        desk.call()
        returned = await desk.until(2)

    assert returned.shown.status is IntentStatus.SUBMITTED


async def test_an_unknown_function_and_wrong_arguments_are_rejected_and_recorded(work):
    async with work() as desk:
        desk.call(name="order_pizza")
        desk.call("call_2", arguments='{"titel":"Run"}')
        await desk.until(2)

    assert [one.status for one in desk.noted] == [IntentStatus.REJECTED] * 2
    assert [one.intent for one in desk.noted] == [None, "GOAL"]
    assert desk.planner.asked == []


@pytest.mark.parametrize(
    ("retry", "told", "left"),
    [(True, "saved", IntentStatus.SUBMITTING), (False, "failed", IntentStatus.FAILED)],
)
async def test_a_defect_still_gives_the_model_its_answer_and_loses_no_call(
    work, caplog, retry, told, left
):
    async with work(ZeroDivisionError(), retry=retry) as desk:
        desk.call()
        returned = await desk.until(2)

    assert json.loads(returned.content)["status"] == told
    assert (desk.noted[-1].status, desk.noted[-1].attempts) == (left, 1)
    assert desk.noted[-1].in_doubt is retry  # it may have been sent; what failed is settled
    assert "function_call_broken" in caplog.text


@pytest.mark.parametrize("defect", [RecursionError, OverflowError, KeyError])
async def test_a_defect_while_a_call_is_checked_gives_it_an_answer_and_no_other_call_notices(
    work, monkeypatch, caplog, defect
):
    async with work() as desk:
        with monkeypatch.context() as patched:
            patched.setattr(type(desk.registry), "check_arguments", raising(defect))
            desk.call()
            broken = await desk.until(1)
        desk.call()
        fine = await desk.until(3)

    assert json.loads(broken.content)["status"] == "failed"
    assert json.loads(fine.content)["status"] == "submitted"
    assert "function_call_broken" in caplog.text


def raising(error):
    def raise_it(*_):
        raise error

    return raise_it


# --- what goes on without the model ---------------------------------------------------------------


async def test_when_the_time_is_up_the_model_is_told_that_it_is_saved(work):
    async with work(busy(), timeout=1.0) as desk:
        desk.call()
        returned = await desk.until(2)

    assert returned.shown.status is IntentStatus.SUBMITTING
    assert returned.shown.result == {"saved": True, "because": "busy"}
    assert json.loads(returned.content)["status"] == "saved"
    kept = desk.noted[-1]
    assert (kept.status, kept.in_doubt) == (IntentStatus.SUBMITTING, True)
    assert kept.attempts == len(desk.planner.asked) == 3
    assert kept.due_in == 0.8
    assert kept.error == "busy (status 503)"
    assert desk.now <= 1.0
    assert desk.functions.awaited == [kept.id]
    assert 'status="saved"} 1.0' in desk.metrics.text().decode()


async def test_an_open_breaker_is_not_waited_for(work):
    async with work(CLOSED_DOOR, retry=False) as desk:
        desk.call()
        returned = await desk.until(2)

    assert json.loads(returned.content)["status"] == "saved"
    assert desk.pauses == []
    kept = desk.noted[-1]
    assert (kept.attempts, kept.due_in, kept.in_doubt) == (0, 5.0, False)


async def test_a_retry_after_beyond_the_time_is_not_waited_for(work):
    async with work(busy(wait=60.0)) as desk:
        desk.call()
        await desk.until(2)

    assert desk.pauses == []
    assert desk.noted[-1].due_in == 60.0


async def test_very_short_pauses_do_not_hammer_the_planner(work):
    async with work(busy(), jitter=0.0, timeout=300) as desk:
        desk.call()
        await desk.until(2)

    assert len(desk.planner.asked) == MAX_ATTEMPTS
    assert min(desk.pauses) == 0.1


async def test_the_later_outcome_reaches_the_session_once(work):
    async with work(CLOSED_DOOR) as desk:
        desk.call()
        await desk.until(2)
        (row,) = desk.functions.awaited
        for _ in range(2):
            desk.functions.settled(row, IntentStatus.SUBMITTED, {"id": 7}, "done")
        told = await desk.until(3)

        assert (told.shown.call_id, told.shown.status, told.shown.result) == (
            "call_1",
            IntentStatus.SUBMITTED,
            {"id": 7},
        )
        assert told.shown.arguments == {"title": "Run"}
        assert len(desk.heard) == 3
        assert desk.functions.awaited == []


async def test_a_session_that_is_over_waits_for_nothing(work):
    async with work(CLOSED_DOOR) as desk:
        desk.call()
        await desk.until(2)
        assert len(desk.functions.awaited) == 1

        desk.functions.forget(desk.admitted.session_id)

        assert desk.functions.awaited == []


async def test_a_call_that_is_saved_after_its_session_is_not_awaited(work):
    async with work(refused()) as desk:
        desk.sleeps = False
        desk.call()
        await desk.resting.wait()
        desk.functions.forget(desk.admitted.session_id)
        desk.now = 100.0
        desk.wake.set()
        await desk.until(2)

        assert desk.functions.awaited == []


async def test_awaited_calls_are_bounded_and_the_oldest_go_first(work, monkeypatch):
    monkeypatch.setattr("relay.functions.executor.MAX_KEPT", 2)
    async with work(CLOSED_DOOR) as desk:
        for number in range(3):
            desk.call(f"call_{number}")
            await desk.until(2 * number + 2)

        rows = {record.id: record.call_id for record in desk.noted}
        assert [rows[i] for i in desk.functions.awaited] == ["call_1", "call_2"]
    assert MAX_KEPT > 100


async def test_a_session_that_was_told_a_guess_is_told_the_fact(work):
    async with work(CLOSED_DOOR) as desk:
        row = desk.call()
        await desk.until(2)
        for status in (IntentStatus.FAILED, IntentStatus.FAILED, IntentStatus.SUBMITTED):
            desk.functions.settled(row, status, {"id": 7}, "done")
        desk.functions.settled(row, IntentStatus.SUBMITTED, {"id": 7}, "done")

        heard = [event.shown.status for event in desk.heard[2:]]
        assert heard == [IntentStatus.FAILED, IntentStatus.SUBMITTED]
        assert desk.functions.awaited == []


async def test_a_saved_call_says_when_it_is_submitted_again(work):
    async with work(busy(wait=60.0)) as desk:
        desk.call()
        saved = await desk.until(2)

    left = (saved.shown.next_attempt_at - datetime.now(UTC)).total_seconds()
    assert 30.0 < left <= 60.0


async def test_large_arguments_are_checked_beside_the_event_loop(work, monkeypatch):
    threads = set()
    async with work() as desk:
        check = desk.registry.check_arguments

        def noted(intent, text):
            threads.add(threading.current_thread() is threading.main_thread())
            return check(intent, text)

        monkeypatch.setattr(desk.registry, "check_arguments", noted)
        desk.call(arguments=json.dumps({"title": "x" * CHECKED_AT_ONCE}))
        await desk.until(2)

    assert threads == {False}


# --- cancelled by the model -----------------------------------------------------------------------


async def test_a_call_that_was_not_sent_is_cancelled(work):
    async with work(refused()) as desk:
        desk.sleeps = False
        row = desk.call()
        await desk.resting.wait()
        desk.functions.cancel(row)
        told = await desk.until(2)

    assert told.shown.status is IntentStatus.CANCELLED
    assert desk.noted[-1].status is IntentStatus.CANCELLED
    assert len(desk.planner.asked) == 1


async def test_a_call_is_cancelled_before_it_began(work):
    async with work() as desk:
        desk.functions.cancel(desk.call())

    assert [one.status for one in desk.noted] == [IntentStatus.CANCELLED]
    assert desk.planner.asked == []


def decisions(desk):
    return [(one.wanted, one.can_cancel) for one in desk.noted if isinstance(one, CallDecided)]


def statuses(desk):
    """What the session heard, without the first `submitting`."""
    shown = [event.shown for event in desk.heard if isinstance(event, FunctionReturned)]
    return [(one.status.value, one.taken_back) for one in shown]


UNDONE = {"cancel_path": "/goals/cancel"}


@pytest.mark.parametrize(
    ("more", "told"), [(UNDONE, ("cancelling", False)), ({}, ("submitting", True))]
)
async def test_a_call_that_may_have_arrived_is_not_sent_again_when_it_is_taken_back(
    work, more, told
):
    async with work(busy(), DONE, **more) as desk:
        desk.sleeps = False
        row = desk.call()
        await desk.resting.wait()  # it may have arrived
        desk.functions.cancel(row)
        desk.functions.cancel(UUID(int=99))
        assert decisions(desk) == [], "its outcome is not there yet"

        desk.wake.set()
        await desk.until(2)

        assert len(desk.planner.asked) == 1
        assert desk.noted[-2].in_doubt
        assert decisions(desk) == [("cancel", bool(more))]
        assert statuses(desk) == [told]
        assert desk.functions.awaited == [row]
        desk.functions.settled(row, IntentStatus.SUBMITTED, None, "", taken_back=False)
        assert len(desk.heard) == 2, "a row that does not know that it was taken back"
        desk.functions.settled(row, IntentStatus.SUBMITTED, None, "", taken_back=True)
        assert statuses(desk)[-1] == ("submitted", True)
        assert desk.heard[-1].content == submission.CARRIED_OUT
        assert desk.functions.awaited == []


@pytest.mark.parametrize(
    ("more", "told"), [(UNDONE, ("cancelling", False)), ({}, ("submitted", True))]
)
@pytest.mark.parametrize("is_answered", [True, False])
async def test_a_call_that_was_carried_out_is_undone_where_that_can_be(
    work, more, told, is_answered
):
    async with work(DONE, **more) as desk:
        if not is_answered:
            desk.may_answer.clear()
        row = desk.call()
        if is_answered:
            await desk.until(2)
            desk.functions.cancel(row)
            desk.functions.cancel(row)
            heard = [("submitted", False), told]
        else:
            await desk.planner.reached.wait()
            desk.functions.cancel(row)
            desk.may_answer.set()
            await desk.until(2)
            heard = [told]

        assert statuses(desk) == heard
        assert decisions(desk) == [("cancel", bool(more))]
        assert desk.functions.awaited == ([row] if more else [])
        if more:
            desk.functions.settled(row, IntentStatus.CANCELLED, None, "", taken_back=True)
            assert statuses(desk)[-1] == ("cancelled", False)
            assert desk.functions.awaited == []


async def test_a_call_that_was_refused_has_nothing_to_be_undone(work):
    async with work(Rejected("no", None, 1), **UNDONE) as desk:
        row = desk.call()
        await desk.until(2)
        desk.functions.cancel(row)

    assert decisions(desk) == []
    assert {status for status, _ in statuses(desk)} == {"rejected"}


async def test_a_call_that_was_taken_back_while_it_was_refused_is_not_sent_later(work):
    async with work(refused(), DONE) as desk:
        desk.may_answer.clear()
        row = desk.call()
        await desk.planner.reached.wait()
        desk.functions.cancel(row)
        desk.may_answer.set()
        await desk.until(2)

        assert len(desk.planner.asked) == 1
        assert not desk.noted[-2].in_doubt
        assert decisions(desk) == [("cancel", False)]
        desk.functions.settled(row, IntentStatus.CANCELLED, None, "", taken_back=True)
        assert statuses(desk)[-1] == ("cancelled", False)


async def test_a_saved_call_may_be_taken_back(work):
    async with work(CLOSED_DOOR, **UNDONE) as desk:
        row = desk.call()
        await desk.until(2)
        desk.functions.cancel(row)
        assert decisions(desk) == [("cancel", True)]
        desk.functions.settled(row, IntentStatus.SUBMITTING, None, "", taken_back=False)
        desk.functions.settled(row, IntentStatus.CANCELLED, None, "", taken_back=True)

    assert [status for status, _ in statuses(desk)] == ["submitting", "cancelling", "cancelled"]


async def test_the_outbox_hears_when_a_decision_is_stored(work):
    async with work(DONE, **UNDONE) as desk:
        row = desk.call()
        await desk.until(2)
        desk.functions.cancel(row)
        async with asyncio.timeout(5):
            await desk.functions.decided.wait()


# --- confirmed by the user ------------------------------------------------------------------------

ASKED = {"confirm": "card", "confirm_seconds": 30.0}


async def test_a_call_that_has_to_be_confirmed_waits_and_the_model_is_told_at_once(work):
    async with work(**ASKED) as desk:
        row = desk.call()
        told = await desk.until(1)

        (record,) = desk.noted
        assert (record.status, record.due_in) == (IntentStatus.AWAITING, 30.0)
        assert told.content == record.response == submission.AWAITING
        left = (told.shown.next_attempt_at - datetime.now(UTC)).total_seconds()
        assert 20.0 < left <= 30.0
        assert desk.functions.awaited == [row]
    assert desk.planner.asked == []


async def test_a_call_with_wrong_arguments_asks_nobody(work):
    async with work(**ASKED) as desk:
        desk.call(arguments='{"title": 5}')
        told = await desk.until(1)

    assert told.shown.status is IntentStatus.REJECTED


async def test_a_call_that_cannot_be_saved_does_not_wait(work):
    async with work(**ASKED) as desk:
        desk.journal.full = True
        desk.call()
        told = await desk.until(1)

        assert json.loads(told.content) == {"status": "failed", "error": UNSAVED}
        assert desk.functions.awaited == []


@pytest.mark.parametrize(
    ("wanted", "shown", "later"),
    [("submit", "submitting", "submitted"), ("cancel", "cancelled", "cancelled")],
)
async def test_the_user_decides_once_and_is_told_at_once(work, wanted, shown, later):
    async with work(**ASKED) as desk:
        row = desk.call()
        await desk.until(1)
        desk.functions.decide(row, wanted)
        desk.functions.decide(row, wanted)
        desk.functions.decide(UUID(int=99), wanted)
        # The row as it was before.
        desk.functions.settled(row, IntentStatus.AWAITING, None, "")
        assert [status for status, _ in statuses(desk)] == ["awaiting", shown]
        assert decisions(desk) == [(wanted, False)]
        desk.functions.settled(row, IntentStatus(later), None, "", taken_back=wanted == "cancel")
        assert statuses(desk)[-1][0] == later
        assert desk.functions.awaited == []


@pytest.mark.parametrize("status", ["submitting", "cancelled"])
async def test_a_session_hears_that_the_wait_is_over(work, status):
    async with work(**ASKED) as desk:
        row = desk.call()
        await desk.until(1)
        desk.functions.settled(row, IntentStatus(status), None, "")
        desk.functions.decide(row, "submit")

    assert [one for one, _ in statuses(desk)] == ["awaiting", status]
    assert decisions(desk) == []


async def test_the_model_may_take_back_a_call_that_waits(work):
    async with work(**ASKED) as desk:
        row = desk.call()
        await desk.until(1)
        desk.functions.cancel(row)
        desk.functions.cancel(row)

    assert [one for one, _ in statuses(desk)] == ["awaiting", "cancelled"]
    assert decisions(desk) == [("cancel", False)]


async def test_another_session_goes_on_with_calls_that_wait(work):
    async with work(**ASKED) as desk:
        row = desk.call()
        await desk.until(1)
        desk.functions.forget(desk.admitted.session_id)
        after = msgspec.structs.replace(
            desk.admitted, session_id=uuid4(), open_calls=list(desk.noted)
        )
        told = []
        desk.functions.adopt(desk.registry, after, told.append)
        assert desk.functions.awaited == [row]
        desk.functions.decide(row, "submit")

    assert len(desk.heard) == 1
    (event,) = told
    assert (event.shown.id, event.shown.status.value) == (row, "submitting")
    assert event.shown.arguments == {"title": "Run"}


# --- when we stop ---------------------------------------------------------------------------------


async def test_a_call_that_does_not_end_in_time_is_left_to_others(work, caplog):
    async with work(None, grace=0.01) as desk:
        desk.call()
        await desk.planner.reached.wait()

    assert "function_call_left" in caplog.text
    left = desk.noted[-1]
    assert (left.status, left.due_in, left.in_doubt) == (IntentStatus.SUBMITTING, 0.0, True)


async def test_a_call_that_was_taken_back_when_we_stop_is_left_to_others_like_that(work):
    async with work(None, grace=0.01, **UNDONE) as desk:
        row = desk.call()
        await desk.planner.reached.wait()
        desk.functions.cancel(row)

    left, decided = desk.noted[-2:]
    assert (left.status, left.in_doubt) == (IntentStatus.SUBMITTING, True)
    assert (decided.wanted, decided.can_cancel) == ("cancel", True)


async def test_a_call_that_was_not_sent_is_left_without_a_doubt(work):
    async with work(refused(), grace=0.01) as desk:
        desk.sleeps = False
        desk.call()
        await desk.resting.wait()

    assert (desk.noted[-1].due_in, desk.noted[-1].in_doubt) == (0.0, False)


# --- with a session, over sockets -----------------------------------------------------------------

GOAL = {
    "id": "call_1",
    "name": "create_goal",
    "arguments": '{"title":"Run","deadline":"none"}',
    "client_side": True,
}


async def closed_door(what):
    return CLOSED_DOOR


async def still_refused(what):
    return refused(wait=5.0)


async def test_a_saved_call_is_answered_once_and_the_browser_hears_its_outcome_later():
    async with agent_and_relay(submit=closed_door) as (agent, relay), relay.attach() as browser:
        await next_event(browser, "SettingsApplied")
        await agent.say(type="FunctionCallRequest", functions=[GOAL])
        await next_event(browser, "RelayIntent")
        saved = await next_event(browser, "RelayIntent")
        await agent.until(lambda: len(agent.texts) == 2)
        (row,) = relay.functions.awaited

        relay.functions.settled(row, IntentStatus.SUBMITTED, {"id": 7}, "done")
        done = await next_event(browser, "RelayIntent")
        await browser.send(json.dumps({"type": "InjectUserMessage", "content": "thanks"}))
        await agent.until(lambda: agent.texts[-1]["type"] == "InjectUserMessage")

    assert (saved["status"], saved["result"]["saved"]) == ("submitting", True)
    assert json.loads(agent.texts[1]["content"])["status"] == "saved"
    assert (done["call_id"], done["status"], done["result"]) == ("call_1", "submitted", {"id": 7})
    assert [text["type"] for text in agent.texts] == [
        "Settings",
        "FunctionCallResponse",
        "UpdatePrompt",
        "InjectUserMessage",
    ]


async def test_a_saved_call_is_not_awaited_when_its_session_has_ended():
    async with agent_and_relay(submit=closed_door) as (agent, relay):
        async with relay.attach() as browser:
            await next_event(browser, "SettingsApplied")
            await agent.say(type="FunctionCallRequest", functions=[GOAL])
            await agent.until(lambda: len(agent.texts) == 2)
            assert len(relay.functions.awaited) == 1
        await relay.until(SessionEnded)

        assert relay.functions.awaited == []


async def test_what_the_model_takes_back_before_it_was_sent_is_cancelled():
    async with agent_and_relay(submit=still_refused) as (agent, relay), relay.attach() as browser:
        await next_event(browser, "SettingsApplied")
        await agent.say(type="FunctionCallRequest", functions=[GOAL])
        await next_event(browser, "RelayIntent")
        await agent.say(type="FunctionCallCancelled", functions=[{"id": "call_1"}])
        told = await next_event(browser, "RelayIntent")

        assert told["status"] == "cancelled"
        assert len(agent.texts) == 1


# --- the rules ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attempts", "jitter", "pause"),
    [
        (1, 1.0, 1.0),
        (2, 1.0, 2.0),
        (5, 0.5, 8.0),
        (10, 1.0, 60.0),
        (5000, 1.0, 60.0),
        (9, 0.0, 0.1),
    ],
)
def test_pauses_double_up_to_the_longest_with_full_jitter(attempts, jitter, pause):
    assert Backoff(first=1.0, longest=60.0).pause(attempts, jitter) == pause


@pytest.mark.parametrize(
    ("retry", "unsent", "in_doubt", "may"),
    [
        (True, False, True, True),
        (True, True, False, True),
        (False, True, False, True),
        (False, True, True, False),
        (False, False, False, False),
    ],
)
def test_only_what_cannot_double_is_repeated(retry, unsent, in_doubt, may):
    (intent,) = registry(retry=retry).intents
    outcome = msgspec.structs.replace(busy(), unsent=unsent)

    assert submission.may_repeat(intent, outcome, in_doubt=in_doubt) is may


def test_a_failure_is_settled_with_its_reason():
    status, result, content = submission.answer(Failed(UNCERTAIN, 1))

    assert (status, result) == (IntentStatus.FAILED, {"error": UNCERTAIN})
    assert json.loads(content) == {"status": "failed", "error": UNCERTAIN}
