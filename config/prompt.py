"""system_prompt.md: what the agent is told before a conversation begins.

Text in markdown with the placeholders `{today}`, `{time_zone}`, `{intents}` and `{context}`, which
is what the Orchestrator knows of the user. A brace that is meant as a brace is doubled: `{{` and
`}}`. HTML comments are for the authors and are not sent.
"""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import msgspec

from config.errors import ConfigError, did_you_mean
from config.intents import Intent, Registry
from config.yaml_loader import read_text

PLACEHOLDERS = ("today", "time_zone", "intents", "context")
# Characters. Deepgram cuts off what is over 25,000 for the models that it runs; so many of them are
# kept for what an agent is told later, by prompt updates.
LONGEST_NEWS = 2_000
LONGEST = 25_000 - LONGEST_NEWS
LONGEST_CONTEXT = 4_000  # characters of `{context}`
NOTHING_KNOWN = "Nothing is known of the user yet."

_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}\n]*)\}|[{}]")


class Prompt(msgspec.Struct, frozen=True):
    """A checked text, not yet filled in."""

    text: str

    def __repr__(self) -> str:
        return f"<Prompt {len(self.text)} characters>"

    def render(
        self,
        *,
        today: datetime.date,
        time_zone: str,
        registry: Registry,
        context: str = NOTHING_KNOWN,
    ) -> str:
        """The prompt for one session; `today` is the date where the user is."""
        return self.text.format(
            today=f"{today:%A}, {today.day} {today:%B} {today.year}",
            time_zone=time_zone,
            intents="\n".join(_line(intent) for intent in registry.intents),
            context=context,
        )


def load_prompt(path: Path) -> Prompt:
    """The file; raises `ConfigError` with every mistake."""
    text = _COMMENT.sub(lambda comment: "\n" * comment[0].count("\n"), read_text(path))
    problems = [
        f"{path.name}: line {number}: {problem}"
        for number, line in enumerate(text.split("\n"), start=1)
        for token in _TOKEN.finditer(line)
        if (problem := _problem(token))
    ]
    if not text.strip():
        problems.append(f"{path.name}: expected a prompt, got an empty text")
    if problems:
        raise ConfigError(problems)
    return Prompt(re.sub(r"\n{3,}", "\n\n", text).strip() + "\n")


def _problem(token: re.Match[str]) -> str | None:
    name = token[1]
    if name in PLACEHOLDERS or token[0] in ("{{", "}}"):
        return None
    wanted = "expected one of " + ", ".join(f"{{{each}}}" for each in PLACEHOLDERS)
    if name is None:
        return f"{wanted}, got a single {token[0]}; double a brace that is meant as a brace"
    hint = did_you_mean(name, PLACEHOLDERS) or "; double braces that are meant as braces"
    return f"{wanted}, got {token[0]}{hint}"


def _line(intent: Intent) -> str:
    """One intent as the model reads it: name, function, when, and what it needs."""
    properties: dict[str, object] = intent.parameters.get("properties", {})
    required: list[str] = intent.parameters.get("required", [])
    optional = [name for name in properties if name not in required]
    needs = f" Needs: {', '.join(required)}." if required else ""
    takes = f" May have: {', '.join(optional)}." if optional else ""
    description = " ".join(intent.description.split())
    return f"- {intent.title} (`{intent.function}`): {description}{needs}{takes}"
