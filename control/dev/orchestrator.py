"""A small Goal Planner for development: goals and tasks in Postgres, behind HTTP.

A program of its own that lives next door: the relay knows it only by its URL, and it knows nothing
of the relay. It has its own schema, made at the start; only the code that connects to Postgres is
shared.

A `POST` takes `{intent, parameters, user_id, conversation_id, call_id}` and answers once per
`Idempotency-Key`: the same request again gets the stored answer, another request under the same
key is a 422. A request without a key is simply done. `GET /voice-context` says what a user has, for
the agent to know. Errors are `application/problem+json`, with
a `detail` that can be said aloud.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from difflib import SequenceMatcher
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any, TypeAlias, TypeVar

import asyncpg
import msgspec
from litestar import Litestar, Request, Response, get, post
from litestar.datastructures import State
from litestar.exceptions import HTTPException
from litestar.params import FromQuery
from msgspec import Meta

from control.db.pool import make_pool

log = logging.getLogger(__name__)

MAX_BODY = 64 * 1024
SIGNATURE_SECONDS = 300  # how far the clocks of both may be apart
LISTED = 500  # newest ones in a list
TOLD = 20  # newest ones of a kind that an agent is told
CONSIDERED = 1_000  # newest tasks of a user in which a name is looked for
CLOSE_ENOUGH = 0.85  # likeness of two names when speech recognition erred in a letter or two

Text = Annotated[str, Meta(min_length=1, max_length=1_000, pattern=r"\S")]
Id = Annotated[str, Meta(min_length=1, max_length=200)]


class Goal(msgspec.Struct):
    title: Text
    deadline: Annotated[str, Meta(max_length=1_000)] | None = None
    details: Annotated[str, Meta(max_length=4_000)] | None = None


class Task(msgspec.Struct):
    title: Text
    due: Annotated[str, Meta(max_length=1_000)] | None = None
    notes: Annotated[str, Meta(max_length=4_000)] | None = None


# Each a table, whose columns are these fields and what every row has.
KEPT: dict[str, type[Goal | Task]] = {"goals": Goal, "tasks": Task}
TABLE = """
create table if not exists local_orchestrator.{} (
    id bigint generated always as identity primary key,
    user_id text not null,
    {} text not null,
    {} text,
    {} text,
    parameters jsonb not null,
    created_at timestamptz not null default now()
);
"""
TABLES = "".join(TABLE.format(name, *kind.__struct_fields__) for name, kind in KEPT.items())
SCHEMA = f"""
create schema if not exists local_orchestrator;
{TABLES}
create index if not exists tasks_user on local_orchestrator.tasks (user_id, id desc);
create table if not exists local_orchestrator.answers (
    key text primary key,
    fingerprint text not null,
    status int not null,
    body jsonb not null,
    created_at timestamptz not null default now()
);
"""


class Reschedule(msgspec.Struct):
    task: Text
    when: Text


class Order(msgspec.Struct):
    """What every `POST` brings. `parameters` stays raw until the handler knows its kind."""

    intent: Id
    parameters: msgspec.Raw
    user_id: Id
    conversation_id: Id | None = None
    call_id: Id | None = None


class Answer(msgspec.Struct):
    status: int
    body: dict[str, Any]


Kind = TypeVar("Kind")
Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
AnyRequest: TypeAlias = "Request[Any, Any, Any]"
Work = Callable[["Connection", Order], Awaitable[Answer]]


def create_app(database_url: str, secret: str | None = None) -> Litestar:
    """The service; it connects and makes its schema when it starts.

    With a `secret`, what is not signed with it is refused: a `POST`, and `GET /voice-context`.
    """

    @asynccontextmanager
    async def database(app: Litestar) -> AsyncIterator[None]:
        async with make_pool(
            database_url, size=5, command_timeout=10, application_name="local orchestrator"
        ) as pool:
            async with pool.acquire() as connection, connection.transaction():
                # Two of us starting at once must not both make the schema.
                await connection.execute("select pg_advisory_xact_lock(hashtext($1))", __name__)
                await connection.execute(SCHEMA)
            app.state.pool = pool
            app.state.secret = secret
            yield

    # OSError: refused, reset, and TimeoutError
    errors = (HTTPException, asyncpg.PostgresError, asyncpg.InterfaceError, OSError)
    return Litestar(
        route_handlers=[index, list_kept, tell_context, take_order],
        lifespan=[database],
        exception_handlers=dict.fromkeys(errors, _answer_error),
        request_max_body_size=MAX_BODY,
        openapi_config=None,
        logging_config=None,  # whoever runs it says how it logs
    )


@get("/", sync_to_thread=False)
def index() -> dict[str, str]:
    return {"service": "voice-relay local orchestrator", "purpose": "development"}


@get([f"/{table}" for table in KEPT])
async def list_kept(request: AnyRequest, state: State) -> dict[str, Any]:
    """The newest first; `?user_id=` for those of one user."""
    table = request.url.path.strip("/")
    rows = await state.pool.fetch(
        f"""
        select id, user_id, {", ".join(KEPT[table].__struct_fields__)}, created_at
        from local_orchestrator.{table}
        where $1::text is null or user_id = $1
        order by id desc limit $2
        """,
        request.query_params.get("user_id"),
        LISTED,
    )
    return {"items": [dict(row) for row in rows]}


@get("/voice-context")
async def tell_context(request: AnyRequest, state: State, user_id: FromQuery[Id]) -> dict[str, Any]:
    """What this user has, for an agent: docs/reference/voice-context.schema.json. A task that is
    kept is open: nothing here ends one."""
    if state.secret is not None:
        signed = request.scope["query_string"]
        _check_signature(request.headers.get("X-Voice-Signature", ""), state.secret, signed)
    facts = {}
    for table, kind in KEPT.items():
        title, when, _ = kind.__struct_fields__
        rows = await state.pool.fetch(
            f"""
            select {title}, {when} from local_orchestrator.{table}
            where user_id = $1 order by id desc limit $2
            """,
            user_id,
            TOLD,
        )
        facts[table] = [{name: text for name, text in row.items() if text} for row in rows]
    # Tasks are spoken of by their names more often than goals.
    return {
        "facts": {"open tasks": facts["tasks"], "goals": facts["goals"]},
        "names": [row["title"] for table in ("tasks", "goals") for row in facts[table]],
    }


async def keep(table: str, connection: Connection, order: Order) -> Answer:
    """Make a row of a goal or a task."""
    kept = _decode(order.parameters, KEPT[table], "parameters")
    title, when, more = kept.__struct_fields__
    row = await connection.fetchrow(
        f"""
        insert into local_orchestrator.{table} (user_id, parameters, {title}, {when}, {more})
        values ($1, $2, $3, $4, $5) returning id, {title}, {when}
        """,
        order.user_id,
        bytes(order.parameters).decode(),
        kept.title.strip(),
        *msgspec.structs.astuple(kept)[1:],
    )
    return Answer(201, dict(row or {}))


async def reschedule(connection: Connection, order: Order) -> Answer:
    wish = _decode(order.parameters, Reschedule, "parameters")
    rows = await connection.fetch(
        """
        select id, title, due from local_orchestrator.tasks
        where user_id = $1 order by id desc limit $2
        """,
        order.user_id,
        CONSIDERED,
    )
    found = find_tasks(wish.task, [row["title"] for row in rows])
    if not found:
        raise _refusal(404, f"there is no task called {_spoken_name(wish.task)}")
    if len(found) > 1:
        names = " and ".join(rows[index]["title"] for index in found[:3])
        raise _refusal(409, f"more than one task is like that: {names}")
    row = rows[found[0]]
    await connection.execute(
        "update local_orchestrator.tasks set due = $2 where id = $1", row["id"], wish.when
    )
    return Answer(
        200, {"id": row["id"], "title": row["title"], "due": wish.when, "was_due": row["due"]}
    )


ORDERS: dict[str, Work] = {f"/{table}": partial(keep, table) for table in KEPT}
ORDERS["/tasks/reschedule"] = reschedule


@post(list(ORDERS))
async def take_order(request: AnyRequest, state: State) -> Response[bytes]:
    raw = await request.body()
    if state.secret is not None:
        _check_signature(request.headers.get("X-Voice-Signature", ""), state.secret, raw)
    order = _decode(raw, Order, "the body")
    key = request.headers.get("Idempotency-Key", "").strip()
    if len(key) > 200:
        raise _refusal(422, "the Idempotency-Key is longer than 200 characters")
    path = request.url.path.rstrip("/")
    fingerprint = _fingerprint(path, raw)
    async with state.pool.acquire() as connection, connection.transaction():
        if key:
            # Held to the end of the transaction: a twin that comes meanwhile waits for our answer.
            await connection.execute("select pg_advisory_xact_lock(hashtext($1))", "answer " + key)
            stored = await _stored_answer(connection, key, fingerprint)
            if stored is not None:
                return _respond(stored, {"Idempotent-Replayed": "true"})
        try:
            answer = await ORDERS[path](connection, order)
        except HTTPException as problem:
            answer = _tell(problem)  # asked again under its key, it is the same refusal
        if key:
            await connection.execute(
                """
                insert into local_orchestrator.answers (key, fingerprint, status, body)
                values ($1, $2, $3, $4)
                """,
                key,
                fingerprint,
                answer.status,
                msgspec.json.encode(answer.body).decode(),
            )
        return _respond(answer)


def _check_signature(signature: str, secret: str, raw: bytes) -> None:
    """`t=<Unix seconds>,v1=<hex HMAC-SHA-256 of "t.raw">`; an old one may be a copy. `raw` is the
    body, or the query of a GET."""
    found = re.fullmatch(r"t=(\d{1,12}),v1=([0-9a-f]{64})", signature, re.ASCII)
    if found is None:
        raise _refusal(401, "the request is not signed")
    expected = hmac.new(secret.encode(), f"{found[1]}.".encode() + raw, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(found[2], expected):
        raise _refusal(401, "the signature of the request is wrong")
    if abs(time.time() - int(found[1])) > SIGNATURE_SECONDS:
        raise _refusal(401, "the signature of the request is too old")


async def _stored_answer(connection: Connection, key: str, fingerprint: str) -> Answer | None:
    row = await connection.fetchrow(
        "select fingerprint, status, body from local_orchestrator.answers where key = $1", key
    )
    if row is None:
        return None
    if row["fingerprint"] != fingerprint:
        raise _refusal(422, "this Idempotency-Key was used for another request")
    return Answer(row["status"], msgspec.json.decode(row["body"]))


def find_tasks(name: str, titles: list[str]) -> list[int]:
    """The places in `titles` (newest first) that `name` may mean; several only if it is unclear.

    Case, word order, plural and small words do not matter.
    """
    wanted = _words(name)
    words = [_words(title) for title in titles]
    likeness = [_likeness(wanted, each) for each in words]
    best = max(likeness, default=0.0)
    if not wanted or best < CLOSE_ENOUGH:
        return []
    found = [index for index, each in enumerate(likeness) if each == best]
    return found if len({frozenset(words[index]) for index in found}) > 1 else found[:1]


SMALL_WORDS = frozenset(
    {"a", "an", "the", "my", "our", "your", "this", "that", "task", "to", "for", "of", "on", "with"}
)


def _words(name: str) -> set[str]:
    words = re.findall(r"\w+", name.casefold().replace("'", ""))
    return {word[:-1] if len(word) > 3 and word.endswith("s") else word for word in words} - (
        SMALL_WORDS
    )


def _likeness(one: set[str], other: set[str]) -> float:
    """2: the same words; above 1: the words of one among those of the other; else of letters."""
    if one == other:
        return 2.0
    if one and other and (one <= other or other <= one):
        return 1.0 + len(one & other) / len(one | other)
    return SequenceMatcher(None, " ".join(sorted(one)), " ".join(sorted(other))).ratio()


def _spoken_name(name: str) -> str:
    line = " ".join(name.split())[:100].strip(" .,!?\"'")
    return re.sub(r"^(?:(?:the|my|a|an|our|your)\s+)+(?=\S)", "", line, flags=re.IGNORECASE)


def _fingerprint(path: str, raw: bytes) -> str:
    # White space and the order of keys do not make another request.
    canonical = msgspec.json.encode(msgspec.json.decode(raw), order="sorted")
    return hashlib.sha256(path.encode() + b"\n" + canonical).hexdigest()


def _decode(raw: bytes | msgspec.Raw, kind: type[Kind], name: str) -> Kind:
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _refusal(422, f"{name}: {error}") from error


def _respond(answer: Answer, headers: dict[str, str] | None = None) -> Response[bytes]:
    return Response(
        msgspec.json.encode(answer.body),
        status_code=answer.status,
        media_type="application/problem+json" if answer.status >= 400 else "application/json",
        headers=headers,
    )


def _refusal(status: int, detail: str) -> HTTPException:
    """`detail` can be said aloud."""
    return HTTPException(detail=detail, status_code=status)


def _tell(problem: HTTPException) -> Answer:
    status = problem.status_code
    about = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    return Answer(status, {**about, "detail": problem.detail})


def _answer_error(request: AnyRequest, error: Exception) -> Response[bytes]:
    match error:
        case HTTPException():
            problem = error
        case asyncpg.DataError():  # what JSON may say and Postgres may not keep: U+0000
            problem = _refusal(422, "a text cannot be stored")
        case _:
            log.error("local_orchestrator_database_failed reason=%s", type(error).__name__)
            problem = _refusal(503, "the planner cannot reach its database")
    return _respond(_tell(problem), problem.headers)
