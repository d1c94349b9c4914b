"""The sound of both sides of a session: what the files have, and that nobody else has them."""

from __future__ import annotations

import asyncio
import stat
import time
import wave
from contextlib import asynccontextmanager
from uuid import UUID

import pytest

from config.agent import Audio, AudioInput, AudioOutput
from config.limits import Limits
from config.policy import Policy
from relay.core.admitted import Admitted
from relay.core.beginning import Beginning
from relay.core.records import SessionEnded
from relay.recorder import audio_recorder
from relay.recorder.audio_recorder import AudioRecorder
from relay.recorder.recorder import Bounds, Recorder
from relay.telemetry.metrics import Metrics
from tests.disk import fill_up, mounted
from tests.relay.conftest import BEGAN
from tests.relay.recorder.conftest import BOUNDS, lines
from tests.relay.recorder.test_sound import SILENT, read_ogg
from tests.relay.wires import agent_and_relay, next_event

FRAME = 640  # bytes: 20 ms of a browser
VOICE = b"".join(n.to_bytes(2, "little") for n in range(1, 32_001))  # no sample twice; 2 s
REPLY = b"".join(n.to_bytes(2, "little") for n in range(40_000, 64_000))  # 1 s of an agent


class Clock:
    """The time of the files, `ahead` of the real one: what takes seconds to hear does not here."""

    ahead = 0.0

    def __call__(self):
        return time.monotonic() + self.ahead


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(audio_recorder, "monotonic", clock)
    return clock


@pytest.fixture
def sounding(tmp_path):
    """An agent and a relay that records the audio of sessions that agreed."""

    @asynccontextmanager
    async def record(*, agrees=True, most=1 << 24, audio=None, **options):
        metrics = Metrics()
        sound = AudioRecorder(tmp_path, most, metrics)
        recorder = Recorder(tmp_path, BOUNDS, metrics, audio=sound)
        with recorder.running():
            async with agent_and_relay(
                watches=[recorder.watch], listen=recorder.listen, **options
            ) as (agent, relay):
                relay.admitted = {"record_audio": agrees, "audio": audio or Audio()}
                yield agent, relay, recorder

    return record


def find(directory, side):
    (path,) = directory.glob(f"*/*.{side}.*")
    return path


def read(path):
    with wave.open(str(path)) as file:
        return file.readframes(file.getnframes()), file.getframerate()


async def hear(browser, size):
    """So many bytes of audio."""
    heard = b""
    async with asyncio.timeout(5):
        while len(heard) < size:
            frame = await browser.recv()
            heard += frame if isinstance(frame, bytes) else b""
    return heard


async def speak(browser, agent, data=VOICE):
    for n in range(0, len(data), FRAME):
        await browser.send(data[n : n + FRAME])
    await agent.until(lambda: b"".join(agent.audio).endswith(data))


async def test_both_sides_are_in_their_files_which_are_as_long_as_the_session(
    sounding, clock, tmp_path
):
    async with sounding() as (agent, relay, _):
        async with relay.attach() as browser:
            await next_event(browser, "SettingsApplied")
            clock.ahead += 2.0
            await speak(browser, agent)
            await agent.connections[-1].send(REPLY[:10_001])
            await agent.connections[-1].send(REPLY[10_001:])
            assert await hear(browser, len(REPLY)) == REPLY
            clock.ahead += 3.0
        await relay.until(SessionEnded)

    (user, rate), (said, agent_rate) = read(find(tmp_path, "user")), read(find(tmp_path, "agent"))
    first, *_, last = lines(tmp_path)
    lasted = last["relay"]["at"] - first["payload"]["now"] + clock.ahead
    assert abs(len(user) / 2 / rate - lasted) < 0.05
    assert abs(len(said) / 2 / agent_rate - lasted) < 0.05
    # The user said it until 2 s and a little, and then was answered.
    assert user.strip(b"\0") == VOICE.strip(b"\0")
    assert said.strip(b"\0") == REPLY.strip(b"\0")
    spoken_until = (user.index(VOICE) + len(VOICE)) / 2 / rate
    answered = said.index(REPLY) / 2 / agent_rate
    assert 1.99 < spoken_until <= answered + 0.05 < lasted - 3.0 + 0.05
    for side in ("user", "agent"):
        assert stat.S_IMODE(find(tmp_path, side).stat().st_mode) == 0o600


