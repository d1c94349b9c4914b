"""What may pass between a browser and the agent, and what Settings the agent is given.

Pure. The `agent` section of Settings is ours: prompt, functions and providers never come from a
browser and never reach one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date

import msgspec

from config.loader import Configuration
from config.policy import Messages, choose, longest_of
from relay.core import agent_history, user_context
from relay.core.admitted import Admitted
from relay.core.user_context import UserContext
from relay.protocol import deepgram, relay_events

# What the next agent is told of a call whose own agent was lost before the answer.
STILL_RUNNING = json.dumps({"status": "accepted", "note": "being submitted; do not ask again"})

# What the next agent is told, in the user's name, when the answer to a turn with calls was lost.
ANSWER_AGAIN = (
    "The connection was interrupted before I heard all of your answer. Please give it again, in the"
    " language that we speak. What you have called functions for is done: do not call them again."
)

TOO_LONG = "too long"  # the reason of a text that was not decoded

# Of Settings, in JSON. The agent's own limit is not published; common servers take a megabyte.
LONGEST_SETTINGS = 512 * 1024

# Never wrong to be told, and silent about prompt and configuration.
_SAFE_DESCRIPTIONS = {
    "CLIENT_MESSAGE_TIMEOUT": "the agent heard nothing for too long",
    "MAXIMUM_SESSION_LENGTH_APPROACHING": "the session reaches its maximum length soon",
    "MAXIMUM_SESSION_LENGTH_REACHED": "the session reached its maximum length",
    "SLOW_THINK_REQUEST": "the answer takes longer than usual",
    "SLOW_SPEAK_REQUEST": "the voice takes longer than usual",
    "USER_AUDIO_FORMAT": "the audio does not have the format of the session",
}
# Texts of these types may carry what is not for browsers, so a broken one does not pass either.
PRIVATE = {
    "",
    "AgentThinking",
    "ConversationText",  # not of one of the two who speak: perhaps the prompt
    "Error",
    "Warning",
    "FunctionCallRequest",
    "FunctionCallResponse",
    "FunctionCallCancelled",
    "History",
}


def settings(
    configuration: Configuration,
    admitted: Admitted,
    today: date,
    history: Sequence[deepgram.History],
    context: UserContext,
) -> deepgram.Settings:
    """The Settings of one agent; a conversation with a history is not greeted again.

    Of a long history the newest is told, as far as an agent takes it.
    """
    agent = choose(configuration.agent, configuration.policy, admitted.voice, admitted.language)
    made = configuration.make_settings(
        today,
        admitted.timezone,
        agent=agent,
        audio=admitted.audio,
        context=user_context.in_prompt(context),
    )
    if context.names and agent.context is not None and agent.context.keyterms:
        provider = made["agent"]["listen"]["provider"]
        if terms := user_context.keyterms(provider, context.names):
            provider["keyterms"] = terms
    if context.greeting is not None:
        made["agent"]["greeting"] = context.greeting
    if "tags" in made:
        made["tags"] = [_filled(tag, admitted) for tag in made["tags"]]
    if history or admitted.takeover:
        made["agent"].pop("greeting", None)
    settings = deepgram.Settings(**made)
    room = min(agent_history.LONGEST, LONGEST_SETTINGS - len(deepgram.encode(settings)))
    if lines := agent_history.fit(history, room):
        made["agent"]["context"] = {"messages": [msgspec.to_builtins(line) for line in lines]}
    return settings


def without_greeting(settings: deepgram.Settings) -> deepgram.Settings:
    """The same for an agent of a conversation that has begun."""
    assert isinstance(settings.agent, dict), (
        "not the name of a stored one: it is made of agent.yaml"
    )
    agent = {name: value for name, value in settings.agent.items() if name != "greeting"}
    return msgspec.structs.replace(settings, agent=agent)


def _filled(tag: str, admitted: Admitted) -> str:
    tag = tag.replace("{conversation}", str(admitted.conversation_id))
    return tag.replace("{user}", admitted.user_id)


def read(text: bytes, messages: Messages) -> relay_events.FromBrowser:
    """What a browser says. A text that no allowed message can be so long as is not decoded."""
    if len(text) > messages.longest_text:
        return deepgram.Malformed(type="", reason=TOO_LONG)
    return relay_events.decode_browser(text)


def refusal(
    message: relay_events.FromBrowser, messages: Messages
) -> relay_events.RelayError | None:
    """Why a client may not send this at all; None if it may, as far as the message itself goes.

    How often it may is not known here: `relay.core.rate_limit` asks this first and counts then.
    """
    match message:
        case deepgram.Malformed(reason=reason) if reason == TOO_LONG:
            detail = f"expected a text message of at most {messages.longest_text} bytes"
            return relay_events.RelayError(code="too_long", detail=detail)
        case deepgram.Malformed(type=kind):
            detail = f"{kind or 'the message'}: expected the fields of Deepgram's description"
            return relay_events.RelayError(code="malformed", detail=detail)
        case deepgram.Unknown(type=kind):
            return _not_allowed(kind)
        case (
            deepgram.InjectUserMessage(content=text)
            | deepgram.InjectAgentMessage(message=str(text))
        ):
            pass
        case _:
            text = ""
    kind = type(message).__name__
    rule = messages.rule(kind)
    if rule == "refuse":
        return _not_allowed(kind)
    most = longest_of(rule)
    if len(text) > most:
        detail = f"{kind}: expected at most {most} characters, got {len(text)}"
        return relay_events.RelayError(code="too_long", detail=detail)
    return None


def _not_allowed(kind: str) -> relay_events.RelayError:
    return relay_events.RelayError(
        code="not_allowed", detail=f"{kind[:40]!r} may not be sent by a browser"
    )


def is_text(payload: bytes | memoryview, messages: Messages) -> bool:
    """Whether a binary message is a text one that was sent the wrong way."""
    if len(payload) > messages.longest_text or payload[:1] != b"{" or payload[-1:] != b"}":
        return False
    message = deepgram.decode_client(payload)
    return not (isinstance(message, deepgram.Malformed) and message.type == "")


def for_browser(problem: deepgram.Error | deepgram.Warning) -> deepgram.Error | deepgram.Warning:
    """The same problem with a description that is fit for a browser."""
    description = _SAFE_DESCRIPTIONS.get(problem.code, "the agent reported a problem")
    return msgspec.structs.replace(problem, description=description)
