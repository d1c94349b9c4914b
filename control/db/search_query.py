"""What people type into a search box, as terms: all words, "a phrase", or, -not.

Control plane, pure. What is a word is for Postgres to say, which folds texts and terms alike
(`voice.fold`).
"""

from __future__ import annotations

import re

import msgspec

_TERM = re.compile(r'(?P<not>-)?(?:"(?P<phrase>[^"]*)"?|(?P<word>[^\s"]+))')
# As phones make them of the plain one.
_QUOTES = str.maketrans(dict.fromkeys("“”„‟«»", '"'))


class Term(msgspec.Struct, frozen=True):
    """`text` is to be there, or not to be (`negated`). With `prefix` its last word is the beginning
    of one. Terms with one `place` go together, places are alternatives."""

    place: int
    text: str
    negated: bool = False
    prefix: bool = False


def parse(q: str) -> list[Term]:
    """The terms in their order; there is no mistake that one could make."""
    found = list(_TERM.finditer(q.translate(_QUOTES)))
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
    return terms
