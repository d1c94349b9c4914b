"""The program as a user runs it: `voice-relay dev` in a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

VOICE_RELAY = str(Path(sys.executable).with_name("voice-relay"))
AUDIO = Path(__file__).parents[1] / "audio"
START_SECONDS = 60  # the first start makes a database and loads speech engines on a busy machine


class Program:
    """A running `voice-relay dev`; `where` maps a part to its address, `lines` is its output."""

    def __init__(self, data_dir, **environ):
        self.lines = []
        self.where = {}
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("RELAY_")
            and name not in ("DATABASE_URL", "ORCHESTRATOR_URL", "DEEPGRAM_API_KEY")
        }
        self.process = subprocess.Popen(
            [VOICE_RELAY, "dev"],
            env=clean | {"RELAY_PORT": "0", "RELAY_DATA_DIR": str(data_dir)} | environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.data_dir = data_dir
        self.changed = threading.Condition()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            with self.changed:
                self.lines.append(line)
                if found := re.match(r"  (database|orchestrator|agent|relay) +(\S+)", line):
                    self.where[found[1]] = found[2]
                self.changed.notify_all()
        with self.changed:
            self.changed.notify_all()

    @property
    def output(self):
        return "".join(self.lines)

    def until(self, condition, seconds):
        """Wait for a line that makes `condition` true; fails with the output when none does."""
        with self.changed:
            happened = self.changed.wait_for(
                lambda: condition() or not self.reader.is_alive(), seconds
            )
        assert happened, self.output
        assert condition(), self.output

    def stop(self, how=signal.SIGTERM):
        """Ask it to end; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self.reader.join(5)
            self.process.stdout.close()


@pytest.fixture
def start(tmp_path):
    """`start(**environ)` runs a program that is stopped after the test."""
    programs = []

    def start_program(data_dir=tmp_path / "data", wait=True, **environ):
        program = Program(data_dir, **environ)
        programs.append(program)
        if wait:
            program.until(lambda: "relay" in program.where, START_SECONDS)
        return program

    yield start_program
    for program in programs:
        program.stop()


def talk(url, *arguments, seconds=150, expect=0):
    """`voice-relay talk --json`; the events that it printed."""
    done = subprocess.run(
        [VOICE_RELAY, "talk", "--url", url, "--json", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
