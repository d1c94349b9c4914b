"""REST: the conversations of a user, what was said in them and which functions were called.

Control plane, under /api/v1/voice/conversations. What belongs to another user is not there (404).
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from uuid import UUID

import msgspec
from litestar import Controller, Request, Response, delete, get, patch, post
from litestar.di import NamedDependency, Provide
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from litestar.response import Stream

from config.settings import Settings
from control.api.export import KINDS, ExportOperation, Format, export, file_name, show
from control.api.pagination import LIMIT, Cursor, Limit, cut_page, read_cursor
from control.api.problems import describe_problems
from control.api.request_limits import RequestLimits
from control.api.sessions import NOT_KEPT, Asker, Database, Live
from control.db import calls, conversations
from control.db.rows import Conversation, IntentCall, ListedConversation, Message
from control.errors import Mistake, ProblemError, invalid, require
from control.sessions.direct import CallAnswer, Direct, ReportedCall, ReportedMessage
from relay.functions.submission import saved

TITLE_MAX = 200
SEQ_MAX = 2**63 - 1
Seq = Annotated[int, msgspec.Meta(ge=0, le=SEQ_MAX)]


class ConversationPage(msgspec.Struct, frozen=True):
    items: list[ListedConversation]
    next_cursor: str | None


class MessagePage(msgspec.Struct, frozen=True):
    items: list[Message]
    next_cursor: str | None


class IntentCallPage(msgspec.Struct, frozen=True):
    items: list[IntentCall]
    next_cursor: str | None


class Rename(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    title: Annotated[str, msgspec.Meta(min_length=1, max_length=TITLE_MAX)]


async def find_conversation(
    store: Database, user: Asker, conversation_id: FromPath[UUID]
) -> Conversation:
    """The one of the path."""
    found = await conversations.get_conversation(store, conversation_id, user_id=user.id)
    return require(found, "conversation")


class ConversationController(Controller):
    path = "/conversations"
    tags = ("history",)
    dependencies = {"conversation": Provide(find_conversation)}  # noqa: RUF012

    @get(
        "/",
        summary="List conversations, newest first",
        responses=describe_problems(400),
    )
    async def list_conversations(
        self,
        store: Database,
        user: Asker,
        *,
        status: FromQuery[Literal["open", "closed"] | None] = None,
        q: Annotated[
            str | None,
            QueryParameter(max_length=200, description='words, "a phrase", or, -not'),
        ] = None,
        said: Annotated[
            bool, QueryParameter(description="only those in which the user said something")
        ] = False,
        limit: Limit = LIMIT,
        cursor: Cursor = None,
    ) -> ConversationPage:
        found = await conversations.list_conversations(
            store,
            user.id,
            q=q if q and q.strip() else None,  # an empty search box is no search
            status=status,
            said=said,
            before=read_cursor(cursor, tuple[datetime, UUID]),
            limit=limit + 1,
        )
        return ConversationPage(*cut_page(found, limit, lambda last: (last.updated_at, last.id)))

    @get("/{conversation_id:uuid}", summary="Get a conversation", responses=describe_problems(404))
    async def get_conversation(self, conversation: NamedDependency[Conversation]) -> Conversation:
        return conversation

    @patch(
        "/{conversation_id:uuid}",
        summary="Rename a conversation",
        responses=describe_problems(400, 403, 404, 413),
    )
    async def rename_conversation(
        self, store: Database, user: Asker, conversation_id: FromPath[UUID], data: JSONBody[Rename]
    ) -> Conversation:
        title = " ".join(data.title.split())
        if not title:
            raise invalid(Mistake("title", "expected a title that is not blank"))
        renamed = await conversations.rename_conversation(
            store, conversation_id, user_id=user.id, title=title
        )
        return require(renamed, "conversation")

    @delete(
        "/{conversation_id:uuid}",
        summary="Erase a conversation, its messages and intents",
        responses=describe_problems(403, 404),
    )
    async def erase_conversation(
        self, store: Database, live: Live, user: Asker, conversation_id: FromPath[UUID]
    ) -> None:
        sessions = await conversations.erase_conversation(store, conversation_id, user_id=user.id)
        for session_id in require(sessions, "conversation"):
            live.hang_up(session_id)

    @get(
        "/{conversation_id:uuid}/messages",
        summary="List the messages of a conversation, in order",
        responses=describe_problems(400, 404),
    )
    async def list_messages(
        self,
        store: Database,
        conversation: NamedDependency[Conversation],
        *,
        after_seq: Annotated[int, QueryParameter(ge=0, le=SEQ_MAX)] = 0,
        limit: Limit = LIMIT,
        cursor: Cursor = None,
    ) -> MessagePage:
        (reached,) = read_cursor(cursor, tuple[Seq]) or (0,)
        found = await conversations.list_messages(
            store, conversation.id, after_seq=max(after_seq, reached), limit=limit + 1
        )
        return MessagePage(*cut_page(found, limit, lambda last: (last.seq,)))

    @get(
        "/{conversation_id:uuid}/intents",
        summary="List the function calls of a conversation, in order",
        responses=describe_problems(400, 404),
    )
    async def list_intents(
        self,
        store: Database,
        conversation: NamedDependency[Conversation],
        *,
        limit: Limit = LIMIT,
        cursor: Cursor = None,
    ) -> IntentCallPage:
        after = read_cursor(cursor, tuple[Seq, UUID])
        found = await calls.list_calls(store, conversation.id, after=after, limit=limit + 1)
        shown = [show(call) for call in found]
        return IntentCallPage(*cut_page(shown, limit, lambda last: (last.after_seq, last.id)))

    @get(
        "/{conversation_id:uuid}/export",
        summary="The whole conversation as a file",
        responses=describe_problems(400, 404),
        operation_class=ExportOperation,
    )
    async def export_conversation(
        self,
        request: Request[Any, Any, Any],
        store: Database,
        settings: NamedDependency[Settings],
        user: Asker,
        conversation: NamedDependency[Conversation],
        *,
        format: FromQuery[Format] = "json",
    ) -> Stream:
        host = urlsplit(settings.public_url or str(request.base_url)).hostname or ""
        text = await export(store, conversation, format, user_id=user.id, host=host)
        name = file_name(conversation, format)
        headers = {"Content-Disposition": f'attachment; filename="{name}"', **NOT_KEPT}
        return Stream(text, media_type=KINDS[format][0], headers=headers)

    @post(
        "/{conversation_id:uuid}/intents/{intent_id:uuid}/retry",
        summary="Submit a function call again that has failed",
        status_code=202,
        responses=describe_problems(400, 403, 404, 409, 413),
    )
    async def retry_intent(
        self,
        store: Database,
        user: Asker,
        conversation_id: FromPath[UUID],
        intent_id: FromPath[UUID],
    ) -> IntentCall:
        found = await calls.retry_call(
            store,
            intent_id,
            conversation_id,
            user_id=user.id,
            response=saved("the user asked again"),
        )
        call, was_failed = require(found, "intent")
        if not was_failed:
            raise ProblemError(409, "not_failed", f"expected a failed call, it is {call.status}")
        return show(call)


class DirectController(Controller):
    """What a client of the direct transport reports."""

    path = "/conversations"
    tags = ("direct",)

    @post(
        "/{conversation_id:uuid}/messages",
        summary="Direct transport: store what was said; again with the same id changes nothing",
        responses=describe_problems(400, 403, 404, 409, 413),
    )
    async def add_message(
        self,
        direct: NamedDependency[Direct],
        user: Asker,
        conversation_id: FromPath[UUID],
        request_limits: NamedDependency[RequestLimits],
        data: JSONBody[ReportedMessage],
    ) -> Response[Message]:
        request_limits.check_report(data.session_id, "messages")
        message, is_new = await direct.add_message(user.id, conversation_id, data)
        return Response(message, status_code=201 if is_new else 200)

    @post(
        "/{conversation_id:uuid}/function-calls",
        summary="Direct transport: submit a function call; again with the same id changes nothing",
        status_code=200,
        responses=describe_problems(400, 403, 404, 409, 413),
    )
    async def call_function(
        self,
        direct: NamedDependency[Direct],
        user: Asker,
        conversation_id: FromPath[UUID],
        request_limits: NamedDependency[RequestLimits],
        data: JSONBody[ReportedCall],
    ) -> CallAnswer:
        request_limits.check_report(data.session_id, "function calls")
        return await direct.call(user.id, conversation_id, data)
