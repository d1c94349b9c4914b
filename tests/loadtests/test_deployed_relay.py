"""A deployed relay measured from outside: what cannot be reached is told, not raised."""

import msgspec
from click.testing import CliRunner

from loadtests import deployed_relay
from loadtests.cli import loadtest
from loadtests.processes import free_port


async def test_a_relay_that_is_not_there_is_listed_as_failed():
    url = f"http://127.0.0.1:{free_port()}"
    found = await deployed_relay.measure(url, sessions=2, turns=1)
    assert len(found.failed) == 2
    assert found.times["settle"] == []
    assert "failed: ConnectError" in deployed_relay.describe(found)
    told = msgspec.json.decode(deployed_relay.to_json(found))
    assert told["failed"] == found.failed
    assert (told["sessions"], told["settle"]["count"]) == (2, 0)


def test_the_command_says_that_a_target_failed():
    url = f"http://127.0.0.1:{free_port()}"
    done = CliRunner().invoke(loadtest, ["--target", url, "--turns", "1"])
    assert done.exit_code == 1
    assert "POST /session" in done.output
