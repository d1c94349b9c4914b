"""agent.yaml: who listens, thinks and speaks, and in which audio.

The structs are the fields of the Voice Agent API's Settings, no more and no less, because Deepgram
refuses a session over a field that it does not know; only those of `OURS` are ours. What is not set
is not sent. The prompt and the functions are not here: they come from system_prompt.md and
intents.yaml.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal
from urllib.parse import parse_qs, urlsplit

import msgspec
from msgspec import UNSET, Meta, UnsetType

from config.env_types import Secret
from config.errors import shown
from config.validation import NOT_EMPTY, PATH, Mistake, Part

Name = Annotated[str, Meta(pattern=NOT_EMPTY)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
CountOrOff = Annotated[int, Meta(ge=0)]
_TIMEOUT = "seconds from the dial that an agent waits for the answer"

RATES: Mapping[str, tuple[int, ...]] = {
    "linear16": (8000, 16000, 24000, 32000, 44100, 48000),
    "mulaw": (8000, 16000),
    "alaw": (8000, 16000),
}
"""Sample rates of the agent's plain audio; Deepgram lists none for the other encodings."""
FLUX_RATE = 44100  # listed for Flux voices only

# Over these Deepgram refuses the connection. A word is a token or more, so that so many words are
# too many in any case; fewer may be.
FLUX_KEYTERMS = 100  # terms
NOVA_KEYTERMS = 500  # tokens


# --- audio --------------------------------------------------------------------------------------


class AudioInput(Part, frozen=True):
    """What the browser's microphone sends; a browser may ask for another at session start."""

    encoding: Literal[
        "linear16", "linear32", "flac", "alaw", "mulaw", "amr-nb", "amr-wb", "opus", "ogg-opus",
        "speex", "g729",
    ] = "linear16"  # fmt: skip
    sample_rate: Annotated[int, Meta(ge=8000, le=192000)] = 16000

    def mistakes(self) -> Iterator[Mistake]:
        fixed = {"amr-nb": 8000, "amr-wb": 16000}.get(self.encoding, self.sample_rate)
        if self.sample_rate != fixed:
            yield ".sample_rate", f"{fixed} for {self.encoding}", self.sample_rate


class AudioOutput(Part, frozen=True):
    """What the agent's voice arrives as."""

    encoding: Literal["linear16", "mulaw", "alaw", "mp3", "opus", "flac", "aac"] = "linear16"
    sample_rate: Annotated[int, Meta(ge=8000, le=48000)] = 24000
    bitrate: Annotated[int, Meta(gt=0)] | UnsetType = UNSET
    container: Literal["none", "wav", "ogg"] = "none"

    def mistakes(self) -> Iterator[Mistake]:
        rates = RATES.get(self.encoding)
        if rates and self.sample_rate not in rates:
            wanted = " or ".join(map(str, rates))
            yield ".sample_rate", f"{wanted} for {self.encoding}", self.sample_rate
        if rates and self.bitrate is not UNSET:
            wanted = "no bitrate (it is for mp3, opus, flac and aac)"
            yield ".bitrate", f"{wanted} with {self.encoding}", self.bitrate
        if self.container == "ogg" and self.encoding != "opus":
            yield ".container", f"none (ogg is for opus) with {self.encoding}", "ogg"
        if self.container == "wav" and rates is None:
            wanted = "none (wav is for linear16, mulaw and alaw)"
            yield ".container", f"{wanted} with {self.encoding}", "wav"


class Audio(Part, frozen=True):
    input: AudioInput = AudioInput()
    output: AudioOutput = AudioOutput()


# --- listen -------------------------------------------------------------------------------------


class ListenV1(Part, frozen=True, tag_field="version", tag="v1"):
    """Speech to text by the nova models."""

    type: Literal["deepgram"]
    model: Name | UnsetType = UNSET
    language: Name | UnsetType = UNSET
    smart_format: bool | UnsetType = UNSET
    keyterms: list[Name] | UnsetType = UNSET

    def mistakes(self) -> Iterator[Mistake]:
        if self.model is not UNSET and self.model.startswith("flux"):
            yield ".version", f'"v2" for {self.model}', '"v1"'
        words = len(" ".join(self.keyterms or []).split())
        if words > NOVA_KEYTERMS:
            yield ".keyterms", f"at most {NOVA_KEYTERMS} words in all", words


