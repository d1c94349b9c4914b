"""Search boxes: beginnings of words, any script, any way to write an accent. Without extensions."""

# ruff: noqa: RUF001 (letters of all scripts are what this is about)
from __future__ import annotations

import logging
import unicodedata
from urllib.parse import urlsplit

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from control.db.conversations import create_conversation, list_conversations, rename_conversation
from control.db.migrate import migrate
from control.db.store import Store
from relay.core.records import MessageSaid
from tests.control.db.test_conversations import NOW, USER, converse
from tests.outside.page import API, talking

NFD = unicodedata.normalize("NFD", "café crème brûlée")

# What is stored, what finds it, and what does not.
CASES = {
    "beginnings": ("I run a marathon.", ["marath", "m", "MARA", "run mar"], ["rathon"]),
    "accents": ("Un café, s’il vous plaît", ["cafe", "café", "CAFÉ", "plait", "s'il"], ["cafés"]),
    "accents of two pieces": (NFD, ["café", "cafe", "brule", "BRÛ", '"creme brulee"'], ["cafes"]),
    "umlauts": ("Die Müllers, über Äpfel", ["muller", "Müller", "APFEL", "uber", "ü"], ["fel"]),
    "sharp s": ("Straße", ["strasse", "STRASSE", "straß", "straße"], ["strabe"]),
    "nordic": ("Smørrebrød på Øya, Łódź", ["smorre", "SMØR", "oya", "pa", "lodz"], ["rebrod"]),
    "turkish": ("İstanbul ve ılık", ["istanbul", "ISTANBUL", "ilik"], ["tanbul"]),
    "vietnamese": ("Tôi muốn uống nước", ["muon", "nuoc", "UỐNG"], ["ong"]),
    "cyrillic": ("Хочу купить молоко", ["моло", "МОЛОКО", "хочу мол"], ["локо"]),
    "greek": ("Θέλω γάλα, Οδυσσέας", ["γαλ", "ΘΕΛΩ", "οδυσσεας", "ΟΔΥΣΣΕΑΣ"], ["αλα"]),
    "chinese": ("明天记得买牛奶和面包。", ["牛奶", "奶", "记得 面包", "明天记得买"], ["奶牛"]),
    "japanese": ("あした牛乳とパンを買う", ["牛乳", "ﾊﾟﾝ", "パン", "買", "した牛乳と"], ["ハン"]),
    "korean": ("우유를 사야 해요", ["우유", "우유를", "사야", "우"], ["유를"]),
    "thai": ("ฉันอยากซื้อนมพรุ่งนี้", ["นม", "ซื้อ", "พรุ่งนี้"], ["มน"]),
    "beyond the first plane": ("𠮷野家 は", ["𠮷", "𠮷野", "野家"], ["家野"]),
    "mixed": ("我的iPhone手机坏了", ["iphone", "iph", "手机", "iPhone手机"], ["phone"]),
    "wide letters": ("ＡＢＣ　１２３", ["abc", "123", "ab"], ["bc"]),
    "ligatures": ("ﬁnal oﬀice", ["final", "fin", "office"], ["nal"]),
    "compounds": ("A well-known joe@example.com", ["known", "well-kn", "exam", "joe@ex"], ["ell"]),
    "numbers": ("Room 4711, 3.14 at 10:30", ["4711", "47", "3.14", "10:30"], ["711"]),
    "apostrophes": ("I don’t know", ["don't", "don’t", "don"], ["dont"]),
    "soft hyphens": ("Donau\u00addampf\u200bschiff", ["donaudampfschiff", "donaud"], ["dampf"]),
    "hebrew": ("שָׁלוֹם עולם", ["שלום", "עול"], ["לום"]),
    "arabic": ("مَرْحَبًا بك", ["مرحبا", "مرح"], ["حبا"]),
    "hindi": ("मुझे दूध चाहिए", ["दूध", "चाहि"], ["हिए"]),
}  # fmt: skip


@pytest.fixture
async def library(store):
    """One conversation for each case: `store`, and the cases by conversation."""
    return store, {await converse(store, said): name for name, (said, _, _) in CASES.items()}


async def find(store, q, user_id=USER):
    return {c.id for c in await list_conversations(store, user_id, q=q, limit=100)}


