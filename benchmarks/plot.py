"""Small line charts as SVG, with no library."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

Points = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT = 560, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 150, 34, 46
_COLOURS = ("#1769aa", "#c2410c", "#15803d", "#7e22ce", "#6b7280")
_N_TICKS = 5
_WHOLE_FROM = 10


def line_chart(
    title: str,
    x_label: str,
    y_label: str,
    series: Mapping[str, Points],
    *,
    log_x: bool = False,
    from_zero: bool = False,
) -> str:
    """An SVG document of one line per series; ``series`` are (x, y) in the order in which they are joined.

    ``from_zero``: the y axis begins there, so that a line that rises by a tenth looks like one.
    """
    xs, ys = (np.array([point[axis] for points in series.values() for point in points]) for axis in (0, 1))
    ys = np.append(ys, 0.0) if from_zero else ys
    place_x = _Scale(np.log(xs) if log_x else xs, _LEFT, _WIDTH - _RIGHT)
    place_y = _Scale(ys, _HEIGHT - _BOTTOM, _TOP)
    x_ticks = sorted(set(xs.tolist())) if log_x else _ticks(xs)
    axes = [_x_tick(x, place_x(float(np.log(x)) if log_x else x)) for x in x_ticks]
    axes += [_y_tick(y, place_y(y)) for y in _ticks(ys)]
    lines = []
    for row, (name, points) in enumerate(series.items()):
        placed = [(place_x(float(np.log(x)) if log_x else x), place_y(y)) for x, y in points]
        lines.append(_line(name, placed, _COLOURS[row % len(_COLOURS)], row))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}"'
            ' font-family="sans-serif" font-size="11">',
            f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
            f'<text x="{_LEFT}" y="18" font-size="13">{escape(title)}</text>',
            f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 8}" text-anchor="middle">'
            f"{escape(x_label)}</text>",
            f'<text transform="translate(14 {(_TOP + _HEIGHT - _BOTTOM) / 2}) rotate(-90)" text-anchor="middle">'
            f"{escape(y_label)}</text>",
            *axes,
            *lines,
            "</svg>\n",
        ]
    )


def write_chart(path: Path, svg: str) -> None:
    """Into a directory that is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(svg, encoding="utf-8")


class _Scale:
    def __init__(self, values: np.ndarray[tuple[int], np.dtype[np.float64]], first: float, last: float) -> None:
        self._low, self._span = float(values.min()), float(np.ptp(values)) or 1.0
        self._first, self._last = first, last

    def __call__(self, value: float) -> float:
        return round(self._first + (self._last - self._first) * (value - self._low) / self._span, 1)


def _ticks(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> list[float]:
    return [float(value) for value in np.linspace(values.min(), values.max(), _N_TICKS)]


def _x_tick(value: float, place: float) -> str:
    bottom = _HEIGHT - _BOTTOM
    return (
        f'<path d="M{place} {_TOP}V{bottom}" stroke="#eee"/>'
        f'<text x="{place}" y="{bottom + 15}" text-anchor="middle">{value:.3g}</text>'
    )


def _y_tick(value: float, place: float) -> str:
    return (
        f'<path d="M{_LEFT} {place}H{_WIDTH - _RIGHT}" stroke="#eee"/>'
        f'<text x="{_LEFT - 6}" y="{place + 4}" text-anchor="end">{_number(value)}</text>'
    )


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < _WHOLE_FROM else f"{value:,.0f}"


def _line(name: str, placed: Sequence[tuple[float, float]], colour: str, row: int) -> str:
    path = "L".join(f"{x} {y}" for x, y in placed)
    dots = "".join(f'<circle cx="{x}" cy="{y}" r="2.5" fill="{colour}"/>' for x, y in placed)
    at = _TOP + 12 + 16 * row
    legend = (
        f'<path d="M{_WIDTH - _RIGHT + 8} {at - 4}h14" stroke="{colour}" stroke-width="2"/>'
        f'<text x="{_WIDTH - _RIGHT + 26}" y="{at}">{escape(name)}</text>'
    )
    return f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>{dots}{legend}'
