"""Results as one page of HTML without script and network, to keep or to send. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from control.evals.attempt import Attempt
from control.evals.report import WHO, summarize
from control.evals.results import Last, Outcome, Result, Results, compare

STYLE = """
:root { color-scheme: light dark; --line: #8884; --good: #2a9d5c; --bad: #d0443e; --known: #b58900 }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid var(--line);
  vertical-align: top }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.bar { position: relative; height: .6rem; width: 9rem; background: var(--line); border-radius: 9px;
  margin-top: .45rem }
.bar i { position: absolute; top: 0; bottom: 0; border-radius: 9px; opacity: .35 }
.bar b { position: absolute; top: -.15rem; height: .9rem; width: 3px; border-radius: 2px }
.passed { color: var(--good) } .failed { color: var(--bad) }
.known, .surprise { color: var(--known) }
details { margin: .6rem 0; border: 1px solid var(--line); border-radius: 8px; padding: .4rem .8rem }
summary { cursor: pointer; font-weight: 600 }
ul.wrong { color: var(--bad) }
dl { display: grid; grid-template-columns: 4rem 5rem 1fr; gap: .1rem .6rem; margin: .6rem 0 }
dl > * { margin: 0; overflow-wrap: anywhere }
dt, dl .who { opacity: .65 } .agent { font-weight: 600 }
iframe { width: 100%; height: 38rem; border: 0; border-radius: 8px }
.intent { font-family: ui-monospace, monospace; font-size: .9em }
"""


def write_html(results: Results, last: Last | None) -> str:
    rows = "".join(_row(each) for each in results.scenarios)
    body = [
        f"<h1>Evaluation: {escape(results.agent)}</h1>",
        f"<p>{escape(results.began)} · {escape(summarize(results))}</p>",
        '<div class="wide"><table><thead><tr><th>scenario<th>passed<th>rate and 95 % interval'
        f"<th>first audio<th></tr></thead><tbody>{rows}</tbody></table></div>",
        *_changes(results, last),
        *_details(results),
    ]
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>Evaluation: {escape(summarize(results))}</title><style>{STYLE}</style></head>"
    )
    return f"{head}<body>{''.join(body)}</body></html>\n"


def _row(result: Result) -> str:
    low, high = result.interval
    kind = result.outcome.name.lower()
    bar = (
        f'<div class="bar {kind}" title="{low:.0%} to {high:.0%}">'
        f'<i style="background:currentColor;left:{low:.0%};width:{high - low:.0%}"></i>'
        f'<b style="background:currentColor;left:calc({result.rate:.0%} - 1px)"></b></div>'
    )
    slowest = f"{result.slowest:.1f} s" if result.slowest is not None else ""
    reason = result.known if result.outcome in (Outcome.KNOWN, Outcome.SURPRISE) else ""
    word = result.outcome.value + (f": {reason}" if reason else "")
    return (
        f"<tr><td><b>{escape(result.name)}</b><br>{escape(result.about)}"
        f'<td class="number">{result.passed} of {len(result.attempts)}<td>{bar}'
        f'<td class="number">{slowest}<td class="{kind}">{escape(word)}</tr>'
    )


def _changes(results: Results, last: Last | None) -> Iterator[str]:
    if last is not None:
        changes = list(compare(last, results)) or ["nothing changed"]
        items = "".join(f"<li>{escape(change)}</li>" for change in changes)
        yield f"<h2>Since {escape(last.began)}</h2><ul>{items}</ul>"


def _details(results: Results) -> Iterator[str]:
    shown = [each for each in results.scenarios if each.failed_attempts]
    if shown:
        yield "<h2>What failed</h2>"
    for each in shown:
        for attempt in each.failed_attempts:
            is_open = " open" if each.outcome is Outcome.FAILED else ""
            title = f"{escape(each.name)}, attempt {attempt.number}"
            yield f"<details{is_open}><summary>{title}</summary>{_attempt(attempt)}</details>"


def _attempt(attempt: Attempt) -> str:
    wrong = "".join(f"<li>{escape(line)}</li>" for line in attempt.failures)
    lines = "".join(
        f'<dt>{entry.at:.1f} s</dt><dd class="who">{WHO[entry.who]}</dd>'
        f'<dd class="{entry.who}">{escape(entry.text)}</dd>'
        for entry in attempt.transcript
    )
    session = f"<p>session {escape(attempt.session_id)}, {attempt.seconds:.1f} s</p>"
    return f'<ul class="wrong">{wrong}</ul><dl>{lines}</dl>{session}{_timeline(attempt)}'


def _timeline(attempt: Attempt) -> str:
    """In a frame of its own: it has styles and ids that are also here, and those of other attempts.
    The frame may do nothing, and no more than the policy of the page in it."""
    if not attempt.timeline:
        return ""
    page = escape(attempt.timeline)
    return f'<iframe sandbox loading="lazy" title="timeline" srcdoc="{page}"></iframe>'
