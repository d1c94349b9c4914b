"""The turns of one session: what the agent does about the user. Pure.

Nothing, think, wait for a function, speak (`Phase`). It exists for the whole session and is told
something only while that is open.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from typing import Any

import msgspec

from relay.protocol import deepgram
from relay.sandbox.agenda import Agenda
from relay.sandbox.calls import Calls
from relay.sandbox.mind import Mind
from relay.sandbox.moves import EndSpeech, SendAudio
from relay.sandbox.options import Options
from relay.sandbox.reply import Reply
from relay.sandbox.script import Ending, Turn
from relay.sandbox.sound import Audio
from relay.sandbox.speaking import Speaking
from relay.sandbox.thoughts import Thoughts
from relay.sandbox.wire import Wire

SLOW_THINK = 5.0  # seconds between two notices that thinking takes long


class Phase(Enum):
    IDLE = "listening"
    THINKING = "thinking about the user's turn or a function's result"
    CALLING = "waiting for a FunctionCallResponse"
    SPEAKING = "sending a reply"


class Dialogue:
    """`new_id` makes the ids of function calls; `end` ends the session."""

    def __init__(
        self,
        options: Options,
        agenda: Agenda,
        wire: Wire,
        *,
        new_id: Callable[[], str],
        end: Callable[[Ending], None],
    ) -> None:
        self.phase = Phase.IDLE
        self.user_speaking = False
        self.mind = Mind((), new_id)
        self._options = options
        self._agenda = agenda
        self._wire = wire
        self._end = end
        self._thoughts = Thoughts(self.mind, options.script)
        self._calls = Calls(options, agenda, wire, new_id=new_id, done=self._call_done)
        self._speaking = Speaking(options, agenda, wire, over=self._turn_over)

    def __repr__(self) -> str:
        return f"<Dialogue {self.phase.name}>"

    def start(self, now: float) -> None:
        """Settings are applied: greet, or let the script begin."""
        if self._wire.terms.greeting:
            self.phase = Phase.THINKING
            self._agenda.add(now + self._options.greeting_delay, self._greet)
        else:
            self._arm_script(now)

    def _greet(self, now: float) -> None:
        self._speak((self._wire.terms.greeting,), now, delay=0.0)

    # --- the user ------------------------------------------------------------------------------

    def audio(self, frame: bytes, now: float) -> None:
        """What comes from the microphone, as far as a script or a report wants to know."""
        script = self._options.script
        reports = self._options.stt_latency and self.user_speaking
        if script is None and not reports:
            return
        seconds = len(frame) / self._wire.terms.input.bytes_per_second
        if script is not None:
            if script.echo:
                self._wire.do(SendAudio(frame))
            if self._thoughts.script.audio(seconds):
                self._begin_next(now)
        if reports:
            self._wire.report_hearing(seconds)

    def user_started(self, now: float) -> None:
        """The user speaks; a reply that is still being sent is cut (barge-in)."""
        if self.user_speaking:
            return
        self.user_speaking = True
        self._wire.send(deepgram.UserStartedSpeaking())
        late = self._speaking.late_frames(now)
        self._cut_reply()
        self._wire.play(late)

    def _cut_reply(self) -> None:
        """Forget the reply; AgentAudioDone only if audio was under way."""
        audible = self._speaking.cut()
        self._agenda.cancel()
        if self.phase is not Phase.CALLING:
            self.phase = Phase.IDLE
            self._thoughts.turn = None
        if audible and self._options.audio_done_after_barge_in:
            self._wire.send(deepgram.AgentAudioDone())

    def heard(self, text: str, now: float) -> None:
        if text:
            self.user_said(text, "model", now)
            return
        self.user_speaking = False  # a cough
        self._release_acks()
        thoughts = self._thoughts
        if thoughts.unheard or self._calls.have_results or thoughts.turn is not None:
            self._think_later(now, None)

    def user_said(self, text: str, trigger: str, now: float) -> None:
        """The end of a user's turn: text, History, EndOfTurn; then a reply is thought about."""
        self.user_speaking = False
        self._wire.say("user", text)
        if self._options.end_of_turn:
            self._wire.send(deepgram.EndOfTurn(trigger=trigger))
        if self._options.end_of_thought:
            self._wire.send({"type": "EndOfThought"})
        self._cut_reply()
        self._release_acks()
        self._thoughts.unheard.append(text)
        self._thoughts.asked = now
        self._think_later(now, None)

    def force_end(self) -> None:
        if not self._wire.terms.flux:
            self._wire.warn(
                "FORCE_END_TURN_UNSUPPORTED", "ForceEndTurn needs a Flux v2 listen model."
            )
        elif self.user_speaking:
            self._wire.do(EndSpeech())

    def acknowledge(self, ack: deepgram.ServerMessage | dict[str, Any], now: float) -> None:
        """Acks are held back while the user speaks."""

        def step(now: float) -> None:
            if self.user_speaking:
                self._thoughts.acks.append(ack)
            else:
                self._wire.send(ack)

        self._agenda.add(now + self._options.ack_delay, step, lasting=True)

    def _release_acks(self) -> None:
        acks, self._thoughts.acks = self._thoughts.acks, []
        for ack in acks:
            self._wire.send(ack)

    # --- thinking ------------------------------------------------------------------------------

    def _think_later(self, now: float, think: float | None) -> None:
        if self.phase is Phase.CALLING:
            return  # what was said is thought about together with the result
        self.phase = Phase.THINKING
        upcoming = self._thoughts.script.on_user
        if think is None and upcoming is not None and self._thoughts.turn is None:
            think = upcoming.think
        delay = self._options.think_delay if think is None else think
        notice = SLOW_THINK
        while notice < delay:
            slow = partial(self._slow, seconds=int(notice))
            self._agenda.add(now + notice, slow)
            notice += SLOW_THINK
        self._agenda.add(now + delay, self._think)

    def _slow(self, now: float, *, seconds: int) -> None:
        self._wire.warn(
            "SLOW_THINK_REQUEST", f"We have now waited {seconds} seconds for a think response."
        )

    def _think(self, now: float) -> None:
        turn = self._thoughts.conclude(self._calls.take_results())
        if turn is None:
            self._turn_over(now)
        else:
            self._carry_out(turn, now)

    def _carry_out(self, turn: Turn, now: float) -> None:
        self._thoughts.turn = turn
        if self._thoughts.asked is not None:
            kind = "tool" if turn.calls else "text"
            self._wire.report_thinking(now - self._thoughts.asked, kind)
        for message in turn.messages:
            self._wire.send_raw(message)
        if not turn.calls:
            self._say_turn(turn, now)
            return
        self.phase = Phase.CALLING
        self._calls.prepare(turn)
        # Lasting: the mind has decided, and a call that it waits for has to be made.
        request_at = now + self._options.call_delay
        self._agenda.add(request_at, self._request, lasting=True)
        if turn.cancel_after is not None:
            self._agenda.add(request_at + turn.cancel_after, self._cancel_calls, lasting=True)

    # --- functions -----------------------------------------------------------------------------

    def _request(self, now: float) -> None:
        turn = self._thoughts.turn
        if turn is None or turn.awaits:
            self._calls.request(now)
            return
        self._calls.request_all(now)
        self.phase = Phase.THINKING
        self._say_turn(turn, now)

    def answered(self, response: deepgram.FunctionCallResponse, now: float) -> None:
        self._calls.answered(response, now)

    def _call_done(self, now: float) -> None:
        if self._calls.are_open or self.phase is not Phase.CALLING:
            return
        if self._calls.are_waiting:
            self._calls.request(now)
        else:
            self._calls_over(now)

    def _cancel_calls(self, now: float) -> None:
        if self._calls.cancel() and self.phase is Phase.CALLING:
            self._calls_over(now)

    def _calls_over(self, now: float) -> None:
        self.phase = Phase.IDLE
        turn = self._thoughts.turn
        if turn is not None and not self._thoughts.is_own:
            # A scripted turn goes on with what it says; a thought of the mind was only the call.
            self._thoughts.turn = msgspec.structs.replace(turn, calls=(), messages=())
        else:
            self._thoughts.turn = None
        if not self.user_speaking:
            self._think_later(now, None)

    # --- speaking ------------------------------------------------------------------------------

    def inject(self, message: str, behavior: str, now: float) -> None:
        """A message of the client that the agent is to say."""
        agent_busy = self.phase is not Phase.IDLE
        if behavior != "interrupt" and (
            self.user_speaking or (agent_busy and behavior == "default")
        ):
            who = "user" if self.user_speaking else "agent"
            self._wire.send(deepgram.InjectionRefused(message=f"The {who} is speaking."))
            return
        if behavior == "queue" and agent_busy:
            self._thoughts.queue.append(message)
            return
        if agent_busy:
            self._cut_reply()
        self.phase = Phase.THINKING
        delay = self._options.inject_delay
        self._agenda.add(now + delay, lambda now: self._speak((message,), now, delay=0.0))

    def voiced(self, reply: Reply, index: int, audio: Audio, now: float) -> None:
        self._speaking.voiced(reply, index, audio, now)

    def _say_turn(self, turn: Turn, now: float) -> None:
        if not turn.say:
            self._turn_over(now)
            return
        self._speak(turn.say, now, pace=turn.pace, seconds=turn.seconds)
        if turn.barge_in is not None:
            barge_in = turn.barge_in + self._options.voice_delay
            self._agenda.add(now + barge_in, partial(self._scripted_barge_in, turn))

    def _speak(
        self,
        sentences: Sequence[str],
        now: float,
        *,
        pace: float | None = None,
        delay: float | None = None,
        seconds: float | None = None,
    ) -> None:
        self.phase = Phase.SPEAKING
        asked, self._thoughts.asked = self._thoughts.asked, None
        reply = Reply(sentences, pace=pace or self._options.pace, asked=asked)
        self._speaking.begin(reply, now, delay=delay, seconds=seconds)

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
            self.inject(message, "default", now)
        self._arm_script(now)

    # --- the script ----------------------------------------------------------------------------

    def _arm_script(self, now: float) -> None:
        after = self._thoughts.script.arm()
        if after is not None:
            self._agenda.add(now + after, self._begin_next, lasting=True)

    def _begin_next(self, now: float) -> None:
        self.begin(self._thoughts.script.take(), now)

    def begin(self, turn: Turn, now: float) -> None:
        """Do this turn now."""
        if turn.user is None:
            self._cut_reply()
            self._thoughts.turn = turn
            self._agenda.add(now + (turn.think or 0.0), self._think)
            return
        speaks = turn.speaks
        if speaks is not None:
            self.user_started(now)
        self._agenda.add(now + (speaks or 0.0), partial(self._scripted_user, turn), lasting=True)

    def _scripted_user(self, turn: Turn, now: float) -> None:
        self.user_said(turn.user or "", "model", now)
        self._agenda.cancel()  # not the thought of what was said, but the script's
        self._thoughts.unheard.clear()
        self._thoughts.turn = turn
        self._think_later(now, turn.think)

    def _scripted_barge_in(self, turn: Turn, now: float) -> None:
        if self._thoughts.turn is not turn:
            return
        self.user_started(now)
        self._thoughts.turn = turn
        self._turn_over(now)
