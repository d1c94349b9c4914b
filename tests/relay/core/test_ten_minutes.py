"""Ten minutes of conversation on a clock of our own: the rules of a session between a browser and
the sandbox's agent, with everything lost on the way that gets lost.

No socket and no clock: what the session asks for is done here as the session runner does it.
"""

from __future__ import annotations

import heapq
import itertools
import json
import random
from pathlib import Path

import msgspec
import pytest

import config
from config.intents import Registry
from config.loader import load
from relay.core import actions, events
from relay.core.message_policy import settings
from relay.core.resume import ReplayBuffer
from relay.core.session import Session
from relay.protocol import deepgram
from relay.protocol.relay_events import IntentStatus, RelayIntent, RelaySession
from relay.sandbox.agent import Agent
from relay.sandbox.options import Options
from tests.relay.conftest import BEGAN, LIMITS, numbered_ids, numbered_tickets

SECONDS = 600.0
DIALLING = 0.2  # until the agent's WebSocket is open
PLANNING = 0.4  # until the Orchestrator answers
STORING = 0.3  # until Postgres has a line
SPEAKING = 2.0  # the user's words take so long
ENDING = 0.7  # silence until the agent knows that the user has finished
GONE = 4.0  # the browser is away
# The first pause of the re-dial (core/reconnect.py), the dial and the opening.
REDIAL = 0.25 + DIALLING + 0.1
# Thinking, calling, thinking about the result; the planner; the voice.
THINKING = 0.3 + 0.15 + PLANNING + 0.05 + 0.3 + 0.1

EXPECTED = {"agent_redialled", "turn_asked_again", "browser_away", "browser_back"}
GOALS = ("run a marathon", "learn Italian", "read more books", "plant a tree", "paint a wall")
MONTHS = ("April", "May", "June", "July", "August", "September")
TALK = ("Hello.", "Can you hear me?", "Thanks.", "What else is there?")


def make_configuration():
    """As shipped, but goals are not deferred: the model calls before the turn is confirmed."""
    shipped = load(Path(config.__file__).parent, {})
    intents = [msgspec.structs.replace(i, defer=False) for i in shipped.registry.intents]
    return msgspec.structs.replace(shipped, registry=Registry(intents))


