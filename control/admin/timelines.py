"""For administrators: what happened in a session, as a page.

Control plane. It shows what was said, where recordings keep that: each look is in the audit log.
"""

from __future__ import annotations

import asyncio
from uuid import UUID

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from config.settings import Settings
from control.admin.people import Administrator
from control.api.problems import describe_problems
from control.api.sessions import Database
from control.db import audit
from control.errors import ProblemError
from control.timeline.file import TimelineFailed, draw_file, find_file


@get(
    "/{session_id:uuid}/timeline",
    tags=["operations"],
    summary="What happened in a session, as a page of HTML, from its recording on this node",
    media_type="text/html",
    responses=describe_problems(404, 409),
)
async def get_timeline(
    store: Database,
    administrator: Administrator,
    settings: NamedDependency[Settings],
    session_id: FromPath[UUID],
) -> Response[str]:
    directory = settings.record_dir
    path = await asyncio.to_thread(find_file, directory, session_id) if directory else None
    if path is None:
        raise ProblemError(404, "not_found", "there is no recording of this session on this node")
    async with store.transaction() as connection:
        await audit.note(connection, administrator, "session.timeline", session_id, {})
    try:
        page = await asyncio.to_thread(draw_file, path)
    except TimelineFailed as error:
        raise ProblemError(409, "recording_unreadable", str(error)) from error
    headers = {"Content-Security-Policy": f"{page.policy}; frame-ancestors 'none'"}
    return Response(page.html, media_type="text/html", headers=headers)
