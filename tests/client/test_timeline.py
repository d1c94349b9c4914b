"""The page in a real browser: it is whole, does nothing that it may not, and looks as meant."""

from __future__ import annotations

import re

import pytest

from control.evals.attempt import Attempt
from control.evals.page import write_html
from control.evals.results import Result, Results
from control.timeline.page import draw
from control.timeline.story import tell
from relay.recorder.recording import read_lines
from tests.client.conftest import DESKTOP, PHONE, needs_chromium
from tests.control.timeline.played import lose_the_agent_twice

pytestmark = pytest.mark.asyncio(loop_scope="module")


def page_of(lines, **how):
    return draw(tell(read_lines(lines)), **how).html


async def test_a_page_has_all_in_it_and_no_script():
    html = page_of(lose_the_agent_twice())

    assert "<script" not in html
    assert not re.search(r"\s(?:src|style|on\w+)=", html)
    assert set(re.findall(r'href="(.)', html)) == {"#"}
    assert "url(" not in html
    assert "&lt;b&gt;in the morning&lt;/b&gt;" in html


@needs_chromium
@pytest.mark.parametrize("window", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_it_is_drawn_without_network_and_script(chromium, tmp_path, window, scheme):
    path = tmp_path / "timeline.html"
    path.write_text(page_of(lose_the_agent_twice()), "utf-8")
    page = await chromium.new_page(viewport=window, color_scheme=scheme)
    problems, asked = [], []
    page.on("console", lambda said: problems.append(said.text))
    page.on("request", lambda request: asked.append(request.url))
    await page.goto(path.as_uri())

    assert problems == []  # the policy of the page lets its style in
    assert asked == [path.as_uri()]
    assert not await page.evaluate("document.documentElement.scrollWidth > innerWidth")
    call = page.locator(".calls .bar").first
    track = page.locator(".calls .track")
    before, whole = await call.bounding_box(), await track.bounding_box()
    assert (before["x"] - whole["x"]) / whole["width"] == pytest.approx(8.8 / 46.9, abs=0.01)
    await page.locator("label[for=zoom3]").click()
    after = await call.bounding_box()
    assert after["width"] > 2.5 * before["width"]
    await call.hover()
    card = call.locator(".card")
    assert "create_goal: submitted" in await card.inner_text()
    await call.press("Enter")
    assert "FunctionCallRequest" in await page.locator("tr:target").inner_text()
    await page.close()


@needs_chromium
async def test_in_the_report_of_an_evaluation_it_has_its_own_style_and_links(chromium, tmp_path):
    framed = page_of(lose_the_agent_twice(), in_frame=True)
    failed = Attempt(number=1, failures=["wrong"], timeline=framed)
    results = [
        Result(name=name, about="x", known=None, pass_rate=1.0, attempts=[failed])
        for name in ("one", "other")
    ]
    path = tmp_path / "evals.html"
    path.write_text(
        write_html(Results(agent="sandbox", began="2026", scenarios=results), None), "utf-8"
    )
    page = await chromium.new_page(viewport=DESKTOP)
    problems, asked = [], []
    page.on("console", lambda said: problems.append(said.text))
    page.on("request", lambda request: asked.append(request.url))
    await page.goto(path.as_uri())

    for number in range(2):
        frame = page.frame_locator("iframe").nth(number)
        await page.locator("iframe").nth(number).scroll_into_view_if_needed()
        call = frame.locator(".calls .bar").first
        before = await call.bounding_box()
        await frame.locator("label[for=zoom3]").click()
        assert (await call.bounding_box())["width"] > 2.5 * before["width"]
        await call.press("Enter")
        assert "FunctionCallRequest" in await frame.locator("tr:target").inner_text()
    # Those are Playwright's scripts: the page has none.
    assert [each for each in problems if "'allow-scripts'" not in each] == []
    assert asked == [path.as_uri()]
    await page.close()
