"""A fuzzer for what comes over the wires: both decoders of relay.protocol.deepgram, and the policy.

Not part of `make test`: atheris is in no extra. Coverage leads it through our own code; msgspec is
compiled, and opaque to it. CONTRIBUTING.md has the commands. It begins with the recordings of the
real service and one line for each message that a browser must not send.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["relay", "config"]):
    from config.policy import Messages
    from relay.core import message_policy
    from relay.protocol import deepgram, relay_events

DATA = Path(__file__).parents[1] / "sandbox" / "data"
MESSAGES = Messages()
ALLOWED = deepgram.KeepAlive | deepgram.ForceEndTurn | deepgram.InjectUserMessage | relay_events.Own


def check(data: bytes) -> None:
    """Whatever these bytes are, nothing raises and nothing forbidden is let through."""
    for decode in (deepgram.decode_server, deepgram.decode_client):
        message = decode(data)
        if isinstance(message, deepgram.Mended):
            message = message.message
        if not isinstance(message, deepgram.Unknown | deepgram.Malformed):
            again = decode(deepgram.encode(message))
            assert type(again) is type(message), (message, again)
        if isinstance(message, deepgram.Error | deepgram.Warning):
            told = message_policy.for_browser(message)
            assert len(told.description) < 100, told

    message = message_policy.read(data, MESSAGES)
    refused = message_policy.refusal(message, MESSAGES)
    if refused is None:
        assert isinstance(message, ALLOWED), message
        assert types(data) <= {type(message).__name__}
        if isinstance(message, deepgram.InjectUserMessage):
            assert len(message.content) <= 4000
    else:
        assert len(deepgram.encode(refused)) < 1000, refused
    message_policy.is_text(data, MESSAGES)


def types(text: bytes) -> set[str]:
    """All values of `type` that a parser of another make could choose from: a text is passed on as
    it came, so a second one would be a way around the policy. Empty: that parser refuses it."""
    try:
        pairs = json.loads(text.decode(), object_pairs_hook=list, parse_int=str)
    except (UnicodeDecodeError, RecursionError):  # the leg refuses the first of these itself
        return set()
    return {value for name, value in pairs if name == "type"}


def seeds() -> list[bytes]:
    """What the fuzzer starts from: real events, and messages of both directions."""
    texts = []
    for path in sorted((DATA / "recordings").glob("*-events.json")):
        for row in json.loads(path.read_text()):
            if row["type"] not in ("Open", "Close", "Unhandled"):
                texts.append(json.dumps({"type": row["type"]} | row["data"]))
    for line in (DATA / "conversation.jsonl").read_text().splitlines():
        texts += [json.dumps(row["msg"])] if "msg" in (row := json.loads(line)) else []
    for name in [struct.__name__ for struct in deepgram.ClientMessage.__args__]:
        texts.append(json.dumps({"type": name, "prompt": "x", "content": "x", "name": "x"}))
    return [text.encode() for text in texts if len(text) < 4000]


def main() -> None:
    words = [struct.__name__ for struct in deepgram.ServerMessage.__args__]
    words += [struct.__name__ for struct in deepgram.ClientMessage.__args__]
    words += [
        "type",
        "content",
        "functions",
        "prompt",
        "think",
        "agent",
        "\\\\ud800",
        "\\\\u0074ype",
        "null",
    ]
    with tempfile.TemporaryDirectory(prefix="relay-fuzz-") as directory:
        corpus = Path(directory, "corpus")
        corpus.mkdir()
        for number, text in enumerate(seeds()):
            (corpus / f"{number:04}").write_bytes(text)
        tokens = Path(directory, "words")
        tokens.write_text("".join(f'"{word}"\n' for word in sorted(set(words))))
        options = [f"-dict={tokens}", "-max_len=6000", "-timeout=10", *sys.argv[1:]]
        if all(option.startswith("-") for option in sys.argv[1:]):  # else: files to play again
            options.append(str(corpus))
        atheris.Setup([sys.argv[0], *options], check)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
