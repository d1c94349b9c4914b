"""The client on a scripted agent: what is heard, shown, kept, and what survives."""

from __future__ import annotations

import asyncio
import json

import pytest

from relay.sandbox.script import Call, Script, Turn
from tests.client.conftest import LOST, PHONE, every_engine, needs_chromium

pytestmark = [needs_chromium, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(90)]

GOAL = Call("create_goal", {"title": "swim", "deadline": "none"})
ECHO = Script(turns=(Turn(when="text", say=("All right.",), seconds=0.5),), loop=True)


async def said(page):
    return [(role, text) for role, text, _ in await page.bubbles()]


async def ask_for_a_goal(stack, page):
    """A typed turn with an intent, to its end; the conversation's id."""
    turn = Turn(when="text", calls=(GOAL,), say=("Done.", "More?"), seconds=0.4)
    await stack.say(Script(turns=(turn,), loop=True))
    await page.type("I want to swim")
    await page.until("() => document.querySelector('.card[data-status=submitted]')")
    await page.says("Done. More?")
    await page.stored(2)
    return await page.conversation()


@every_engine
async def test_a_typed_turn_shows_both_bubbles_with_ticks_and_the_intent(stack, tab):
    page = await tab()

    await ask_for_a_goal(stack, page)

    assert await said(page) == [
        ("user", "I want to swim"),
        ("assistant", "Done. More?"),
    ]
    card = await page.by(".card").inner_text()
    assert card.split() == ["New", "goal", "Done", "Title", "swim", "Deadline", "none"]
    await page.until("() => heard.ranges.some(({ peak }) => peak > 0.05)")
    assert await page.by("#title").inner_text() == "I want to swim"


async def test_the_relay_is_told_once_a_turn_how_long_the_reply_took_to_be_heard(stack, tab):
    await stack.say(ECHO)
    before = await stack.figures("relay_playout_seconds")
    page = await tab()
    told, new = [], asyncio.Queue()

    def look(text):
        if isinstance(text, str) and "RelayPlayout" in text:
            told.append(json.loads(text)["seconds"])
            new.put_nowait(len(told))

    page.page.on("websocket", lambda socket: socket.on("framesent", look))
    await page.type("Hello")
    await page.stored(2)
    # The first sound of a page may take so long to begin that this reply is not heard.
    await page.until("() => heard.context.state === 'running'")
    await page.word("ready")
    first = len(told)
    for turn in (1, 2, 3):
        await page.type("Hello")
        await page.stored(2 + 2 * turn)
        while await asyncio.wait_for(new.get(), 8) < first + turn:
            pass
        await page.word("ready")  # behind other audio nothing is measured

    after = await stack.figures("relay_playout_seconds")
    count = int(after.count - before.count)
    assert len(told) == first + 3
    assert count in (first + 2, first + 3)  # the last may still be on its way
    assert after.total - before.total == pytest.approx(sum(told[:count]))
    assert all(0 < each < 2 for each in told)
    assert await page.page.evaluate("heard.events.filter((e) => /Error/.test(e.type))") == []


@every_engine
async def test_what_was_said_is_read_again_and_talked_on_about_after_a_reload(stack, tab):
    page = await tab()
    conversation = await ask_for_a_goal(stack, page)
    before = await page.bubbles()

    await page.open()  # a new page: nothing is open
    assert await page.bubbles() == []
    await page.by("#list a").first.click()
    await page.stored(2)

    assert await page.bubbles() == before
    assert await page.by(".card").get_attribute("data-status") == "submitted"
    await page.talk()
    await page.word("listening")
    await page.type("I want to swim")
    await page.stored(4)
    await page.until("() => document.querySelectorAll('.card[data-status=submitted]').length === 2")
    assert await page.conversation() == conversation
    assert (await said(page))[:2] == [(role, text) for role, text, _ in before]
    stored = (await stack.get(f"/conversations/{conversation}/messages"))["items"]
    assert [m["seq"] for m in stored] == list(range(1, len(stored) + 1))
    await page.talk()
    await page.word("ready")