class Conversation:
    """Everybody who takes part, and what each has seen. `losses` says at which line of the user
    what happens."""

    def __init__(self, admitted, losses, chance):
        self.now = 0.0
        self.losses = losses
        self.chance = chance
        self._steps, self._order = [], itertools.count()
        configuration = make_configuration()
        self.session = Session(
            admitted,
            lambda told, known: settings(configuration, admitted, BEGAN.date(), told, known),
            now=0.0,
            began=BEGAN,
            limits=LIMITS,
            policy=configuration.policy,
            new_id=numbered_ids(),
            jitter=chance.random,
            new_ticket=numbered_tickets(),
        )
        # the agent
        self.agent = None
        self.is_open = False  # Settings are applied
        self.held = []  # speech for the next agent
        self.frame = b"", False
        self.lost = 0
        # the browser
        self.texts = ReplayBuffer(1 << 20)
        self.seen = []
        self.is_here = True
        self.ticket = ""
        # what is left behind
        self.stored = []
        self.planned = {}  # goals of the planner by call
        self.on_its_way = {}
        self.taken_back = 0
        # the user
        self.lines = []
        self.is_speaking = False
        self.waits_since = None  # the end of the user's words, or the audio before a loss
        self.has_loss = False  # since then
        self.heard_at = 0.0  # the newest audio of the agent, or its end
        self.silences = []  # seconds, and whether an agent was lost meanwhile

    # --- time --------------------------------------------------------------------------------

    def later(self, seconds, step, *about):
        heapq.heappush(self._steps, (self.now + seconds, next(self._order), step, about))

    def run(self):
        self.do(self.session.begin())
        self.later(1.0, self.listen)
        while True:
            waits = [self._steps[0][0], self.session.deadline]
            if self.agent is not None:
                waits.append(self.agent.deadline)
            self.now = max(self.now, min(waits))
            if self.now > SECONDS and self.is_quiet:
                return
            assert self.now < SECONDS + 60, "it never comes to rest"
            if self._steps[0][0] <= self.now:
                _, _, step, about = heapq.heappop(self._steps)
                step(*about)
            if self.session.deadline <= self.now:
                self.tell(events.Woken(0))
            self.take()

    @property
    def is_quiet(self):
        is_settled = self.waits_since is None and not self.is_speaking and not self.on_its_way
        return is_settled and self.is_here and self.is_open and self.now - self.heard_at > 1.5

    # --- the session -------------------------------------------------------------------------

    def tell(self, event):
        self.do(self.session.handle(event, self.now))

    def do(self, asked):
        for action in asked:
            match action:
                case actions.DialAgent():
                    self.later(DIALLING, self.answer_dial)
                case actions.DropAgent():
                    self.agent, self.is_open = None, False
                case actions.SendSettings(settings=made):
                    self.agent.received(deepgram.encode(made).decode(), self.now)
                case actions.ReleaseHeld():
                    self.is_open = True
                    held, self.held = self.held, []
                    for speech in held:
                        speech()
                case actions.SendAgent(message=message):
                    self.agent.received(deepgram.encode(message).decode(), self.now)
                case actions.KeepAgentAlive():
                    self.agent.received('{"type": "KeepAlive"}', self.now)
                case actions.SendBrowser(event=RelaySession(resume_ticket=ticket)):
                    self.ticket = ticket
                case actions.SendBrowser(event=event):
                    self.show(deepgram.encode(event))
                case actions.Forward(kept=kept):
                    text, is_from_agent = self.frame
                    assert is_from_agent
                    self.show(text, kept=kept)
                case actions.Store(message=message):
                    self.stored.append(message)
                    self.later(STORING, self.tell, events.MessageStored(message))
                case actions.CallFunction(id=id, call=call):
                    self.plan(id, call)
                case actions.CancelFunction(id=id):
                    self.taken_back += 1
                    self.on_its_way.pop(id, None)
                    self.planned.pop(id, None)
                case actions.DetachBrowser():
                    self.is_here = False
                case actions.Replay(received=received):
                    self.seen += self.texts.since(received)
                case actions.ClearAudio() | actions.AwaitReply() | actions.Reported():
                    pass
                case actions.Note(what=what) if what in EXPECTED:
                    pass
                case _:
                    pytest.fail(f"nobody expected {action}")

    # --- the agent ---------------------------------------------------------------------------

    def answer_dial(self):
        self.agent = Agent(Options(hasty=True), self.now, request_id=f"agent-{self.lost}")
        self.tell(events.AgentOpened())

    def take(self):
        """What the agent says now goes to the session, its audio to the browser."""
        agent = self.agent
        for said in agent.take(self.now) if agent else ():
            if agent is not self.agent:
                return  # it was lost by what came of its own words
            if isinstance(said, str):
                self.frame = said.encode(), True
                message = deepgram.decode_server(self.frame[0])
                self.tell(events.FromAgent(message))
                self.notice(message)
            elif isinstance(said, bytes) and said:
                self.hear()

    def notice(self, message):
        match message:
            case deepgram.ConversationText(role="user") if self.loses("words"):
                self.later(self.chance.uniform(0.0, 0.25), self.lose_agent)
            case deepgram.FunctionCallRequest() if self.loses("call"):
                self.later(self.chance.uniform(0.0, PLANNING), self.lose_agent)
            case deepgram.AgentAudioDone():
                self.heard_at = self.now

    def hear(self):
        if self.waits_since is not None:
            self.silences.append((self.now - self.waits_since, self.has_loss))
            self.waits_since, self.has_loss = None, False
        self.heard_at = self.now
        if self.loses("reply"):
            self.later(self.chance.uniform(0.0, 0.2), self.lose_agent)
        if self.loses("browser"):
            self.later(self.chance.uniform(0.0, 0.2), self.lose_browser)

    def loses(self, moment):
        if self.losses.get(len(self.lines)) != moment:
            return False
        del self.losses[len(self.lines)]
        return True

    def lose_agent(self):
        self.lost += 1
        self.has_loss = True
        if self.waits_since is None:
            self.waits_since = self.heard_at
        self.agent, self.is_open = None, False
        self.tell(events.AgentClosed(1006, ""))

    # --- the planner -------------------------------------------------------------------------

    def plan(self, id, call):
        shown = RelayIntent(id=id, call_id=call.id, intent="GOAL", status=IntentStatus.SUBMITTING)
        self.on_its_way[id] = call
        self.tell(events.FunctionStarted(shown, None, 0.0))
        self.later(PLANNING, self.planned_it, shown)

    def planned_it(self, shown):
        call = self.on_its_way.pop(shown.id, None)
        if call is None:
            return  # taken back
        self.planned[shown.id] = call.arguments
        content = json.dumps({"status": "submitted", "result": json.loads(call.arguments)})
        done = msgspec.structs.replace(shown, status=IntentStatus.SUBMITTED)
        self.tell(events.FunctionReturned(done, content))

    # --- the browser -------------------------------------------------------------------------

    def show(self, text, *, kept=True):
        self.texts.append(text, kept=kept)
        if self.is_here:
            self.seen.append(text)

    def lose_browser(self):
        self.tell(events.BrowserClosed(1006, ""))
        self.later(GONE, self.return_browser)

    def return_browser(self):
        assert self.session.admits(self.ticket, 0)
        self.is_here = True
        self.tell(events.BrowserAttached(self.ticket, len(self.seen), 0))

    # --- the user ----------------------------------------------------------------------------

    def listen(self):
        """Who has an answer says the next thing after a while."""
        if self.is_quiet and self.now < SECONDS:
            self.say()
        else:
            self.later(0.25, self.listen)

    def say(self):
        self.is_speaking = True
        number = len(self.lines)
        pauses = self.losses.get(number + 1) == "pause"
        if pauses or self.losses.get(number + 1) == "call" or number % 3 == 0:
            goal = GOALS[number % len(GOALS)]
            month = MONTHS[number // len(GOALS) % len(MONTHS)]
            words = f"I want to {goal} number {number}", f" in {month}."
        else:
            words = TALK[number % len(TALK)], f" I say that as number {number}."
        line = "".join(words)
        self.lines.append(line)
        self.speak(lambda: self.agent.dialogue.user_started(self.now))
        if pauses:
            del self.losses[number + 1]
            self.speak_later(1.0, lambda: self.agent.dialogue.user_paused(words[0], self.now))
            # Long enough for the call, and in half of the cases for the answer to it.
            rest = 0.6 + self.chance.choice([0.0, PLANNING + 0.3])
            self.speak_later(1.0 + rest, lambda: self.agent.dialogue.user_started(self.now))
        self.later(SPEAKING + 1.0, self.finish, line)

    def finish(self, line):
        self.waits_since, self.is_speaking = self.now, False
        self.speak_later(ENDING, lambda: self.agent.dialogue.user_finished(line, self.now))
        self.later(ENDING + 0.5, self.listen)

    def speak_later(self, seconds, speech):
        self.later(seconds, self.speak, speech)

    def speak(self, speech):
        if self.is_open:
            speech()
        else:
            self.held.append(speech)


def draw_losses(chance):
    """Three agents, one browser and two pauses that were none, some lines apart."""
    lines = chance.sample(range(4, 60, 4), 6)
    kinds = ["words", "call", "reply", "browser", "pause", "pause"]
    return dict(zip(lines, kinds, strict=True))


@pytest.mark.parametrize("seed", range(10))
def test_ten_minutes_with_losses_have_every_word_once_and_no_silence(seed, admitted):
    chance = random.Random(seed)
    conversation = Conversation(admitted, draw_losses(chance), chance)

    conversation.run()

    assert not conversation.losses, "all of it happened"
    assert conversation.lost == 3
    assert conversation.taken_back == 2
    check_words(conversation)
    check_goals(conversation)
    check_silences(conversation)


def check_words(conversation):
    """Each line of the user once and in order; the browser has seen exactly what is stored."""
    stored = [(message.role, message.content) for message in conversation.stored]
    assert [message.seq for message in conversation.stored] == list(range(1, len(stored) + 1))
    assert [text for role, text in stored if role == "user"] == conversation.lines
    told = [deepgram.decode_server(text) for text in conversation.seen]
    shown = [(m.role, m.content) for m in told if isinstance(m, deepgram.ConversationText)]
    assert shown == stored
    answered = [role for role, _ in itertools.groupby(role for role, _ in stored)]
    assert answered[1:] == ["user", "assistant"] * len(conversation.lines), "each has its answer"


def check_goals(conversation):
    wanted = [line for line in conversation.lines if line.startswith("I want to")]
    goals = [json.loads(arguments) for arguments in conversation.planned.values()]
    assert len(goals) == len(wanted)
    for line, goal in zip(wanted, goals, strict=True):
        what, month = line.removeprefix("I want to ").rstrip(".").split(" in ")
        assert what.lower() in goal["title"].lower()
        assert month in " ".join(goal.values())


def check_silences(conversation):
    """From the end of the user's words, or the loss, to the agent's voice."""
    assert sum(has_loss for _, has_loss in conversation.silences) == 3
    for seconds, has_loss in conversation.silences:
        assert seconds <= ENDING + THINKING + has_loss * (REDIAL + THINKING)
