"""Results as JUnit XML, which CI systems show: a suite, and a test case for each scenario. Pure."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from control.evals.report import show
from control.evals.results import Outcome, Result, Results

# What XML 1.0 cannot have, not even escaped.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_junit(results: Results) -> bytes:
    cases = results.scenarios
    suite = ElementTree.Element(
        "testsuite",
        name=f"voice-relay eval {results.agent}",
        timestamp=results.began,
        time=f"{results.seconds:.3f}",
        tests=str(len(cases)),
        failures=str(len(results.failed)),
        errors="0",
        skipped=str(sum(each.outcome is Outcome.KNOWN for each in cases)),
    )
    for each in cases:
        _add(suite, each)
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    ElementTree.indent(suites)
    written: bytes = ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True)
    return written


def _add(suite: ElementTree.Element, result: Result) -> None:
    seconds = sum(attempt.seconds for attempt in result.attempts)
    case = ElementTree.SubElement(
        suite, "testcase", classname="evals", name=result.name, time=f"{seconds:.3f}"
    )
    lines = [
        line
        for attempt in result.failed_attempts
        for line in (f"attempt {attempt.number}", *attempt.failures, *map(show, attempt.transcript))
    ]
    if result.outcome is Outcome.FAILED:
        count = f"{result.passed} of {len(result.attempts)} attempts passed"
        first = next((a.failures[0] for a in result.failed_attempts), "")
        failure = ElementTree.SubElement(case, "failure", message=_clean(f"{count}: {first}"))
        failure.text = _clean("\n".join(lines))
    elif result.outcome is Outcome.KNOWN:
        ElementTree.SubElement(case, "skipped", message=_clean(f"fails as known: {result.known}"))


def _clean(text: str) -> str:
    return _NO_XML.sub("\ufffd", text)
