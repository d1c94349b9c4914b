"""The turns that the agent plays, as a list of what is due when.

Load tests. Order, pace and sizes are those of recordings of the real service (docs/protocol.md):
the user's words, the agent's sentences each with its audio at about twice real time in frames of
20 ms, the next one when the one before has been played out, then quiet.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import count

import msgspec
from msgspec.structs import replace

from relay.protocol import deepgram

FRAME_BYTES = 960  # 20 ms of linear16 at 24,000 Hz
FRAME_SECONDS = 0.020
PACE = 2.2  # times real time, inside a sentence
SENTENCES = (1.9, 2.6)  # seconds of speech
HEARD = 2.0  # the user speaks
THOUGHT = 0.6  # from the end of it to the first audio
QUIET = 0.8  # until the user speaks again
CALL_EVERY = 3  # one turn in so many calls a function


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)


TURN_NS = _ns(HEARD + THOUGHT + sum(SENTENCES) + QUIET)


class Step(msgspec.Struct, frozen=True):
    """At `at` ns from the beginning: send `text`; or a frame of audio when it is None.

    A step that `calls` sends a function call of its own making and waits for the answer.
    """

    at: int
    text: bytes | None = None
    calls: bool = False


def play(number: int) -> Iterator[Step]:
    """Turns without end, from the one with this number on."""
    for place in count():
        calls = (number + place) % CALL_EVERY == 0
        for step in turn(calls=calls):
            yield replace(step, at=step.at + place * TURN_NS)


@cache
def turn(*, calls: bool) -> tuple[Step, ...]:
    """The steps of one turn, `TURN_NS` long."""
    steps: list[Step] = []

    def say(seconds: float, *messages: deepgram.ServerMessage) -> None:
        steps.extend(Step(_ns(seconds), deepgram.encode(message)) for message in messages)

    say(0.0, deepgram.UserStartedSpeaking())
    user = "Add a task to buy running shoes tomorrow."
    say(
        HEARD,
        deepgram.ConversationText(role="user", content=user),
        deepgram.History(role="user", content=user),
        deepgram.EndOfTurn(),
        deepgram.LatencyReport(stt_latency=0.212),
    )
    if calls:
        steps.append(Step(_ns(HEARD + 0.3), calls=True))
    at = HEARD + THOUGHT
    say(
        at,
        deepgram.LatencyReport(ttt_token_latency=0.331),
        deepgram.LatencyReport(tts_latency=0.118),
        deepgram.AgentStartedSpeaking(total_latency=0.6, tts_latency=0.118, ttt_latency=0.331),
    )
    for number, spoken in enumerate(SENTENCES):
        sentence = f"This is sentence {number + 1} of what the agent has to say about it."
        say(
            at,
            deepgram.ConversationText(role="assistant", content=sentence),
            deepgram.History(role="assistant", content=sentence),
        )
        frames = round(spoken / FRAME_SECONDS)
        steps += [Step(_ns(at + n * FRAME_SECONDS / PACE)) for n in range(frames)]
        done = at + frames * FRAME_SECONDS / PACE
        at += spoken
    say(done, deepgram.AgentAudioDone())
    return tuple(steps)


def call(call_id: str) -> bytes:
    """The function call that a step asks for."""
    arguments = '{"title": "buy running shoes", "due": "tomorrow"}'
    made = deepgram.FunctionCall(id=call_id, name="create_task", arguments=arguments)
    return deepgram.encode(deepgram.FunctionCallRequest(functions=[made]))