async def test_the_microphone_arrives_in_frames_of_20_ms_and_mute_sends_silence(stack, tab):
    await stack.say(ECHO, keep_audio=True)
    page = await tab()

    await page.talk()
    await page.word("listening")
    agent = stack.sandbox.sessions[-1]
    level = "Number(document.querySelector('#mic').style.getPropertyValue('--level'))"
    await page.until(f"() => {level} > 0.1")
    await agent.until(lambda session: any(session.audio))
    await page.by("#mute").click()
    await page.word("muted")
    await page.until(f"() => {level} === 0")
    muted = agent.audio_bytes
    await agent.until(lambda session: session.audio_bytes > muted + 50 * 640)
    sizes = await page.page.evaluate("heard.sockets.at(-1).sizes")
    await page.talk()
    await page.word("ready")

    assert list(sizes) == ["640"]  # 20 ms of linear16 at 16 kHz, each one
    assert not any(agent.audio[muted + 10 * 640 :])  # what was on its way may follow


async def test_a_barge_in_silences_a_long_reply_at_once(stack, tab):
    reply = Turn(when="text", say=("A long story.",), seconds=20.0, barge_in=1.5)
    await stack.say(
        Script(turns=(reply, Turn(when="text", say=("Yes?",), seconds=1.0))), late_frames=5
    )
    page = await tab()

    await page.type("Tell me a story")
    await page.until("() => heard.events.some((e) => e.type === 'UserStartedSpeaking')")
    await page.until("() => heard.context.currentTime > heard.last('UserStartedSpeaking').at + 0.5")

    after = await page.page.evaluate(
        """() => { const { at } = heard.last('UserStartedSpeaking');
            return { before: heard.ranges.some((r) => r.start < at && r.end > at - 0.2),
                     late: heard.ranges.some((r) => r.start > at + 0.1),
                     seconds: Math.max(...heard.ranges.map((r) => r.end)) - at }; }"""
    )
    print(f"barge-in: silent after {after['seconds'] * 1000:.0f} ms")
    assert after["before"]
    assert not after["late"]
    assert after["seconds"] < 0.15

    await page.type("Stop")  # and the next reply is heard again
    await page.says("Yes?")
    await page.until("() => heard.ranges.at(-1).start > heard.last('EndOfTurn').at")


@every_engine
async def test_a_cut_network_loses_nothing_and_doubles_nothing(stack, tab):
    sentences = tuple(f"Sentence {n}." for n in range(8))
    await stack.say(
        Script(turns=(Turn(when="text", say=sentences, seconds=0.6), *ECHO.turns)), pace=1.5
    )
    page = await tab()
    page.expected += LOST
    await page.talk()
    await page.word("listening")
    await page.type("Count")
    await page.says("Sentence 2.")

    stack.network.cut()
    await page.word("reconnecting")
    await page.page.wait_for_timeout(3000)  # the network is away for so long
    stack.network.mend()

    await page.says("Sentence 7.")
    await page.stored(2)
    assert await said(page) == [("user", "Count"), ("assistant", " ".join(sentences))]
    sessions = await page.page.evaluate(
        "new Set(heard.sockets.map((s) => s.url.split('/').at(-2))).size"
    )
    assert sessions == 1  # it came back; nothing was begun anew
    await page.type("Still there?")
    await page.stored(4)
    await page.talk()
    await page.word("ready")


@every_engine
async def test_what_is_typed_without_a_network_arrives_once(stack, tab):
    await stack.say(ECHO)
    page = await tab()
    page.expected += LOST
    await page.talk()
    await page.word("listening")

    stack.network.cut()
    await page.word("reconnecting")
    await page.type("Are you there?")
    assert (await page.bubbles())[-1] == ["user", "Are you there?", False]
    stack.network.mend()

    await page.stored(2)
    await page.page.wait_for_timeout(2000)  # longer than typed turns are held back after a return
    assert await said(page) == [("user", "Are you there?"), ("assistant", "All right.")]
    conversation = await page.conversation()
    stored = (await stack.get(f"/conversations/{conversation}/messages"))["items"]
    assert [m["content"] for m in stored][-2:] == ["Are you there?", "All right."]
    await page.talk()


