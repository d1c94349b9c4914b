"""The rules of one session of the sandbox agent: events in, actions out. Pure.

Two small machines. The connection (`State`) knows what may be said at all: Settings first and once,
nothing for too long is the end. The turn (`Phase`) knows what the agent does about the user:
nothing, think, wait for a function, speak. What happens later is a step on the agenda; time is an
argument, and `deadline` says when the agent wants to be called again.

The order on the wire is that of the recordings (docs/protocol.md): see `_user_said`, `_sentence`,
`user_started` (barge-in) and `_answered` (function calls).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from typing import Any

import msgspec

from relay import deepgram
from relay.sandbox import settings_check
from relay.sandbox.agenda import Agenda, Step
from relay.sandbox.mind import Mind
from relay.sandbox.moves import (
    Action,
    End,
    EndSpeech,
    Event,
    Heard,
    Listen,
    Play,
    Received,
    SendAudio,
    SendText,
    SpeechStarted,
    Voice,
    Voiced,
    Wake,
)
from relay.sandbox.options import Fault, Options
from relay.sandbox.reply import Reply
from relay.sandbox.script import Call, Ending, Progress, Turn
from relay.sandbox.sound import Audio, Tone, tone_seconds
from relay.sandbox.terms import Terms, read_terms
from relay.sandbox.thoughts import Counts, Thoughts

PROMPT_LIMIT = 25_000  # characters that a managed model takes
SLOW_THINK = 5.0  # seconds between two notices that thinking takes long
STT_INTERVAL = 0.24  # seconds of speech between two stt_latency reports
SILENT_MICROPHONE = (
    "We waited too long for a websocket message. "
    "Please ensure that you're sending binary messages containing user speech."
)
SILENT_OPENING = (
    "We waited too long for a websocket message. "
    "Please ensure that you send a 'Settings' message at the beginning of the session."
)


class State(Enum):
    FRESH = "no Settings yet"
    APPLYING = "Settings taken, SettingsApplied not sent"
    OPEN = "in conversation"
    CLOSED = "nothing more to say"


class Phase(Enum):
    IDLE = "listening"
    THINKING = "thinking about the user's turn or a function's result"
    CALLING = "waiting for a FunctionCallResponse"
    SPEAKING = "sending a reply"


class Agent:
    """One session. `new_id` makes the ids of function calls."""

    def __init__(self, options: Options, *, request_id: str, new_id: Callable[[], str]) -> None:
        self.options = options
        self.request_id = request_id
        self.state = State.FRESH
        self.phase = Phase.IDLE
        self.user_speaking = False
        self.terms = Terms()
        self.mind = Mind((), new_id)
        self._new_id = new_id
        self._agenda = Agenda()
        self._out: list[Action] = []
        self._reply: Reply | None = None
        self._thoughts = Thoughts()
        self._active = 0.0  # when the client was last heard of
        self._counts = Counts()
        self._script = Progress(options.script)

    def __repr__(self) -> str:
        return f"<Agent {self.state.name} {self.phase.name} deadline={self.deadline}>"

    @property
    def deadline(self) -> float | None:
        if self.state is State.CLOSED:
            return None
        silence = self._active + self.options.timeout
        step = self._agenda.next
        return silence if step is None else min(silence, step)

    # --- ways in -----------------------------------------------------------------------------

    def open(self, now: float) -> list[Action]:
        """The socket is open."""
        self._active = now
        if self.options.welcome_delay is not None:
            welcome = deepgram.Welcome(request_id=self.request_id)
            self._later(now + self.options.welcome_delay, lambda _: self._send(welcome))
        for fault in self.options.faults:
            if fault.on is None:
                self._arm(fault, now)
        self._later(now + self.options.session_seconds, self._too_long)
        warning = now + self.options.session_seconds - self.options.warning_seconds
        self._later(warning, self._soon_too_long)
        return self._take(now)

    def handle(self, event: Event, now: float) -> list[Action]:
        if self.state is State.CLOSED:
            return []
        match event:
            case Received(text):
                self._active = now
                self._received(text, now)
            case SpeechStarted():
                self.user_started(now)
            case Heard(text):
                self._heard(text, now)
            case Voiced(reply, index, audio):
                self._voiced(reply, index, audio, now)
            case Play(turn):
                self._begin(turn, now)
            case Wake():
                pass
        return self._take(now)

    def audio(self, frame: bytes, now: float) -> list[Action]:
        """A binary frame from the client. Apart from `handle` because there are so many."""
        if self.state is State.CLOSED:
            return []
        self._active = now
        counts = self._counts
        counts.frames_in += 1
        if counts.frames_in == 1:
            self._fault_on("Audio", now)
        if self.state is State.FRESH:
            self._refuse_early()
        elif self.state is State.OPEN:
            seconds = len(frame) / self.terms.input.bytes_per_second
            if self.options.script is not None:
                if self.options.script.echo:
                    self._out.append(SendAudio(frame))
                if self._script.audio(seconds):
                    self._begin_next(now)
            if self.user_speaking and self.options.stt_latency:
                self._report_stt(seconds)
        elif self.state is State.APPLYING:
            pass  # thrown away without an error, as Deepgram does
        return self._take(now) if self._out else []

    # --- texts from the client -----------------------------------------------------------------

    def _received(self, text: str, now: float) -> None:
        try:
            message = msgspec.json.decode(text)
        except msgspec.DecodeError:
            message = None
        if not isinstance(message, dict) or not isinstance(message.get("type"), str):
            self._fail(settings_check.UNPARSABLE, settings_check.UNKNOWN_FORMAT)
            return
        name = message["type"]
        self._fault_on(name, now)
        if self.state is State.CLOSED:
            return
        if self.state is State.FRESH and name != "Settings":
            self._refuse_early()
            return
        if self.options.strict and (wrong := settings_check.misfit(message)):
            self._fail(settings_check.UNPARSABLE, wrong)
            return
        if self.state is State.APPLYING and name != "Settings":
            self._thoughts.early.append(text)
            return
        self._obey(message, deepgram.decode_client(text.encode()), now)

    def _obey(
        self,
        raw: dict[str, Any],
        message: deepgram.ClientMessage | deepgram.Unknown | deepgram.Malformed,
        now: float,
    ) -> None:
        match message:
            case deepgram.Settings():
                self._settings(message, now)
            case deepgram.InjectUserMessage(content=content):
                self._user_said(content, "manual", now)
            case deepgram.InjectAgentMessage():
                self._inject(message.message, message.behavior or "default", now)
            case deepgram.FunctionCallResponse():
                self._answered(message, now)
            case deepgram.UpdatePrompt(prompt=prompt):
                self._prompt(prompt)
                self._acknowledge(deepgram.PromptUpdated(), now)
            case deepgram.UpdateThink(think=think):
                self._think_settings(think)
                self._acknowledge(deepgram.ThinkUpdated(), now)
            case deepgram.UpdateListen():
                self._acknowledge(deepgram.ListenUpdated(), now)
            case deepgram.UpdateSpeak():
                self._acknowledge(deepgram.SpeakUpdated(), now)
            case deepgram.ForceEndTurn():
                self._force_end()
            case deepgram.KeepAlive():
                pass
            case deepgram.Malformed():
                # Only when not strict, or for the one message whose text is optional.
                if raw.get("is_dynamic") is True:
                    self._inject("Are you still there?", str(raw.get("behavior", "default")), now)
                else:
                    self._fail(settings_check.UNPARSABLE, settings_check.UNKNOWN_FORMAT)
            case deepgram.Unknown(type=name):
                if name == "UpdateThink_Live":
                    self._acknowledge({"type": "ThinkLiveUpdated"}, now)

    def _settings(self, settings: deepgram.Settings, now: float) -> None:
        if self.state is not State.FRESH:
            self._fail("SETTINGS_ALREADY_APPLIED", "Settings have already been applied.")
            return
        if isinstance(settings.agent, str):
            # The sandbox stores no agents; this is what the service says to a bad id.
            self._fail("INTERNAL_SERVER_ERROR", "An error occurred while resolving agent ID.")
            return
        try:
            self.terms = read_terms(settings)
        except ValueError as error:
            self._fail("INVALID_SETTINGS", str(error))
            return
        self._think_settings(settings.agent.get("think", {}))
        context = settings.agent.get("context", {}).get("messages", [])
        self.mind.remember(msgspec.convert(context, list[deepgram.History]))
        self.state = State.APPLYING
        if self.options.settings_delay is not None:
            self._later(now + self.options.settings_delay, self._applied)

    def _applied(self, now: float) -> None:
        self.state = State.OPEN
        self._send(deepgram.SettingsApplied())
        self._out.append(Listen(self.terms.input))
        if self.terms.prompt_length > PROMPT_LIMIT and self.terms.managed:
            self._warn_of_prompt()
        if self.terms.greeting:
            self.phase = Phase.THINKING
            self._agenda.add(now + self.options.greeting_delay, self._greet)
        else:
            self._arm_script(now)
        early, self._thoughts.early = self._thoughts.early, []
        for text in early:
            if self.state is State.OPEN:
                self._received(text, now)

    def _greet(self, now: float) -> None:
        self._speak((self.terms.greeting,), now, pace=None, delay=0.0)

    def _think_settings(self, think: dict[str, Any] | list[dict[str, Any]]) -> None:
        """Replaces functions and prompt; of several, the first is the one that is used."""
        first = (think[0] if think else {}) if isinstance(think, list) else think
        self.mind.functions = first.get("functions", ())
        self.terms.prompt_length = len(first.get("prompt", ""))
        self.terms.managed = "endpoint" not in first

    def _prompt(self, prompt: str) -> None:
        self.terms.prompt_length += len(prompt)  # it is appended
        if self.terms.prompt_length > PROMPT_LIMIT and self.terms.managed:
            self._warn_of_prompt()

    def _warn_of_prompt(self) -> None:
        self._warn("PROMPT_TOO_LONG", f"Prompt is cut to {PROMPT_LIMIT} characters.")

    def _acknowledge(self, ack: deepgram.ServerMessage | dict[str, Any], now: float) -> None:
        """Acks are held back while the user speaks."""

        def step(now: float) -> None:
            if self.user_speaking:
                self._thoughts.acks.append(ack)
            else:
                self._send(ack)

        self._later(now + self.options.ack_delay, step)

    def _force_end(self) -> None:
        if not self.terms.flux:
            self._warn("FORCE_END_TURN_UNSUPPORTED", "ForceEndTurn needs a Flux v2 listen model.")
        elif self.user_speaking:
            self._out.append(EndSpeech())

    def _inject(self, message: str, behavior: str, now: float) -> None:
        agent_busy = self.phase is not Phase.IDLE
        if behavior != "interrupt" and (
            self.user_speaking or (agent_busy and behavior == "default")
        ):
            who = "user" if self.user_speaking else "agent"
            self._send(deepgram.InjectionRefused(message=f"The {who} is speaking."))
            return
        if behavior == "queue" and agent_busy:
            self._thoughts.queue.append(message)
            return
        if agent_busy:
            self._cut_reply()
        self.phase = Phase.THINKING
        delay = self.options.inject_delay
        self._agenda.add(now + delay, lambda now: self._speak((message,), now, None, delay=0.0))

    # --- the user ------------------------------------------------------------------------------

    def user_started(self, now: float) -> None:
        """The user speaks; a reply that is still being sent is cut (barge-in)."""
        if self.state is not State.OPEN or self.user_speaking:
            return
        self.user_speaking = True
        self._send(deepgram.UserStartedSpeaking())
        reply = self._reply
        late: list[bytes] = []
        if reply is not None and reply.index >= 0 and not reply.is_sent:
            frames = min(self.options.late_frames, reply.audio.frames - reply.sent)
            late = [reply.next_frame(self._counts.frame(), now) for _ in range(frames)]
        self._cut_reply()
        self._out.extend(map(SendAudio, late))

    def _cut_reply(self) -> None:
        """Forget the reply; AgentAudioDone only if audio was under way."""
        speaking = self._reply is not None and self._reply.index >= 0
        self._reply = None
        self._agenda.cancel()
        if self.phase is not Phase.CALLING:
            self.phase = Phase.IDLE
            self._thoughts.turn = None
        if speaking and self.options.audio_done_after_barge_in:
            self._send(deepgram.AgentAudioDone())

    def _heard(self, text: str, now: float) -> None:
        if self.state is not State.OPEN:
            return
        if text:
            self._user_said(text, "model", now)
            return
        self.user_speaking = False  # a cough
        self._release_acks()
        if self._thoughts.waiting:
            self._think_later(now, None)

    def _user_said(self, text: str, trigger: str, now: float) -> None:
        """The end of a user's turn: text, History, EndOfTurn; then a reply is thought about."""
        self.user_speaking = False
        self._say_text("user", text)
        if self.options.end_of_turn:
            self._send(deepgram.EndOfTurn(trigger=trigger))
        if self.options.end_of_thought:
            self._send({"type": "EndOfThought"})
        self._cut_reply()
        self._release_acks()
        self._thoughts.unheard.append(text)
        self._thoughts.asked = now
        self._think_later(now, None)

    def _release_acks(self) -> None:
        acks, self._thoughts.acks = self._thoughts.acks, []
        for ack in acks:
            self._send(ack)

    def _report_stt(self, seconds: float) -> None:
        self._counts.stt_seconds += seconds
        if self._counts.stt_seconds >= STT_INTERVAL:
            self._counts.stt_seconds -= STT_INTERVAL
            self._send(deepgram.LatencyReport(stt_latency=0.12))

    # --- thinking ------------------------------------------------------------------------------

    def _think_later(self, now: float, think: float | None) -> None:
        if self.phase is Phase.CALLING:
            return  # what was said is thought about together with the result
        self.phase = Phase.THINKING
        upcoming = self._script.on_user
        if think is None and upcoming is not None and self._thoughts.turn is None:
            think = upcoming.think
        delay = self.options.think_delay if think is None else think
        notice = SLOW_THINK
        while notice < delay:
            slow = partial(self._slow, seconds=int(notice))
            self._agenda.add(now + notice, slow)
            notice += SLOW_THINK
        self._agenda.add(now + delay, self._think)

    def _slow(self, now: float, *, seconds: int) -> None:
        self._warn(
            "SLOW_THINK_REQUEST", f"We have now waited {seconds} seconds for a think response."
        )

    def _think(self, now: float) -> None:
        """Results of functions first, then what the user said meanwhile: one thought."""
        thoughts = self._thoughts
        unheard, thoughts.unheard = thoughts.unheard, []
        results, thoughts.results = thoughts.results, []
        if thoughts.turn is not None:
            self._carry_out(thoughts.turn, now)
        elif self.options.script is not None:
            if unheard and self._script.on_user is not None:
                self._carry_out(self._script.take(), now)
            else:
                self._turn_over(now)
        else:
            said, thoughts.unsaid = thoughts.unsaid, []
            calls: Sequence[Call] = ()
            for call, content in results:
                said.extend(self.mind.answered(call, content).say)
            if unheard:
                thought = self.mind.hear(" ".join(unheard))
                said.extend(thought.say)
                calls = thought.calls
            if calls:
                said, thoughts.unsaid = [], said  # said together with the result
            thoughts.thought = Turn(say=tuple(said), calls=tuple(calls))
            self._carry_out(thoughts.thought, now)

    def _carry_out(self, turn: Turn, now: float) -> None:
        thoughts = self._thoughts
        thoughts.turn = turn
        if thoughts.asked is not None:
            self._report_thinking(now, "tool" if turn.calls else "text")
        for message in turn.messages:
            self._send_raw(message)
        if not turn.calls:
            self._say_turn(turn, now)
            return
        self.phase = Phase.CALLING
        named = [msgspec.structs.replace(call, id=call.id or self._new_id()) for call in turn.calls]
        thoughts.batches = [named] if turn.together else [[call] for call in named]
        # Lasting: the mind has decided, and a call that it waits for has to be made.
        self._later(now + self.options.call_delay, self._request)
        if turn.cancel_after is not None:
            self._later(now + self.options.call_delay + turn.cancel_after, self._cancel_calls)

    # --- functions -----------------------------------------------------------------------------

    def _request(self, now: float) -> None:
        thoughts = self._thoughts
        batch = thoughts.batches.pop(0)
        thoughts.open_calls = {call.id: call for call in batch}
        functions = [
            {
                "id": call.id,
                "name": call.name,
                "arguments": call.text,
                "client_side": call.client_side,
            }
            for call in batch
        ]
        self._send({"type": "FunctionCallRequest", "functions": functions})
        for call in batch:
            if not call.client_side:
                result = deepgram.FunctionCallResponse(
                    id=call.id, name=call.name, content='{"status":"ok"}'
                )
                self._later(now + self.options.call_delay, partial(self._answered_there, result))
        if thoughts.turn is not None and not thoughts.turn.awaits:
            while thoughts.batches:
                self._request(now)
            self.phase = Phase.THINKING
            self._say_turn(thoughts.turn, now)

    def _answered_there(self, result: deepgram.FunctionCallResponse, now: float) -> None:
        self._answered(result, now, echo=True)

    def _answered(
        self, response: deepgram.FunctionCallResponse, now: float, *, echo: bool = False
    ) -> None:
        thoughts = self._thoughts
        call = thoughts.open_calls.pop(response.id or "", None)
        if call is None:
            return  # late, cancelled or never asked for: dropped
        if echo or self.options.echo_function_response:
            self._send(response)
        thoughts.results.append((call, response.content))
        finished = deepgram.FinishedCall(
            id=call.id,
            name=call.name,
            client_side=call.client_side,
            arguments=call.text,
            response=response.content,
        )
        history = deepgram.History(function_calls=[finished])
        self._later(now + self.options.history_delay, partial(self._call_done, history))

    def _call_done(self, history: deepgram.History, now: float) -> None:
        thoughts = self._thoughts
        if self.terms.history:
            self._send(history)
        if thoughts.open_calls or self.phase is not Phase.CALLING:
            return
        if thoughts.batches:
            self._request(now)
            return
        self._calls_over(now)

    def _calls_over(self, now: float) -> None:
        self.phase = Phase.IDLE
        turn = self._thoughts.turn
        if turn is not None and turn is not self._thoughts.thought:
            # A scripted turn goes on with what it says; a thought of the mind was only the call.
            self._thoughts.turn = msgspec.structs.replace(turn, calls=(), messages=())
        else:
            self._thoughts.turn = None
        if not self.user_speaking:
            self._think_later(now, None)

    def _cancel_calls(self, now: float) -> None:
        thoughts = self._thoughts
        if not thoughts.open_calls:
            return
        cancelled = [{"id": call.id, "name": call.name} for call in thoughts.open_calls.values()]
        self._send({"type": "FunctionCallCancelled", "functions": cancelled})
        thoughts.open_calls = {}
        thoughts.batches = []
        self._calls_over(now)

    # --- speaking ------------------------------------------------------------------------------

    def _say_turn(self, turn: Turn, now: float) -> None:
        if not turn.say:
            self._turn_over(now)
            return
        self._speak(turn.say, now, turn.pace, seconds=turn.seconds)
        if turn.barge_in is not None:
            barge_in = turn.barge_in + self.options.voice_delay
            self._agenda.add(now + barge_in, partial(self._scripted_barge_in, turn))

    def _scripted_barge_in(self, turn: Turn, now: float) -> None:
        if self._thoughts.turn is not turn:
            return
        self.user_started(now)
        self._thoughts.turn = turn
        self._turn_over(now)

    def _speak(
        self,
        sentences: Sequence[str],
        now: float,
        pace: float | None,
        *,
        delay: float | None = None,
        seconds: float | None = None,
    ) -> None:
        self.phase = Phase.SPEAKING
        reply = Reply(sentences, pace=pace or self.options.pace, asked=self._thoughts.asked)
        self._thoughts.asked = None
        self._reply = reply
        if self.options.speech is not None:
            voices = [Voice(reply, index, text) for index, text in enumerate(sentences)]
            self._out.extend(voices)
            return
        stamp = self.options.script is not None and self.options.script.stamp
        for index, text in enumerate(sentences):
            length = tone_seconds(text) if seconds is None else seconds
            tone = Tone(length, self.terms.output, self.options.frame_ms, stamp=stamp)
            reply.voiced(index, tone)
        wait = self.options.voice_delay if delay is None else delay
        self._agenda.add(now + wait, self._sentence)

    def _voiced(self, reply: Reply, index: int, audio: Audio, now: float) -> None:
        reply.voiced(index, audio)
        if reply is not self._reply or not reply.can_begin(index):
            return
        played = reply.played if reply.index >= 0 else now
        self._agenda.add(max(now, played), self._sentence)

    def _sentence(self, now: float) -> None:
        """The text of a sentence, then its audio; before the first one come the latencies."""
        reply = self._reply
        if reply is None or not reply.can_begin(reply.index + 1):
            return
        text = reply.begin(now)
        self._say_text("assistant", text)
        if reply.asked is not None and reply.index == 0:
            self._report_voice(now - reply.asked)
        self._stream(now)

    def _stream(self, now: float) -> None:
        reply = self._reply
        if reply is None:
            return
        frames = reply.audio.frames
        while reply.sent < frames and reply.due(reply.sent) <= now:
            self._out.append(SendAudio(reply.next_frame(self._counts.frame(), now)))
        if reply.sent < frames:
            self._agenda.add(reply.due(reply.sent), self._stream)
        elif not reply.is_last:
            self._agenda.add(reply.played, self._sentence)
        else:
            self._reply = None
            self._send(deepgram.AgentAudioDone())
            self._turn_over(now)

    def _turn_over(self, now: float) -> None:
        """Nothing is left of this turn: its ending, what waits in the queue, the next turn."""
        turn, self._thoughts.turn = self._thoughts.turn, None
        self._thoughts.asked = None
        self.phase = Phase.IDLE
        if turn is not None and turn.end is not None:
            self._end(turn.end)
            return
        if self._thoughts.queue and not self.user_speaking:
            message = self._thoughts.queue.pop(0)
            self._inject(message, "default", now)
        self._arm_script(now)

    # --- the script ----------------------------------------------------------------------------

    def _arm_script(self, now: float) -> None:
        after = self._script.arm()
        if after is not None:
            self._later(now + after, self._begin_next)

    def _begin_next(self, now: float) -> None:
        self._begin(self._script.take(), now)

    def _begin(self, turn: Turn, now: float) -> None:
        if self.state is not State.OPEN:
            return
        if turn.user is None:
            self._cut_reply()
            self._thoughts.turn = turn
            self._agenda.add(now + (turn.think or 0.0), self._think)
            return
        speaks = turn.speaks
        if speaks is not None:
            self.user_started(now)
        self._later(now + (speaks or 0.0), partial(self._scripted_user, turn))

    def _scripted_user(self, turn: Turn, now: float) -> None:
        self._user_said(turn.user or "", "model", now)
        self._agenda.cancel()  # not the thought of what was said, but the script's
        self._thoughts.unheard.clear()
        self._thoughts.turn = turn
        self._think_later(now, turn.think)

    # --- sending -------------------------------------------------------------------------------

    def _say_text(self, role: deepgram.Role, content: str) -> None:
        text: dict[str, Any] = {"type": "ConversationText", "role": role, "content": content}
        if self.options.conversational_behavior:
            text["conversational_behavior"] = "default"
        self._send(text)
        if self.terms.history:
            self._send(deepgram.History(role=role, content=content))

    def _report_thinking(self, now: float, kind: str) -> None:
        seconds = round(now - (self._thoughts.asked or now), 3)
        self._send({"type": "LatencyReport", "ttt_token_latency": seconds})
        self._send({"type": "LatencyReport", f"ttt_{kind}_latency": seconds})
        self._counts.thought_seconds = seconds

    def _report_voice(self, total: float) -> None:
        total = round(total, 3)
        thought = self._counts.thought_seconds
        voice = round(max(total - thought, 0.0), 3)
        self._send({"type": "LatencyReport", "tts_latency": voice})
        self._send({"type": "LatencyReport", "total_latency": total})
        if self.terms.experimental:
            self._send(
                {
                    "type": "AgentStartedSpeaking",
                    "total_latency": total,
                    "tts_latency": voice,
                    "ttt_latency": thought,
                }
            )

    def _send(self, message: deepgram.ServerMessage | dict[str, Any]) -> None:
        # As objects where the relay's structs leave out what is at its default but required.
        if isinstance(message, dict):
            text = msgspec.json.encode(message)
        else:
            text = deepgram.encode(message)
        self._out.append(SendText(text))

    def _send_raw(self, message: dict[str, Any] | str) -> None:
        text = message.encode() if isinstance(message, str) else msgspec.json.encode(message)
        self._out.append(SendText(text))

    def _warn(self, code: str, description: str) -> None:
        self._send(deepgram.Warning(description=description, code=code))

    # --- the end -------------------------------------------------------------------------------

    def _refuse_early(self) -> None:
        self._fail(
            "NON_SETTINGS_MESSAGE_BEFORE_SETTINGS",
            "Received a message before Settings; Settings has to be the first message.",
        )

    def _soon_too_long(self, now: float) -> None:
        self._warn(
            "MAXIMUM_SESSION_LENGTH_APPROACHING",
            f"The session ends in {self.options.warning_seconds:.0f} seconds.",
        )

    def _too_long(self, now: float) -> None:
        self._fail("MAXIMUM_SESSION_LENGTH_REACHED", "The session reached its maximum length.")

    def _fail(self, code: str, description: str) -> None:
        self._end(Ending(kind="error", code=code, reason=description))

    def _end(self, ending: Ending) -> None:
        """Error, then a close without a status; or one of the uglier ends."""
        if self.state is State.CLOSED:
            return
        if ending.kind == "error":
            error = {"type": "Error", "description": ending.reason, "code": str(ending.code)}
            self._send(error)
        self.state = State.CLOSED
        self._agenda.clear()
        self._out.append(End(ending))

    def _arm(self, fault: Fault, now: float) -> None:
        self._later(now + (fault.after or 0.0), lambda _: self._end(fault.ending))

    def _fault_on(self, name: str, now: float) -> None:
        for fault in self.options.faults:
            if fault.on != name:
                continue
            if fault.after is None:
                self._end(fault.ending)
            else:
                self._arm(fault, now)

    # --- time ----------------------------------------------------------------------------------

    def _later(self, at: float, step: Step) -> None:
        self._agenda.add(at, step, lasting=True)

    def _take(self, now: float) -> list[Action]:
        """Do what is due, then hand over everything that is to be done outside."""
        for step in self._agenda.due(now):
            step(now)
        if self.state is not State.CLOSED and now >= self._active + self.options.timeout:
            opened = self.state is not State.FRESH
            self._fail("CLIENT_MESSAGE_TIMEOUT", SILENT_MICROPHONE if opened else SILENT_OPENING)
        out, self._out = self._out, []
        return out
