"""All the files of the configuration folder, together."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from config.agent import OURS, Agent, Audio
from config.errors import ConfigError
from config.intents import IntentsFile, Registry
from config.policy import Policy, choice_mistakes
from config.prompt import LONGEST, LONGEST_CONTEXT, NOTHING_KNOWN, Prompt, load_prompt
from config.scenario import Scenario
from config.validation import json_schema, load_file

_LONG_ZONE = "America/Argentina/ComodRivadavia"  # the longest name there is
_LONG_DAY = datetime.date(2026, 9, 30)  # a Wednesday in September, the longest day to write
_LONG_CONTEXT = "x" * LONGEST_CONTEXT

Loaded = TypeVar("Loaded")


class Configuration(msgspec.Struct, frozen=True):
    """What a conversation designer has written, checked."""

    agent: Agent
    registry: Registry
    prompt: Prompt
    policy: Policy = Policy()

    def make_settings(
        self,
        today: datetime.date,
        time_zone: str = "UTC",
        *,
        agent: Agent | None = None,
        audio: Audio | None = None,
        context: str = NOTHING_KNOWN,
        masked: bool = False,
    ) -> dict[str, Any]:
        """Settings but for their type, with all that is set, of the day where the user is.

        `agent` and `audio` take the place of those in agent.yaml, `context` that of `{context}` in
        the prompt. With `masked`, credentials are stars: for people to read.
        """

        def plain(secret: Any) -> Any:
            return str(secret) if masked else secret.reveal()

        section = msgspec.to_builtins(agent or self.agent, enc_hook=plain)
        for name in OURS:
            del section[name]
        beside = ("audio", "tags", "experimental", "mip_opt_out")
        settings = {name: section.pop(name) for name in beside if name in section}
        if audio is not None:
            settings["audio"] = msgspec.to_builtins(audio)
        prompt = self.prompt.render(
            today=today, time_zone=time_zone, registry=self.registry, context=context
        )
        think = section["think"]
        for thinker in think if isinstance(think, list) else [think]:
            thinker |= {"functions": self.registry.functions(), "prompt": prompt}
        # By some pages `false` takes the context away, too. What it reports is ours to withhold.
        return settings | {"flags": {"history": True}, "agent": section}


def load(config_dir: Path, environ: Mapping[str, str]) -> Configuration:
    """The four files; raises one `ConfigError` with the mistakes of all of them.

    `environ` fills the `${NAME}` references of agent.yaml and policy.yaml.
    """
    problems: list[str] = []
    policy_file = config_dir / "policy.yaml"
    agent = _tried(lambda: load_file(Agent, config_dir / "agent.yaml", environ), problems)
    intents = _tried(lambda: load_file(IntentsFile, config_dir / "intents.yaml"), problems)
    prompt = _tried(lambda: load_prompt(config_dir / "system_prompt.md"), problems)
    policy: Policy | None = Policy()
    if policy_file.exists():
        policy = _tried(lambda: load_file(Policy, policy_file, environ, empty={}), problems)
    if agent is not None and policy is not None:
        problems += choice_mistakes(agent, policy)
    if agent is None or intents is None or prompt is None or policy is None or problems:
        raise ConfigError(problems)
    registry = Registry(intents.intents)
    longest = prompt.render(
        today=_LONG_DAY,
        time_zone=_LONG_ZONE,
        registry=registry,
        context=NOTHING_KNOWN if agent.context is None else _LONG_CONTEXT,
    )
    if agent.context is not None and _LONG_CONTEXT not in longest:
        wanted = "expected {context} somewhere, because agent.yaml asks for it (context)"
        raise ConfigError([f"system_prompt.md: {wanted}, got none; add it"])
    length = len(longest)
    managed = any(think.endpoint is msgspec.UNSET for think in agent.thinkers)
    if managed and length > LONGEST:
        wanted = f"expected at most {LONGEST} characters with all that is filled in"
        raise ConfigError([f"system_prompt.md: {wanted}, got {length}; shorten it"])
    return Configuration(agent, registry, prompt, policy)


def _tried(read: Callable[[], Loaded], problems: list[str]) -> Loaded | None:
    try:
        return read()
    except ConfigError as error:
        problems += error.problems
        return None


def json_schemas() -> dict[str, dict[str, Any]]:
    """JSON Schemas for editors, by file name; a test holds the files against them."""
    shapes = {
        "agent": Agent,
        "intents": IntentsFile,
        "policy": Policy,
        "scenario": Scenario,
    }
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return {f"{name}.schema.json": dialect | json_schema(shape) for name, shape in shapes.items()}


def write_json_schemas(config_dir: Path) -> None:
    """Put the JSON Schemas beside the YAML files; to be done after a change to the structs."""
    for name, schema in json_schemas().items():
        text = json.dumps(schema, indent=2)
        (config_dir / name).write_text(text + "\n", encoding="utf-8")