async def test_what_people_type_finds_what_was_said(library):
    store, names = library
    wrong = []
    for name, (_, finds, misses) in CASES.items():
        for q in finds:
            for written in (q, unicodedata.normalize("NFD", q), unicodedata.normalize("NFC", q)):
                if name not in {names[each] for each in await find(store, written)}:
                    wrong.append(f"{name}: {written!r} does not find it")
        for q in misses:
            if name in {names[each] for each in await find(store, q)}:
                wrong.append(f"{name}: {q!r} finds it")

    assert wrong == []


async def test_what_is_found_is_shown_with_its_words_marked(library):
    """Also in scripts of which our own idea of a word might not be the database's."""
    store, names = library
    wrong = []
    for name, (text, finds, _) in CASES.items():
        for q in finds:
            for each in await list_conversations(store, USER, q=q, limit=100):
                if names[each.id] != name:
                    continue
                whole = unicodedata.normalize("NFC", text)
                if "".join(each.found.line).strip("…") not in " ".join(whole.split()):
                    wrong.append(f"{name}: {q!r} shows {each.found.line}")
                if len(each.found.line) < 3 or len(each.found.title) < 3:
                    wrong.append(f"{name}: {q!r} marks nothing in {each.found}")
    assert wrong == []


@pytest.mark.parametrize(
    ("q", "title", "line"),
    [
        ("swim", ["I ", "swim", " today"], ["Shall we ", "swim", "?"]),
        ("SWI tod", ["I ", "swim", " ", "today", ""], ["I ", "swim", " ", "today", ""]),
        ('"swim today"', ["I ", "swim today", ""], ["I ", "swim today", ""]),
        ("swim -today", ["I ", "swim", " today"], ["Shall we ", "swim", "?"]),
        ("-today", ["I swim today"], []),
        ("café or lake", ["I swim today"], ["By the ", "lake", "."]),
    ],
)
async def test_the_newest_line_that_has_all_the_words_is_shown(store, q, title, line):
    await converse(store, "I swim today", "By the lake.", "Shall we swim?")

    (only,) = await list_conversations(store, USER, q=q, limit=10)

    assert only.found.title == title
    assert only.found.line == line
    assert (only.found.seq is None) == (line == [])


async def test_of_a_long_line_the_place_is_shown(store):
    await converse(store, f"{'word ' * 300}marathon {'more ' * 300}")

    (only,) = await list_conversations(store, USER, q="mara", limit=10)

    before, word, after = only.found.line
    assert word == "marathon"
    assert before.startswith("…word ")
    assert after.endswith(" more…")
    assert len("".join(only.found.line)) <= 170


@pytest.mark.parametrize(
    ("q", "found"),
    [
        ("swim", {"a", "b", "c"}),
        ("swim run", {"b"}),
        ('"swim and run"', {"b"}),
        ('"and swim"', set()),
        ('"swim an"', set()),  # a phrase is of whole words
        ("“swim and run”", {"b"}),  # as phones quote
        ("swim -run", {"a", "c"}),
        ("swim -ru", {"a", "b", "c"}),  # what is not to be there is a whole word
        ('swim -"and run"', {"a", "c"}),
        ("run or ride", {"b", "d"}),
        ("run OR ride", {"b", "d"}),
        ("swim today or ride", {"a", "d"}),
        ("or", {"c"}),
        ("swim or", {"c"}),
        ('"or"', {"c"}),
        ("-", set()),
        ("- swim", {"a", "b", "c"}),
        ("-swim", {"d"}),
        ('"', set()),
        ('""', set()),
        ('"swim', {"a", "b", "c"}),
        ("swim & !run | (", {"b"}),
        ("swim:* <-> x", set()),
        ("???", set()),
        ("\N{GRINNING FACE}", set()),
    ],
)
async def test_phrases_alternatives_and_what_is_not_to_be_there(store, q, found):
    texts = {"a": "I swim today", "b": "I swim and run", "c": "to swim or not", "d": "I ride"}
    ids = {await converse(store, said): name for name, said in texts.items()}

    assert {ids[each] for each in await find(store, q)} == found


async def test_titles_are_found_the_same_way(store):
    conversation = await converse(store, "hello")
    await rename_conversation(store, conversation, user_id=USER, title="Über 牛奶 Café")

    for q in ("uber", "奶", "caf", "CAFÉ"):
        assert await find(store, q) == {conversation}