class ListenV2(Part, frozen=True, tag_field="version", tag="v2"):
    """Speech to text by the flux models, which find the end of a turn themselves."""

    type: Literal["deepgram"]
    model: Name
    language_hints: list[Name] | UnsetType = UNSET
    eot_threshold: Annotated[float, Meta(ge=0.5, le=1)] | UnsetType = UNSET
    eager_eot_threshold: Annotated[float, Meta(ge=0.3, le=0.9)] | UnsetType = UNSET
    eot_timeout_ms: Annotated[int, Meta(ge=500, le=60000)] | UnsetType = UNSET
    keyterms: list[Name] | UnsetType = UNSET

    def mistakes(self) -> Iterator[Mistake]:
        if not self.model.startswith("flux"):
            yield ".version", f'"v1" for {self.model}', '"v2"'
        if len(self.keyterms or []) > FLUX_KEYTERMS:
            yield ".keyterms", f"at most {FLUX_KEYTERMS} terms", len(self.keyterms or [])
        if self.language_hints is not UNSET and self.model != "flux-general-multi":
            yield ".language_hints", "no hints (only with flux-general-multi)", self.model
        eot = 0.7 if self.eot_threshold is UNSET else self.eot_threshold
        if self.eager_eot_threshold is not UNSET and self.eager_eot_threshold > eot:
            wanted = f"at most eot_threshold ({eot})"
            yield ".eager_eot_threshold", wanted, self.eager_eot_threshold


class Listen(Part, frozen=True):
    provider: ListenV1 | ListenV2


# --- think --------------------------------------------------------------------------------------


class Endpoint(Part, frozen=True):
    """Somebody else's API; write secrets as ${NAME of an environment variable}."""

    url: Name
    headers: dict[str, Secret] = msgspec.field(default_factory=dict)


class Credentials(Part, frozen=True):
    """Of AWS; write them as ${NAME of an environment variable}."""

    type: Literal["sts", "iam"]
    region: Name
    access_key_id: Secret
    secret_access_key: Secret
    session_token: Secret | UnsetType = UNSET

    def mistakes(self) -> Iterator[Mistake]:
        if self.type == "sts" and self.session_token is UNSET:
            yield ".session_token", "a text (sts needs it)", "nothing"


class ThinkModel(Part, frozen=True):
    """What is said of a language model, whoever runs it."""

    model: Name
    temperature: Temperature | UnsetType = UNSET


class OpenAiThink(ThinkModel, frozen=True, tag_field="type", tag="open_ai"):
    version: Literal["v1"] | UnsetType = UNSET
    reasoning_mode: Literal["none", "minimal", "low", "medium", "high"] | UnsetType = UNSET


class GroqThink(OpenAiThink, frozen=True, tag="groq"): ...


class AnthropicThink(ThinkModel, frozen=True, tag_field="type", tag="anthropic"):
    version: Literal["v1"] | UnsetType = UNSET
    temperature: Annotated[float, Meta(ge=0, le=1)] | UnsetType = UNSET


class GoogleThink(ThinkModel, frozen=True, tag_field="type", tag="google"):
    version: Literal["v1beta", "ai-studio-v1beta", "gemini-enterprise-agent-v1"] | UnsetType = UNSET


class BedrockThink(ThinkModel, frozen=True, kw_only=True, tag_field="type", tag="aws_bedrock"):
    credentials: Credentials


class NvidiaThink(ThinkModel, frozen=True, tag_field="type", tag="nvidia"): ...


class DeepgramThink(OpenAiThink, frozen=True, tag="deepgram"):
    """Deepgram's own models: early access, and not at its regional hosts."""

    voice_prompt_opt_out: bool | UnsetType = UNSET


class Think(Part, frozen=True):
    """A language model. Without `endpoint` Deepgram runs or pays for it, but for two of them."""

    provider: (
        OpenAiThink
        | AnthropicThink
        | GoogleThink
        | GroqThink
        | BedrockThink
        | NvidiaThink
        | DeepgramThink
    )
    endpoint: Endpoint | UnsetType = UNSET
    context_length: Literal["max"] | Annotated[int, Meta(gt=0)] | UnsetType = UNSET

    def mistakes(self) -> Iterator[Mistake]:
        if self.endpoint is UNSET and isinstance(self.provider, GroqThink | BedrockThink):
            yield ".endpoint", "a mapping with url and headers", "nothing"
        if self.context_length is not UNSET and self.endpoint is UNSET:
            wanted = "no context_length (only with an endpoint of your own)"
            yield ".context_length", wanted, self.context_length
        if self.endpoint is not UNSET and urlsplit(self.endpoint.url).scheme != "https":
            yield ".endpoint.url", "a URL that begins with https://", "another"


