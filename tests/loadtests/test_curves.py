from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from loadtests import curves
from loadtests.curves import Curve, draw, sample
from loadtests.results import Latency, summarize_values


def curve(name, *latencies):
    return Curve(name=name, latency=latencies[0], repetitions=latencies)


def test_a_curve_rises_from_the_quick_ones_to_the_worst_of_all():
    points = list(sample(summarize_values(range(1, 1_001))))

    values = [value for _, value in points]
    assert values == sorted(values)
    assert dict(points)[1.0] == pytest.approx(900, rel=0.01)
    assert dict(points)[2.0] == pytest.approx(990, rel=0.01)
    assert points[-1][0] == pytest.approx(3.0)
    assert values[-1] == pytest.approx(1_000, rel=0.01)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_hardly_any_values_make_hardly_any_curve(count):
    latency = summarize_values([100] * count)

    drawn = draw([curve("ours", latency, latency)], "few")

    assert len(list(sample(latency))) == {0: 0, 1: 1, 2: 7}[count]
    assert bool(drawn) == bool(count)


def test_nothing_is_drawn_without_values():
    assert draw([], "nothing") == ""
    assert draw([curve("ours", Latency())], "nothing") == ""


def test_a_drawing_alone_is_a_whole_svg_file():
    latency = summarize_values(range(50, 5_000))
    drawn = draw([curve("ours", latency, latency), curve("direct", latency)], "a < b", alone=True)

    root = ElementTree.fromstring(drawn)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.get("aria-label") == "a < b"
    assert "http" not in drawn.replace("http://www.w3.org/2000/svg", "")


def test_ours_lies_on_top_with_a_band_of_its_repetitions():
    one, two = summarize_values(range(50, 500)), summarize_values(range(60, 900))
    drawn = draw([curve("ours", one, two), curve("nginx", one, two)], "two")

    assert drawn.index(">nginx<") < drawn.index(">ours<")
    assert drawn.count('class="band"') == 1


def test_every_point_lies_inside_the_drawing():
    latency = summarize_values([1, 10, 100, 10_000, 1_000_000])
    drawn = draw([curve("ours", latency, latency)], "wide")

    points = re.findall(r"([\d.]+),([\d.]+)", re.search(r'points="([^"]*)"', drawn)[1])
    assert points
    for x, y in points:
        assert curves.LEFT <= float(x) <= curves.WIDTH - curves.RIGHT
        assert curves.TOP - 1 <= float(y) <= curves.HEIGHT - curves.BOTTOM + 1


def test_names_at_the_ends_of_curves_do_not_lie_on_each_other():
    latency = summarize_values([100] * 1_000)
    names = ["direct", "nginx", "haproxy", "fastapi", "aiohttp", "picows", "ours", "another"]
    drawn = draw([curve(name, latency) for name in names], "all the same")

    heights = sorted(float(y) for y in re.findall(r'class="name" x="\d+" y="([\d.]+)"', drawn))
    gaps = [low - high for high, low in pairwise(heights)]
    assert min(gaps) >= curves.LABEL_HEIGHT - 0.11
    assert heights[-1] <= curves.HEIGHT - curves.BOTTOM + 5