@pytest.mark.parametrize(
    "text",
    [
        "x" * 1_000_000,
        "牛" * 300_000,
        " ".join(map(str, range(150_000))),
        "".join(map(chr, range(0x3400, 0x3400 + 50_000 - 0x2000))),
        "\ufdfa" * 60_000,  # one that is eighteen
        "a\u0301" * 60_000,
        "".join(map(chr, [*range(1, 0xD800), *range(0xE000, 0x110000, 7)])),
        "\ud83d\0",
    ],
    ids=["one word", "one letter", "many words", "all of Han", "grows", "marks", "all", "no text"],
)
async def test_every_text_can_be_stored_and_found_by_its_beginning(store, text):
    """What cannot be indexed cannot be stored, and a message is never refused."""
    conversation = await create_conversation(store, uuid7(), user_id=USER)
    content = f"Beginning {text}"
    said = MessageSaid(
        id=uuid7(), conversation_id=conversation.id, session_id=uuid7(), seq=1, turn=1,
        role="user", content=content, at=NOW,
    )  # fmt: skip
    await store.write([said])
    await rename_conversation(store, conversation.id, user_id=USER, title=f"Title {text}"[:200])

    assert await find(store, "beginn") == {conversation.id}
    assert await find(store, "titl") == {conversation.id}


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
async def test_search_needs_no_extension_and_no_locale(empty_database_url, locale):
    """Also what was stored before search could do that is found."""
    name = f"plain_{uuid7().hex}"
    admin = await asyncpg.connect(empty_database_url)
    await admin.execute(
        f"CREATE DATABASE {name} TEMPLATE template0 LOCALE_PROVIDER libc LOCALE '{locale}'"
    )
    await admin.close()
    url = empty_database_url.replace(urlsplit(empty_database_url).path, f"/{name}")
    await migrate(url, log=logging.getLogger("tests"))
    store = Store(url)
    await store.open()
    try:
        drinks = await converse(store, "МОЛОКО, Café und 牛奶")
        for q in ("моло", "cafe", "奶"):
            assert await find(store, q) == {drinks}, q
        async with store.transaction() as connection:
            extensions = await connection.fetch("SELECT extname FROM pg_extension")
        assert [row[0] for row in extensions] == ["plpgsql"]
    finally:
        await store.close()


async def test_a_search_reads_its_index_and_not_the_table(store):
    """Twenty thousand messages of a hundred users; words that all of them say."""
    async with store.transaction() as connection:
        await connection.execute(
            """
            INSERT INTO voice.conversations (id, user_id, title)
            SELECT gen_random_uuid(), 'user-' || n % 100, 'Bonjour'
            FROM generate_series(1, 2000) AS n;
            INSERT INTO voice.messages (conversation_id, seq, turn, id, session_id, user_id, role,
                                        content, created_at)
            SELECT c.id, n, n, gen_random_uuid(), c.id, c.user_id, 'user',
                   'Bonjour, un café ' || n || ' 牛奶', now()
            FROM voice.conversations AS c, generate_series(1, 10) AS n;
            """
        )
        await connection.execute("ANALYZE voice.messages, voice.conversations")
        for query in ("'cafe':*", "'牛' <-> '奶':*"):
            plan = await connection.fetch(
                """
                EXPLAIN SELECT conversation_id FROM voice.messages
                WHERE (to_tsvector('simple', voice.fold(content))
                       || array_to_tsvector(ARRAY['=' || user_id]))
                      @@ ($1::text::tsquery && $2::text::tsquery)
                """,
                query,
                "'=user-5'",
            )
            assert "messages_search" in "\n".join(row[0] for row in plan)
    assert len(await find(store, "caf", "user-5")) == 20


async def test_what_was_said_in_a_session_is_found_over_rest(stage):
    async with talking(stage) as talk:
        relay = talk.relay()
        await relay.start()
        page = await talk.page(relay)
        await talk.line(page, "user", "Ich möchte einen Marathon laufen und 牛奶")

        for q in ("marath", "mochte", "牛奶", unicodedata.normalize("NFD", "möchte")):
            answer = await stage.http.get(f"{relay.url}{API}/conversations", params={"q": q})
            items = answer.raise_for_status().json()["items"]
            assert [item["id"] for item in items] == [page.conversation_id], q
