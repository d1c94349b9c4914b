"""What the terminal client (cli.py) shows: a conversation for people or for scripts."""

from __future__ import annotations

import re
from typing import Any, TextIO

import msgspec

from control.talk.events import Event, RelayError, RelayIntent, RelayMessageSaved
from relay.protocol import deepgram


class Screen:
    """Bubbles for people, or one JSON object per line for scripts."""

    def __init__(self, out: TextIO, *, as_json: bool) -> None:
        self._out = out
        self._json = as_json
        self._colour = not as_json and out.isatty()

    def show(self, kind: str, line: str, /, *, colour: str = "", **fields: Any) -> None:
        """`line` for people (empty: nothing), `kind` and `fields` for scripts."""
        if self._json:
            print(msgspec.json.encode({"event": kind, **fields}).decode(), file=self._out)
        elif line:
            line = printable(line)
            print(
                f"\x1b[{colour}m{line}\x1b[0m" if colour and self._colour else line, file=self._out
            )
        self._out.flush()

    def said(self, role: str, content: str, *, earlier: bool = False) -> None:
        name = "you:  " if role == "user" else "agent:"
        colour = "2" if earlier else ("36" if role == "user" else "32")
        self.show(
            "message", f"{name} {content}", colour=colour, role=role, content=content,
            earlier=earlier,
        )  # fmt: skip

    def trouble(self, code: str, detail: str) -> None:
        line = f"error: {code}: {detail}" if code else f"error: {detail}"
        self.show("error", line, colour="31", code=code, detail=detail)

    def note(self, kind: str, line: str, /, **fields: Any) -> None:
        self.show(kind, line, colour="2", **fields)

    def event(self, event: Event) -> None:
        match event:
            case deepgram.ConversationText(role=role, content=content):
                self.said(role, content)
            case RelayIntent():
                self._intent(event)
            case deepgram.Error(code=code, description=detail) | RelayError(code, detail):
                self.trouble(code, detail)
            case deepgram.Warning(code=code, description=detail):
                self.show(
                    "warning", f"warning: {code}: {detail}", colour="33", code=code, detail=detail
                )
            case deepgram.InjectionRefused(message=detail):
                self.show("refused", f"refused: {detail}", colour="33", detail=detail)
            case RelayMessageSaved(seq, message_id, role):
                self.note("saved", "", seq=seq, message_id=message_id, role=role)
            case _:
                pass

    def _intent(self, event: RelayIntent) -> None:
        told = event.arguments if event.result is None else event.result
        shown = told if isinstance(told, str) else msgspec.json.encode(told).decode()
        colour = "31" if event.status in ("rejected", "failed") else "35"
        line = f"intent {event.intent or 'unknown'} {event.status} {shown}"
        fields = msgspec.structs.asdict(event)
        self.show("intent", line, colour=colour, **fields)


def printable(text: str) -> str:
    """One line that cannot steer a terminal."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", text)