async def test_of_a_reply_that_was_interrupted_there_is_what_was_heard(sounding, clock, tmp_path):
    async with sounding() as (agent, relay, recorder):
        async with relay.attach() as browser:
            await next_event(browser, "SettingsApplied")
            await agent.connections[-1].send(REPLY)
            await hear(browser, len(REPLY))
            recorder.write()  # it may be in the file already
            clock.ahead += 0.5
            await agent.say(type="UserStartedSpeaking")
            await next_event(browser, "UserStartedSpeaking")
            clock.ahead += 2.0
        await relay.until(SessionEnded)

    said = read(find(tmp_path, "agent"))[0].strip(b"\0")
    assert REPLY.startswith(said)
    assert 0.45 < len(said) / 2 / 24_000 < 0.95
    assert len(said) < len(REPLY)


async def test_who_comes_back_is_recorded_as_before(sounding, clock, tmp_path):
    limits = Limits(grace_seconds=30.0, ping_seconds=5.0, audio_speed=0)
    async with sounding(limits=limits) as (agent, relay, _):
        browser = await relay.attach()
        ticket = (await next_event(browser, "RelaySession"))["resume_ticket"]
        await next_event(browser, "SettingsApplied")
        browser.transport.abort()
        async with relay.attach(
            relay.session_id, received=1, subprotocols=["relay.v1", ticket]
        ) as browser:
            await next_event(browser, "RelaySession")
            await speak(browser, agent)
            await agent.connections[-1].send(REPLY)
            await hear(browser, len(REPLY))
            clock.ahead += 3.0
        await relay.until(SessionEnded)

    assert VOICE in read(find(tmp_path, "user"))[0]
    assert REPLY in read(find(tmp_path, "agent"))[0]


async def test_who_did_not_agree_is_not_recorded(sounding, tmp_path):
    async with sounding(agrees=False) as (agent, relay, _):
        async with relay.attach() as browser:
            await next_event(browser, "SettingsApplied")
            await speak(browser, agent)
        await relay.until(SessionEnded)

    assert [path.suffix for path in tmp_path.glob("*/*")] == [".ndjson"]


async def test_packets_of_opus_are_in_an_ogg_file_in_their_order(sounding, clock, tmp_path):
    audio = Audio(input=AudioInput(encoding="opus", sample_rate=16000))
    packets = [b"\x08" + bytes([n]) * 50 for n in range(1, 101)]
    async with sounding(audio=audio) as (agent, relay, _):
        async with relay.attach() as browser:
            await next_event(browser, "SettingsApplied")
            clock.ahead += 3.0
            for packet in packets:
                await browser.send(packet)
            await agent.until(lambda: len(agent.audio) == len(packets))
            clock.ahead += 1.0
        await relay.until(SessionEnded)

    pages = read_ogg(find(tmp_path, "user").read_bytes())
    stored = [packet for *_, page in pages[2:] for packet in page]
    assert [packet for packet in stored if packet != SILENT] == packets
    seconds = len(read(find(tmp_path, "agent"))[0]) / 2 / 24_000
    assert abs(pages[-1][1] / 48_000 - seconds) <= 0.021
    assert pages[-1][1] == 960 * len(stored)


async def test_a_telephone_is_recorded_as_it_sounds(sounding, clock, tmp_path):
    audio = Audio(
        input=AudioInput(encoding="mulaw", sample_rate=8000),
        output=AudioOutput(encoding="alaw", sample_rate=8000),
    )
    async with sounding(audio=audio) as (agent, relay, _):
        async with relay.attach() as browser:
            await next_event(browser, "SettingsApplied")
            await speak(browser, agent, bytes(range(160)) * 4)
            await agent.connections[-1].send(bytes(range(100)))
            await hear(browser, 100)
            clock.ahead += 1.0
        await relay.until(SessionEnded)

    user, said = (find(tmp_path, side).read_bytes()[58:] for side in ("user", "agent"))
    assert user.strip(b"\xff") == (bytes(range(160)) * 4).strip(b"\xff")
    assert said.strip(b"\xd5") == bytes(range(100))


async def test_what_was_erased_stays_away_while_the_session_goes_on(sounding, tmp_path):
    async with sounding() as (agent, relay, recorder):
        async with relay.attach() as browser:
            await next_event(browser, "SettingsApplied")
            await speak(browser, agent)
            (folder,) = (
                tmp_path.iterdir() if any(tmp_path.iterdir()) else _written(recorder, tmp_path)
            )
            assert recorder.erase([UUID(folder.name)]) == 1
            assert not folder.exists()
            await speak(browser, agent)
        await relay.until(SessionEnded)

    assert not list(tmp_path.glob("*/*.wav"))


def _written(recorder, directory):
    recorder.write()
    return directory.iterdir()


