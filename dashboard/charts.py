"""The drawings: Vega-Lite specifications, made of plain rows."""

import math
from collections.abc import Iterable, Mapping, Sequence

import streamlit as st

from dashboard.shapes import Item

Row = Mapping[str, object]
Spec = dict[str, object]

INK, LEADING, FAINT = "#1d1b2c", "#5b3fd6", "#dad8e6"
COLOURS = [LEADING, "#d9480f", "#0b7285", "#a61e4d", "#5c7a00"]
"""Told apart by those who see few colours too, and dark enough on white."""
_LABEL_RADIUS = 1.33
_TOLD = {"field": "told"}
"""A sentence of each row: a list of fields would be told with their names, which are ours and English."""
_SIDE = 320
"""Pixels; as wide as a phone shows without scrolling."""
_RINGS = (0.25, 0.5, 0.75, 1.0)

# Spotify's documented ranges of what does not run from 0 to 1.
_RANGES = {"tempo": (50.0, 200.0), "loudness": (-30.0, 0.0)}
_NO_TASTE = frozenset({"duration_ms"})


def draw(spec: Spec) -> None:
    """Put a drawing on the page: as wide as there is room, unless it has a width of its own."""
    st.vega_lite_chart(spec=spec, theme=None, width="content" if "width" in spec else "stretch")


# --- audio features ---


def shown_features(items: Iterable[Item]) -> list[str]:
    """The features that every one of them has, in the order of the first; how long songs are tells no taste."""
    names = [list(item["features"]) for item in items]
    if not names:
        return []
    everywhere = set(names[0]).intersection(*names[1:]) - _NO_TASTE
    return [name for name in names[0] if name in everywhere]


def on_scale(name: str, value: float) -> float:
    """A feature's value from 0 to 1."""
    low, high = _RANGES.get(name, (0.0, 1.0))
    return min(max((value - low) / (high - low), 0.0), 1.0)


def mean_features(items: Sequence[Item], names: Sequence[str]) -> dict[str, float]:
    """The mean of each feature, from 0 to 1."""
    return {name: sum(on_scale(name, item["features"][name]) for item in items) / len(items) for name in names}


def radar(shapes: Mapping[str, Mapping[str, float]], labels: Mapping[str, str]) -> Spec:
    """Each of ``shapes`` as a polygon over the axes of ``labels``: name of a feature to what it is called."""
    angles = {name: 2 * math.pi * place / len(labels) for place, name in enumerate(labels)}
    corners = [*labels, next(iter(labels))]
    rows = [
        {
            **_spoke(angles[name], values[name]),
            "shape": shape,
            "place": place,
            "feature": labels[name],
            "told": f"{shape}: {labels[name]} {values[name]:.2f}",
        }
        for shape, values in shapes.items()
        for place, name in enumerate(corners)
    ]
    colour = {
        **_coloured("shape", columns=1),
        "scale": {"domain": list(shapes), "range": COLOURS[: len(shapes)]},
    }
    polygons = {
        "data": {"values": rows},
        "mark": {"type": "line", "strokeWidth": 2.5, "point": True},
        "encoding": {**_PLANE, "color": colour, "order": _PLACE, "tooltip": _TOLD},
    }
    names = [{**_spoke(angle, _LABEL_RADIUS), "text": labels[name]} for name, angle in angles.items()]
    text = {
        "data": {"values": names},
        "mark": {"type": "text", "fontSize": 12, "color": INK},
        "encoding": {**_PLANE, "text": {"field": "text"}},
    }
    return _whole(
        {
            "layer": [_rings(list(angles.values())), polygons, text],
            "width": _SIDE,
            "height": _SIDE,
            "autosize": {"type": "pad"},
        }
    )


_PLANE = {
    "x": {"field": "x", "type": "quantitative", "axis": None, "scale": {"domain": [-1.75, 1.75]}},
    "y": {"field": "y", "type": "quantitative", "axis": None, "scale": {"domain": [-1.75, 1.75]}},
}
_PLACE = {"field": "place", "type": "ordinal"}


def _rings(angles: Sequence[float]) -> Spec:
    closed = [*angles, angles[0]]
    rows = [
        {**_spoke(angle, ring), "ring": ring, "place": place} for ring in _RINGS for place, angle in enumerate(closed)
    ]
    return {
        "data": {"values": rows},
        "mark": {"type": "line", "color": FAINT, "strokeWidth": 1},
        "encoding": {**_PLANE, "detail": {"field": "ring"}, "order": _PLACE},
    }


def _spoke(angle: float, radius: float) -> dict[str, object]:
    """A point of the radar, the first axis upwards and the others clockwise."""
    return {"x": radius * math.sin(angle), "y": radius * math.cos(angle)}


# --- counts ---


def bars(rows: Sequence[tuple[str, float]], *, name: str, value: str) -> Spec:
    """One bar a row, in their order; ``name`` and ``value`` say what they are."""
    return _whole(
        {
            "data": _named_values(rows),
            "mark": {"type": "bar", "color": LEADING, "cornerRadiusEnd": 3},
            "encoding": {
                "x": {**_amount("value"), "title": value, "axis": {"grid": False, "tickMinStep": 1, "tickCount": 6}},
                "y": {"field": "name", "type": "nominal", "title": None, "sort": None, "axis": {"labelLimit": 150}},
                "tooltip": _titled(name, value),
            },
            "height": max(100, 26 * len(rows)),
        }
    )


