"""`/metrics` of real relays: where it stands, who may have it, whose figures it has."""

from __future__ import annotations

import random
import re
import signal

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from loadtests.processes import free_port
from relay.telemetry.metrics import Metrics, merge
from tests.chaos.stage import answers, staged, until
from tests.promtool import needs_prometheus, promtool

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
async def stage(tmp_path, database_url):
    async with staged(tmp_path, database_url) as stage:
        yield stage


def workers_of(text):
    return set(re.findall(r'^relay_tasks\{worker="(\d+)"\}', text, re.MULTILINE))


async def test_on_an_address_of_its_own_it_is_not_on_the_public_one(stage):
    port = free_port()
    relay = stage.relay(RELAY_METRICS_PORT=str(port))
    await relay.start()
    own = f"http://127.0.0.1:{port}"

    public = await stage.http.get(f"{relay.url}/metrics")
    found = await stage.http.get(f"{own}/metrics")
    odd = await stage.http.get(f"{own}/metrics", headers={"Host": "evil.example"})
    other = await stage.http.get(f"{own}/api/v1/voice/intents")

    assert [one.status_code for one in (public, found, odd, other)] == [404, 200, 404, 404]
    assert found.headers["X-Request-Id"]
    assert "relay_tasks " in found.text
    assert re.search(r"^process_open_fds \d", found.text, re.MULTILINE)
    relay.signal(signal.SIGTERM)
    assert await relay.end(20) == 0
    assert not await answers(port)


@pytest.mark.parametrize("has_port", [False, True])
async def test_with_a_token_only_who_knows_it_may_read_it(stage, has_port):
    port = free_port()
    more = {"RELAY_METRICS_PORT": str(port)} if has_port else {}
    relay = stage.relay(RELAY_METRICS_TOKEN="token-1", **more)
    await relay.start()
    url = f"http://127.0.0.1:{port if has_port else relay.port}/metrics"

    async def ask(**headers):
        answer = await stage.http.get(url, headers=headers)
        return answer.status_code, answer.headers.get("WWW-Authenticate")

    assert await ask() == (401, 'Bearer realm="voice-relay"')
    assert (await ask(Authorization="Bearer token-2"))[0] == 401
    assert (await ask(Authorization="Basic token-1"))[0] == 401
    by_proxy = {"Authorization": "Bearer token-1", "X-Forwarded-For": "192.0.2.1"}
    assert (await ask(**by_proxy))[0] == 200


async def test_any_worker_tells_what_all_of_them_count(stage):
    port = free_port()
    relay = stage.relay(RELAY_METRICS_PORT=str(port), RELAY_WORKERS="2")
    await relay.start()

    async def ask():
        return (await stage.http.get(f"http://127.0.0.1:{port}/metrics")).text

    async def all_are_there():
        return workers_of(await ask()) == {"0", "1"}

    await until(all_are_there, 60)
    async with stage.people(random.Random(1), 4) as browsers:
        text = await ask()
        live = next(f.samples for f in parse(text) if f.name == "relay_sessions_live")
        assert sum(sample.value for sample in live) == len(browsers)
    names = [family.name for family in parse(text)]
    assert len(names) == len(set(names)), "a family stands in one piece"

    # One is killed: the other answers alone, until it is replaced.
    victim = psutil.Process(relay.process.pid).children()[0]
    victim.kill()
    victim.wait(10)
    assert len(workers_of(await ask())) >= 1
    await until(all_are_there, 60)


@needs_prometheus
async def test_promtool_has_nothing_to_say(stage):
    port = free_port()
    relay = stage.relay(RELAY_METRICS_PORT=str(port), RELAY_WORKERS="2")
    await relay.start()
    async with stage.people(random.Random(1), 2):
        text = (await stage.http.get(f"http://127.0.0.1:{port}/metrics")).content

    assert promtool("check", "metrics", given=text) == ""


def test_texts_of_several_processes_are_one_text_with_all_series():
    texts = []
    for number in range(3):
        metrics = Metrics(number)
        metrics.sessions_ended.labels(reason="browser_left").inc(number + 1)
        texts.append(metrics.text())

    merged = merge(texts).decode()

    (ended,) = [family for family in parse(merged) if family.name == "relay_sessions_ended"]
    assert {sample.labels["worker"]: sample.value for sample in ended.samples} == {
        "0": 1.0,
        "1": 2.0,
        "2": 3.0,
    }
    assert merge(texts[:1]) == texts[0]
    assert merged.count("# TYPE relay_tasks gauge") == 1
