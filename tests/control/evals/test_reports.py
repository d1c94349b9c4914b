"""Pass rates, what changed since the last time, and the reports."""

from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from control.evals.attempt import Attempt, Entry
from control.evals.interval import wilson
from control.evals.junit import write_junit
from control.evals.page import write_html
from control.evals.report import write_text
from control.evals.results import Outcome, Result, Results, compare, read_last, write_last

NASTY = 'a "<b>" & \x1b[31m \x00 \ud7ff'


@pytest.mark.parametrize(
    ("passed", "count", "low", "high"),
    [
        (0, 0, 0.0, 1.0),
        (1, 1, 0.207, 1.0),
        (5, 5, 0.566, 1.0),
        (0, 5, 0.0, 0.434),
        (8, 10, 0.490, 0.943),
        (50, 100, 0.404, 0.596),
    ],
)
def test_the_interval_is_wilsons(passed, count, low, high):
    assert wilson(passed, count) == pytest.approx((low, high), abs=0.001)


def attempt(number, *failures, **fields):
    return Attempt(number=number, failures=list(failures), seconds=30.0, **fields)


def result(name, *passes, known=None, pass_rate=1.0):
    attempts = [attempt(n, *([] if good else ["wrong"])) for n, good in enumerate(passes, 1)]
    return Result(name=name, about="x", known=known, pass_rate=pass_rate, attempts=attempts)


def results(*scenarios, agent="sandbox"):
    return Results(agent=agent, began="2026-11-27T20:00:00Z", seconds=60, scenarios=list(scenarios))


@pytest.mark.parametrize(
    ("one", "outcome"),
    [
        (result("a", True, True), Outcome.PASSED),
        (result("a", True, False), Outcome.FAILED),
        (result("a", True, True, True, True, False, pass_rate=0.8), Outcome.PASSED),
        (result("a", True, False, known="why"), Outcome.KNOWN),
        (result("a", True, known="why"), Outcome.SURPRISE),
        (result("a"), Outcome.FAILED),
    ],
)
def test_a_scenario_passes_when_enough_attempts_do_and_may_be_known_to_fail(one, outcome):
    assert one.outcome is outcome


def test_the_last_evaluation_is_kept_by_agent_and_scenario(tmp_path):
    path = tmp_path / "new" / "last.json"

    write_last(path, results(result("a", True), result("b", True)))
    write_last(path, results(result("a", False)))
    write_last(path, results(result("a", True), agent="deepgram"))

    last = read_last(path, "sandbox")
    assert {name: past.passed for name, past in last.scenarios.items()} == {"a": 0, "b": 1}
    assert read_last(path, "deepgram").scenarios["a"].passed == 1
    assert read_last(tmp_path / "none.json", "sandbox") is None


def test_what_is_no_file_of_ours_is_no_last_evaluation(tmp_path):
    path = tmp_path / "last.json"
    path.write_bytes(b"[1")

    assert read_last(path, "sandbox") is None


def test_what_changed_is_told_and_whether_it_may_be_chance(tmp_path):
    path = tmp_path / "last.json"
    five = [True] * 5
    write_last(
        path,
        results(
            result("same", *five),
            result("lost", *five),
            result("back", False),
            result("a bit less", *five, pass_rate=0.5),
            result("much less", *[True] * 50, pass_rate=0.1),
            result("not run", True),
        ),
    )

    now = results(
        result("same", *five),
        result("lost", *five[:-1], False),
        result("back", True),
        result("a bit less", *five[:-1], False, pass_rate=0.5),
        result("much less", *[True] * 10, *[False] * 40, pass_rate=0.1),
        result("first", True),
    )
    assert list(compare(read_last(path, "sandbox"), now)) == [
        "lost: NO LONGER PASSES, 5 of 5 → 4 of 5",
        "back: passes again, 0 of 1 → 1 of 1",
        "a bit less: 5 of 5 → 4 of 5; may be chance",
        "much less: 50 of 50 → 10 of 50",
        "first: new",
    ]


def all_kinds():
    bad = attempt(2, f"expected {NASTY}", session_id="s-1", first_audio=[1.25])
    bad.transcript = [Entry(0.5, "said", "Hello."), Entry(1.5, "agent", NASTY)]
    failed = result("broken", True)
    failed.attempts.append(bad)
    return results(
        result("good", True, True),
        failed,
        result("hard", False, known="too hard"),
        result("easy", True, known="was too hard"),
    )


def test_the_text_has_rates_failures_with_their_transcripts_and_the_cost():
    text = write_text(all_kinds(), None)

    rows = {line.split()[0]: line for line in text.splitlines()[1:5]}
    assert "2/2" in rows["good"]
    assert "100%  34% to 100%" in rows["good"]
    assert "1/2     50%  9% to 91%" in rows["broken"]
    assert "FAILED" in rows["broken"]
    assert "1.2 s" in rows["broken"]
    assert "✗ expected a" in text
    assert "session s-1" in text
    assert "   0.5  you say   Hello." in text
    assert "hard fails as known: too hard" in text
    assert "take `fails.sandbox` out of its file" in text
    assert text.endswith(
        "2 passed, 1 failed (broken), 1 failed as known; 3.0 agent minutes in 1.0 min"
    )
    assert "\x1b" not in text


def test_the_junit_file_is_xml_whatever_an_agent_says():
    suite = ElementTree.fromstring(write_junit(all_kinds())).find("testsuite")

    assert {k: suite.get(k) for k in ("tests", "failures", "skipped")} == {
        "tests": "4",
        "failures": "1",
        "skipped": "1",
    }
    cases = {case.get("name"): case for case in suite}
    assert cases["good"].find("failure") is None
    assert "1 of 2 attempts passed" in cases["broken"].find("failure").get("message")
    assert "Hello." in cases["broken"].find("failure").text
    assert "too hard" in cases["hard"].find("skipped").get("message")


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags = set()
        self.text = ""
        self.frames = []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "iframe":
            self.frames.append(dict(attrs))
        assert not {"src", "href", "onclick"} & dict(attrs).keys()

    def handle_data(self, data):
        self.text += data


def test_the_page_needs_no_network_and_runs_nothing_that_an_agent_says(tmp_path):
    write_last(tmp_path / "last.json", results(result("broken", True, True)))
    page = Page()

    page.feed(write_html(all_kinds(), read_last(tmp_path / "last.json", "sandbox")))

    assert not {"script", "img", "link"} & page.tags
    assert "<b>" in page.text
    assert "broken: NO LONGER PASSES, 2 of 2 → 1 of 2" in page.text
    assert "session s-1" in page.text
    assert "iframe" not in page.tags  # nothing was recorded


def test_the_page_has_the_timeline_of_what_failed_in_a_frame_that_may_do_nothing():
    made = all_kinds()
    made.scenarios[1].attempts[1].timeline = '<p title="x">it\'s & done</p><script>'
    page = Page()

    page.feed(write_html(made, None))

    (frame,) = page.frames
    assert frame["srcdoc"] == '<p title="x">it\'s & done</p><script>'
    assert frame["sandbox"] is None  # none of what it could allow
    assert "script" not in page.tags
