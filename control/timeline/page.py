"""A story as one page of HTML that needs nothing else: no network, no script.

Where each bar stands is a rule of the page's own style, and the page's policy lets in that style by
its hash and nothing more: what somebody said can be in the text of the page, and do nothing there.
Zoom is a choice of radio buttons, details come with the pointer, the focus or the fragment of the
address, and each moment has an address.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from datetime import datetime, timedelta
from html import escape
from pathlib import Path
from statistics import median
from typing import NamedTuple

from control.timeline.story import LANES, PARTS, Bar, Row, Story, Turn

_HERE = Path(__file__).parent
_CLIENT = _HERE.parents[1] / "relay" / "client"  # the same colours
ZOOMS = (1, 3, 10, 30, 100)
WIDE = 1000  # pixels of a window, about
MOST_PIXELS = 300  # of a second
STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)
TICKS = 12  # in a window

ENDS = {
    "browser_left": "The user hung up.",
    "browser_lost": "The browser was lost and did not come back.",
    "browser_too_slow": "The browser did not read what it was sent.",
    "bad_settings": "The Settings of the client were refused.",
    "agent_left": "The agent ended it.",
    "agent_lost": "The agent was lost for good.",
    "agent_too_slow": "The agent did not read what it was sent.",
    "agent_error": "The agent failed.",
    "agent_unreachable": "The agent could not be reached.",
    "setup_timeout": "The agent did not get ready in time.",
    "hung_up": "It was hung up by REST.",
    "superseded": "A newer session of the conversation took its place.",
    "moved": "It went on at another relay.",
    "shutdown": "The relay stopped.",
    "abuse": "Too much was refused.",
    "idle": "Nobody said anything for long.",
    "longest": "It was as long as it may be.",
    "daily_minutes": "The minutes of the day were used up.",
    "internal_error": "A defect of the relay ended it.",
}
"""Why a session ended, for people."""


class _Style:
    """Rules for one element each, under a class that is made up."""

    def __init__(self) -> None:
        self._rules: list[str] = []

    def add(self, rule: str) -> str:
        """The name of its class."""
        self._rules.append(f".p{len(self._rules)}{{{rule}}}")
        return f"p{len(self._rules) - 1}"

    def __str__(self) -> str:
        return "".join(self._rules)


class Page(NamedTuple):
    """`policy` is the Content-Security-Policy that it has in itself."""

    html: str
    policy: str


def draw(story: Story, *, in_frame: bool = False) -> Page:
    """`in_frame`: for the `srcdoc` of a frame, in a page that has said what it is about."""
    style = _Style()
    parts = [*_chart(story, style), *_turns(story, style), *_list(story)]
    head = [] if in_frame else _head(story)
    body = "\n".join([*head, "<main>", *([] if in_frame else _facts(story)), *parts, "</main>"])
    # What is in a frame takes links as if it stood in the page around, also those to itself.
    base = '<base href="about:srcdoc">\n' if in_frame else ""
    frame = ' class="framed"' if in_frame else ""
    css = "\n".join(
        [
            (_CLIENT / "tokens.css").read_text("utf-8"),
            (_HERE / "timeline.css").read_text("utf-8"),
            str(style),
        ]
    )
    policy = make_policy(css, base="about:" if in_frame else "'none'")
    html = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">\n'
        f'{base}<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="robots" content="noindex">\n'
        f"<title>Session {escape(story.session_id[:8])}, {escape(story.began)}</title>\n"
        f"<style>{css}</style>\n</head>\n"
        f"<body{frame}>\n{body}\n</body>\n</html>\n"
    )
    return Page(html, policy)


def make_policy(css: str, base: str = "'none'") -> str:
    """What a page with this style may do: look like it. `base` may be that of its links."""
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri {base}; form-action 'none'"


# --- the head ------------------------------------------------------------------------------------


def _head(story: Story) -> Iterator[str]:
    end = ENDS.get(story.reason, story.reason) or "It has no end here: it is live, or was cut off."
    yield '<header><p class="kicker">Voice session</p>'
    yield f"<h1>{escape(end)}</h1>"
    yield f'<p class="id">{escape(story.session_id)}</p>'
    if story.detail and story.detail not in map(str, story.close_codes):
        yield f'<p class="detail">{escape(story.detail)}</p>'
    yield "</header>"


def _facts(story: Story) -> Iterator[str]:
    yield '<dl class="facts">'
    waits = [turn.waited for turn in story.turns if turn.waited is not None]
    calls = [bar for bar in story.bars if bar.lane == "calls"]
    failed = sum(bar.kind == "failed" for bar in calls)
    facts = [
        ("Began", _date(story.began), False),
        ("Lasted", _long(story.seconds), False),
        ("First audio, median", _short(median(waits)) if waits else "\u2013", False),
        ("First audio, slowest", _short(max(waits)) if waits else "\u2013", False),
        ("Turns", str(len(story.turns)), False),
        ("Function calls", f"{len(calls)}" + (f", {failed} failed" if failed else ""), failed > 0),
        ("Agents", f"{story.agents}, let go {story.outages}\u00d7", story.outages > 0),
        ("Close codes", "browser {}, agent {}".format(*story.close_codes), False),
    ]
    if story.dropped:
        facts.append(("Audio thrown away", f"{story.dropped} frames", True))
    if story.lost:
        facts.append(("Missing here", f"{story.lost} lines", True))
    for name, text, is_bad in facts:
        mark = ' class="bad"' if is_bad else ""
        yield f"<div><dt>{name}</dt><dd{mark}>{escape(text)}</dd></div>"
    yield "</dl>"


# --- the lanes -----------------------------------------------------------------------------------


def _chart(story: Story, style: _Style) -> Iterator[str]:
    seconds = max(story.seconds, 0.001)
    zooms = [zoom for zoom in ZOOMS if zoom == 1 or WIDE * zoom / seconds <= MOST_PIXELS]
    yield '<section aria-labelledby="lanes"><h2 id="lanes">What happened</h2>'
    yield '<div class="frame">'
    for zoom in zooms:
        checked = " checked" if zoom == 1 else ""
        yield f'<input type="radio" name="zoom" id="zoom{zoom}"{checked}>'
    yield '<div class="zooms" role="presentation">'
    for zoom in zooms:
        times = "All" if zoom == 1 else f"{zoom}\u00d7"
        yield f'<label for="zoom{zoom}">{times}</label>'
    yield '</div><div class="scroll" tabindex="0" role="region" aria-labelledby="lanes">'
    yield '<div class="time">'
    yield from _ticks(seconds, zooms, style)
    for lane, title in LANES.items():
        yield f'<div class="lane {lane}"><span class="title">{title}</span><div class="track">'
        for bar in story.bars:
            if bar.lane == lane:
                yield _bar(bar, seconds, style)
        yield "</div></div>"
    yield "</div></div>"
    yield '<p class="key">' + "".join(
        f'<span><i class="{kind}"></i>{name}</span>'
        for kind, name in (
            ("user", "user"),
            ("agent", "agent"),
            ("cut", "cut short"),
            ("call", "call"),
            ("failed", "failed call"),
            ("setup", "dialled, set up"),
            ("open", "connected"),
            ("lost", "lost, away"),
        )
    )
    yield "</p></div></section>"


def _ticks(seconds: float, zooms: list[int], style: _Style) -> Iterator[str]:
    for zoom in zooms:
        wanted = seconds / zoom / TICKS
        step = next((step for step in STEPS if step >= wanted), STEPS[-1])
        yield f'<div class="ticks of{zoom}" aria-hidden="true">'
        for number in range(int(seconds / step) + 1):
            at = number * step
            place = style.add(f"left:{100 * at / seconds:.4f}%")
            yield f'<span class="{place}">{_clock(at, step < 1)}</span>'
        yield "</div>"


def _bar(bar: Bar, seconds: float, style: _Style) -> str:
    left, width = 100 * bar.begin / seconds, 100 * (bar.end - bar.begin) / seconds
    is_mark = bar.end == bar.begin
    place = style.add(f"left:{left:.4f}%" + ("" if is_mark else f";width:{width:.4f}%"))
    when = _clock(bar.begin, True)
    lasted = "" if is_mark else f" for {_short(bar.end - bar.begin)}"
    said = f'<span class="said">{escape(bar.text)}</span>' if bar.text else ""
    card = (
        f'<span class="card" role="tooltip"><b>{escape(bar.title)}</b>'
        f"<time>{when}{lasted}</time>{said}</span>"
    )
    shape = "mark" if is_mark else "bar"
    words = bar.title if bar.lane == "calls" else bar.text or bar.title
    label = "" if is_mark else f'<span class="label">{escape(words)}</span>'
    return (
        f'<a class="{shape} {bar.kind} {place}" href="#l{bar.seq}"'
        f' aria-label="{escape(f"{bar.title}, {when}{lasted}")}">{label}{card}</a>'
    )


# --- the turns -----------------------------------------------------------------------------------


def _turns(story: Story, style: _Style) -> Iterator[str]:
    if not story.turns:
        return
    yield '<section aria-labelledby="turns"><h2 id="turns">Where the time of each turn went</h2>'
    yield '<div class="frame"><p class="key">'
    for part in PARTS:
        yield f'<span><i class="{part}"></i>{_PART_TITLES[part]}</span>'
    yield "</p>"
    longest = max((sum(turn.parts.values()) for turn in story.turns), default=0.0) or 1.0
    yield '<ol class="turns">'
    for turn in story.turns:
        yield _turn(turn, longest, style)
    yield "</ol>"
    yield (
        '<p class="quiet">Listening, thinking and speaking are what the agent reports. The rest, of'
        " the time from the user's words as text to the first audio on its way to the browser, is"
        " relay and network, and waiting for another agent where one was lost. Play-out is what the"
        " browser reports, if it does: from the arrival of that audio until it was heard.</p>"
    )
    yield "</div></section>"


_PART_TITLES = {
    "listening": "listening",
    "thinking": "thinking",
    "calling": "function calls",
    "speaking": "speaking",
    "relay": "the rest",
    "playout": "play-out",
}


def _turn(turn: Turn, longest: float, style: _Style) -> str:
    parts = []
    for part in PARTS:
        if seconds := turn.parts.get(part):
            place = style.add(f"width:{100 * seconds / longest:.3f}%")
            title = f"{_PART_TITLES[part]} {_short(seconds)}"
            parts.append(f'<i class="{part} {place}" title="{title}"><b>{_short(seconds)}</b></i>')
    total = _short(sum(turn.parts.values())) if turn.parts else "\u2013"
    answer = f'<p class="answer">{escape(turn.agent)}</p>' if turn.agent else ""
    bad = "" if turn.outcome == "answered" else f' <span class="bad">{turn.outcome}</span>'
    spent = ", ".join(f"{_PART_TITLES[p]} {_short(s)}" for p, s in turn.parts.items())
    return (
        f'<li id="t{turn.number}"><a class="when" href="#l{turn.seq}">{_clock(turn.begin, True)}'
        f'</a><div class="words"><p>{escape(turn.user) or "…"}{bad}</p>{answer}</div>'
        f'<span class="total">{total}</span>'
        f'<div class="split" role="img" aria-label="{escape(spent) or "nothing reported"}">'
        f"{''.join(parts)}</div></li>"
    )


# --- the list ------------------------------------------------------------------------------------


def _list(story: Story) -> Iterator[str]:
    yield '<section aria-labelledby="all"><h2 id="all">Everything, in order</h2>'
    yield '<div class="frame rows" tabindex="0" role="region" aria-labelledby="all"><table>'
    yield "<thead><tr><th>Time</th><th>Way</th><th>What</th><th>The rules asked for</th></tr>"
    yield "</thead><tbody>"
    for row in story.rows:
        yield _row(row)
    yield "</tbody></table></div></section>"


def _row(row: Row) -> str:
    words = f'<span class="said">{escape(row.text)}</span>' if row.text else ""
    return (
        f'<tr id="l{row.seq}"><td><a href="#l{row.seq}">{_clock(row.at, True)}</a></td>'
        f"<td>{row.way}</td><td><b>{escape(row.kind)}</b> {words}</td>"
        f"<td>{escape(row.asked)}</td></tr>"
    )


# --- numbers for people --------------------------------------------------------------------------


def _clock(seconds: float, exact: bool) -> str:
    """Minutes and seconds, with tenths if `exact`."""
    minutes, rest = divmod(round(seconds, 1) if exact else round(seconds), 60)
    return f"{int(minutes)}:{rest:04.1f}" if exact else f"{int(minutes)}:{int(rest):02}"


def _short(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def _long(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return str(timedelta(seconds=round(seconds))).removeprefix("0:")


def _date(text: str) -> str:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return text
    return at.strftime("%d %b %Y, %H:%M:%S UTC")
