"""What happened in a session, as people look at it: lanes with bars, turns, and a list. Pure.

Made from the lines of a recording (docs/recording.md). Seconds are since the first line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from relay.recorder.recording import Line, NotARecording

LANES = {
    "user": "User speaks",
    "agent": "Agent speaks",
    "texts": "Texts",
    "calls": "Function calls",
    "agent_connection": "Agent's connection",
    "browser_connection": "Browser's connection",
}
"""Their titles by their names, from the top."""

PARTS = ("listening", "thinking", "calling", "speaking", "relay", "playout")
"""Of the time in which a user waits for an answer, in their order."""

_REPORTED = {
    "stt_latency": "listening",
    "ttt_token_latency": "thinking",
    "ttt_latency": "thinking",
    "tts_latency": "speaking",
}
_REDACTED = re.compile(r"redacted:(\d+):[0-9a-f]+")
_ROUTINE = {"Woken", "Counts"}  # nothing to tell, if the rules asked for nothing
LONGEST = 600  # characters of a text that is shown


class Bar(msgspec.Struct):
    """Something that lasted; `end` equals `begin` for what has only a moment. `kind` is a word that
    is drawn in a colour of its own, `seq` the line of the recording that it began with."""

    lane: str
    kind: str
    seq: int
    begin: float
    end: float
    title: str
    text: str = ""


class Turn(msgspec.Struct):
    """From the user's words to the answer. `parts` are seconds by a name of `PARTS`, as far as they
    are known; `waited`: from the words as text to the first audio, as the relay measured it."""

    number: int
    seq: int
    begin: float
    user: str = ""
    agent: str = ""
    asked_at: float | None = None
    waited: float | None = None
    outcome: str = "unanswered"
    parts: dict[str, float] = {}


class Row(msgspec.Struct, frozen=True):
    """One line of the list; `asked`: what the rules asked for because of it."""

    seq: int
    at: float
    way: str
    kind: str
    text: str
    asked: str


class Story(msgspec.Struct):
    """`began` is the wall clock of the first line (UTC, ISO 8601); `reason` "": it has no end, and
    `detail` is for operators. `lost`: lines that are missing."""

    session_id: str
    conversation_id: str
    began: str
    seconds: float = 0.0
    reason: str = ""
    detail: str = ""
    close_codes: tuple[int, int] = (0, 0)
    agents: int = 0
    outages: int = 0
    dropped: int = 0
    lost: int = 0
    bars: list[Bar] = []
    turns: list[Turn] = []
    rows: list[Row] = []


def tell(lines: Iterable[Line]) -> Story:
    """Raises `NotARecording`."""
    reader: _Reader | None = None
    for line in lines:
        if reader is None:
            if line.payload.get("type") != "RelayRecording":
                raise NotARecording("line 1: expected a RelayRecording")
            reader = _Reader(line)
        else:
            reader.read(line)
    if reader is None:
        raise NotARecording("line 1: expected a RelayRecording, got nothing")
    return reader.finish()


class _Reader:
    """Line by line; `_open` are bars that go on, by a name of their own."""

    def __init__(self, first: Line) -> None:
        admitted = first.payload.get("admitted") or {}
        self.story = Story(first.session_id, str(admitted.get("conversation_id", "")), first.ts)
        self._zero = first.relay.at
        self._open: dict[str, Bar] = {}
        self._turn: Turn | None = None
        self._was_asked = False  # the agent has words to answer
        self._calling_since = 0.0  # if there are open calls

    def read(self, line: Line) -> None:
        at = max(line.relay.at - self._zero, 0.0)
        self.story.seconds = max(self.story.seconds, at)
        self._list(line, at)
        match line.relay.kind:
            case "event":
                kind = str(line.payload.get("type"))
                if read := _EVENTS.get((line.relay.side or "", kind)):
                    read(self, line, at)
                for asked in line.relay.actions:
                    if act := _ACTIONS.get(str(asked.get("type"))):
                        act(self, asked, line, at)
            case "fact" if line.payload.get("type") == "FirstAudio":
                self._answer(line, at)
            case "fact":
                sides = ("dropped_to_agent", "dropped_to_browser")
                self.story.dropped = sum(int(line.payload.get(side, 0)) for side in sides)
            case "gap":
                self.story.lost += int(line.payload.get("lost", 0))
            case "end":
                self._end(line.payload)

    def finish(self) -> Story:
        """What still goes on goes on to the end."""
        for name in list(self._open):
            self._close(name, self.story.seconds)
        self.story.bars.sort(key=lambda bar: bar.begin)
        return self.story

    # --- bars --------------------------------------------------------------------------------

    def _begin(
        self, name: str, lane: str, kind: str, line: Line, at: float, title: str, text: str = ""
    ) -> Bar:
        self._close(name, at)
        bar = Bar(lane, kind, line.seq, at, at, title, text)
        self.story.bars.append(bar)
        self._open[name] = bar
        return bar

    def _close(self, name: str, at: float) -> Bar | None:
        bar = self._open.pop(name, None)
        if bar is not None:
            bar.end = at
        return bar

    def _mark(self, lane: str, kind: str, line: Line, at: float, title: str, text: str) -> None:
        self.story.bars.append(Bar(lane, kind, line.seq, at, at, title, text))

    # --- what the agent and the browser say --------------------------------------------------

    def _user_speaks(self, line: Line, at: float) -> None:
        if speaking := self._close("agent", at):
            speaking.kind = "cut"
            speaking.title = "Agent, interrupted"
            if self._turn:
                self._turn.outcome = "interrupted"
        self._begin("user", "user", "user", line, at, "User")
        self._begin_turn(line, at)

    def _begin_turn(self, line: Line, at: float) -> Turn:
        if self._turn is None or self._was_asked:
            self._turn = Turn(len(self.story.turns) + 1, line.seq, at)
            self.story.turns.append(self._turn)
            self._was_asked = False
        return self._turn

    def _said(self, line: Line, at: float) -> None:
        text = readable(line.payload.get("content"))
        if line.payload.get("role") == "user":
            turn = self._begin_turn(line, at)
            turn.user = f"{turn.user} {text}".strip()
            turn.asked_at = at
            self._was_asked = True
            if speaking := self._close("user", at):
                speaking.text = text
            self._mark("texts", "user", line, at, "User", text)
            return
        if self._turn is not None:
            self._turn.agent = f"{self._turn.agent} {text}".strip()
        speaking = self._open.get("agent")
        if speaking is None:
            speaking = self._begin("agent", "agent", "agent", line, at, "Agent")
        speaking.text = f"{speaking.text} {text}".strip()
        self._mark("texts", "agent", line, at, "Agent", text)

    def _answer(self, line: Line, at: float) -> None:
        """Its first audio goes to the browser."""
        if "agent" not in self._open:
            self._begin("agent", "agent", "agent", line, at, "Agent")
        turn = self._turn
        if turn is not None and turn.asked_at is not None and turn.waited is None:
            turn.waited = at - turn.asked_at
            turn.outcome = "answered"
            known = sum(turn.parts.get(part, 0.0) for part in ("thinking", "calling", "speaking"))
            turn.parts["relay"] = max(turn.waited - known, 0.0)

    def _report(self, line: Line, at: float) -> None:
        if self._turn is None or not self._was_asked:
            return
        for field, part in _REPORTED.items():
            seconds = line.payload.get(field)
            if isinstance(seconds, int | float):
                self._turn.parts[part] = float(seconds)

    def _audio_done(self, line: Line, at: float) -> None:
        speaking = self._close("agent", at)
        if speaking and self._turn and self._was_asked:
            self._turn.outcome = "answered"

    def _problem(self, line: Line, at: float) -> None:
        code, said = line.payload.get("code"), readable(line.payload.get("description"))
        title = f"{line.payload.get('type')} {code}"
        self._mark("agent_connection", "error", line, at, title, said)

    def _welcome(self, line: Line, at: float) -> None:
        self._begin("connection", "agent_connection", "setup", line, at, "Agent is set up")

    def _ready(self, line: Line, at: float) -> None:
        self._begin("connection", "agent_connection", "open", line, at, "Agent is ready")

    # --- what else happens -------------------------------------------------------------------

    def _agent_closed(self, line: Line, at: float) -> None:
        said = readable(line.payload.get("reason") or line.payload.get("detail"))
        code = line.payload.get("code", "")
        self._mark("agent_connection", "error", line, at, f"Agent closed {code}".strip(), said)

    def _browser_opened(self, line: Line, at: float) -> None:
        self._begin("browser", "browser_connection", "open", line, at, "Browser is here")

    def _browser_closed(self, line: Line, at: float) -> None:
        title = f"Browser is away, closed {line.payload.get('code', '')}".strip()
        if any(asked.get("type") == "End" for asked in line.relay.actions):
            self._close("browser", at)  # it does not come back
            return
        self._begin("browser", "browser_connection", "away", line, at, title)

    def _returned(self, line: Line, at: float) -> None:
        shown = line.payload.get("shown") or {}
        status = str(shown.get("status"))
        if bar := self._close(f"call {shown.get('id')}", at):
            bar.kind = "failed" if status in ("failed", "rejected") else "call"
            bar.title = f"{bar.title}: {status}"
            bar.text = readable(line.payload.get("content"))
            turn = self._turn
            if turn and turn.waited is None and not self._has_calls:
                spent = at - self._calling_since
                turn.parts["calling"] = turn.parts.get("calling", 0.0) + spent

    def _end(self, payload: dict[str, Any]) -> None:
        self.story.reason = str(payload.get("reason", ""))
        self.story.detail = str(payload.get("detail", ""))
        codes = payload.get("browser_code", 0), payload.get("agent_code", 0)
        self.story.close_codes = int(codes[0]), int(codes[1])

    # --- what the rules ask for --------------------------------------------------------------

    def _dialled(self, _: dict[str, Any], line: Line, at: float) -> None:
        self.story.agents += 1
        self._begin("connection", "agent_connection", "setup", line, at, "Agent is dialled")

    def _dropped(self, _: dict[str, Any], line: Line, at: float) -> None:
        self.story.outages += 1
        if (speaking := self._close("agent", at)) is not None:
            speaking.kind = "cut"
        self._begin("connection", "agent_connection", "lost", line, at, "No agent")

    def _played_out(self, asked: dict[str, Any], line: Line, at: float) -> None:
        turn = self._turn
        if turn is not None and turn.waited is not None:  # else it was cut before it was heard
            turn.parts.setdefault("playout", float(asked.get("seconds", 0.0)))

    def _called(self, asked: dict[str, Any], line: Line, at: float) -> None:
        call = asked.get("call") or {}
        name = f"call {asked.get('id')}"
        if not self._has_calls:
            self._calling_since = at
        self._begin(name, "calls", "call", line, at, readable(call.get("name")))

    @property
    def _has_calls(self) -> bool:
        return any(name.startswith("call ") for name in self._open)

    # --- the list ----------------------------------------------------------------------------

    def _list(self, line: Line, at: float) -> None:
        kind, asked = str(line.payload.get("type")), line.relay.actions
        if kind in _ROUTINE and not asked:
            return
        words = ("content", "message", "description", "detail", "reason", "code", "status")
        told = (line.payload.get(word) for word in words)
        text = " · ".join(readable(each) for each in told if isinstance(each, str | int) and each)
        names = ", ".join(str(each.get("type")) for each in asked)
        self.story.rows.append(Row(line.seq, at, _way(line), kind, text, names))


_EVENTS = {
    ("agent", "UserStartedSpeaking"): _Reader._user_speaks,
    ("agent", "ConversationText"): _Reader._said,
    ("agent", "LatencyReport"): _Reader._report,
    ("agent", "AgentStartedSpeaking"): _Reader._report,
    ("agent", "AgentAudioDone"): _Reader._audio_done,
    ("agent", "Error"): _Reader._problem,
    ("agent", "Warning"): _Reader._problem,
    ("agent", "Welcome"): _Reader._welcome,
    ("agent", "SettingsApplied"): _Reader._ready,
    ("", "AgentClosed"): _Reader._agent_closed,
    ("", "AgentUnreachable"): _Reader._agent_closed,
    ("", "BrowserOpened"): _Reader._browser_opened,
    ("", "BrowserAttached"): _Reader._browser_opened,
    ("", "BrowserClosed"): _Reader._browser_closed,
    ("", "FunctionReturned"): _Reader._returned,
}
_ACTIONS = {
    "DialAgent": _Reader._dialled,
    "DropAgent": _Reader._dropped,
    "CallFunction": _Reader._called,
    "PlayedOut": _Reader._played_out,
}


def _way(line: Line) -> str:
    """Who said it to whom."""
    match line.relay.side, line.relay.kind:
        case "agent", "sent":
            return "relay → agent"
        case "browser", "sent":
            return "relay → browser"
        case ("agent" | "browser") as side, _:
            return f"{side} → relay"
    return ""


def readable(value: object) -> str:
    """A text for people: of one that was not kept, how long it was."""
    text = str(value) if isinstance(value, str | int | float) else ""
    text = _REDACTED.sub(lambda found: f"\u2039{found[1]} characters\u203a", text)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
