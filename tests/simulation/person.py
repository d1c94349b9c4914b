"""A person at a browser that does what docs/protocol.md says: it comes back whenever it has to.

It keeps what it was told, so that somebody can compare it with what is stored.
"""

from __future__ import annotations

from uuid import UUID

import msgspec

from relay.core.admitted import ResumePoint
from relay.core.message_policy import ANSWER_AGAIN
from relay.core.resume import REPORT
from relay.protocol import deepgram, relay_events
from relay.protocol.relay_events import IntentStatus
from tests.simulation.clock import Process
from tests.simulation.plan import Line
from tests.simulation.promises import Broken
from tests.simulation.wire import ABNORMAL, End, Wire

CONNECT_SECONDS = 10.0
AGAIN_SECONDS = 15.0  # who was not answered for so long says it again, in other words
ANSWER_SECONDS = 80.0  # who has reason to be answered is, by then
LOOK_SECONDS = 0.25
GOODBYES = {1000, 1005}


class Person:
    """`told` is each line that came over a WebSocket, `shown` what a page shows by its number."""

    def __init__(self, world) -> None:
        self.world = world
        self.clock = world.clock
        self.chance = world.chance("person")
        self.process = Process(self.clock, "browser")
        self.conversation_id: UUID | None = None
        self.told: list[tuple[str, str]] = []
        self.shown: dict[int, tuple[str, str]] = {}
        self.accepted: dict[str, str] = {}
        self.declined: set[UUID] = set()  # and told so
        self.sessions = 0
        self.is_gone = False
        self.gone_at = 0.0
        self.link = Link(self)
        self.talk = Talk(self)

    def start(self) -> None:
        self.link.connect()
        self.process.later(LOOK_SECONDS, self.talk.look)

    def show(self, seq: int, line: tuple[str, str]) -> None:
        if self.shown.setdefault(seq, line) != line:
            raise Broken("a number is one message", f"{seq} is {self.shown[seq]}, and now {line}")


