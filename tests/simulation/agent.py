"""The voice agent: as little of Deepgram as the rules of a session have to do with.

It speaks Deepgram's messages and takes nothing from us before Settings. A model calls a function
for each goal that it hears of and that nothing in its history is a call for, and answers with the
words that it heard, so that everybody can tell which turn was answered. Its calls may have the same
ids as those of the agent before: models do that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from relay.core.message_policy import ANSWER_AGAIN
from relay.protocol import deepgram
from tests.simulation.clock import Process
from tests.simulation.promises import Broken
from tests.simulation.wire import End, Wire

GOAL = re.compile(r"goal-\d+")
AUDIO = b"\0\0"
PATIENCE = 12.0  # without a word from the client
MUTE_SECONDS = 20.0, 20.0  # two times a ping


class Agents:
    """Who answers the relays' dials. `faults` are what is wrong at the moment."""

    def __init__(self, world) -> None:
        self.world = world
        self.process = Process(world.clock, "agents")
        self.chance = world.chance("agents")
        self.is_refusing = self.is_slow = False
        self.sessions: list[AgentSession] = []
        self.count = self.asides = 0

    def dial(
        self, owner: Process, opened: Callable[[End], None], failed: Callable[[str], None]
    ) -> None:
        owner.later(
            self.world.between(0.02, 0.25, self.chance), self._answer, owner, opened, failed
        )

    def _answer(self, owner, opened, failed) -> None:
        if self.is_refusing:
            failed("503")
            return
        self.count += 1
        wire = Wire(owner, self.process, self.world.delay)
        session = AgentSession(self, wire.ends[1], self.count)
        self.sessions.append(session)
        opened(wire.ends[0])
        session.begin()

    def of_newest(self) -> AgentSession | None:
        return next((one for one in reversed(self.sessions) if one.end.is_open), None)


