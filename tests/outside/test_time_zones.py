"""Time zones that are none: whoever has one may talk. And today is today, whichever agent it is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.outside.clock import DAY, Clock
from tests.outside.page import API, talking

NO_ZONES = [
    "Etc/Unknown",
    "",
    " ",
    "undefined",
    "Mars/Olympus",
    "EUROPE/BERLIN",
    "Europe",
    "Europe/Berlin/x",
    "/etc/passwd",
    "/usr/share/zoneinfo/Europe/Berlin",
    "../x",
    "Europe/../../etc/passwd",
    "a\0b",
    "\N{SNOWMAN}",
    "GMT+2:30",
    "__init__.py",
    "zone.tab",
    "x" * 1000,
]


@pytest.fixture
async def talk(stage):
    async with talking(stage) as talk:
        yield talk


async def test_a_zone_that_is_none_is_utc_and_whoever_has_it_can_talk(talk, stage):
    relay = talk.relay(RELAY_SESSIONS_PER_ADDRESS="0")
    await relay.start()

    for name in NO_ZONES:
        answer = await stage.http.post(f"{relay.url}{API}/session", json={"timezone": name})
        begun = answer.json()
        assert answer.status_code == 201, (name, answer.text)
        assert begun["timezone"] == "UTC", name
        (warning,) = begun["warnings"]
        assert warning["path"] == "timezone"
        assert len(warning["detail"]) < 200
        grant = await stage.http.post(f"{relay.url}/v1/auth/grant", json={"timezone": name})
        assert grant.status_code == 200, (name, grant.text)
        assert grant.json()["warnings"] == [warning]

    page = await talk.page(relay, timezone="Etc/Unknown")
    await talk.line(page, "user", "Hello?")
    assert "The user's time zone is UTC." in talk.settings[0]["agent"]["think"][0]["prompt"]


async def test_who_does_not_say_has_utc_and_a_real_zone_counts(talk, stage):
    relay = talk.relay()
    await relay.start()

    for wish, zone in (
        ({}, "UTC"),
        ({"timezone": None}, "UTC"),
        ({"timezone": "Asia/Tokyo"}, "Asia/Tokyo"),
    ):
        begun = (await stage.http.post(f"{relay.url}{API}/session", json=wish)).json()
        assert (begun["timezone"], begun["warnings"]) == (zone, [])
    granted = (await stage.http.post(f"{relay.url}/v1/auth/grant")).json()
    assert granted.keys() == {"access_token", "expires_in"}  # Deepgram's shape


def day(shift):
    date = datetime.now(UTC) + timedelta(seconds=shift)
    return f"{date:%A}, {date.day} {date:%B} {date.year}"


async def test_every_agent_is_told_the_day_of_its_settings(talk, tmp_path):
    """Midnight passes: before a redial, before a roll-over, before the conversation is resumed."""
    clock = Clock(tmp_path / "clock")
    relay = talk.relay(RELAY_ROLL_OVER_SECONDS="1", **clock.environ)
    await relay.start()
    shifts = [12 * 3600, DAY + 12 * 3600, 2 * DAY + 12 * 3600, 3 * DAY + 12 * 3600]

    def told():
        prompt = talk.settings[-1]["agent"]["think"][0]["prompt"]
        return next(line for line in prompt.splitlines() if "Today is" in line)

    clock.shift(shifts[0])
    page = await talk.page(relay)
    before = [day(shifts[0])]
    assert any(each in told() for each in before)

    clock.shift(shifts[1])
    await talk.agent.connections[-1].close(1011)
    await page.until(lambda event: event["type"] == "RelayReconnected")
    assert day(shifts[1]) in told()

    clock.shift(shifts[2])
    dialled = len(talk.settings)
    await talk.agent.until(lambda: len(talk.settings) > dialled)
    assert day(shifts[2]) in told()

    clock.shift(shifts[3])
    await page.socket.close()
    await talk.page(relay, conversation_id=page.conversation_id)
    assert day(shifts[3]) in told()
