"""config/prompt.py: system_prompt.md and its placeholders."""

import datetime
from pathlib import Path

import pytest

import config
from config.errors import ConfigError
from config.intents import Intent, IntentsFile, Registry
from config.prompt import load_prompt
from config.validation import load_file

ROOM = Path(config.__file__).parent
DAY = datetime.date(2026, 3, 5)
BARE = Registry(
    [
        Intent(
            name="HELP",
            title="Help",
            function="help",
            description="Call\n  for help.",
            parameters={"type": "object"},
            path="/help",
        )
    ]
)


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "system_prompt.md"
        path.write_text(text)
        return path

    return write


def rendered(path, registry=BARE):
    return load_prompt(path).render(today=DAY, time_zone="Europe/Berlin", registry=registry)


def test_the_shipped_prompt_has_the_day_the_zone_and_every_intent():
    registry = Registry(load_file(IntentsFile, ROOM / "intents.yaml").intents)
    text = rendered(ROOM / "system_prompt.md", registry)

    assert "Today is Thursday, 5 March 2026." in text
    assert "time zone is Europe/Berlin" in text
    for intent in registry.intents:
        assert f"`{intent.function}`" in text
    assert "Needs: title, deadline. May have: details." in text
    assert not set("{}<>") & set(text)


def test_placeholders_are_filled_and_doubled_braces_are_braces(written):
    path = written('{today} {time_zone}\n{intents}\n{{"a": {{}}}} {{today}}')

    assert rendered(path) == (
        'Thursday, 5 March 2026 Europe/Berlin\n- Help (`help`): Call for help.\n{"a": {}} {today}\n'
    )


def test_what_is_filled_in_is_not_filled_in_again(written):
    prompt = load_prompt(written("{time_zone}"))

    assert prompt.render(today=DAY, time_zone="{today}", registry=BARE) == "{today}\n"


def test_comments_are_not_sent(written):
    assert rendered(written("<!-- {nothing}\n-->\nA\n\n<!-- x -->\n\nB <!-- open")) == "A\n\nB\n"


def test_every_wrong_placeholder_is_named_with_its_line(written):
    with pytest.raises(ConfigError) as caught:
        load_prompt(written("<!--\n-->{tody}\n{ok: 1}\n{today} } {\n{}"))

    wanted = "expected one of {today}, {time_zone}, {intents}, {context}, got "
    braces = "; double braces that are meant as braces"
    single = "; double a brace that is meant as a brace"
    assert caught.value.problems == [
        f'system_prompt.md: line 2: {wanted}{{tody}}; did you mean "today"?',
        f"system_prompt.md: line 3: {wanted}{{ok: 1}}{braces}",
        f"system_prompt.md: line 4: {wanted}a single }}{single}",
        f"system_prompt.md: line 4: {wanted}a single {{{single}",
        f"system_prompt.md: line 5: {wanted}{{}}{braces}",
    ]


def test_an_empty_prompt_is_refused(written):
    with pytest.raises(ConfigError, match="expected a prompt, got an empty text"):
        load_prompt(written(" \n<!-- only a comment -->\n"))


def test_the_prompt_is_not_in_its_repr(written):
    assert repr(load_prompt(written("secret sauce"))) == "<Prompt 13 characters>"