class AgentSession:
    def __init__(self, agents: Agents, end: End, number: int) -> None:
        self.agents = agents
        self.end = end
        self.name = f"agent {number}"
        self.settings: deepgram.Settings | None = None
        self.is_ready = False
        self.early: list[deepgram.ClientMessage] = []
        self.pending: list[str] = []  # words of the user without an answer
        self.known: set[str] = set()  # goals that were called for
        self.open: dict[str, str] = {}  # calls without a result, and their goals
        self.work = 0  # what is done belongs to this; another number: it was given up
        self.heard_at = 0.0
        self._typed_at = 0.0  # texts are taken in the order in which they came
        end.hear = self._hear

    def begin(self) -> None:
        self._later(0.0, 0.1, self._welcome)

    def _welcome(self) -> None:
        self._send(deepgram.Welcome(request_id=self.name))
        self.agents.world.moment("welcome")

    @property
    def _now(self) -> float:
        return self.agents.world.clock.now

    def _later(self, least, longest, step, *about) -> None:
        agents = self.agents
        if agents.is_slow:
            longest += 12.0
        agents.process.later(agents.world.between(least, longest, agents.chance), step, *about)

    def _work(self, least, longest, step, *about) -> None:
        self._later(least, longest, self._go_on, self.work, step, about)

    def _go_on(self, work, step, about) -> None:
        if work == self.work and self.end.is_open:
            step(*about)

    def _send(self, message: deepgram.Message) -> None:
        if self.end.is_open:
            clock = self.agents.world.clock
            if clock.is_told:
                clock.say(self.name, f"says {message}")
            self.end.send("text", deepgram.encode(message))

    def _watch(self) -> None:
        """Who hears nothing for long gives up; that is never because of the relay."""
        if not self.end.is_open or self.end.wire.is_broken:
            return
        left = self.heard_at + PATIENCE - self._now
        if left > 1e-6:
            self.agents.process.later(left, self._watch)
            return
        if not (self.end.peer.owner.is_frozen or self.agents.world.was_frozen(PATIENCE + 1)):
            raise Broken("agent kept alive", f"{self.name} heard nothing for {PATIENCE} s")
        self.fail("CLIENT_MESSAGE_TIMEOUT")

    def fail(self, code: str) -> None:
        self._send(deepgram.Error(description="as it is", code=code))
        self.end.close(1005)

    # --- what the relay says -----------------------------------------------------------------

    def _hear(self, kind: str, payload) -> None:
        self.heard_at = self._now
        if kind == "close":
            self.work += 1
        elif kind == "audio":
            self._speech(payload)
        else:
            self._message(deepgram.decode_client(payload))

    def _message(self, message: deepgram.FromClient) -> None:
        clock = self.agents.world.clock
        if clock.is_told:
            clock.say(self.name, f"gets {message}")
        if isinstance(message, deepgram.Settings):
            if self.settings is not None:
                raise Broken("Settings once", f"{self.name} got them a second time")
            self._take_settings(message)
        elif self.settings is None:
            raise Broken("Settings first", f"{self.name} got {message} before Settings")
        elif isinstance(message, deepgram.KeepAlive):
            return
        elif not self.is_ready:
            self.early.append(message)
        else:
            self._obey(message)

    def _take_settings(self, settings: deepgram.Settings) -> None:
        self.settings = settings
        assert isinstance(settings.agent, dict)
        self.told = settings.agent["context"]["messages"]
        for line in self.told:
            for call in line.get("function_calls") or ():
                self.known.update(GOAL.findall(call["arguments"]))
        self.agents.world.moment("settings")
        self._later(0.05, 0.3, self._apply)

    def _apply(self) -> None:
        if not self.end.is_open:
            return
        self.is_ready = True
        self.heard_at = self._now  # nothing is due to it before
        self._watch()
        self._send(deepgram.SettingsApplied())
        self.agents.world.moment("applied")
        early, self.early = self.early, []
        for message in early:
            self._obey(message)

    def _obey(self, message: deepgram.FromClient) -> None:
        match message:
            case deepgram.InjectUserMessage(content=words):
                agents = self.agents
                seconds = agents.world.between(0.0, 0.05, agents.chance)
                self._typed_at = at = max(self._typed_at, self._now + seconds)
                agents.world.clock.at(at, self._words, words, False)
            case deepgram.FunctionCallResponse(id=id, content=content):
                self._result(id, content)
            case deepgram.UpdatePrompt():
                self._later(0.0, 0.05, self._send, deepgram.PromptUpdated())

    def _speech(self, payload: bytes) -> None:
        if not payload.startswith(b"speech ") or not self.is_ready:
            return  # silence; or thrown away while Settings are applied, as Deepgram does
        words = payload.removeprefix(b"speech ").decode()
        self._send(deepgram.UserStartedSpeaking())
        if self.open:
            asked = [deepgram.FunctionCall(id=id, name="create_goal") for id in self.open]
            self._send(deepgram.FunctionCallCancelled(functions=asked))
            self.agents.world.moment("cancel")
            self.known.difference_update(self.open.values())
            self.open.clear()
        self._give_up()
        self._later(0.1, 0.5, self._words, words, True)

    # --- a turn ------------------------------------------------------------------------------

    def _give_up(self) -> None:
        self.work += 1

    def _words(self, words: str, is_spoken: bool) -> None:
        if not self.end.is_open:
            return
        self._give_up()
        is_early = is_spoken and self.agents.world.plan.early_calls
        if words == ANSWER_AGAIN:
            self.pending[:0] = self._unanswered or [words]
        else:
            self.pending.append(words)
            if is_early:
                self._call()
        self._send(deepgram.ConversationText(role="user", content=words))
        self.agents.world.moment("words")
        if not is_early and words != ANSWER_AGAIN:
            self._work(0.0, 0.2, self._think)
        elif not self.open:
            self._work(0.1, 0.6, self._reply)

    @property
    def _unanswered(self) -> list[str]:
        """What the user said last, in the history that it was told."""
        lines = [line for line in self.told if line.get("role")]
        while lines and lines[-1]["role"] == "assistant":
            lines.pop()
        answered = [place for place, line in enumerate(lines) if line["role"] == "assistant"]
        return [line["content"] for line in lines[max(answered, default=-1) + 1 :]]

    def _think(self) -> None:
        self._call()
        if not self.open:
            self._work(0.1, 0.6, self._reply)

    def _call(self) -> None:
        """What nobody has asked for yet."""
        goals = [goal for goal in GOAL.findall(" ".join(self.pending)) if goal not in self.known]
        if not goals:
            return
        calls = []
        for goal in goals:
            self.known.add(goal)
            mine = "" if self.agents.world.plan.same_ids else self.name.replace(" ", "-") + "-"
            id = f"call-{mine}{len(self.known)}"
            self.open[id] = goal
            arguments = json.dumps({"title": goal})
            calls.append(deepgram.FunctionCall(id=id, name="create_goal", arguments=arguments))
        self._send(deepgram.FunctionCallRequest(functions=calls))
        self.agents.world.moment("call")

    def _result(self, id: str | None, content: str) -> None:
        if id not in self.open:
            if id is None or not id.startswith("call-"):
                raise Broken("one answer a call", f"{self.name} never asked for {id}")
            return  # taken back, and the answer was on its way
        del self.open[id]
        self.agents.world.moment("answer")
        if not self.open:
            self._work(0.1, 0.5, self._reply)

    def _reply(self) -> None:
        """One or two sentences, and their audio."""
        question = " and ".join(self.pending)
        manner = "" if self.agents.world.plan.same_words else f", says {self.name}"
        self._sentence(f"This is about {question}{manner}.")
        self.agents.world.moment("reply")
        if self.agents.world.plan.asides:
            self.agents.asides += 1
            aside = f"hm {self.agents.asides}"
            self._send(
                deepgram.ConversationText(
                    role="user", content=aside, conversational_behavior="backchannel"
                )
            )
        self._work(0.05, 0.8, self._second, question)

    def _sentence(self, content: str) -> None:
        self._send(deepgram.ConversationText(role="assistant", content=content))
        self.end.send("audio", AUDIO)

    def _second(self, question: str) -> None:
        if self.agents.chance.random() < 0.5:
            self._sentence(f"Now you know about {question}.")
            self._work(0.1, 0.8, self._finish)
        else:
            self._finish()

    def _finish(self) -> None:
        self.pending = []
        self._send(deepgram.AgentAudioDone())
        self.agents.world.moment("done")