def columns(rows: Sequence[tuple[str, float]], *, name: str, value: str) -> Spec:
    """One upright bar a row, as of a histogram."""
    return _whole(
        {
            "data": _named_values(rows),
            "mark": {"type": "bar", "color": LEADING},
            "encoding": {
                "x": {"field": "name", "type": "nominal", "title": name, "sort": None, "axis": {"labelAngle": 0}},
                "y": {**_amount("value"), "title": value, "axis": {"tickMinStep": 1}},
                "tooltip": _titled(name, value),
            },
            "height": 240,
        }
    )


# --- places and courses ---


def embedding_map(dots: Sequence[Row], genres: Sequence[str], *, other: str, titles: Mapping[str, str]) -> Spec:
    """Each of ``dots`` at its x and y, coloured by its genre where that is one of ``genres``; to be dragged and zoomed.

    ``titles``: the fields that a dot tells of itself, and what they are called.
    """
    rows = [{**dot, "colour": dot["genre"] if dot["genre"] in genres else other} for dot in dots]
    colour = {**_coloured("colour", columns=3), "scale": {"scheme": "tableau20", "domain": [*genres, other]}}
    return _whole(
        {
            "data": {"values": rows},
            "params": [{"name": "grip", "select": "interval", "bind": "scales"}],
            "mark": {"type": "circle", "size": 36, "opacity": 0.7},
            "encoding": {
                "x": _placed("x"),
                "y": _placed("y"),
                "color": colour,
                "tooltip": [{"field": field, "title": title} for field, title in titles.items()],
            },
            "height": 520,
        }
    )


def _placed(field: str) -> Spec:
    return {**_amount(field), "axis": None, "scale": {"domain": [-1.05, 1.05]}}


def shares_over_time(rows: Sequence[Row], *, share: str) -> Spec:
    """The ``share`` of each ``name`` by ``when`` (an ISO date), stacked to a whole; ``share`` titles the axis."""
    shares = [{**row, "told": f"{row['name']}: {float(str(row['share'])):.0%} ({row['when']})"} for row in rows]
    amount = {"field": "share", "type": "quantitative", "title": share, "stack": "normalize", "axis": {"format": "%"}}
    return _whole(
        {
            "data": {"values": shares},
            "mark": {"type": "area", "opacity": 0.85},
            "encoding": {
                "x": {
                    "field": "when",
                    "type": "temporal",
                    "title": None,
                    "axis": {"format": "%Y-%m-%d", "tickCount": 4},
                },
                "y": amount,
                "color": {**_coloured("name", columns=3), "scale": {"scheme": "tableau20"}},
                "tooltip": _TOLD,
            },
            "height": 280,
        }
    )


def lines(rows: Sequence[Row], *, value: str, of_versions: bool = False) -> Spec:
    """``value`` by ``when``, a line for each ``name``; ``of_versions``: not instants, but versions in their order."""
    kind = "nominal" if of_versions else "temporal"
    axis = {"labelAngle": -40, "labelLimit": 120} if of_versions else {"tickCount": 5, "format": "%H:%M:%S"}
    # counts begin at 0, and where all are 0 there is an axis all the same
    greatest = max((float(str(row["value"])) for row in rows), default=0.0)
    counts: Spec = {"scale": {"domain": [0, max(1.0, greatest)]}, "axis": {"tickMinStep": 1}}
    figures: Spec = {"scale": {"zero": False}}
    return _whole(
        {
            "data": {"values": [{**row, "told": f"{row['name']}: {row['value']:g} ({row['when']})"} for row in rows]},
            "mark": {"type": "line", "point": True, "strokeWidth": 2.5},
            "encoding": {
                "x": {"field": "when", "type": kind, "title": None, "sort": None, "axis": axis},
                "y": {**_amount("value"), "title": value, **(figures if of_versions else counts)},
                "color": {**_coloured("name", columns=2), "scale": {"range": COLOURS}},
                "tooltip": _TOLD,
            },
            "height": 260,
        }
    )


def _amount(field: str) -> dict[str, object]:
    return {"field": field, "type": "quantitative"}


def _coloured(field: str, *, columns: int) -> dict[str, object]:
    legend = {"orient": "bottom", "columns": columns, "labelLimit": 240, "symbolOpacity": 1}
    return {"field": field, "type": "nominal", "title": None, "legend": legend}


def _named_values(rows: Sequence[tuple[str, float]]) -> Spec:
    """Under names of ours: in what a column is called Vega would read dots and brackets as a path."""
    return {"values": [{"name": label, "value": count} for label, count in rows]}


def _titled(name: str, value: str) -> list[dict[str, str]]:
    return [{"field": "name", "title": name}, {"field": "value", "title": value}]


def _whole(spec: Spec) -> Spec:
    words = {"labelColor": INK, "titleColor": INK, "labelFontSize": 12}
    config = {"font": "sans-serif", "view": {"stroke": None}, "axis": words, "legend": words}
    return {**spec, "config": config}