async def test_audio_over_the_bound_of_a_session_is_not_recorded(sounding, clock, tmp_path):
    most = 150_000
    async with sounding(most=most) as (agent, relay, recorder):
        async with relay.attach() as browser:
            await next_event(browser, "SettingsApplied")
            for _ in range(6):
                await speak(browser, agent, VOICE[:32_000])
                clock.ahead += 2.0
                recorder.write()
        await relay.until(SessionEnded)

    sizes = [path.stat().st_size for path in tmp_path.glob("*/*.wav")]
    assert sum(sizes) <= most + 2 * 44
    user, _ = read(find(tmp_path, "user"))
    assert VOICE[:32_000] in user


# --- the disk, and who does not keep up ----------------------------------------------------------


def begin(directory, most=1 << 24):
    """An audio recorder, the recording of a session that begins now, and the metrics."""
    metrics = Metrics()
    recorder = AudioRecorder(directory, most, metrics)
    admitted = Admitted(
        session_id=UUID(int=1),
        conversation_id=UUID(int=2),
        user_id="user",
        timezone="UTC",
        audio=Audio(),
        record_audio=True,
    )
    beginning = Beginning(
        admitted=admitted,
        limits=Limits(),
        policy=Policy(),
        now=time.monotonic(),
        began=BEGAN,
    )
    return recorder, recorder.listen(beginning), metrics


def lost(metrics):
    return metrics.recording_audio_lost_bytes._value.get()


SECOND = 48_000  # bytes of the agent


def test_a_full_disk_costs_its_seconds_and_the_rest_stays_in_place(clock, tmp_path, caplog):
    with mounted(tmp_path / "disk", "512k") as disk:
        recorder, recording, metrics = begin(disk)
        recording.to_browser(b"\1\0" * (SECOND // 2))
        recorder.write()
        clock.ahead += 1.0
        filling = disk / "filling"
        fill_up(filling)
        recording.to_browser(b"\2\0" * (SECOND // 2))
        recorder.write()
        assert lost(metrics) == SECOND
        recorder.write()
        assert lost(metrics) == SECOND
        whole, _ = read(find(disk, "agent"))
        assert whole == b"\1\0" * (SECOND // 2)  # still a file that can be played
        filling.unlink()
        clock.ahead += 1.0
        recording.to_browser(b"\3\0" * (SECOND // 2))
        clock.ahead += 1.0
        recording.ended(0.0, None)
        recorder.write()
        said, _ = read(find(disk, "agent"))

    assert abs(said.index(b"\3\0\3\0") - 2 * SECOND) < SECOND / 10
    assert said.startswith(b"\1\0" * (SECOND // 2))
    assert set(said[SECOND : 2 * SECOND]) <= {0}
    assert [record.message.split()[0] for record in caplog.records] == ["recording_refused"]


def test_a_directory_that_cannot_be_written_costs_audio_and_nothing_else(tmp_path):
    (tmp_path / "file").write_text("not a directory")
    recorder, recording, metrics = begin(tmp_path / "file")

    recording.to_browser(bytes(SECOND))
    recorder.write()
    recording.ended(0.0, None)
    recorder.write()

    assert lost(metrics) == SECOND


def test_audio_that_finds_no_room_is_counted_and_silence_is_in_its_place(
    clock, tmp_path, monkeypatch
):
    monkeypatch.setattr(audio_recorder, "WAITING_BYTES", SECOND)
    recorder, recording, metrics = begin(tmp_path)

    recording.to_browser(b"\1\0" * (SECOND // 2))
    clock.ahead += 1.0
    recording.to_browser(b"\2\0" * (SECOND // 2))
    recorder.write()
    clock.ahead += 1.0
    recording.to_browser(b"\3\0" * (SECOND // 2))
    clock.ahead += 1.0
    recording.ended(0.0, None)
    recorder.write()

    said, _ = read(find(tmp_path, "agent"))
    assert lost(metrics) == SECOND
    assert b"\2" not in said
    assert abs(said.index(b"\3\0\3\0") - 2 * SECOND) < SECOND / 10


def test_the_oldest_audio_goes_when_there_is_too_much(clock, tmp_path):
    metrics = Metrics()
    bounds = Bounds(session_bytes=1024, total_bytes=1024, days=2.0)
    _, recording, _ = begin(tmp_path)
    sound = recording._recorder
    recorder = Recorder(tmp_path, bounds, metrics, audio=sound)
    recording.to_browser(bytes(SECOND))
    recorder.write()

    recorder.tidy()
    recording.to_browser(bytes(SECOND))
    recorder.write()

    assert not list(tmp_path.glob("*/*.agent.wav"))
