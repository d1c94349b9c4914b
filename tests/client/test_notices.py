"""Every notice is looked at: pictures in build/client, and what axe finds in them."""

from __future__ import annotations

import pytest

from tests.client.conftest import PHONE, every_engine, needs_chromium
from tests.client.test_page import LOOKS, SHOTS, SIZES, axe, shoot

__all__ = ["shoot"]

pytestmark = [needs_chromium, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(200)]

FITS = """() => [...document.querySelectorAll('.page *')]
    .filter((node) => node.getBoundingClientRect().right > Math.min(innerWidth,
        node.closest('#notice')?.getBoundingClientRect().right ?? innerWidth) + 0.5)
    .map((node) => node.outerHTML.slice(0, 80))"""
SHOW = """async (code) => {
    const { Dock } = await import('./dock.js');
    const { describe } = await import('./words.js');
    const part = (id) => document.getElementById(id);
    const dock = window.dock ??= new Dock({ mic: part('mic'), mute: part('mute'),
        hush: part('hush'), alert: part('alert'), typing: part('typing'), text: part('text'),
        count: part('count'), word: part('word'),
        away: part('away'), meterUser: part('meter-user'), meterAgent: part('meter-agent'),
        notice: part('notice'), title: part('notice-title'), detail: part('notice-text'),
        action: part('notice-action'), close: part('notice-close') }, {});
    const run = () => {};
    dock.notice(describe({ code, status: 0 }),
        { retry: run, steal: run, sound: run, devices: run, load: run, new: run },
        { about: code, wait: code.includes('sessions') ? 10 : 0 }); }"""


CODES = "import('./words.js').then(({ PROBLEMS }) => Object.keys(PROBLEMS))"


@every_engine
async def test_every_notice_fits_on_a_phone(tab, engine):
    page = await tab(size=PHONE)
    assert await page.page.evaluate("innerWidth") == PHONE["width"]
    show = f"""async () => {{
        const found = [];
        for (const code of await {CODES}) {{
            await ({SHOW})(code);
            for (const node of ({FITS})()) found.push([code, node]);
        }}
        return found; }}"""
    assert await page.page.evaluate(show) == []


@pytest.mark.parametrize(("size", "scheme"), LOOKS)
async def test_every_notice_fits_and_can_be_read(stack, tab, shoot, size, scheme):
    scale = 2 if size == "phone" else 1
    page = await tab(
        size=SIZES[size], color_scheme=scheme, reduced_motion="reduce", device_scale_factor=scale
    )
    folder = f"notices-{size}-{scheme}"
    (SHOTS / folder).mkdir(parents=True, exist_ok=True)
    codes = await page.page.evaluate(CODES)
    assert len(codes) > 25
    found = {}
    for code in codes:
        await page.page.evaluate(SHOW, code)
        await page.by("#notice").wait_for()
        dock = await page.by(".dock").bounding_box()
        await page.page.screenshot(
            path=SHOTS / folder / f"{code}.png", animations="disabled", clip=dock
        )
        if wrong := await page.page.evaluate(FITS):
            found[code] = wrong
    found["axe"] = await axe(page)
    assert found == {"axe": []}
