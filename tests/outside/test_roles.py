"""Accounts of the database that may not do everything: the program runs, or names what it lacks."""

from __future__ import annotations

import logging
import random
import re
import signal
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from control.api.health import find_reasons
from control.db.conversations import erase_conversation, load_history
from control.db.grant import grant
from control.db.migrate import MigrationError, load_migrations, migrate
from control.db.store import Store, StoreUnavailable
from control.doctor.doctor import Doctor
from control.doctor.report import Report, write_text
from relay.transport.egress import Egress
from tests.chaos.stage import staged, until
from tests.closed_network import settings_of
from tests.control.db.test_migrate import use_every_statement

DEPLOY = (Path(__file__).parents[2] / "docs/deploy.md").read_text("utf-8")
log = logging.getLogger("tests")


def named(url, role):
    return url.replace("postgres@", f"{role}@", 1)


async def run(url, *statements):
    connection = await asyncpg.connect(url, statement_cache_size=0)
    try:
        for statement in statements:
            found = await connection.fetch(statement)
    finally:
        await connection.close()
    return found


class Accounts:
    """Two accounts, made as the documents say, but with names of this database's own."""

    def __init__(self, url):
        suffix = uuid7().hex
        self.admin = url
        self.owner, self.app = f"owner_{suffix}", f"app_{suffix}"
        self.owner_url, self.app_url = named(url, self.owner), named(url, self.app)

    async def follow(self, block):
        """Run this block of SQL of docs/deploy.md as an administrator."""
        sql = re.findall(r"```sql\n(.*?)```", DEPLOY, re.DOTALL)[block]
        sql = sql.replace("voice_owner", self.owner).replace("voice_app", self.app)
        connection = await asyncpg.connect(self.admin)
        await connection.execute(sql)
        await connection.close()

    async def examine(self, url=None):
        """What the doctor finds about the database."""
        settings = settings_of(DATABASE_URL=url or self.app_url)
        report = Report()
        await Doctor(settings, Egress(settings), report, 5).look_at_database()
        return {one.hop: one for one in report.findings}, write_text(report)


@pytest.fixture
async def accounts(empty_database_url):
    accounts = Accounts(empty_database_url)
    await accounts.follow(0)
    await migrate(accounts.owner_url, log=log)
    await grant(accounts.owner_url, accounts.app)
    return accounts


@asynccontextmanager
async def opened(url):
    store = Store(url)
    await store.open()
    yield store
    await store.close()


