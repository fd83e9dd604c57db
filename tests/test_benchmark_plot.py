"""Charts are well-formed SVG that stays within its frame."""

from xml.etree import ElementTree

import pytest

from benchmarks.plot import Points, line_chart


@pytest.mark.parametrize("log_x", [False, True])
def test_a_chart_holds_every_line_and_its_name(log_x: bool) -> None:
    series: dict[str, Points] = {"ours": [(1, 0.1), (5, 0.3), (20, 0.35)], "a < b": [(1, 0.2), (20, 0.2)]}
    root = ElementTree.fromstring(line_chart("A & B", "likes", "NDCG", series, log_x=log_x))  # noqa: S314 - our own
    texts = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"A & B", "likes", "NDCG", "ours", "a < b"} <= texts
    circles = list(root.iter("{http://www.w3.org/2000/svg}circle"))
    assert len(circles) == 5
    assert all(0 < float(circle.attrib[axis]) < 560 for circle in circles for axis in ("cx", "cy"))
    assert float(circles[0].attrib["cy"]) > float(circles[2].attrib["cy"])


def test_a_single_point_is_a_chart_too() -> None:
    ElementTree.fromstring(line_chart("one", "x", "y", {"ours": [(1, 0.5)]}))  # noqa: S314 - our own


def test_from_zero_a_line_that_hardly_rises_looks_like_one() -> None:
    def heights(*, from_zero: bool) -> list[float]:
        chart = line_chart("memory", "minute", "MB", {"worker": [(0, 200.0), (1, 210.0)]}, from_zero=from_zero)
        root = ElementTree.fromstring(chart)  # noqa: S314 - our own
        return [float(each.attrib["cy"]) for each in root.iter("{http://www.w3.org/2000/svg}circle")]

    first, last = heights(from_zero=True)
    steep_first, steep_last = heights(from_zero=False)
    assert 0 < first - last < (steep_first - steep_last) / 10


def test_large_numbers_have_no_decimals() -> None:
    chart = line_chart("latency", "minute", "ms", {"p99": [(0, 1000.0), (1, 2000.0)]})
    assert ">1,000</text>" in chart
    assert ">0.125</text>" in line_chart("score", "likes", "NDCG", {"ours": [(0, 0.125), (1, 0.5)]})
