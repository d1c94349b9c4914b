"""What the README promises: talk, and find it in the history. Real speech, real processes."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from control.auth.current_user import USER_ID
from control.outbox.orchestrator_client import sign
from control.talk.audio import read_wav, resample
from relay.sandbox.speech import Speech
from tests.end_to_end.conftest import AUDIO, talk

pytestmark = [pytest.mark.speech, pytest.mark.timeout(300)]


def get(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)


def messages(events, *, earlier=False):
    return [
        (event["role"], event["content"])
        for event in events
        if event["event"] == "message" and event["earlier"] is earlier
    ]


def words(text):
    return set(re.findall(r"[a-z]+", text.lower()))


def final_intents(events):
    return [
        (event["intent"], event["status"])
        for event in events
        if event["event"] == "intent" and event["status"] != "submitting"
    ]


def history(relay, conversation):
    items = get(f"{relay}/api/v1/voice/conversations/{conversation}/messages?limit=200")["items"]
    assert [item["seq"] for item in items] == list(range(1, len(items) + 1))
    return [(item["role"], item["content"]) for item in items]


@pytest.mark.long
def test_a_goal_a_task_and_a_refused_reschedule_by_voice(start, tmp_path):
    program = start()
    relay, orchestrator = program.where["relay"], program.where["orchestrator"]
    heard = tmp_path / "heard.wav"

    # A goal: the agent asks for what is missing, confirms, submits.
    goal = talk(
        relay,
        *("--wav", AUDIO / "goal_marathon.wav"),
        *("--wav", AUDIO / "no_deadline.wav"),
        *("--wav", AUDIO / "yes.wav"),
        *("--save", heard),
    )
    conversation = goal[-1]["conversation_id"]
    said = [content for role, content in messages(goal) if role == "user"]
    assert len(words("i want to run a marathon in april") & words(said[0])) >= 6
    assert final_intents(goal) == [("GOAL", "submitted")]
    assert history(relay, conversation) == messages(goal)
    (stored,) = get(f"{relay}/api/v1/voice/conversations/{conversation}/intents")["items"]
    assert (stored["intent"], stored["status"]) == ("GOAL", "submitted")
    (listed,) = get(f"{orchestrator}/goals")["items"]
    assert "marathon" in listed["title"]

    # The agent's replies are audible speech: an ear of its own understands them.
    recording = read_wav(heard)
    assert np.abs(recording.samples).max() > 0.1
    understood = Speech.load().transcribe(
        resample(recording.samples, recording.rate, 16_000).astype(np.float32)
    )
    assert "marathon" in understood.lower()

    # A task.
    task = talk(relay, "--wav", AUDIO / "new_task_shoes.wav", "--wav", AUDIO / "yes.wav")
    assert final_intents(task) == [("NEW_TASK", "submitted")]
    (listed,) = get(f"{orchestrator}/tasks")["items"]
    assert "shoes" in listed["title"]

    # The first conversation, taken up again: no second greeting, an unknown task is refused.
    resumed = talk(
        relay,
        *("--resume", conversation),
        *("--wav", AUDIO / "reschedule_dentist.wav"),
        *("--wav", AUDIO / "yes.wav"),
    )
    assert resumed[-1]["conversation_id"] == conversation
    assert messages(resumed, earlier=True) == messages(goal)
    assert messages(resumed)[0][0] == "user"
    assert final_intents(resumed) == [("RESCHEDULE_TASK", "rejected")]
    spoken = " ".join(content for role, content in messages(resumed) if role == "assistant")
    assert "no task called" in spoken
    assert history(relay, conversation) == messages(goal) + messages(resumed)
    intents = get(f"{relay}/api/v1/voice/conversations/{conversation}/intents")["items"]
    assert [(i["intent"], i["status"]) for i in intents] == [
        ("GOAL", "submitted"),
        ("RESCHEDULE_TASK", "rejected"),
    ]
    assert "dentist" in json.dumps(intents[1]["result"])

    # Everything ends with the program.
    listing = get(f"{relay}/api/v1/voice/conversations")["items"]
    assert next(item["id"] for item in listing) == conversation
    assert program.stop() == 0
    assert not left_behind(program.data_dir)


def test_a_task_that_is_there_is_moved_by_voice(start):
    program = start(ORCHESTRATOR_SECRET="secret", RELAY_METRICS_NETWORKS="127.0.0.0/8")
    relay, orchestrator = program.where["relay"], program.where["orchestrator"]
    task = {"title": "dentist appointment", "due": "2026-11-30"}
    keep(orchestrator, "/tasks", task, secret="secret")

    events = talk(relay, "--wav", AUDIO / "reschedule_dentist.wav", "--wav", AUDIO / "yes.wav")

    assert final_intents(events) == [("RESCHEDULE_TASK", "submitted")]
    (moved,) = get(f"{orchestrator}/tasks")["items"]
    assert moved["title"] == "dentist appointment"
    assert "friday" in moved["due"].lower()
    # The agent had heard of it: it was asked, and answered, once.
    with urllib.request.urlopen(f"{relay}/metrics", timeout=10) as answer:
        assert 'relay_user_contexts_total{outcome="answered"} 1.0' in answer.read().decode()
    assert "user_context_failed" not in program.output


def keep(orchestrator, path, parameters, *, secret):
    """Something that was there before anybody spoke."""
    body = json.dumps({"intent": "NEW_TASK", "parameters": parameters, "user_id": USER_ID}).encode()
    at = int(time.time())
    request = urllib.request.Request(
        orchestrator + path,
        body,
        {"X-Voice-Signature": f"t={at},v1={sign(secret, at, body)}"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 201


def left_behind(data_dir):
    """Command lines of processes that mention the data directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it ended while we looked
        if str(data_dir) in line:
            found.append(line)
    return found


def postmaster(data_dir):
    return int((data_dir / "postgres" / "postmaster.pid").read_text().splitlines()[0])


def test_the_conversation_goes_on_when_postgres_is_killed_in_the_middle(start):
    program = start()
    relay = program.where["relay"]

    with Killer(program) as killer:
        events = talk(
            relay,
            *("--say", "I want to learn to swim"),
            *("--say", "no deadline"),
            *("--say", "no, that is wrong"),
        )

    assert killer.killed
    said = messages(events)
    assert [content for role, content in said if role == "user"] == [
        "I want to learn to swim",
        "no deadline",
        "no, that is wrong",
    ]
    assert said[-1][0] == "assistant"
    program.until(lambda: "journal_write_failed" in program.output, 20)
    assert get(f"{relay}/health/live")["status"] == "live"
    with pytest.raises(urllib.error.HTTPError) as unwell:
        get(f"{relay}/health/ready")
    assert unwell.value.code == 503
    unwell.value.close()
    assert "Traceback" not in program.output


class Killer:
    """Kills Postgres with -9 as soon as the first message is stored."""

    def __init__(self, program):
        self.program = program
        self.killed = False

    def __enter__(self):
        self.thread = threading.Thread(target=self._kill)
        self.thread.start()
        return self

    def _kill(self):
        relay = self.program.where["relay"]
        for _ in range(600):
            listed = get(f"{relay}/api/v1/voice/conversations")["items"]
            if listed and listed[0]["title"]:  # it has one from the first message of the user on
                os.kill(postmaster(self.program.data_dir), signal.SIGKILL)
                self.killed = True
                return
            time.sleep(0.05)  # we look from outside: there is nothing to wait on

    def __exit__(self, *_):
        self.thread.join(40)
