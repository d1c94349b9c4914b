from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from loadtests import latency_chart
from loadtests.latency_chart import draw, sample
from loadtests.percentiles import Latency, summarize_values


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

    drawn = draw({"ours": latency}, "few")

    assert len(list(sample(latency))) == {0: 0, 1: 1, 2: 7}[count]
    assert bool(drawn) == bool(count)


def test_nothing_is_drawn_without_values():
    assert draw({}, "nothing") == ""
    assert draw({"ours": Latency()}, "nothing") == ""


def test_a_drawing_is_well_formed_and_ours_lies_on_top():
    one, two = summarize_values(range(50, 500)), summarize_values(range(60, 900))
    drawn = draw({"ours": one, "nginx": two}, "a < b")

    assert ElementTree.fromstring(drawn).get("aria-label") == "a < b"
    assert drawn.index(">nginx<") < drawn.index(">ours<")


def test_every_point_lies_inside_the_drawing():
    latency = summarize_values([1, 10, 100, 10_000, 1_000_000])
    drawn = draw({"ours": latency}, "wide")

    points = re.findall(r"([\d.]+),([\d.]+)", re.search(r'points="([^"]*)"', drawn)[1])
    assert points
    for x, y in points:
        assert latency_chart.LEFT <= float(x) <= latency_chart.WIDTH - latency_chart.RIGHT
        assert latency_chart.TOP - 1 <= float(y) <= latency_chart.HEIGHT - latency_chart.BOTTOM + 1


def test_names_at_the_ends_of_curves_do_not_lie_on_each_other():
    latency = summarize_values([100] * 1_000)
    names = ["direct", "nginx", "haproxy", "fastapi", "aiohttp", "picows", "ours", "another"]
    drawn = draw(dict.fromkeys(names, latency), "all the same")

    heights = sorted(float(y) for y in re.findall(r'class="name" x="\d+" y="([\d.]+)"', drawn))
    gaps = [low - high for high, low in pairwise(heights)]
    assert min(gaps) >= latency_chart.LABEL_HEIGHT - 0.11
    assert heights[-1] <= latency_chart.HEIGHT - latency_chart.BOTTOM + 5