class ThinkLiveProvider(Part, frozen=True):
    type: Literal["deepgram"]
    version: Literal["v1"]
    agent_backchannel_sensitivity: Annotated[float, Meta(ge=0)] | UnsetType = UNSET
    presence_check_max_count: CountOrOff | UnsetType = UNSET
    presence_check_interval_ms: CountOrOff | UnsetType = UNSET
    frustration_max_count: CountOrOff | UnsetType = UNSET
    restricted_terms: list[Name] | UnsetType = UNSET


class ThinkLive(Part, frozen=True):
    """By invitation only: Deepgram refuses it from other projects."""

    provider: ThinkLiveProvider


# --- speak --------------------------------------------------------------------------------------


class DeepgramSpeak(Part, frozen=True, tag_field="type", tag="deepgram"):
    """Aura voices (version v1) or Flux voices (v2)."""

    model: Name
    version: Literal["v1", "v2"] | UnsetType = UNSET
    speed: Annotated[float, Meta(ge=0.5, le=1.5)] | UnsetType = UNSET
    expressivity: Annotated[int, Meta(ge=-2, le=2)] | UnsetType = UNSET

    @property
    def is_flux(self) -> bool:
        return self.model.startswith("flux")

    def mistakes(self) -> Iterator[Mistake]:
        version = "v1" if self.version is UNSET else self.version
        wanted = "v2" if self.is_flux else "v1"
        if version != wanted:
            yield ".version", f'"{wanted}" for {self.model}', f'"{version}"'
        # Any other speed ends the session when the agent begins to speak.
        if self.speed is not UNSET and self.is_flux and round(20 * self.speed, 6) % 1:
            yield ".speed", "a number in steps of 0.05", self.speed
        if self.speed is not UNSET and not self.is_flux and self.speed < 0.7:
            yield ".speed", "a number from 0.7 to 1.5 for Aura voices", self.speed
        if not self.is_flux and self.expressivity is not UNSET:
            yield ".expressivity", "no expressivity (Flux voices have it)", self.model


class ElevenLabsSpeak(Part, frozen=True, tag_field="type", tag="eleven_labs"):
    model_id: Name
    version: Literal["v1"] | UnsetType = UNSET
    language: Name | UnsetType = UNSET


class CartesiaVoice(Part, frozen=True):
    mode: Name
    id: Name


class CartesiaSpeak(Part, frozen=True, tag_field="type", tag="cartesia"):
    model_id: Name
    voice: CartesiaVoice
    version: Literal["2025-03-17"] | UnsetType = UNSET
    language: Name | UnsetType = UNSET
    volume: Annotated[float, Meta(ge=0.5, le=2)] | UnsetType = UNSET


class OpenAiSpeak(Part, frozen=True, tag_field="type", tag="open_ai"):
    model: Literal["tts-1", "tts-1-hd"]
    voice: Name
    version: Literal["v1"] | UnsetType = UNSET


class PollySpeak(Part, frozen=True, tag_field="type", tag="aws_polly"):
    voice: Name
    language: Name
    engine: Literal["generative", "long-form", "standard", "neural"]
    credentials: Credentials


class Speak(Part, frozen=True):
    """A voice. Every provider but Deepgram and Cartesia needs an `endpoint`."""

    provider: DeepgramSpeak | ElevenLabsSpeak | CartesiaSpeak | OpenAiSpeak | PollySpeak
    endpoint: Endpoint | UnsetType = UNSET

    @property
    def is_flux(self) -> bool:
        return isinstance(self.provider, DeepgramSpeak) and self.provider.is_flux

    def mistakes(self) -> Iterator[Mistake]:
        if self.endpoint is UNSET:
            if not isinstance(self.provider, DeepgramSpeak | CartesiaSpeak):
                yield ".endpoint", "a mapping with url and headers", "nothing"
            return
        url = urlsplit(self.endpoint.url)
        eleven_labs = isinstance(self.provider, ElevenLabsSpeak)
        schemes = ("https", "wss") if eleven_labs else ("https",)
        if url.scheme not in schemes:
            wanted = " or ".join(f"{scheme}://" for scheme in schemes)
            yield ".endpoint.url", f"a URL that begins with {wanted}", "another"
        taken = parse_qs(url.query, keep_blank_values=True).keys() & {"output_format", "model_id"}
        if eleven_labs and taken:
            wanted = "a URL without output_format and model_id"
            yield ".endpoint.url", wanted, " and ".join(sorted(taken))


