"""What the terminal client (cli.py) shows: a conversation for people or for scripts."""

from __future__ import annotations

import re
from typing import Any, TextIO

import click
import msgspec

from control.talk.connection import Event
from relay.protocol import deepgram
from relay.protocol.relay_events import IntentStatus, RelayError, RelayIntent, RelayMessageSaved

# What people read in place of a status.
_WORDS = {
    IntentStatus.AWAITING: "waits to be confirmed in the web client:",
    IntentStatus.CANCELLING: "is being cancelled",
}


class Screen:
    """Bubbles for people, or one JSON object per line for scripts."""

    def __init__(self, out: TextIO, *, as_json: bool) -> None:
        self._out = out
        self._json = as_json

    def show(self, kind: str, line: str, /, *, colour: str | None = None, **fields: Any) -> None:
        """`line` for people (empty: nothing), `kind` and `fields` for scripts; without a colour it
        is by the way."""
        if self._json:
            click.echo(msgspec.json.encode({"event": kind, **fields}).decode(), file=self._out)
        elif line:
            # One line that cannot steer a terminal.
            line = re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", line)
            click.secho(line, file=self._out, fg=colour, dim=None if colour else True)

    def said(self, role: str, content: str, *, earlier: bool = False) -> None:
        name, colour = ("you:  ", "cyan") if role == "user" else ("agent:", "green")
        self.show(
            "message", f"{name} {content}", colour=None if earlier else colour,
            role=role, content=content, earlier=earlier,
        )  # fmt: skip

    def trouble(self, code: str, detail: str) -> None:
        line = f"error: {code}: {detail}" if code else f"error: {detail}"
        self.show("error", line, colour="red", code=code, detail=detail)

    def event(self, event: Event) -> None:
        match event:
            case deepgram.ConversationText(role=role, content=content):
                self.said(role, content)
            case RelayIntent(status=status):
                told = event.arguments if event.result is None else event.result
                shown = told if isinstance(told, str) else msgspec.json.encode(told).decode()
                line = f"intent {event.intent or 'unknown'} {_WORDS.get(status, status)} {shown}"
                if event.taken_back and status is IntentStatus.SUBMITTED:
                    line = f"{line} (taken back too late)"
                colour = "red" if status in ("rejected", "failed") else "magenta"
                self.show("intent", line, colour=colour, **msgspec.structs.asdict(event))
            case deepgram.Error(code=code, description=detail):
                self.trouble(code, detail)
            case RelayError(code=code, detail=detail):
                self.trouble(code, detail)
            case deepgram.Warning(code=code, description=detail):
                line = f"warning: {code}: {detail}"
                self.show("warning", line, colour="yellow", code=code, detail=detail)
            case deepgram.InjectionRefused(message=detail):
                self.show("refused", f"refused: {detail}", colour="yellow", detail=detail)
            case RelayMessageSaved(seq=seq, message_id=message_id, role=role):
                self.show("saved", "", seq=seq, message_id=message_id, role=role)