@pytest.mark.parametrize("kill", [False, True], ids=["drained", "killed"])
async def test_a_restarted_relay_goes_on_in_the_same_conversation(stack, tab, kill):
    await stack.say(ECHO)
    page = await tab()
    page.expected += [*LOST, "503"]
    await page.talk()
    await page.word("listening")
    await page.type("Before")
    await page.stored(2)
    conversation = await page.conversation()

    await stack.relay.stop(kill=kill)
    await page.word("reconnecting")
    await stack.relay.start()
    await page.word("listening", 30)
    await page.type("After")
    await page.stored(4)

    assert await said(page) == [
        ("user", "Before"),
        ("assistant", "All right."),
        ("user", "After"),
        ("assistant", "All right."),
    ]
    assert await page.conversation() == conversation
    await page.talk()
    await page.word("ready")


@every_engine
async def test_one_tab_has_the_microphone_and_another_may_take_it(stack, tab):
    await stack.say(ECHO)
    first = await tab()
    await first.talk()
    await first.word("listening")
    second = await tab.beside(first)

    await second.talk()
    await second.by("#notice").wait_for()
    assert "another tab" in await second.by("#notice").inner_text()
    await second.by("#notice-action").click()
    await second.word("listening")

    await first.word("ready")
    assert "another tab" in await first.by("#notice").inner_text()
    await second.talk()


async def test_the_space_bar_talks_and_stops(stack, tab):
    await stack.say(ECHO)
    page = await tab()

    await page.page.keyboard.press("Space")
    await page.word("listening")
    await page.page.keyboard.press("Space")
    await page.word("ready")

    await page.by("#text").focus()
    await page.page.keyboard.press("Space")
    assert await page.by("#mic").get_attribute("aria-pressed") == "false"


@every_engine
@pytest.mark.parametrize("key", [None, "Escape"])
async def test_the_agent_is_stopped_without_talking_over_it(stack, tab, key):
    reply = Turn(when="text", say=("A long story.",), seconds=20.0)
    await stack.say(Script(turns=(reply, *ECHO.turns)))
    page = await tab()
    await page.type("Tell me a story")
    await page.says("A long story.")
    at = await page.page.evaluate("heard.context.currentTime")
    # Of the reply, and not what is left of the greeting.
    await page.until("at => heard.ranges.some((r) => r.peak > 0.05 && r.end > at + 1.5)", at)
    await page.word("speaking")

    if key:
        await page.page.keyboard.press(key)
    else:
        await page.by("#hush").click()
    await page.word("ready")
    at = await page.page.evaluate("heard.context.currentTime")
    # More of the reply comes, and none of it is heard.
    await page.until("at => heard.context.currentTime > at + 2", at)
    late = await page.page.evaluate("at => heard.ranges.filter((r) => r.end > at + 0.2)", at)

    assert late == []
    assert not await page.by("#hush").is_visible()
    assert await page.page.evaluate("heard.sockets.length") == 1
    await page.type("Go on")  # the next reply is heard
    await page.says("All right.")
    await page.until("at => heard.ranges.some((r) => r.start > at + 2)", at)


async def test_a_voice_that_comes_in_pieces_is_one_reply_and_can_be_stopped(stack, tab):
    reply = Turn(when="text", say=("A long story.",), seconds=20.0)
    await stack.say(Script(turns=(reply,)), pace=0.3)
    page = await tab()
    await page.type("Tell me a story")
    await page.word("speaking")
    await page.page.evaluate(
        """() => {
            heard.words = [];
            const word = document.querySelector("#word");
            new MutationObserver(() => heard.words.push(word.textContent)).observe(
                word, { childList: true, characterData: true, subtree: true });
        }"""
    )

    await page.until("() => heard.ranges.length > 2")  # there was nothing to play in between
    assert await page.page.evaluate("heard.words") == []
    await page.page.keyboard.press("Escape")
    await page.word("ready")


async def test_what_can_be_asked_for_is_asked_for_with_a_tap(stack, tab):
    await stack.say(ECHO)
    page = await tab(size=PHONE)

    await page.by("#topics button", has_text="New task").click()

    await page.stored(2)
    assert await said(page) == [("user", "New task"), ("assistant", "All right.")]
    assert await page.page.evaluate("document.activeElement.id") == "mic"
