"""What voicebench has to know of the Voice Agent API, to talk to an agent or to the relay.

Load tests. It is loaded by voicebench, in an environment that has nothing of ours: referee.py.
"""

from __future__ import annotations

import asyncio
import json

from voicebench.adapters.base import AdapterError, AgentClear, Transcript
from voicebench.adapters.websocket import WebSocketAdapter

AGENT_RATE = 24_000

SETTINGS = {
    "type": "Settings",
    "audio": {
        "input": {"encoding": "linear16", "sample_rate": 16_000},
        "output": {"encoding": "linear16", "sample_rate": AGENT_RATE, "container": "none"},
    },
    "agent": {
        "listen": {"provider": {"type": "deepgram", "model": "nova-3"}},
        "think": {"provider": {"type": "open_ai", "model": "gpt-4o-mini"}, "prompt": "Help."},
        "speak": {"provider": {"type": "deepgram", "model": "aura-2-thalia-en"}},
        "greeting": "Hi! Tell me about a goal, a new task, or something you want to move.",  # ours
    },
}


class DeepgramAdapter(WebSocketAdapter):  # type: ignore[misc]  # not installed beside us
    """voicebench's own adapter, with Settings before the audio and Deepgram's names of events."""

    name = "deepgram"

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        super().__init__(url, agent_sample_rate=AGENT_RATE, headers=headers)
        self._applied = asyncio.Event()

    async def connect(self) -> None:
        await super().connect()
        await self._ws.send(json.dumps(SETTINGS))
        try:
            await asyncio.wait_for(self._applied.wait(), self.connect_timeout_s)
        except TimeoutError:
            raise AdapterError(f"{self.url} did not apply the Settings") from None

    def handle_text(self, message: str, now: float) -> None:
        match json.loads(message):
            case {"type": "SettingsApplied"}:
                self._applied.set()
            case {"type": "UserStartedSpeaking"}:
                self.emit(AgentClear(now))
            case {"type": "ConversationText", "role": "user", "content": text}:
                self.emit(Transcript("user", text, now))
