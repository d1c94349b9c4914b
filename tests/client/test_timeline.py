"""The page in a real browser: it is whole, does nothing that it may not, and looks as meant."""

from __future__ import annotations

import re

import pytest

from control.timeline.page import draw
from control.timeline.story import tell
from relay.recorder.recording import read_lines
from tests.client.conftest import DESKTOP, PHONE, needs_chromium
from tests.control.timeline.played import lose_the_agent_twice

pytestmark = pytest.mark.asyncio(loop_scope="module")


def page_of(lines):
    return draw(tell(read_lines(lines))).html


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