Thinkers = Think | Annotated[list[Think], Meta(min_length=1)]
Speakers = Speak | Annotated[list[Speak], Meta(min_length=1)]

OURS = ("context", "events", "redial_sound")  # fields that Settings have not, or another one

# --- the whole ----------------------------------------------------------------------------------


class Context(Part, frozen=True):
    """What is asked of the Orchestrator about the user, while an agent is dialled."""

    path: Annotated[str, Meta(pattern=PATH, description="put behind ORCHESTRATOR_URL")]
    timeout: Annotated[float, Meta(gt=0, le=5, description=_TIMEOUT)] = 0.5
    keyterms: Annotated[bool, Meta(description="are the names told to the recognition?")] = True


class Events(Part, frozen=True):
    """What the Orchestrator is told: `conversation.ended`, when a session has ended."""

    path: Annotated[str, Meta(pattern=PATH, description="put behind ORCHESTRATOR_URL")]
    messages: Annotated[bool, Meta(description="is it told what was said, or only where?")] = True


class Agent(Part, frozen=True):
    """agent.yaml. A list under `think` or `speak` is tried from the top down. `redial_sound` is
    ours: a tone for the browser while a lost agent is dialled again for more than 1.5 s."""

    listen: Listen
    think: Thinkers
    speak: Speakers | UnsetType = UNSET
    think_live: ThinkLive | UnsetType = UNSET
    greeting: Name | UnsetType = UNSET
    language: Name | UnsetType = UNSET
    audio: Audio = Audio()
    tags: list[Name] | UnsetType = UNSET
    experimental: bool | UnsetType = UNSET
    mip_opt_out: bool | UnsetType = UNSET
    redial_sound: Literal["off", "on"] = "off"
    context: Context | None = None
    events: Events | None = None

    @property
    def thinkers(self) -> Sequence[Think]:
        return self.think if isinstance(self.think, list) else [self.think]

    @property
    def speakers(self) -> Sequence[Speak]:
        if self.speak is UNSET:
            return []
        return self.speak if isinstance(self.speak, list) else [self.speak]

    def mistakes(self) -> Iterator[Mistake]:
        for at, tag in enumerate(self.tags or []):
            for name in set(re.findall(r"\{[^}]*\}", tag)) - {"{user}", "{conversation}"}:
                yield f".tags[{at}]", "{user} or {conversation} in braces", name
        if self.language is not UNSET and isinstance(self.listen.provider, ListenV2):
            wanted = "no language with flux listening (remove it)"
            yield ".language", wanted, shown(self.language)
        if self.mip_opt_out is True and any(
            isinstance(think.provider, DeepgramThink) and think.provider.model == "think-fast"
            for think in self.thinkers
        ):
            yield ".mip_opt_out", "false with the model think-fast", "true"
        yield from _voice_mistakes(self, self.audio.output)


def audio_mistakes(agent: Agent, audio: Audio) -> list[str]:
    """Why this agent cannot speak in this audio; empty if it can.

    For audio that a browser asks for: its own rules first, then those of the agent's voices.
    """
    parts = ((".audio.input", audio.input), (".audio.output", audio.output))
    own = [
        (place + where, wanted, got)
        for place, part in parts
        for where, wanted, got in part.mistakes()
    ]
    found = [*own, *_voice_mistakes(agent, audio.output)]
    return [f"{where[1:]}: expected {wanted}, got {got}" for where, wanted, got in found]


def _voice_mistakes(agent: Agent, output: AudioOutput) -> Iterator[Mistake]:
    if output.sample_rate == FLUX_RATE and not all(speak.is_flux for speak in agent.speakers):
        yield ".audio.output.sample_rate", f"another than {FLUX_RATE} (Flux voices)", FLUX_RATE
    if output.encoding in RATES and output.container == "none":
        return
    wanted = "linear16, mulaw or alaw in no container"
    got = f"{output.encoding} in container {output.container}"
    if not agent.speakers or any(speak.is_flux for speak in agent.speakers):
        yield ".audio.output", f"{wanted} for Flux", got
    elif any(not isinstance(speak.provider, DeepgramSpeak) for speak in agent.speakers):
        yield ".audio.output", wanted, got
