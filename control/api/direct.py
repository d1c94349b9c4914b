"""REST: what a client of the direct transport reports, messages and function calls.

Control plane, under /api/v1/voice/conversations.
"""

from __future__ import annotations

from uuid import UUID

from litestar import Controller, Response, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from control.api.problems import describe_problems
from control.auth.current_user import User
from control.db.rows import Message
from control.sessions.direct import CallAnswer, Direct, ReportedCall, ReportedMessage


class DirectController(Controller):
    path = "/conversations"
    tags = ("direct",)

    @post(
        "/{conversation_id:uuid}/messages",
        summary="Direct transport: store what was said; again with the same id changes nothing",
        responses=describe_problems(400, 401, 403, 404, 409, 413, 503),
    )
    async def add_message(
        self,
        direct: NamedDependency[Direct],
        user: NamedDependency[User],
        conversation_id: FromPath[UUID],
        data: JSONBody[ReportedMessage],
    ) -> Response[Message]:
        message, is_new = await direct.add_message(user.id, conversation_id, data)
        return Response(message, status_code=201 if is_new else 200)

    @post(
        "/{conversation_id:uuid}/function-calls",
        summary="Direct transport: submit a function call; again with the same id changes nothing",
        status_code=200,
        responses=describe_problems(400, 401, 403, 404, 409, 413, 503),
    )
    async def call_function(
        self,
        direct: NamedDependency[Direct],
        user: NamedDependency[User],
        conversation_id: FromPath[UUID],
        data: JSONBody[ReportedCall],
    ) -> CallAnswer:
        return await direct.call(user.id, conversation_id, data)
