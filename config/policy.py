"""policy.yaml: what a browser may say and what it may choose.

Every type of message that a client of the Voice Agent API may send has its line. Some are refused
whatever anybody writes: they would put a browser in the place of the server, which alone has the
prompt, the functions and the providers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from config.agent import Agent, Listen, Name, Speakers
from config.validation import Part

LONGEST_TEXT = 20_000  # characters of one typed turn that a file may allow

Refuse = Literal["refuse"]
Allow = Literal["allow", "refuse"]


class Limited(Part, frozen=True):
    """Allowed so often, and with a text so long."""

    per_minute: Annotated[int, Meta(ge=1, le=6000)]
    max_characters: Annotated[int, Meta(ge=1, le=LONGEST_TEXT)] = 4000


Rule = Allow | Limited


def longest_of(rule: Rule) -> int:
    """Characters that a text under this rule may have."""
    if isinstance(rule, Limited):
        return rule.max_characters
    return LONGEST_TEXT if rule == "allow" else 0


class Messages(Part, frozen=True):
    """One line for each type; `unknown` is every type that is not known here.

    `InjectUserMessage` is a typed turn, `InjectAgentMessage` puts words into the agent's mouth.
    """

    KeepAlive: Rule = "allow"
    ForceEndTurn: Rule = "allow"
    InjectUserMessage: Rule = Limited(per_minute=30)
    InjectAgentMessage: Rule = "refuse"
    UpdateListen: Rule = "refuse"
    # Ours, of relay.v1: the answer to the card of a function call.
    RelayConfirm: Allow = "allow"
    RelayCancel: Allow = "allow"
    # And how long it takes until a reply is heard.
    RelayPlayout: Allow = "allow"
    # What can only be refused, and why: the words end a mistake in the file.
    UpdateSpeak: Annotated[
        Refuse, Meta(description="it carries an endpoint; offer voices instead")
    ] = "refuse"
    UpdateThink: Annotated[
        Refuse, Meta(description="it carries prompt, functions and an endpoint")
    ] = "refuse"
    UpdatePrompt: Annotated[Refuse, Meta(description="the prompt is the server's")] = "refuse"
    Settings: Annotated[
        Refuse,
        Meta(description="prompt, functions and providers are the server's; sent once"),
    ] = "refuse"
    FunctionCallResponse: Annotated[
        Refuse, Meta(description="all functions run on the server: only it knows what came of one")
    ] = "refuse"
    unknown: Annotated[Refuse, Meta(description="what it does is not known")] = "refuse"

    def rule(self, kind: str) -> Rule:
        """What holds for messages of this type."""
        found: Rule = getattr(self, kind if kind in self.__struct_fields__ else "unknown")
        return found

    @property
    def longest_text(self) -> int:
        """Bytes that the longest allowed message may have: a character takes up to 12 of them."""
        longest = max(longest_of(self.InjectUserMessage), longest_of(self.InjectAgentMessage))
        return 12 * max(longest, 1000) + 1024


class Abuse(Part, frozen=True):
    """So many refusals within so many seconds end the session, with 1008."""

    refusals: Annotated[int, Meta(ge=1, le=10_000)] = 20
    seconds: Annotated[float, Meta(gt=0, le=3600)] = 60.0


class Shown(Part, frozen=True):
    """What browsers see of an agent beside the conversation; both may be what the model reasons.

    `thinking` is the content of AgentThinking, `unknown` every type that is not known here.
    """

    thinking: bool = False
    unknown: bool = False


class Language(Part, frozen=True):
    """What another language takes; what is left out stays as in agent.yaml."""

    listen: Listen | UnsetType = UNSET
    speak: Speakers | UnsetType = UNSET
    greeting: Name | UnsetType = UNSET
    language: Name | UnsetType = UNSET


Choice = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]


class Policy(Part, frozen=True):
    """policy.yaml. `voices` and `languages` are the names that a client may choose from."""

    messages: Messages = Messages()
    abuse: Abuse = Abuse()
    shown: Shown = Shown()
    voices: dict[Choice, Speakers] = msgspec.field(default_factory=dict)
    languages: dict[Choice, Language] = msgspec.field(default_factory=dict)


def choose(agent: Agent, policy: Policy, voice: str | None, language: str | None) -> Agent:
    """The agent with what was chosen; a chosen voice goes before the one of the language.

    A name that is not offered (any more) changes nothing.
    """
    changed: dict[str, Any] = {}
    if language in policy.languages:
        parts = msgspec.structs.asdict(policy.languages[language])
        changed = {name: part for name, part in parts.items() if part is not UNSET}
    if voice in policy.voices:
        changed["speak"] = policy.voices[voice]
    return msgspec.structs.replace(agent, **changed)


def choice_mistakes(agent: Agent, policy: Policy) -> Iterator[str]:
    """Choices that do not go with the rest of the agent, with their paths."""
    chosen = {f"voices.{name}": choose(agent, policy, name, None) for name in policy.voices}
    chosen |= {f"languages.{name}": choose(agent, policy, None, name) for name in policy.languages}
    for choice, changed in chosen.items():
        for where, wanted, got in changed.mistakes():
            place = f"policy.yaml: $.{choice}: with agent.yaml: {where[1:]}"
            yield f"{place}: expected {wanted}, got {got}"
