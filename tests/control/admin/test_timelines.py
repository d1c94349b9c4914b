"""An administrator looks at what happened in a session."""

from __future__ import annotations

from uuid import UUID

import httpx
import pytest

from control.db.conversations import create_conversation
from tests.control.admin.program import KEY, bearer, running
from tests.control.timeline.played import SESSION, lose_the_agent_twice

AGENT = "ws://127.0.0.1:9/"  # nobody talks


@pytest.fixture
def recordings(tmp_path):
    """Where the program keeps them: two owners of one session; the second has the story."""
    folder = tmp_path / "recordings" / str(UUID(int=2))
    folder.mkdir(parents=True)
    (folder / f"{SESSION}.2.ndjson").write_text("{}\n")
    (folder / f"{SESSION}.10.ndjson").write_bytes(b"".join(lose_the_agent_twice()))
    return folder.parent


async def test_a_session_is_a_page_for_administrators_alone(
    database_url, store, tmp_path, recordings
):
    await create_conversation(store, UUID(int=2), user_id="user")  # else they are erased
    async with (
        running(database_url, tmp_path, AGENT) as program,
        httpx.AsyncClient(base_url=program.admin_url) as client,
    ):
        path = f"/admin/sessions/{SESSION}/timeline"
        refused = await client.get(path)
        page = await client.get(path, headers=bearer(KEY))
        other = await client.get(path.replace("01a21f08", "01a21f09"), headers=bearer(KEY))
        (recordings / str(UUID(int=2)) / f"{SESSION}.10.ndjson").write_text("{}\n")
        broken = await client.get(path, headers=bearer(KEY))
        lines = await program.fetch("SELECT act, target FROM voice.audit")

    assert [a.status_code for a in (refused, page, other, broken)] == [401, 200, 404, 409]
    assert page.headers["content-type"].startswith("text/html")
    assert "style-src 'sha256-" in page.headers["content-security-policy"]
    assert page.headers["cache-control"] == "no-store"
    assert "marathon" in page.text
    assert [tuple(line) for line in lines] == [("session.timeline", str(SESSION))] * 2
