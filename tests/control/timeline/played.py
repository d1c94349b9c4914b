"""A session at made-up seconds, through the real rules, as a recording has it."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import count
from uuid import UUID

import msgspec

from config.agent import Audio
from config.limits import Limits
from config.policy import Policy
from relay.core import actions, events
from relay.core.admitted import Admitted
from relay.core.beginning import Beginning, Chance
from relay.core.records import Figures, SessionEnded
from relay.core.watcher import Counts
from relay.protocol import deepgram
from relay.protocol.relay_events import IntentStatus, RelayIntent
from relay.recorder.recording import Scribe
from relay.recorder.redaction import Redactor
from relay.telemetry.histogram import SessionLatency

BEGAN = datetime(2026, 11, 27, 20, 14, 3, tzinfo=UTC)
SECOND = 1000.0  # monotonic, of the first line
SESSION = UUID("01a21f08-35f7-7215-af07-74fc1971d061")
REQUEST = "7f9c24e5-2f31-4bb1-9d4f-6a0d6a7a2f11"


class Played:
    """`at(seconds, …)` has something happen; `lines` is the recording."""

    def __init__(self, *, keeps_content=True, session_id=SESSION):
        admitted = Admitted(
            session_id=session_id,
            conversation_id=UUID(int=2),
            user_id="user",
            timezone="UTC",
            audio=Audio(),
        )
        limits = Limits(idle_seconds=0.0, session_seconds=0.0, audio_speed=0)
        self.beginning = Beginning(
            admitted=admitted, limits=limits, policy=Policy(), now=SECOND, began=BEGAN
        )
        ids = count(1)
        settings = deepgram.Settings(audio={}, agent={})
        self.rules = self.beginning.rules(
            lambda history, context: settings,
            Chance(lambda: UUID(int=next(ids)), lambda: 0.5, lambda: "ticket"),
        )
        self.scribe = Scribe(self.beginning, Redactor(b"key", keeps_content=keeps_content))
        self.lines = [self.scribe.beginning([])]
        self.calls = []
        self._write(SECOND, None, b"", self.rules.begin())

    def _write(self, now, event, text, asked):
        self.lines += self.scribe.event(now, event, text, asked, [])
        self.calls += [each.id for each in asked if isinstance(each, actions.CallFunction)]

    def at(self, seconds, event):
        """An event of the rules."""
        now = SECOND + seconds
        self._write(now, event, b"", self.rules.handle(event, now))

    def agent(self, seconds, kind, **fields):
        """The agent says this."""
        text = msgspec.json.encode({"type": kind, **fields})
        now = SECOND + seconds
        event = events.FromAgent(deepgram.decode_server(text))
        self._write(now, event, text, self.rules.handle(event, now))

    def says(self, seconds, role, content):
        self.agent(seconds, "ConversationText", role=role, content=content)

    def ready(self, seconds, *, after=(0.05, 0.09, 0.14)):
        """The agent that was dialled at this second gets ready."""
        self.at(seconds + after[0], events.AgentOpened())
        self.agent(seconds + after[1], "Welcome", request_id=REQUEST)
        self.agent(seconds + after[2], "SettingsApplied")

    def first_audio(self, seconds):
        self.lines.append(self.scribe.first_audio(SECOND + seconds))

    def heard(self, at, seconds):
        """The browser says how long it took to play a reply."""
        text = msgspec.json.encode({"type": "RelayPlayout", "seconds": seconds})
        now = SECOND + at
        event = events.FromBrowser(self.rules.decode(text))
        self._write(now, event, text, self.rules.handle(event, now))

    def reports(self, seconds, listening, thinking, speaking):
        self.agent(seconds, "LatencyReport", stt_latency=listening)
        self.agent(seconds, "LatencyReport", ttt_token_latency=thinking)
        self.agent(seconds, "LatencyReport", tts_latency=speaking)

    def returns(self, seconds, status, content, number=-1):
        """A function call comes back."""
        shown = RelayIntent(
            id=self.calls[number],
            call_id="c",
            intent="GOAL",
            status=IntentStatus(status),
            arguments={},
        )
        self.at(seconds, events.FunctionReturned(shown, content))

    def ends(self, seconds, reason="browser_left", detail="1000"):
        figures = Figures(
            browser_frames=1,
            browser_bytes=2,
            agent_frames=3,
            agent_bytes=4,
            latency=SessionLatency(connect_ms=None, settings_ms=None),
        )
        counts = Counts(
            browser_frames=1,
            browser_bytes=2,
            agent_frames=3,
            agent_bytes=4,
            dropped_to_agent=0,
            dropped_to_browser=7,
        )
        self.lines.append(self.scribe.counts(SECOND + seconds, counts))
        ended = SessionEnded(
            session_id=SESSION,
            reason=reason,
            detail=detail,
            browser_code=1000,
            agent_code=1000,
            figures=figures,
            at=BEGAN,
        )
        self.lines.append(self.scribe.end(SECOND + seconds, ended))


def call(id, name, arguments):
    return {"id": id, "name": name, "arguments": arguments, "client_side": True}


def lose_the_agent_twice(*, keeps_content=True, session_id=SESSION):
    """A conversation of 48 s: a call, an interruption, an agent lost in its answer and before it,
    a browser that is away for a moment, a call that is rejected."""
    it = Played(keeps_content=keeps_content, session_id=session_id)
    it.ready(0.0)
    it.says(0.42, "assistant", "Hello! What would you like to get done?")
    it.first_audio(0.55)
    it.agent(3.1, "AgentAudioDone")
    it.agent(4.6, "UserStartedSpeaking")
    it.says(8.2, "user", "I want to run a marathon in April, there is no other deadline.")
    it.reports(8.75, 0.28, 0.41, 0.12)
    it.agent(
        8.8,
        "FunctionCallRequest",
        functions=[call("c-1", "create_goal", '{"title":"marathon"}')],
    )
    it.returns(9.35, "submitted", '{"status": "submitted"}')
    it.says(9.9, "assistant", "Done: I have saved the goal to run a marathon in April.")
    it.first_audio(10.02)
    it.heard(10.3, 0.21)
    it.says(12.4, "assistant", "Shall I break it down into weekly tasks, ten kilometres first?")
    it.agent(13.9, "UserStartedSpeaking")
    it.says(15.6, "user", "No. Move my dentist appointment to Friday.")
    it.reports(16.1, 0.31, 0.52, 0.14)
    it.says(16.3, "assistant", "I can do that.")
    it.first_audio(16.42)
    it.at(17.3, events.AgentClosed(1011, "internal error"))
    it.at(18.4, events.Woken(100))
    it.ready(18.4)
    it.agent(20.3, "UserStartedSpeaking")
    it.says(22.9, "user", "The dentist, on Friday, please.")
    it.at(23.5, events.AgentClosed(1006, ""))
    it.at(26.2, events.Woken(200))
    it.ready(26.2, after=(0.6, 0.9, 1.1))
    it.reports(28.1, 0.3, 0.95, 0.18)
    it.agent(
        28.2,
        "FunctionCallRequest",
        functions=[call("c-2", "reschedule_task", "{}")],
    )
    it.returns(29.4, "rejected", '{"status": "rejected", "error": "there are two of them"}')
    it.says(30.0, "assistant", "There are two dentist appointments. Which one do you mean?")
    it.first_audio(30.12)
    it.agent(33.2, "AgentAudioDone")
    it.at(34.0, events.BrowserClosed(1006, ""))
    it.at(36.3, events.BrowserReturning())
    it.at(36.4, events.BrowserAttached("ticket", 3, 300))
    it.agent(37.5, "UserStartedSpeaking")
    it.says(39.0, "user", "The one <b>in the morning</b>.")
    it.reports(39.4, 0.22, 0.38, 0.11)
    it.says(39.6, "assistant", "It is on Friday now, at nine.")
    it.first_audio(39.62)
    it.heard(39.8, 0.14)
    it.agent(42.4, "AgentAudioDone")
    it.at(46.9, events.BrowserClosed(1000, ""))
    it.ends(46.9)
    return it.lines
