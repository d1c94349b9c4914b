"""policy.yaml: what a browser may say and what it may choose.

Every type of message that a client of the Voice Agent API may send has its line. Some are refused
whatever anybody writes: they would put a browser in the place of the server, which alone has the
prompt, the functions and the providers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from config.agent import Agent, Listen, Name, Speak, audio_mistakes, language_mistakes
from config.errors import ConfigError, shown
from config.validation import build
from config.yaml_loader import read_document

LONGEST_TEXT = 20_000  # characters of one typed turn that a file may allow

Refuse = Literal["refuse"]
Allow = Literal["allow", "refuse"]

# Why a line can only say `refuse`; the words end a mistake in the file.
NEVER = {
    "Settings": "prompt, functions and providers are the server's, and Settings are sent once",
    "UpdatePrompt": "the prompt is the server's",
    "UpdateThink": "it carries prompt, functions and an endpoint",
    "UpdateSpeak": "it carries an endpoint; offer voices instead",
    "FunctionCallResponse": "all functions run on the server: only it knows what came of one",
    "unknown": "what it does is not known",
}


class _Part(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=False
):
    """A mapping in the file."""


class Limited(_Part, frozen=True):
    """Allowed so often, and with a text so long."""

    per_minute: Annotated[int, Meta(ge=1, le=6000)]
    max_characters: Annotated[int, Meta(ge=1, le=LONGEST_TEXT)] = 4000


Rule = Allow | Limited


def longest_of(rule: Rule) -> int:
    """Characters that a text under this rule may have."""
    if isinstance(rule, Limited):
        return rule.max_characters
    return LONGEST_TEXT if rule == "allow" else 0


class Messages(_Part, frozen=True):
    """One line for each type; `unknown` is every type that is not known here.

    `InjectUserMessage` is a typed turn, `InjectAgentMessage` puts words into the agent's mouth.
    """

    KeepAlive: Rule = "allow"
    ForceEndTurn: Rule = "allow"
    InjectUserMessage: Rule = Limited(per_minute=30)
    InjectAgentMessage: Rule = "refuse"
    UpdateListen: Rule = "refuse"
    UpdateSpeak: Refuse = "refuse"
    UpdateThink: Refuse = "refuse"
    UpdatePrompt: Refuse = "refuse"
    Settings: Refuse = "refuse"
    FunctionCallResponse: Refuse = "refuse"
    unknown: Refuse = "refuse"

    def rule(self, kind: str) -> Rule:
        """What holds for messages of this type."""
        found: Rule = getattr(self, kind if kind in self.__struct_fields__ else "unknown")
        return found

    @property
    def longest_text(self) -> int:
        """Bytes that the longest allowed message may have: a character takes up to 12 of them."""
        longest = max(longest_of(self.InjectUserMessage), longest_of(self.InjectAgentMessage))
        return 12 * max(longest, 1000) + 1024


class Abuse(_Part, frozen=True):
    """So many refusals within so many seconds end the session, with 1008."""

    refusals: Annotated[int, Meta(ge=1, le=10_000)] = 20
    seconds: Annotated[float, Meta(gt=0, le=3600)] = 60.0


class Language(_Part, frozen=True):
    """What another language takes; what is left out stays as in agent.yaml."""

    listen: Listen | UnsetType = UNSET
    speak: Speak | Annotated[list[Speak], Meta(min_length=1)] | UnsetType = UNSET
    greeting: Name | UnsetType = UNSET
    language: Name | UnsetType = UNSET


NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
Choice = Annotated[str, Meta(pattern=NAME)]


class Policy(_Part, frozen=True):
    """policy.yaml. `voices` and `languages` are the names that a client may choose from."""

    messages: Messages = Messages()
    abuse: Abuse = Abuse()
    voices: dict[Choice, Speak | Annotated[list[Speak], Meta(min_length=1)]] = {}
    languages: dict[Choice, Language] = {}

    def mistakes(self) -> Iterator[tuple[str, str]]:
        for where, names in (("voices", self.voices), ("languages", self.languages)):
            for name in names:
                if not re.search(NAME, name):
                    yield f".{where}", f"expected names like {NAME}, got {shown(name)}"


def choose(agent: Agent, policy: Policy, voice: str | None, language: str | None) -> Agent:
    """The agent with what was chosen; a chosen voice goes before the one of the language.

    A name that is not offered (any more) changes nothing.
    """
    changed: dict[str, Any] = {}
    if language in policy.languages:
        parts = policy.languages[language]
        given = ((name, getattr(parts, name)) for name in parts.__struct_fields__)
        changed = {name: part for name, part in given if part is not UNSET}
    if voice in policy.voices:
        changed["speak"] = policy.voices[voice]
    return msgspec.structs.replace(agent, **changed)


def load_policy(path: Path, environ: Mapping[str, str] | None = None) -> Policy:
    """The file, with `${NAME}` taken from `environ`; raises `ConfigError` with every mistake.

    Without the file everything has its default.
    """
    if not path.exists():
        return Policy()
    values, problems = read_document(path)
    policy, mistakes = build(Policy, {} if values is None else values, environ or {})
    problems += [f"{path.name}: {_explained(mistake)}" for mistake in mistakes]
    if problems or policy is None:
        raise ConfigError(problems)
    return policy


def _explained(mistake: str) -> str:
    where = mistake.partition(": ")[0].removeprefix("$.messages.")
    return f"{mistake} ({NEVER[where]})" if where in NEVER else mistake


def choice_mistakes(agent: Agent, policy: Policy) -> Iterator[str]:
    """Choices that do not go with the rest of the agent, with their paths."""
    for name in policy.voices:
        for mistake in _mistakes(choose(agent, policy, name, None)):
            yield f"policy.yaml: $.voices.{name}: with agent.yaml: {mistake}"
    for name in policy.languages:
        for mistake in _mistakes(choose(agent, policy, None, name)):
            yield f"policy.yaml: $.languages.{name}: with agent.yaml: {mistake}"


def _mistakes(agent: Agent) -> Iterator[str]:
    yield from audio_mistakes(agent, agent.audio)
    yield from (f"{where}: {text}" for where, text in language_mistakes(agent))
