"""What people type into a search box: the query that Postgres makes of it, and where in a text its
words are.

Control plane. What is a word is for Postgres to say, which folds texts and terms alike
(`voice.fold`). `SearchTerms.mark` does the same for what is shown: where the two differ a word is
found that is not marked.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

import msgspec

from control.db.pool import Connection
from control.db.rows import storable_json

BEFORE = 40  # characters that are shown before the first word found
LONGEST = 160  # characters that are shown of a line

_WRITTEN = re.compile(r'(?P<not>-)?(?:"(?P<phrase>[^"]*)"?|(?P<word>[^\s"]+))')
# As phones make them of the plain one.
_QUOTES = str.maketrans(dict.fromkeys("“”„‟«»", '"'))
# As voice.fold has them: what is not seen, other letters of the same kind, what is no letter, and
# scripts in which each character is a word.
_MARKS = "\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0670\u00ad\u200b-\u200f\u2060\ufe00-\ufe0f\ufeff"
_UNSEEN = re.compile(f"[{_MARKS}]")
_LETTER = re.compile(f"[^{_MARKS}][{_MARKS}]*|[{_MARKS}]+", re.S)
_PLAIN = str.maketrans(
    dict(zip("øłđħŧıς", "oldhtiσ", strict=True)) | {"ß": "ss", "æ": "ae", "œ": "oe"}  # noqa: RUF001
)
_BETWEEN = re.compile(
    r"[\u0000-\u002f\u003a-\u0040\u005b-\u0060\u007b-\u00bf\u00d7\u00f7\u2000-\u2bff\u2e00-\u2e7f"
    r"\u3000-\u3004\u3008-\u3020\u3030-\u303f\u30fb\uff00-\uff65\ufff0-\uffff]"
)
_WORD_EACH = re.compile(
    r"([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3100-\u312f\u31a0-\u31bf"
    r"\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])"
)
_ASCII_WORD = re.compile(r"[a-z0-9]+")

Span = tuple[int, int]


class Term(msgspec.Struct, frozen=True):
    """`text` is to be there, or not to be (`negated`). With `prefix` its last word is the beginning
    of one. Terms with one `place` go together, places are alternatives."""

    place: int
    text: str
    negated: bool = False
    prefix: bool = False


class SearchTerms:
    """What is looked for. `mark` and `cut` put a text into parts, of which every second is a word
    that was looked for."""

    def __init__(self, terms: list[Term]) -> None:
        self.terms = terms
        self._wanted = [
            ([word for _, word in _words(unicodedata.normalize("NFKC", term.text))], term.prefix)
            for term in terms
            if not term.negated
        ]

    def mark(self, text: str) -> list[str]:
        """The whole text."""
        text = unicodedata.normalize("NFC", text)
        return _part(text, self._find(text))

    def cut(self, text: str) -> list[str]:
        """A line of it, around the first word; empty if there is none."""
        text = " ".join(unicodedata.normalize("NFC", text).split())
        spans = self._find(text)
        if not spans:
            return []
        start = text.rfind(" ", 0, max(spans[0][0] - BEFORE, 0)) + 1
        end = len(text)
        if end - start > LONGEST:
            end = max(text.rfind(" ", start, start + LONGEST), spans[0][1])
        parts = _part(text[:end], [span for span in spans if span[1] <= end])
        parts[0] = f"{'…' if start else ''}{parts[0][start:]}"
        parts[-1] += "…" if end < len(text) else ""
        return parts

    def _find(self, text: str) -> list[Span]:
        """Where the words are, in order; no two overlap."""
        there = list(_words(text))
        found: list[Span] = []
        for wanted, prefix in self._wanted:
            *first, last = wanted or [""]
            for n in range(len(there) - len(first)) if last else ():
                words = [word for _, word in there[n : n + len(wanted)]]
                ends = words[-1].startswith(last) if prefix else words[-1] == last
                if ends and words[:-1] == first:
                    found.append((there[n][0][0], there[n + len(first)][0][1]))
        apart: list[Span] = []
        for start, end in sorted(found):
            if not apart or start >= apart[-1][1]:
                apart.append((start, end))
        return apart


def parse(q: str) -> SearchTerms:
    """The terms in their order; there is no mistake that one could make."""
    found = list(_WRITTEN.finditer(q.translate(_QUOTES)))
    terms: list[Term] = []
    place = 0
    for number, each in enumerate(found, start=1):
        word, negated = each["word"], each["not"] is not None
        follows = bool(terms) and terms[-1].place == place
        if word and word.lower() == "or" and not negated and follows and number < len(found):
            place += 1
        elif word:
            terms.append(Term(place, word, negated, prefix=not negated))
        else:
            terms.append(Term(place, each["phrase"], negated))
    return SearchTerms(terms)


async def make_query(connection: Connection, terms: SearchTerms) -> str | None:
    """The tsquery of these terms, as text; None: there is no word in them."""
    sql = """
        SELECT string_agg('(' || together || ')', ' | ')
        FROM (
            SELECT string_agg(CASE WHEN negated THEN '!' ELSE '' END
                              || '(' || words || CASE WHEN prefix THEN ':*' ELSE '' END || ')',
                              ' & ') AS together
            FROM json_to_recordset($1) AS t (place int, text text, negated bool, prefix bool),
                 CAST(phraseto_tsquery('simple', voice.fold(t.text)) AS text) AS words
            WHERE words <> ''
            GROUP BY place
        ) AS alternative
    """
    query: str | None = await connection.fetchval(sql, storable_json(terms.terms))
    return query


def quote_word(word: str) -> str:
    """A tsquery of this one word, taken literally."""
    return "'" + word.replace("\\", "\\\\").replace("'", "''") + "'"


def _part(text: str, spans: list[Span]) -> list[str]:
    parts = []
    reached = 0
    for start, end in spans:
        parts += [text[reached:start], text[start:end]]
        reached = end
    return [*parts, text[reached:]]


def _words(text: str) -> Iterator[tuple[Span, str]]:
    """The words of a text, folded, and where they are."""
    if text.isascii():
        for each in _ASCII_WORD.finditer(text.lower()):
            yield each.span(), each[0]
        return
    word, start, end = "", 0, 0
    for letter in _LETTER.finditer(text):
        folded = _fold(letter[0])
        for piece in re.split("( )", folded):
            if piece == " " and word:
                yield (start, end), word
                word = ""
            elif piece.strip():
                start = start if word else letter.start()
                word += piece
                end = letter.end()
    if word:
        yield (start, end), word


@lru_cache(maxsize=4096)
def _fold(letter: str) -> str:
    """One letter with its marks, as voice.fold makes it."""
    bare = unicodedata.normalize("NFC", _UNSEEN.sub("", unicodedata.normalize("NFKD", letter)))
    plain = bare.lower().translate(_PLAIN)
    return _WORD_EACH.sub(r" \1 ", _BETWEEN.sub(" ", plain))