class Link:
    """Its WebSockets, one after the other."""

    def __init__(self, person: Person) -> None:
        self.person = person
        self.end: End | None = None  # attached
        self.trying: End | None = None
        self.place = 0  # of the relay that it is at
        self.session_id: UUID | None = None
        self.ticket: str | None = None
        self.has_attached = False
        self.received = 0
        self.known = 0
        self.seq: int | None = 0
        self.pause_until = 0.0
        self.is_reloaded = False
        self.owners = 0  # sessions, and takeovers of them

    # --- to be connected -----------------------------------------------------------------------

    def connect(self) -> None:
        person = self.person
        if person.is_gone or self.end is not None or self.trying is not None:
            return
        world = person.world
        relay = world.relays[self.place]
        wire = Wire(person.process, relay.process, world.delay)
        end = self.trying = wire.ends[0]
        end.hear = lambda kind, payload: self._hear(end, kind, payload)
        if not relay.process.is_alive:
            end.lose_later(world.delay())
            return
        relay.accept(wire.ends[1])
        if self.ticket is None:
            end.send("post", person.conversation_id)
        else:
            seen = ResumePoint(received=self.received, seq=self.known)
            seen = seen if self.has_attached else ResumePoint()
            end.send("upgrade", (self.session_id, self.ticket, seen, not self.has_attached))
        person.process.later(CONNECT_SECONDS, self._give_up, end)

    def _give_up(self, end: End) -> None:
        if end is self.trying:
            end.close(ABNORMAL)
            self._lost(end)

    def again(self, *, elsewhere: bool = True) -> None:
        """After a pause, perhaps at another relay."""
        world = self.person.world
        if elsewhere and not world.plan.stays:
            self.place = int(self.person.chance.random() * len(world.relays))
        pause = world.between(0.05, 0.3, self.person.chance)
        self.person.process.later(
            max(pause, self.pause_until - self.person.clock.now), self.connect
        )

    def _lost(self, end: End) -> None:
        if end is self.trying:
            self.trying = None
        elif end is self.end:
            self.end = None
        else:
            return
        self.again()

    # --- what comes ----------------------------------------------------------------------------

    def _hear(self, end: End, kind: str, payload) -> None:
        if end is not self.end and end is not self.trying:
            return
        clock = self.person.clock
        if clock.is_told and kind != "audio":
            clock.say("browser", f"gets {kind} {payload!r}")
        match kind:
            case "begun":
                self._begun(*payload)
            case "refused":
                self._refused(*payload)
                end.close(ABNORMAL)
                self._lost(end)
            case "close":
                self._closed(end, *payload)
            case "text":
                self._text(end, payload)

    def _begun(self, session_id, conversation_id, ticket, known) -> None:
        person = self.person
        person.conversation_id, self.session_id, self.ticket = conversation_id, session_id, ticket
        person.sessions += 1
        self.has_attached, self.received = False, 0
        for said in known:
            self._stored(said.seq, said.role, said.content)
        assert self.trying is not None
        self.trying.close(1000)
        self.trying = None
        self.connect()

    def _refused(self, status: int, code: str) -> None:
        world = self.person.world
        world.refusals.append(code)
        world.is_first_lost |= self.ticket is not None and not self.has_attached
        if code == "stopping" and self.has_attached:
            return
        if status == 503 and self.has_attached and self.ticket is not None:
            return  # the ticket may still be good
        self.ticket = None

    def _closed(self, end: End, code: int, reason: str) -> None:
        if code == 1000:
            self.ticket = None
        self._lost(end)

    def _text(self, end: End, text: bytes) -> None:
        event = _decode(text)
        if isinstance(event, relay_events.RelaySession):
            self._attached(end, event)
            return
        self.received += 1
        runner = end.peer.about
        expected = runner.told[self.received - 1 : self.received]
        if expected != [text] and text != REPORT:
            raise Broken("events once", f"number {self.received} is {text!r}, not {expected}")
        self._take(event)

    def _attached(self, end: End, event: relay_events.RelaySession) -> None:
        if event.taken_over:
            self.received = 0
        self.owners += event.taken_over or not self.has_attached
        self.has_attached = True
        if event.last_seq is not None:
            self.seq = event.last_seq
        for said in event.messages:
            self._stored(said.seq, said.role, said.content)
            self.person.talk.hear(said.role, said.content)
        if event.taken_over:  # what was begun of a reply is not finished
            self.person.talk.done()
        if self.is_reloaded:
            self._read_again()
        self.ticket = event.resume_ticket
        self.end, self.trying = end, None
        end.send("audio", b"silence")

    def _read_again(self) -> None:
        """A page that was loaded again has the history from REST, up to where its session began."""
        self.is_reloaded = False
        person = self.person
        assert self.seq is not None
        for said in person.world.database.history(person.conversation_id):
            if said.seq <= self.seq:
                person.show(said.seq, (said.role, said.content))

    def _take(self, event) -> None:
        person = self.person
        match event:
            case deepgram.ConversationText(role=role, content=content):
                person.told.append((role, content))
                assert self.seq is not None
                self.seq += 1
                person.show(self.seq, (role, content))
                person.talk.hear(role, content)
            case deepgram.AgentAudioDone():
                person.talk.done()
            case relay_events.RelayMessageSaved(seq=seq):
                self.known = max(self.known, seq)
            case relay_events.RelayIntent(id=id, status=status):
                person.accepted[str(id)] = status
                if status is IntentStatus.AWAITING:
                    person.talk.ask(id)
                elif status is IntentStatus.CANCELLED and id in person.talk.declining:
                    person.declined.add(id)
            case relay_events.RelayGoAway(resume_ticket=ticket):
                self.ticket = ticket
            case relay_events.RelayError(code="events_missed"):
                raise Broken("events once", "events are gone")

    def _stored(self, seq: int, role: str, content: str) -> None:
        self.known = max(self.known, seq)
        self.person.show(seq, (role, content))

    # --- what breaks ---------------------------------------------------------------------------

    def reload(self) -> None:
        """The page is loaded again: it has its ticket, and what it showed is gone."""
        if self.end is None:
            return
        self.received = self.known = 0
        self.person.shown.clear()
        self.person.told.clear()
        self.is_reloaded = True
        self.end.close(1001)
        self.end = None
        self.again(elsewhere=False)


