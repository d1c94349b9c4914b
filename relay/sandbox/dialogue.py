"""The turns of one session: what the agent does about the user. Pure.

Nothing, think, wait for a function, speak (`Phase`). It exists for the whole session and is told
something only while that is open.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from functools import partial

import msgspec

from relay.protocol import deepgram
from relay.sandbox.function_calls import FunctionCalls
from relay.sandbox.options import Options
from relay.sandbox.output import EndSpeech, Output
from relay.sandbox.playout import Playout
from relay.sandbox.scheduler import Scheduler
from relay.sandbox.script import Ending, Turn
from relay.sandbox.turn_planner import Guess, TurnPlanner

INJECT_DELAY = 0.3  # seconds from InjectAgentMessage to its audio
SPEAKS = 0.5  # seconds from UserStartedSpeaking to the words of a scripted user


class Phase(Enum):
    IDLE = "listening"
    THINKING = "thinking about the user's turn or a function's result"
    CALLING = "waiting for a FunctionCallResponse"
    SPEAKING = "sending a reply"


class Dialogue:
    """`end` ends the session."""

    def __init__(
        self,
        options: Options,
        scheduler: Scheduler,
        output: Output,
        *,
        end: Callable[[Ending], None],
    ) -> None:
        self.phase = Phase.IDLE
        self.user_speaking = False
        self.planner = TurnPlanner(
            options.script, hasty=options.hasty, forgets_deadlines=options.forgets_deadlines
        )
        self._options = options
        self._scheduler = scheduler
        self._output = output
        self._end = end
        self.calls = FunctionCalls(scheduler, output, over=self._calls_over)
        self.playout = Playout(options, scheduler, output, over=self._turn_over)
        self._queue: list[str] = []  # injected messages that wait for the agent
        self._heard = 0.0  # seconds of microphone since the turn before
        self._guess: Guess | None = None  # while the user pauses

    def start(self, now: float) -> None:
        """Settings are applied: greet, or let the script begin."""
        if self._output.settings.greeting:
            self.phase = Phase.THINKING
            greet = partial(self._inject, self._output.settings.greeting)
            self._scheduler.add(now + self._options.greeting_delay, greet)
        else:
            self._arm_script(now)

    # --- the user ------------------------------------------------------------------------------

    def audio(self, frame: bytes, now: float) -> None:
        """What comes from the microphone, as far as a script wants to know."""
        self._heard += len(frame) / self._output.settings.input.bytes_per_second
        upcoming = self.planner.upcoming
        if upcoming is not None and self._heard >= upcoming.after:
            self._begin_next("audio", now)

    def user_started(self, now: float) -> None:
        """The user speaks, or goes on after a pause. A reply that is still being sent is cut, and
        its calls are void (barge-in)."""
        if self.user_speaking:
            self._go_on()
            return
        self.user_speaking = True
        self._output.send(deepgram.UserStartedSpeaking())
        late = self.playout.late_frames()
        self._cut_reply()
        if self.phase is Phase.CALLING and self.calls.take_back():
            self.phase = Phase.IDLE  # if it was a cough, the turn is carried out once more
            self.planner.slot_filler.lose_call()
        for frame in late:
            self._output.do(frame)

    def user_paused(self, text: str, now: float) -> None:
        """The user has said this so far and may go on: what is not deferred is called already."""
        if not text or self.phase is not Phase.IDLE or self.calls.results:
            return
        self._guess = self.planner.guess(text)
        if self._guess.may_call:
            options = self._options
            at = now + options.think_delay + options.call_delay
            self._scheduler.add(at, partial(self._call_early, self._guess))

    def _call_early(self, guess: Guess, now: float) -> None:
        if guess is self._guess:
            guess.is_called = True
            self.calls.prepare(guess.turn)
            self.calls.request(now)

    def _go_on(self) -> None:
        """The pause was none: what was begun because of it is void."""
        if self._guess is not None:
            self._guess = None
            self._output.send(deepgram.UserStartedSpeaking())
            self._scheduler.cancel()
            self.calls.take_back(answered=True)

    def _confirm(self, text: str) -> Guess | None:
        """These are the words of the turn: the guess if it called what they ask for."""
        guess, self._guess = self._guess, None
        if guess is None or not guess.is_called:
            return None
        if guess.text == text:
            return guess
        self.calls.take_back(answered=True)
        return None

    def _cut_reply(self) -> None:
        """Forget the reply; AgentAudioDone only if audio was under way."""
        was_audible = self.playout.is_audible
        self.playout.cut()
        self._scheduler.cancel()
        if self.phase is not Phase.CALLING:
            self.phase = Phase.IDLE
            self.planner.turn = None
        if was_audible:
            self._output.send(deepgram.AgentAudioDone())

    def user_finished(self, text: str, now: float) -> None:
        """The words of a spoken turn; without any it was a cough, which ends no turn."""
        if text:
            self.user_said(text, "model", now)
            return
        self._confirm(text)
        self.user_speaking = False
        if self.planner.unheard or self.calls.results or self.planner.turn is not None:
            self._think_later(now)

    def user_said(self, text: str, trigger: str, now: float) -> None:
        """The end of a user's turn: text, History, EndOfTurn; then a reply is thought about."""
        self.user_speaking = False
        self._output.say("user", text)
        self._output.send(deepgram.EndOfTurn(trigger=trigger))
        self._cut_reply()
        self._output.asked = now
        if guess := self._confirm(text):
            self.planner.adopt(guess)
            self.phase = Phase.CALLING
            if guess.is_answered:
                self._calls_over(now)
            return
        self.planner.unheard.append(text)
        self._think_later(now)

    def force_end(self) -> None:
        if not self._output.settings.flux:
            self._output.warn(
                "FORCE_END_TURN_UNSUPPORTED", "ForceEndTurn needs a Flux v2 listen model."
            )
        elif self.user_speaking:
            self._output.do(EndSpeech())

    # --- thinking ------------------------------------------------------------------------------

    def _think_later(self, now: float) -> None:
        if self.phase is Phase.CALLING:
            return  # what was said is thought about together with the result
        self.phase = Phase.THINKING
        self._scheduler.add(now + self._options.think_delay, self._think)

    def _think(self, now: float) -> None:
        results, self.calls.results = self.calls.results, []
        turn = self.planner.turn = self.planner.conclude(results)
        if turn is None:
            self._turn_over(now)
            return
        self._output.report_thinking(now, "tool" if turn.calls else "text")
        if not turn.calls:
            self._say(turn, now)
            return
        self.phase = Phase.CALLING
        self.calls.prepare(turn)
        # Lasting: the slot filler has decided, and a call that it waits for has to be made.
        self._scheduler.add(now + self._options.call_delay, self.calls.request, lasting=True)

    def _calls_over(self, now: float) -> None:
        if self._guess is not None:
            self._guess.is_answered = True
        if self.phase is not Phase.CALLING:
            return
        self.phase = Phase.IDLE
        turn = self.planner.turn
        if turn is not None and self.planner.is_scripted:
            # It goes on with what it says; a turn of the slot filler was only the call.
            self.planner.turn = msgspec.structs.replace(turn, calls=())
        else:
            self.planner.turn = None
        if not self.user_speaking:
            self._think_later(now)

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
            self._queue.append(message)
            return
        if agent_busy:
            self._cut_reply()
        self.phase = Phase.THINKING
        self._scheduler.add(now + INJECT_DELAY, partial(self._inject, message))

    def _inject(self, message: str, now: float) -> None:
        self._speak(Turn(say=(message,)), now, delay=0.0)

    def _speak(self, turn: Turn, now: float, *, delay: float) -> None:
        self.phase = Phase.SPEAKING
        if self._output.settings.bad_speed:
            self._end(Ending("error", "FAILED_TO_SPEAK", "The voice does not take this speed."))
        else:
            self.playout.begin(turn, now, delay=delay)

    def _say(self, turn: Turn, now: float) -> None:
        if not turn.say:
            self._turn_over(now)
            return
        delay = self._options.voice_delay
        self._speak(turn, now, delay=delay)
        if turn.barge_in is not None:
            barge_in = now + delay + turn.barge_in
            self._scheduler.add(barge_in, partial(self._scripted_barge_in, turn))

    def _turn_over(self, now: float) -> None:
        """Nothing is left of this turn: its ending, what waits in the queue, the next turn."""
        turn, self.planner.turn = self.planner.turn, None
        self._scheduler.cancel()
        self._output.asked = None
        self.phase = Phase.IDLE
        self._heard = 0.0
        if turn is not None and turn.end is not None:
            self._end(turn.end)
            return
        if self._queue and not self.user_speaking:
            self.inject(self._queue.pop(0), "default", now)
        self._arm_script(now)

    # --- the script ----------------------------------------------------------------------------

    def _arm_script(self, now: float) -> None:
        upcoming = self.planner.upcoming
        if upcoming is not None and upcoming.when == "time":
            self._scheduler.add(now + upcoming.after, partial(self._begin_next, "time"))

    def _begin_next(self, when: str, now: float) -> None:
        turn = self.planner.take(when)
        if turn is None:
            return
        self._heard = 0.0
        if turn.user is None:
            self._cut_reply()
            self.planner.turn = turn
            self._think(now)
        else:
            self.user_started(now)
            self._scheduler.add(now + SPEAKS, partial(self._scripted_user, turn), lasting=True)

    def _scripted_user(self, turn: Turn, now: float) -> None:
        self.user_said(turn.user or "", "model", now)
        self.planner.unheard.clear()  # what is thought about is not this but the script's turn
        self.planner.turn = turn

    def _scripted_barge_in(self, turn: Turn, now: float) -> None:
        if self.planner.turn is not turn:
            return
        self.user_started(now)
        self.planner.turn = turn
        self._turn_over(now)