async def test_an_account_that_reads_and_writes_rows_runs_every_statement(accounts):
    async with opened(accounts.app_url) as store:
        assert await find_reasons(store) == []
        conversation_id = await use_every_statement(store, "user-1", uuid7())
        history = await load_history(store, conversation_id)
        assert [message.content for message in history.messages] == ["hello"]
        assert await erase_conversation(store, conversation_id, user_id="user-1") == []

    found, text = await accounts.examine()
    assert {one.status for one in found.values()} == {"ok"}, text
    for forbidden in ("DROP TABLE voice.messages", "DELETE FROM voice.migrations"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await run(accounts.app_url, forbidden)


async def test_granting_again_changes_nothing_and_later_tables_are_granted_too(accounts):
    await grant(accounts.owner_url, accounts.app)
    await run(accounts.owner_url, "CREATE TABLE voice.later (id int)")

    await run(accounts.app_url, "INSERT INTO voice.later VALUES (1)")
    found, text = await accounts.examine()
    assert {one.status for one in found.values()} == {"ok"}, text


@pytest.mark.parametrize("name", ["nobody at all", 'a"; DROP SCHEMA voice; --'])
async def test_an_account_that_is_not_there_is_granted_nothing(accounts, name):
    with pytest.raises(MigrationError) as refused:
        await grant(accounts.owner_url, name)

    assert "does not exist" in str(refused.value)
    assert "make the account first" in str(refused.value)
    with pytest.raises(MigrationError):
        await grant(accounts.app_url, accounts.app)  # who is not the owner


async def test_the_server_itself_ends_what_waits_or_takes_too_long(accounts):
    limits = {"statement_seconds": 0.6, "lock_seconds": 0.2}
    holder = await asyncpg.connect(accounts.admin)
    store = Store(accounts.app_url, **limits)
    await store.open()
    try:
        async with holder.transaction():
            await holder.execute("LOCK TABLE voice.nodes IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(StoreUnavailable) as waited:
                async with store.transaction() as connection:
                    await connection.execute("DELETE FROM voice.nodes")
        async with store.transaction() as connection:
            shown = await connection.fetchval("SHOW statement_timeout")
    finally:
        await holder.close()
        await store.close()

    assert "55P03" in str(waited.value)
    assert shown == "600ms"


async def test_the_real_program_runs_as_that_account(accounts, tmp_path):
    """Messages, calls, a takeover by another relay, and retention."""
    old = uuid7()
    await run(
        accounts.admin,
        f"INSERT INTO voice.conversations (id, user_id, updated_at) "
        f"VALUES ('{old}', 'somebody', now() - interval '9 days')",
    )
    async with staged(tmp_path, accounts.admin) as stage:
        two = [
            stage.relay(DATABASE_URL=accounts.app_url, RELAY_RETENTION_DAYS="7") for _ in range(2)
        ]
        for relay in two:
            await relay.start()
        urls = [relay.url for relay in two]

        async with stage.people(random.Random(1), 2, *urls) as browsers:
            at_first = next(relay for relay in two if relay.url == browsers[0].place)
            at_first.signal(signal.SIGTERM)  # its sessions go to the other one
            await at_first.end(20.0)
            for browser in browsers:
                await browser.turn_at_last(20)
            verdict = await stage.settle(browsers, 20.0)
        assert verdict.told > 0

        async def is_erased():
            return not await run(
                accounts.admin, f"SELECT FROM voice.conversations WHERE id = '{old}'"
            )

        await until(is_erased, 20)
        await stage.stop_relays()
        for relay in two:
            assert "Traceback" not in relay.output
            assert "permission denied" not in relay.output
            assert "_broken" not in relay.output


async def test_that_account_searches_with_the_index(accounts):
    """Row security keeps operators that are not leakproof from an index, if nothing is done."""
    await run(
        accounts.admin,
        "CREATE INDEX words ON voice.messages USING gin (to_tsvector('simple', content))",
    )
    connection = await asyncpg.connect(accounts.app_url)
    await connection.execute("SET enable_seqscan = off")

    plan = await connection.fetch(
        "EXPLAIN SELECT FROM voice.messages WHERE to_tsvector('simple', content) @@ 'a'::tsquery"
    )

    assert any("Bitmap Index Scan on words" in row[0] for row in plan), plan
    await connection.close()


async def test_what_is_made_later_is_let_in_as_well(accounts):
    """Every table has the policy: one of a migration to come must not forget it."""
    rows = await run(
        accounts.admin,
        "SELECT relname FROM pg_class WHERE relnamespace = 'voice'::regnamespace "
        "AND relkind IN ('r', 'p') AND NOT EXISTS (SELECT FROM pg_policies "
        "WHERE schemaname = 'voice' AND tablename = relname AND policyname = 'program')",
    )

    assert rows == []


async def test_an_account_that_may_only_read_is_found_with_all_that_it_lacks(accounts):
    await run(
        accounts.admin,
        f"REVOKE INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA voice FROM {accounts.app}",
    )

    found, text = await accounts.examine()

    assert found["database privileges"].status == "failed", text
    for lacking in ("INSERT on voice.messages", "UPDATE on voice.nodes", "DELETE on voice.grants"):
        assert lacking in found["database privileges"].detail
    async with opened(accounts.app_url) as store:
        (reason,) = await find_reasons(store)
        assert reason.startswith("our account lacks DELETE on voice.")


@pytest.mark.parametrize(
    ("privilege", "table"),
    [("UPDATE", "intents"), ("DELETE", "grants"), ("SELECT", "migrations"), ("INSERT", "messages")],
)
async def test_one_privilege_that_is_missing_on_one_table_is_named(accounts, privilege, table):
    await run(accounts.admin, f"REVOKE {privilege} ON voice.{table} FROM {accounts.app}")

    found, text = await accounts.examine()

    detail = found["database privileges"].detail
    assert detail == f"missing: {privilege} on voice.{table}", text


async def test_an_account_without_the_schema_is_named(accounts):
    await run(accounts.admin, f"REVOKE USAGE ON SCHEMA voice FROM {accounts.app}")

    found, _ = await accounts.examine()

    assert found["database privileges"].detail == "missing: USAGE on schema voice"
    async with opened(accounts.app_url) as store:
        assert await find_reasons(store) == ["the database refuses our account"]


async def test_a_role_that_one_switches_to_sees_nothing_and_is_told(accounts):
    group = f"group_{accounts.app}"
    await run(
        accounts.admin,
        f"CREATE ROLE {group}",
        f"GRANT {group} TO {accounts.app}",
        f"GRANT USAGE ON SCHEMA voice TO {group}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA voice TO {group}",
    )
    url = f"{accounts.app_url}&role={group}"

    found, text = await accounts.examine(url)

    assert "row security hides" in found["database row security"].detail, text
    assert "voice.migrations" in found["database row security"].detail
    async with opened(url) as store:
        assert await find_reasons(store) == ["row security hides our tables from our account"]


async def test_a_schema_of_the_version_before_is_told_in_time(empty_database_url):
    """Its row security hides the list of migrations from everybody but the owner."""
    accounts = Accounts(empty_database_url)
    await accounts.follow(0)
    older = [one for one in load_migrations() if "program" not in one.name]
    await migrate(accounts.owner_url, log=log, migrations=older)
    await grant(accounts.owner_url, accounts.app)

    async with opened(accounts.app_url) as store:
        assert await find_reasons(store) == ["row security hides our tables from our account"]
    found, text = await accounts.examine()
    assert "voice.migrations" in found["database row security"].detail, text


async def test_an_account_that_may_not_migrate_is_one_line(accounts):
    await run(accounts.admin, "DELETE FROM voice.migrations WHERE name > '0006'")

    with pytest.raises(MigrationError) as failed:
        await migrate(accounts.app_url, log=log)

    assert "\n" not in str(failed.value)
    assert "must be owner" in str(failed.value) or "permission denied" in str(failed.value)


async def test_an_account_that_is_set_to_read_only_is_found(accounts):
    await run(accounts.admin, f"ALTER ROLE {accounts.app} SET default_transaction_read_only = on")

    found, text = await accounts.examine()

    assert found["database writable"].status == "failed", text


async def test_an_account_that_may_open_no_more_connections_is_told(accounts):
    await run(accounts.admin, f"ALTER ROLE {accounts.app} CONNECTION LIMIT 0")

    found, _ = await accounts.examine()

    assert "takes no more connections: too many connections" in found["database connect"].detail
