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
from relay.sandbox.audio import Audio
from relay.sandbox.events import EndSpeech, SendAudio
from relay.sandbox.function_calls import FunctionCalls
from relay.sandbox.options import Options
from relay.sandbox.output import Output
from relay.sandbox.playout import Playout
from relay.sandbox.reply import Reply
from relay.sandbox.scheduler import Scheduler
from relay.sandbox.script import Ending, Turn
from relay.sandbox.slot_filler import SlotFiller
from relay.sandbox.turn_planner import TurnPlanner

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
        scheduler: Scheduler,
        output: Output,
        *,
        new_id: Callable[[], str],
        end: Callable[[Ending], None],
    ) -> None:
        self.phase = Phase.IDLE
        self.user_speaking = False
        self.slot_filler = SlotFiller((), new_id)
        self._options = options
        self._scheduler = scheduler
        self._output = output
        self._end = end
        self._planner = TurnPlanner(self.slot_filler, options.script)
        self._calls = FunctionCalls(options, scheduler, output, new_id=new_id, done=self._call_done)
        self._playout = Playout(options, scheduler, output, over=self._turn_over)

    def __repr__(self) -> str:
        return f"<Dialogue {self.phase.name}>"

    def start(self, now: float) -> None:
        """Settings are applied: greet, or let the script begin."""
        if self._output.settings.greeting:
            self.phase = Phase.THINKING
            self._scheduler.add(now + self._options.greeting_delay, self._greet)
        else:
            self._arm_script(now)

    def _greet(self, now: float) -> None:
        self._speak((self._output.settings.greeting,), now, delay=0.0)

    # --- the user ------------------------------------------------------------------------------

    def audio(self, frame: bytes, now: float) -> None:
        """What comes from the microphone, as far as a script wants to know."""
        script = self._options.script
        if script is None:
            return
        if script.echo:
            self._output.do(SendAudio(frame))
        if self._planner.script.audio(len(frame) / self._output.settings.input.bytes_per_second):
            self._begin_next(now)

    def user_started(self, now: float) -> None:
        """The user speaks; a reply that is still being sent is cut (barge-in)."""
        if self.user_speaking:
            return
        self.user_speaking = True
        self._output.send(deepgram.UserStartedSpeaking())
        late = self._playout.late_frames(now)
        self._cut_reply()
        self._output.play(late)

    def _cut_reply(self) -> None:
        """Forget the reply; AgentAudioDone only if audio was under way."""
        audible = self._playout.cut()
        self._scheduler.cancel()
        if self.phase is not Phase.CALLING:
            self.phase = Phase.IDLE
            self._planner.turn = None
        if audible:
            self._output.send(deepgram.AgentAudioDone())

    def user_finished(self, text: str, now: float) -> None:
        if text:
            self.user_said(text, "model", now)
            return
        self.user_speaking = False  # a cough
        self._release_acks()
        planner = self._planner
        if planner.unheard or self._calls.have_results or planner.turn is not None:
            self._think_later(now, None)

    def user_said(self, text: str, trigger: str, now: float) -> None:
        """The end of a user's turn: text, History, EndOfTurn; then a reply is thought about."""
        self.user_speaking = False
        self._output.say("user", text)
        if self._options.end_of_turn:
            self._output.send(deepgram.EndOfTurn(trigger=trigger))
        if self._options.end_of_thought:
            self._output.send({"type": "EndOfThought"})
        self._cut_reply()
        self._release_acks()
        self._planner.unheard.append(text)
        self._planner.asked = now
        self._think_later(now, None)

    def force_end(self) -> None:
        if not self._output.settings.flux:
            self._output.warn(
                "FORCE_END_TURN_UNSUPPORTED", "ForceEndTurn needs a Flux v2 listen model."
            )
        elif self.user_speaking:
            self._output.do(EndSpeech())

    def acknowledge(self, ack: deepgram.ServerMessage | dict[str, Any], now: float) -> None:
        """Acks are held back while the user speaks."""

        def step(now: float) -> None:
            if self.user_speaking:
                self._planner.acks.append(ack)
            else:
                self._output.send(ack)

        self._scheduler.add(now + self._options.ack_delay, step, lasting=True)

    def _release_acks(self) -> None:
        acks, self._planner.acks = self._planner.acks, []
        for ack in acks:
            self._output.send(ack)

    # --- thinking ------------------------------------------------------------------------------

    def _think_later(self, now: float, think: float | None) -> None:
        if self.phase is Phase.CALLING:
            return  # what was said is thought about together with the result
        self.phase = Phase.THINKING
        upcoming = self._planner.script.on_user
        if think is None and upcoming is not None and self._planner.turn is None:
            think = upcoming.think
        delay = self._options.think_delay if think is None else think
        notice = SLOW_THINK
        while notice < delay:
            slow = partial(self._slow, seconds=int(notice))
            self._scheduler.add(now + notice, slow)
            notice += SLOW_THINK
        self._scheduler.add(now + delay, self._think)

    def _slow(self, now: float, *, seconds: int) -> None:
        self._output.warn(
            "SLOW_THINK_REQUEST", f"We have now waited {seconds} seconds for a think response."
        )

    def _think(self, now: float) -> None:
        turn = self._planner.conclude(self._calls.take_results())
        if turn is None:
            self._turn_over(now)
        else:
            self._carry_out(turn, now)

    def _carry_out(self, turn: Turn, now: float) -> None:
        self._planner.turn = turn
        if self._planner.asked is not None:
            kind = "tool" if turn.calls else "text"
            self._output.report_thinking(now - self._planner.asked, kind)
        for message in turn.messages:
            self._output.send(message)
        if not turn.calls:
            self._say_turn(turn, now)
            return
        self.phase = Phase.CALLING
        self._calls.prepare(turn)
        # Lasting: the slot filler has decided, and a call that it waits for has to be made.
        request_at = now + self._options.call_delay
        self._scheduler.add(request_at, self._request, lasting=True)
        if turn.cancel_after is not None:
            self._scheduler.add(request_at + turn.cancel_after, self._cancel_calls, lasting=True)

    # --- functions -----------------------------------------------------------------------------

    def _request(self, now: float) -> None:
        turn = self._planner.turn
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
        turn = self._planner.turn
        if turn is not None and not self._planner.is_own:
            # A scripted turn goes on with what it says; one of the slot filler was only the call.
            self._planner.turn = msgspec.structs.replace(turn, calls=(), messages=())
        else:
            self._planner.turn = None
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
            self._output.send(deepgram.InjectionRefused(message=f"The {who} is speaking."))
            return
        if behavior == "queue" and agent_busy:
            self._planner.queue.append(message)
            return
        if agent_busy:
            self._cut_reply()
        self.phase = Phase.THINKING
        delay = self._options.inject_delay
        self._scheduler.add(now + delay, lambda now: self._speak((message,), now, delay=0.0))

    def audio_ready(self, reply: Reply, index: int, audio: Audio, now: float) -> None:
        self._playout.audio_ready(reply, index, audio, now)

    def _say_turn(self, turn: Turn, now: float) -> None:
        if not turn.say:
            self._turn_over(now)
            return
        self._speak(turn.say, now, pace=turn.pace, seconds=turn.seconds)
        if turn.barge_in is not None:
            barge_in = turn.barge_in + self._options.voice_delay
            self._scheduler.add(now + barge_in, partial(self._scripted_barge_in, turn))

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
        asked, self._planner.asked = self._planner.asked, None
        reply = Reply(sentences, pace=pace or self._options.pace, asked=asked)
        self._playout.begin(reply, now, delay=delay, seconds=seconds)

    def _turn_over(self, now: float) -> None:
        """Nothing is left of this turn: its ending, what waits in the queue, the next turn."""
        turn, self._planner.turn = self._planner.turn, None
        self._planner.asked = None
        self.phase = Phase.IDLE
        if turn is not None and turn.end is not None:
            self._end(turn.end)
            return
        if self._planner.queue and not self.user_speaking:
            message = self._planner.queue.pop(0)
            self.inject(message, "default", now)
        self._arm_script(now)

    # --- the script ----------------------------------------------------------------------------

    def _arm_script(self, now: float) -> None:
        after = self._planner.script.arm()
        if after is not None:
            self._scheduler.add(now + after, self._begin_next, lasting=True)

    def _begin_next(self, now: float) -> None:
        self.begin(self._planner.script.take(), now)

    def begin(self, turn: Turn, now: float) -> None:
        """Do this turn now."""
        if turn.user is None:
            self._cut_reply()
            self._planner.turn = turn
            self._scheduler.add(now + (turn.think or 0.0), self._think)
            return
        speaks = turn.speaks
        if speaks is not None:
            self.user_started(now)
        self._scheduler.add(now + (speaks or 0.0), partial(self._scripted_user, turn), lasting=True)

    def _scripted_user(self, turn: Turn, now: float) -> None:
        self.user_said(turn.user or "", "model", now)
        self._scheduler.cancel()  # not the thought of what was said, but the script's
        self._planner.unheard.clear()
        self._planner.turn = turn
        self._think_later(now, turn.think)

    def _scripted_barge_in(self, turn: Turn, now: float) -> None:
        if self._planner.turn is not turn:
            return
        self.user_started(now)
        self._planner.turn = turn
        self._turn_over(now)
