"""What an operator is told: the real Prometheus watches real relays while things break.

One fault after the other; the alerts that are for it fire, and none is left when it is mended.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from loadtests.processes import free_port
from tests.chaos.link import Mood
from tests.chaos.prometheus import prometheus
from tests.chaos.stage import staged
from tests.promtool import needs_prometheus
from tests.relay.wires import listening

pytestmark = [pytest.mark.timeout(900), needs_prometheus]


class Keys:
    """A sign-in's keys, behind HTTP, while `is_well`."""

    def __init__(self):
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.is_well = True

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            return
        status = 200 if self.is_well else 503
        public = json.loads(ECAlgorithm.to_jwk(self.key.public_key()))
        keys = {"keys": [public | {"kid": "one", "use": "sig", "alg": "ES256"}]}
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(keys).encode()})

    def token(self, kid):
        claims = {"sub": "u", "aud": "authenticated", "exp": int(time.time()) + 600}
        return jwt.encode(claims, self.key, "ES256", {"kid": kid})


@pytest.mark.long
async def test_the_alerts_for_a_fault_fire_and_resolve(
    own_postgres, empty_database_url, tmp_path, chance
):
    keys = Keys()
    database_url = await own_postgres.migrated()
    async with AsyncExitStack() as stack:
        stage = await stack.enter_async_context(
            staged(tmp_path, database_url, planner_url=empty_database_url)
        )
        keys_port, _ = await stack.enter_async_context(listening(keys))
        ports = [free_port(), free_port()]
        relay = stage.relay(RELAY_METRICS_PORT=str(ports[0]), RELAY_SETUP_SECONDS="2")
        other = stage.relay(
            RELAY_METRICS_PORT=str(ports[1]),
            RELAY_AUTH="jwt",
            RELAY_JWT_JWKS_URL=f"http://127.0.0.1:{keys_port}/jwks",
        )
        await asyncio.gather(relay.start(), other.start())
        watch = await stack.enter_async_context(
            prometheus(tmp_path / "prometheus", ports, stage.http)
        )
        await keys_fail(stage, other, watch, keys)
        await a_node_dies(other, watch)
        await the_orchestrator_is_down(stage, watch, chance)
        await the_agent_refuses(stage, watch, chance)
        await the_database_is_down(stage, watch, chance, own_postgres)


async def signed_in(stage, relay, token):
    url = f"{relay.url}/api/v1/voice/conversations"
    return (await stage.http.get(url, headers={"Authorization": f"Bearer {token}"})).status_code


async def keys_fail(stage, relay, watch, keys):
    assert await signed_in(stage, relay, keys.token("one")) == 200
    keys.is_well = False

    async def knock():
        while True:
            await signed_in(stage, relay, keys.token("new"))  # one that is not known: it is asked
            await asyncio.sleep(1.0)

    knocking = asyncio.create_task(knock())
    try:
        await watch.fires("RelaySignInKeysFailing")
        assert await watch.firing() == {"RelaySignInKeysFailing"}
        keys.is_well = True
        await watch.is_silent()
    finally:
        knocking.cancel()


async def a_node_dies(relay, watch):
    await relay.kill()
    await watch.fires("RelayDown")
    assert await watch.firing() == {"RelayDown"}
    await relay.start()
    await watch.is_silent()


async def the_orchestrator_is_down(stage, watch, chance):
    async with stage.people(chance, 6) as browsers:
        stage.planner_link.mood = Mood.REFUSING
        for _ in range(2):  # one of them has a call
            await asyncio.gather(*(browser.turn(20) for browser in browsers))
        await watch.fires("RelayOrchestratorDown")
        assert await watch.firing() == {"RelayOrchestratorDown"}
        stage.planner_link.mood = Mood.WELL
        await stage.settle(browsers, 240)
        await watch.is_silent()


async def the_agent_refuses(stage, watch, chance):
    async with stage.people(chance, 6):
        stage.agent_link.mood = Mood.TOO_MANY
        stage.agent_link.cut()
        await watch.fires("RelayAgentRefusing", "RelayConversationsLost")
        stage.agent_link.mood = Mood.WELL
    await watch.is_silent()


async def the_database_is_down(stage, watch, chance, own_postgres):
    async with stage.people(chance, 3) as browsers:
        await own_postgres.leave("killed")
        assert all(await asyncio.gather(*(browser.turn(15) for browser in browsers)))
        await watch.fires("RelayDatabaseDown", "RelayJournalGrowing")
        assert "RelayDown" not in await watch.firing()
        await own_postgres.come_back()
        await stage.settle(browsers)
        await watch.is_silent()
