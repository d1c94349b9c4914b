"""A scenario of an evaluation: what a person says to the agent, and what must come of it.

One YAML file each, written by who changes a prompt or an intent (docs/evals.md). The name of a
scenario is that of its file. Patterns are Python's, found anywhere, whatever the case.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from jsonschema import Draft202012Validator, SchemaError
from msgspec import UNSET, Meta

from config.errors import ConfigError, shown
from config.validation import NOT_EMPTY, Mistake, Part, load_file

ANY = "any"
AgentName = Literal["sandbox", "deepgram"]

_Text = Annotated[str, Meta(pattern=NOT_EMPTY)]
_SPEED = "words a minute"
_ACCENT = "a voice of eSpeak NG: en-us, en-gb-x-rp, en-gb-scotland, en-029 and others"
_NOISE = "decibels that the words are louder than the noise of the room; left out: it is quiet"
_INTERRUPT = "begin when the agent has spoken for so many seconds, and do not wait for its end"
_WHEN = "a pattern: said when the agent's words since the user's last ones have it"
_TIMES = "how often; a question that comes once more stays without an answer"
_INTENT = "its name in intents.yaml, or `any`"
_FORBIDDEN = "what must not be called, beside what has to be"
_TURNS = "of the user, at most; then the user hangs up"
_FIRST_AUDIO = "seconds from the end of the user's words to the agent's voice, at most"
_PASS_RATE = "of the attempts, this part has to go well"
_FAILS = "why it is known to fail with that agent; a failure is expected then"
_FACTS = "what the Orchestrator knows of the user: {context} in the prompt"
_NAMES = "names that the user may say, for the speech recognition"
_DETAIL = "the reason, which the agent hears"


class ScenarioVoice(Part, frozen=True):
    """How the user sounds where no recording is played."""

    speed: Annotated[int, Meta(ge=80, le=450, description=_SPEED)] = 165
    accent: Annotated[str, Meta(pattern=r"^[a-z0-9-]{2,30}$", description=_ACCENT)] = "en-us"
    noise: Annotated[float, Meta(ge=-20, le=80, description=_NOISE)] | None = None


class ScenarioLine(Part, frozen=True):
    """One of `say`, `wav`, `type` and `silence`; a text alone stands for `say`."""

    say: Annotated[_Text | None, Meta(description="spoken by a synthetic voice")] = None
    wav: Annotated[_Text | None, Meta(description="a recording, beside this file")] = None
    type: Annotated[_Text | None, Meta(description="typed, not spoken")] = None
    silence: Annotated[
        Annotated[float, Meta(gt=0, le=120)] | None, Meta(description="seconds without a word")
    ] = None
    interrupt: Annotated[
        Annotated[float, Meta(ge=0, le=60)] | None, Meta(description=_INTERRUPT)
    ] = None

    def mistakes(self) -> Iterator[Mistake]:
        yield from _one_of(self, ("say", "wav", "type", "silence"))


class ScenarioAnswer(Part, frozen=True):
    """What the user says when asked; one of `say`, `wav` and `type`."""

    when: Annotated[_Text, Meta(description=_WHEN)]
    say: Annotated[_Text | None, Meta(description="spoken by a synthetic voice")] = None
    wav: Annotated[_Text | None, Meta(description="a recording, beside this file")] = None
    type: Annotated[_Text | None, Meta(description="typed, not spoken")] = None
    times: Annotated[int, Meta(ge=1, le=100, description=_TIMES)] = 2

    def mistakes(self) -> Iterator[Mistake]:
        yield from _one_of(self, ("say", "wav", "type"))
        yield from _pattern(".when", self.when)


class ExpectedArgument(Part, frozen=True):
    """One of these."""

    exact: Annotated[Any, Meta(description="this value")] = UNSET
    pattern: Annotated[_Text | None, Meta(description="a text that has this pattern")] = None
    schema: Annotated[dict[str, Any] | None, Meta(description="JSON Schema (2020-12)")] = None
    absent: Annotated[bool, Meta(description="it is left out")] = False

    def mistakes(self) -> Iterator[Mistake]:
        given = [self.exact is not UNSET, self.pattern is not None, self.schema is not None]
        if sum([*given, self.absent]) != 1:
            got = f"{sum([*given, self.absent])} of them"
            yield "", "one of exact, pattern, schema and absent", got
        yield from _pattern(".pattern", self.pattern)
        if self.schema is not None:
            try:
                Draft202012Validator.check_schema(self.schema)
            except SchemaError as error:
                yield f".schema{error.json_path[1:]}", "JSON Schema", error.message


class ExpectedIntent(Part, frozen=True):
    """A call, with what became of it."""

    intent: Annotated[_Text, Meta(description=_INTENT)]
    arguments: dict[str, ExpectedArgument] = msgspec.field(default_factory=dict)
    status: Annotated[_Text, Meta(description="of the call, at the end")] = "submitted"


class ForbiddenIntent(Part, frozen=True):
    """A call that must not be made; with arguments: not with these."""

    intent: Annotated[_Text, Meta(description=_INTENT)]
    arguments: dict[str, ExpectedArgument] = msgspec.field(default_factory=dict)


class Expectations(Part, frozen=True):
    """What must come of it."""

    intents: tuple[ExpectedIntent, ...] = ()
    forbidden: Annotated[tuple[ForbiddenIntent, ...], Meta(description=_FORBIDDEN)] = ()
    turns: Annotated[int, Meta(ge=1, le=100, description=_TURNS)] = 12
    said: Annotated[tuple[_Text, ...], Meta(description="patterns that the agent must say")] = ()
    not_said: Annotated[tuple[_Text, ...], Meta(description="patterns that it must not say")] = ()
    first_audio: Annotated[
        Annotated[float, Meta(gt=0, le=60)] | None, Meta(description=_FIRST_AUDIO)
    ] = None

    def mistakes(self) -> Iterator[Mistake]:
        for key in ("said", "not_said"):
            for number, pattern in enumerate(getattr(self, key)):
                yield from _pattern(f".{key}[{number}]", pattern)


class ScenarioReply(Part, frozen=True):
    """What the Orchestrator answers to this intent; to all others 201."""

    intent: _Text
    status: Annotated[int, Meta(ge=200, le=599)]
    detail: Annotated[str, Meta(description=_DETAIL)] = ""


class ScenarioUser(Part, frozen=True):
    """What is known of the user before."""

    facts: Annotated[dict[str, Any], Meta(description=_FACTS)] = msgspec.field(default_factory=dict)
    names: Annotated[tuple[str, ...], Meta(description=_NAMES)] = ()


class KnownFailures(Part, frozen=True):
    """By agent."""

    sandbox: _Text | None = None
    deepgram: _Text | None = None


class Scenario(Part, frozen=True, kw_only=True):
    """One file. `lines` are said in their order, each when the agent has finished and `answers`
    have nothing for what it asked; after the last one the user hangs up."""

    about: Annotated[_Text, Meta(description="what it is for, in a sentence")]
    lines: Annotated[tuple[_Text | ScenarioLine, ...], Meta(min_length=1)]
    answers: tuple[ScenarioAnswer, ...] = ()
    expect: Expectations
    voice: ScenarioVoice = ScenarioVoice()
    user: ScenarioUser = ScenarioUser()
    orchestrator: tuple[ScenarioReply, ...] = ()
    pass_rate: Annotated[float, Meta(gt=0, le=1, description=_PASS_RATE)] = 1.0
    fails: Annotated[KnownFailures, Meta(description=_FAILS)] = KnownFailures()

    @property
    def spoken(self) -> list[ScenarioLine]:
        """The lines, a text alone as the line that it stands for."""
        return [ScenarioLine(say=each) if isinstance(each, str) else each for each in self.lines]


def load_scenarios(paths: Iterable[Path], intents: Iterable[str]) -> dict[Path, Scenario]:
    """The scenarios of these files; `intents` are the names that there are. Raises `ConfigError`
    with the mistakes of all files."""
    found: dict[Path, Scenario] = {}
    problems: list[str] = []
    known = [ANY, *intents]
    for path in dict.fromkeys(paths):
        try:
            scenario = load_file(Scenario, path)
        except ConfigError as error:
            problems += error.problems
            continue
        if any(path.stem == other.stem for other in found):
            problems.append(f"{path}: expected another name, got one that was there before")
        named = [each.intent for each in scenario.expect.intents]
        named += [each.intent for each in scenario.expect.forbidden]
        named += [each.intent for each in scenario.orchestrator]
        for name in dict.fromkeys(named):
            if name not in known:
                wanted = f"expected one of {', '.join(known)}"
                problems.append(f"{path.name}: {wanted}, got {shown(name)}")
        found[path] = scenario
    if problems:
        raise ConfigError(problems)
    return found


def _one_of(part: Part, keys: tuple[str, ...]) -> Iterator[Mistake]:
    given = [key for key in keys if getattr(part, key) is not None]
    if len(given) != 1:
        got = " and ".join(given) or "none"
        yield "", f"one of {', '.join(keys)}", got


def _pattern(where: str, pattern: str | None) -> Iterator[Mistake]:
    try:
        re.compile(pattern or "")
    except re.error as error:
        yield where, "a pattern of Python's re", f"{shown(pattern)}: {error}"
