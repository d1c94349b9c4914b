"""One conversation with a relay, as a scenario has it: over real audio, from the greeting on."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from urllib.parse import urljoin
from uuid import UUID

import msgspec

from config.scenario import Scenario, ScenarioAnswer, ScenarioLine
from control.evals.attempt import Attempt, Call, Entry
from control.evals.stage import Stage
from control.evals.verdict import judge
from control.evals.voice import Noise, Words
from control.talk.audio import UsageError
from control.talk.caller import Caller, start_session
from control.talk.connection import Connection, Event, TalkError
from relay.protocol import deepgram, relay_events
from relay.protocol.relay_events import RelayIntent


async def attempt(
    name: str, number: int, scenario: Scenario, words: Words, stage: Stage, timeout: float
) -> Attempt:
    """Hold it once, as a user of its own, and judge it. `words` has what is to be said."""
    user = f"{name} {number}"
    stage.orchestrator.scenarios[user] = scenario
    made = Attempt(number=number)
    clock = asyncio.get_running_loop().time
    try:
        session = await start_session(stage.url, token=stage.token(user), seconds=timeout)
        made.session_id = session.session_id
        relay = await Connection.open(
            urljoin(stage.url, session.websocket_url), session.ticket, timeout, lambda *_: None
        )
        began = clock()
        rate = session.audio.input.sample_rate
        play = Play(scenario, words, made, rate)
        noise = scenario.voice.noise
        room = Noise(noise, words.loudness, rate, user).mix if noise is not None else bytes
        caller = Caller(relay, session, timeout=timeout, hear=play.hear, mix=room)
        try:
            await caller.run(lambda: play.hold(caller))
        finally:
            await relay.close()
            made.seconds = clock() - began
            made.calls = list(play.calls.values())
    except (TalkError, UsageError) as error:
        made.trouble = str(error)
    made.failures = judge(scenario.expect, made)
    return made


class Play:
    """Says what is next, and writes down what it hears."""

    def __init__(self, scenario: Scenario, words: Words, made: Attempt, rate: int) -> None:
        self._scenario = scenario
        self._words = words
        self._made = made
        self._rate = rate
        self._clock = asyncio.get_running_loop().time
        self._began = self._clock()
        self._lines = scenario.spoken
        self._answered: Counter[int] = Counter()  # how often each answer was given
        self._asked: list[str] = []  # the agent's words since the user's last
        self.calls: dict[UUID, Call] = {}

    async def hold(self, caller: Caller) -> None:
        """From the first line to the last answer. Raises `TalkError`."""
        while (each := self._next()) is not None:
            text = each.say or each.wav or each.type
            if text is None:
                await self._be_silent(caller, each)
                continue
            if self._made.turns >= self._scenario.expect.turns:
                self._made.unasked = text
                return
            self._made.turns += 1
            self._asked.clear()
            self._note("said", text)
            await caller.say(self._words.speech(each, self._rate))
            following = self._lines[0].interrupt if self._lines else None
            if following is None:
                await caller.wait_until_free()
            else:
                await caller.wait_until_agent_speaks(following)
            if caller.floor.reply_after is not None:
                self._made.first_audio.append(round(caller.floor.reply_after, 3))

    def _next(self) -> ScenarioLine | ScenarioAnswer | None:
        """Who interrupts or is silent gives no answer first; else what was asked comes before the
        next line."""
        ahead = self._lines[0] if self._lines else None
        is_due = ahead is not None and (ahead.interrupt is not None or ahead.silence is not None)
        if self._made.turns and not is_due:
            asked = "\n".join(self._asked)
            for number, answer in enumerate(self._scenario.answers):
                is_left = self._answered[number] < answer.times
                if is_left and re.search(answer.when, asked, re.I):
                    self._answered[number] += 1
                    return answer
        return self._lines.pop(0) if self._lines else None

    async def _be_silent(self, caller: Caller, each: ScenarioLine | ScenarioAnswer) -> None:
        seconds = each.silence if isinstance(each, ScenarioLine) else None
        self._note("said", f"(nothing for {seconds or 0:g} s)")
        await asyncio.sleep(seconds or 0.0)
        await caller.wait_until_free()

    # --- what is heard -------------------------------------------------------------------------

    def hear(self, event: Event) -> None:
        match event:
            case deepgram.ConversationText(role="user", content=content):
                self._asked.clear()
                self._note("heard", content)
            case deepgram.ConversationText(content=content):
                self._asked.append(content)
                if self._made.turns:  # not the greeting, which may name anything
                    self._made.words.append(content)
                self._note("agent", content)
            case RelayIntent(id=id, intent=intent, status=status, arguments=arguments):
                known = self.calls.get(id)
                if arguments is None and known is not None:
                    arguments = known.arguments
                self.calls[id] = Call(intent, str(status), arguments)
                told = arguments if event.result is None else event.result
                shown = msgspec.json.encode(told).decode()
                self._note("intent", f"{intent or 'unknown'} {status} {shown}")
            case deepgram.Error(code=code, description=detail):
                self._note("note", f"error {code}: {detail}")
            case relay_events.RelayError(code=code, detail=detail):
                self._note("note", f"error {code}: {detail}")
            case deepgram.UserStartedSpeaking():
                self._note("note", "the agent hears a voice")
            case relay_events.RelayReconnecting() | relay_events.RelayReconnected():
                self._note("note", type(event).__name__)

    def _note(self, who: str, text: str) -> None:
        at = round(self._clock() - self._began, 2)
        self._made.transcript.append(Entry(at, who, text))
