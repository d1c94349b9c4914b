"""config/yaml_loader.py: YAML without its surprises."""

import pytest

from config.errors import ConfigError
from config.yaml_loader import read_document


@pytest.fixture
def read(tmp_path):
    def read(text):
        path = tmp_path / "a.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_document(path)

    return read


def refused(read, text):
    with pytest.raises(ConfigError) as caught:
        read(text)
    (problem,) = caught.value.problems
    return problem


def test_only_true_and_false_are_booleans(read):
    values, _ = read("[true, False, yes, no, on, off, Y, n]")

    assert values == [True, False, "yes", "no", "on", "off", "Y", "n"]


def test_numbers_are_what_they_look_like(read):
    values, _ = read("[010, -7, +7, 0x1F, 1.5, .5, 1e3, 2.5E-1, 1:30, 1_000, 2025-03-17, .inf]")

    assert values == [10, -7, 7, 31, 1.5, 0.5, 1000.0, 0.25, "1:30", "1_000", "2025-03-17", ".inf"]


def test_an_empty_value_is_null_and_quotes_make_text(read):
    assert read("{a: , b: ~, c: null, d: '', e: 'true'}")[0] == {
        "a": None,
        "b": None,
        "c": None,
        "d": "",
        "e": "true",
    }


def test_a_key_that_is_not_text_becomes_text(read):
    assert read("{2: a, true: b, ? null : c}")[0] == {"2": "a", "true": "b", "null": "c"}


def test_anchors_and_merged_mappings_work(read):
    values, problems = read("a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  y: 3\n")

    assert values["b"] == {"x": 1, "y": 3}
    assert problems == []


def test_a_key_that_is_written_twice_is_a_mistake_with_its_line(read):
    _, problems = read("a: 1\nb:\n  c: 1\n  c: 2\na: 3\n")

    assert problems == [
        'a.yaml: line 5: expected every key once, got "a" twice; delete one',
        'a.yaml: line 4: expected every key once, got "c" twice; delete one',
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: [1, 2\nc: 3\n", "a.yaml: line 3, column 2: expected YAML, got: "),
        ("a: 1\n\tb: 2\n", "line 2, column 1: expected YAML"),
        ("a: *nobody\n", "line 1, column 4: expected YAML, got: found undefined alias"),
        ("[a]: 1\n? {b: 1} : 2\n", "expected YAML, got: found unhashable key"),
        ("a: 1\n---\nb: 2\n", "line 2, column 1: expected YAML, got: but found another document"),
        ("a: !!python/name:os.system\n", "could not determine a constructor"),
        ("a: \x01\n", "expected YAML, got unacceptable character"),
        ("a: !!int x\n", "expected YAML, got invalid literal"),
        (b"a: \xff\n", "expected text in UTF-8, got byte 0xff at position 3"),
        ("a: &a [*a]\n", "expected texts, numbers, lists and mappings"),
        ("a: !!timestamp 2025-03-17\n", "date is not JSON serializable"),
        ("a: 1e999\n", "expected texts, numbers, lists and mappings"),
    ],
)
def test_what_is_not_plain_yaml_is_refused_and_says_where(read, text, said):
    assert said in refused(read, text)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError) as caught:
        read_document(tmp_path / "none.yaml")

    (problem,) = caught.value.problems
    assert problem.startswith("none.yaml: expected a file at ")
    assert "no such file" in problem
