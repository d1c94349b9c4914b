"""PulseAudio without a sound card: what is said into its microphone and what is heard, as files."""

from __future__ import annotations

import array
import asyncio
import math
import os
import shutil
import subprocess
import tempfile
import wave
from contextlib import asynccontextmanager
from pathlib import Path

PULSEAUDIO = shutil.which("pulseaudio")
RATE = 16_000
SETUP = """
load-module module-native-protocol-unix socket={socket} auth-anonymous=1
load-module module-null-sink sink_name=loudspeaker
load-module module-null-sink sink_name=mouth
load-module module-remap-source master=mouth.monitor source_name=microphone
set-default-sink loudspeaker
set-default-source microphone
"""


@asynccontextmanager
async def sound_system():
    with tempfile.TemporaryDirectory(prefix="sound-", ignore_cleanup_errors=True) as home:
        folder = Path(home)
        socket = folder / "socket"
        (folder / "setup").write_text(SETUP.format(socket=socket), "utf-8")
        environ = os.environ | {"HOME": home, "XDG_RUNTIME_DIR": home, "PULSE_RUNTIME_PATH": home}
        with (folder / "log").open("wb") as log:
            server = await asyncio.create_subprocess_exec(
                PULSEAUDIO, "-n", "-F", str(folder / "setup"), "--daemonize=no",
                "--use-pid-file=no", "--exit-idle-time=-1", "--realtime=no", "--high-priority=no",
                env=environ, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            async with asyncio.timeout(20):
                while not socket.exists():
                    assert server.returncode is None, (folder / "log").read_text("utf-8")
                    await asyncio.sleep(0.05)  # another program: there is nothing to wait on
            yield SoundSystem(folder, f"unix:{socket}")
        finally:
            if server.returncode is None:
                server.terminate()
            await server.wait()


class SoundSystem:
    """`environ` is for whoever is to use it."""

    def __init__(self, folder, address):
        self.folder = folder
        self.environ = {"PULSE_SERVER": address, "PULSE_COOKIE": str(folder / "cookie")}

    async def say(self, recording):
        """Into the microphone, at its own pace; returns when it has been said."""
        with wave.open(str(recording), "rb") as file:
            assert (file.getnchannels(), file.getframerate()) == (1, RATE)
            samples = file.readframes(file.getnframes())
        mouth = await self._run("pacat", "--device=mouth", stdin=subprocess.PIPE)
        await mouth.communicate(samples)
        assert mouth.returncode == 0

    @asynccontextmanager
    async def listening(self):
        """To the loudspeaker, from here on."""
        file = self.folder / "heard"
        with file.open("wb") as out:
            ear = await self._run(
                "parec", "--device=loudspeaker.monitor", "--latency-msec=50", stdout=out
            )
        heard = Heard(file)
        try:
            async with asyncio.timeout(20):
                await heard.grow()
            yield heard
        finally:
            ear.terminate()
            await ear.wait()

    async def _run(self, command, *options, **streams):
        return await asyncio.create_subprocess_exec(
            command, *options, "--raw", "--format=s16le", "--channels=1", f"--rate={RATE}",
            env=os.environ | self.environ, **streams,
        )  # fmt: skip


class Heard:
    """A recording that goes on: 16-bit samples. What was looked at is not looked at again."""

    def __init__(self, file):
        self._file = file
        self._seen = 0  # bytes

    def skip(self):
        """What was recorded until now is of no interest."""
        self._seen = self._file.stat().st_size // 2 * 2

    async def grow(self, seconds=0.05):
        """Wait until so much more was recorded; returns how loud that was."""
        wanted = round(seconds * RATE) * 2
        while self._file.stat().st_size < self._seen + wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.05)  # another program: there is nothing to wait on
        with self._file.open("rb") as file:
            file.seek(self._seen)
            self._seen += wanted
            return loudness(file.read(wanted))

    async def until(self, level):
        """Wait until it is as loud as that; returns how loud it was then. A moment that is over
        when the test comes to it counts: it is in the recording."""
        async with asyncio.timeout(30):
            while (loud := await self.grow(0.25)) < level:
                pass
        return loud


def loudness(audio):
    """Of 16-bit samples, root mean square: 1.0 is the loudest that there is."""
    samples = array.array("h", audio)
    return math.sqrt(sum(value * value for value in samples) / len(samples)) / 32768
