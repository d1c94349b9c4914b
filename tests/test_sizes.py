"""How large a class and a function may be: as much as a reader keeps in mind.

An exception is stated here with its reason, and there are five at most.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("config", "relay", "control", "loadtests")
MOST_ATTRIBUTES = 12  # of self, in a class
MOST_LINES = 60  # of a function, its docstring included
MOST_EXCEPTIONS = 5

# Name of the class or function to the reason why it is larger.
EXCEPTIONS = {
    "relay/live/session_registry.py SessionRegistry": "holds all that sessions have in common, to "
    "give it to each: half of it is handed on and never looked at",
    "relay/transport/send_queue.py SendQueue": "five are what the audio path of a connection reads "
    "without a call; the rest is one state machine",
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def definitions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.ClassDef | Function]]:
    """Every class and function with its dotted name, those within others too."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef | Function):
            yield f"{prefix}{node.name}", node
            yield from definitions(node, f"{prefix}{node.name}.")
        else:
            yield from definitions(node, prefix)


def attributes(node: ast.AST) -> set[str]:
    """What is assigned to self, in a class but not in the classes within it."""
    found = set()
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.ClassDef():
                continue
            case ast.Attribute(value=ast.Name(id="self"), ctx=ast.Store()):
                found.add(child.attr)
        found |= attributes(child)
    return found


def too_large(source: str) -> dict[str, str]:
    """Names of the classes and functions of a source that are too large, with their size."""
    found = {}
    for name, node in definitions(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            count = len(attributes(node))
            if count > MOST_ATTRIBUTES:
                found[name] = f"{count} attributes"
        else:
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MOST_LINES:
                found[name] = f"{lines} lines"
    return found


def all_too_large() -> dict[str, str]:
    return {
        f"{path.relative_to(ROOT).as_posix()} {name}": size
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*.py"))
        for name, size in too_large(path.read_text("utf-8")).items()
    }


def test_no_class_or_function_is_too_large():
    found = all_too_large()

    assert {name: size for name, size in found.items() if name not in EXCEPTIONS} == {}


def test_nothing_is_excepted_that_is_small_enough():
    assert EXCEPTIONS.keys() - all_too_large().keys() == set()


def test_the_exceptions_are_few_and_have_reasons():
    assert len(EXCEPTIONS) <= MOST_EXCEPTIONS
    assert all(EXCEPTIONS.values())


def class_with(count: int) -> str:
    lines = [f"        self.a{n}: int = {n}" for n in range(count)]
    return "\n".join(["class Large:", "    def __init__(self):", *lines])


def function_of(lines: int) -> str:
    return "\n".join(["class Some:", "    async def long(self):", *["        pass"] * (lines - 1)])


@pytest.mark.parametrize(
    ("source", "found"),
    [
        (class_with(12), {}),
        (class_with(13), {"Large": "13 attributes"}),
        (
            class_with(12) + "\n    def f(self):\n        self.x, y = 1, 2",
            {"Large": "13 attributes"},
        ),
        (class_with(12) + "\n        self.a0 += 1; other.x = 1", {}),
        ("class Outer:\n    def f(self):\n        self.b = 1\n" + class_with(12), {}),
        (function_of(60), {}),
        (function_of(61), {"Some.long": "61 lines"}),
    ],
)
def test_the_check_finds_what_is_too_large(source, found):
    assert too_large(source) == found