class Talk:
    """What is said, and whether it is answered."""

    def __init__(self, person: Person) -> None:
        self.person = person
        self.lines = list(person.world.plan.lines)
        self.count = 0
        self.words = ""  # of the newest line
        self.said_at = 0.0
        self.is_heard = False  # it came back as text
        self.has_reply = False
        self.is_answered = True
        self.is_last = False
        self._owner = 0  # how often the session had changed hands when that was said
        self._goals = 0
        self.cut_at = 0.0
        self.declining: set[UUID] = set()

    # --- what is heard -------------------------------------------------------------------------

    def hear(self, role: str, content: str) -> None:
        if content == ANSWER_AGAIN:
            raise Broken("nothing strange is shown", content)
        if role == "user" and self._id in content:
            self.is_heard = True
        elif role == "assistant" and self._id in content:
            self.has_reply = True

    def done(self) -> None:
        if self.has_reply and not self.is_answered:
            self.is_answered = True
            self.said_at = self.person.clock.now

    def ask(self, id: UUID) -> None:
        """A card."""
        chance = self.person.chance.random()
        if chance < 0.8:
            kind = relay_events.RelayConfirm if chance < 0.5 else relay_events.RelayCancel
            seconds = self.person.world.between(0.1, 3.0, self.person.chance)
            self.person.process.later(seconds, self._decide, kind(id=id))

    def _decide(self, decision) -> None:
        if self.person.link.end is not None:
            self.person.link.end.send("text", deepgram.encode(decision))
            if isinstance(decision, relay_events.RelayCancel):
                self.declining.add(decision.id)

    # --- what is said --------------------------------------------------------------------------

    @property
    def _id(self) -> str:
        return f"line {self.count}."

    def look(self) -> None:
        """Whether it is time to say the next line."""
        person = self.person
        if person.is_gone:
            return
        now = person.clock.now
        waited = now - self.said_at
        if self.is_answered:
            if waited > 0.5:
                self.next()
        elif self.cut_at and now >= self.cut_at:
            self.next()
        elif self.is_heard and person.world.owes_an_answer(self.said_at):
            if waited > ANSWER_SECONDS:
                raise Broken("no session is silent", f"{self.words!r} has no answer")
        elif waited > AGAIN_SECONDS:
            # With the session that ended the words are gone, or with the relay that lost it.
            if self.is_last and self._owner == person.link.owners:
                raise Broken("no session is silent", f"{self.words!r} has no answer at the end")
            self.next()
        person.process.later(LOOK_SECONDS, self.look)

    def next(self) -> None:
        if self.person.link.end is None:
            self.said_at = self.person.clock.now - AGAIN_SECONDS / 2  # waits to be connected
            return
        if self.is_last and self.is_answered:
            self.person.world.goodbye()
            return
        if self.lines:
            self.say(self.lines.pop(0))
        elif not self.person.world.is_well:
            self.person.world.heal()
        elif self.person.world.is_settled:
            self.is_last = True
            self.say(Line(goals=1))

    def say(self, line: Line) -> None:
        person = self.person
        end = person.link.end
        assert end is not None
        self.count += 1
        self._goals += line.goals
        goals = "".join(f" goal-{self._goals - n}" for n in range(line.goals))
        self.words = f"{goals.strip() or 'nothing'} in {self._id}"
        self.said_at = person.clock.now
        self._owner = person.link.owners
        self.is_heard = self.has_reply = self.is_answered = False
        self.cut_at = 0.0 if line.cuts_in is None else person.clock.now + line.cuts_in
        person.clock.say("person", f"{'says' if line.is_spoken else 'types'} {self.words!r}")
        person.world.moment("say")
        if line.is_spoken:
            end.send("audio", b"speech " + self.words.encode())
        else:
            end.send("text", deepgram.encode(deepgram.InjectUserMessage(content=self.words)))


_KINDS = (
    relay_events.RelaySession
    | relay_events.RelayMessageSaved
    | relay_events.RelayIntent
    | relay_events.RelayGoAway
    | relay_events.RelayError
    | deepgram.ConversationText
    | deepgram.AgentAudioDone
)
_decoder = msgspec.json.Decoder(_KINDS)
_TYPES = {kind.__name__.encode() for kind in _KINDS.__args__}


def _decode(text: bytes):
    """What a page cares about; None: something else."""
    kind = text[9 : text.find(b'"', 9)]  # {"type":"…"
    return _decoder.decode(text) if kind in _TYPES else None
