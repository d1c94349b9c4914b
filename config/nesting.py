"""How deep JSON text is nested, found without recursion. Pure.

Decoders, encoders and validators recurse: what is nested too deep is found here before they see it.
"""

from __future__ import annotations

import re

# A string, also one that does not end, or a bracket outside of strings.
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[\]{}]', re.DOTALL)


def is_deeper(text: bytes, most: int) -> bool:
    """Whether more than `most` objects and arrays stand inside one another."""
    return len(text) > most and flatten(text, most) != text


def flatten(text: bytes, most: int) -> bytes:
    """The same text with a 0 in place of what is nested deeper than `most`."""
    kept: list[bytes] = []
    depth = kept_to = 0
    for token in _TOKEN.finditer(text):
        match token[0]:
            case b"[" | b"{":
                depth += 1
                if depth == most + 1:
                    kept += (text[kept_to : token.start()], b"0")
            case b"]" | b"}":
                if depth == most + 1:
                    kept_to = token.end()
                depth -= 1
    if depth <= most:
        kept.append(text[kept_to:])
    return b"".join(kept)
