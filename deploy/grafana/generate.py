"""Writes the dashboards from the panels beside it: python deploy/grafana/generate.py. A test holds both together.

A file of ``panels/`` says what is asked, in PromQL, and how to read it; all that Grafana wants around that is made
here. Its name is the dashboard's uid, which links and bookmarks keep.

A panel asks one expression, or several by what their lines are called. ``yellow_from`` and ``red_from``, or
``yellow_below`` and ``red_below``, colour a figure that is else green. ``runbook`` names the alert whose paragraph says
what to do.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
# The one that is chosen on top; Grafana's own of that kind at first.
DATA_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
SCHEMA_VERSION = 39
COLUMNS = 24
# width and height, in Grafana's grid
_SIZES = {"stat": (3, 4), "timeseries": (8, 7)}
Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel as its file describes it."""

    title: str
    asks: str | Mapping[str, str]
    kind: str = "timeseries"
    unit: str = "short"
    about: str = ""
    runbook: str = ""
    width: int = 0
    stacked: bool = False
    maximum: float | None = None
    yellow_from: float | None = None
    red_from: float | None = None
    yellow_below: float | None = None
    red_below: float | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        width, height = _SIZES[self.kind]
        return self.width or width, height

    @property
    def expressions(self) -> Mapping[str, str]:
        """By what their lines are called."""
        return {"": self.asks} if isinstance(self.asks, str) else self.asks

    @property
    def steps(self) -> list[tuple[str, float | None]]:
        """Colours, each with the value that it begins at."""
        if self.red_below is not None:
            yellow = [("yellow", self.red_below)] if self.yellow_below is not None else []
            return [("red", None), *yellow, ("green", self.yellow_below or self.red_below)]
        further = [("yellow", self.yellow_from), ("red", self.red_from)]
        return [("green", None), *(step for step in further if step[1] is not None)]


def contents() -> dict[str, str]:
    """What stands in each file of ``dashboards/``, by its name."""
    return {f"{path.stem}.json": _dashboard(path) for path in sorted((HERE / "panels").glob("*.yml"))}


def _dashboard(path: Path) -> str:
    source = yaml.safe_load(path.read_text(encoding="utf-8"))
    content = {
        "uid": path.stem,
        "title": source["title"],
        "tags": ["songs-ai"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "",
        "annotations": {"list": [_alerts()]},
        "links": [
            {"type": "dashboards", "title": "Songs AI", "tags": ["songs-ai"], "asDropdown": True, "keepTime": True},
            {"type": "link", "title": "Runbook", "url": "${runbook}", "targetBlank": True},
        ],
        "templating": {"list": [_data_source(), _instance(), _runbook()]},
        "panels": list(_placed(source["rows"])),
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _alerts() -> Json:
    """Alerts that fire are marked on every chart."""
    return {
        "name": "Alerts",
        "datasource": DATA_SOURCE,
        "enable": True,
        "iconColor": "red",
        "expr": 'ALERTS{alertname=~"SongsAi.*",alertname!="SongsAiWatchdog",alertstate="firing"}',
        "titleFormat": "{{alertname}}",
        "step": "60s",
    }


def _data_source() -> Json:
    """By kind and not by uid, which is another one in each Grafana: in kube-prometheus-stack's, ``prometheus``."""
    return {
        "name": "datasource",
        "label": "data source",
        "type": "datasource",
        "query": DATA_SOURCE["type"],
        "refresh": 1,
        "current": {"text": "default", "value": "default"},
    }


def _instance() -> Json:
    query = 'label_values(songs_ai_build_info{job="songs-ai"}, instance)'
    return {
        "name": "instance",
        "label": "worker",
        "type": "query",
        "datasource": DATA_SOURCE,
        "definition": query,
        "query": {"query": query, "refId": "instances"},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _runbook() -> Json:
    """Where the site shows docs/runbook.md: Grafana serves no files of ours."""
    address = "docs/runbook.md"
    return {
        "name": "runbook",
        "label": "runbook's address",
        "type": "textbox",
        "query": address,
        "current": {"text": address, "value": address},
    }


def _placed(rows: Sequence[Mapping[str, Any]]) -> Iterator[Json]:
    """Rows below each other, and their panels side by side as far as they fit."""
    number, y = 0, 0
    for row in rows:
        number += 1
        yield _heading(number, row["title"], y)
        x, y, tallest = 0, y + 1, 0
        for panel in (Panel(**described) for described in row["panels"]):
            width, height = panel.size
            if x + width > COLUMNS:
                x, y, tallest = 0, y + tallest, 0
            number += 1
            yield _panel(number, panel, {"x": x, "y": y, "w": width, "h": height})
            x, tallest = x + width, max(tallest, height)
        y += tallest


def _heading(number: int, title: str, y: int) -> Json:
    place = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
    return {"id": number, "type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": place}


def _panel(number: int, panel: Panel, place: Json) -> Json:
    content: Json = {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": DATA_SOURCE,
        "gridPos": place,
        "targets": list(_targets(panel)),
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _STAT_OPTIONS if panel.kind == "stat" else _CHART_OPTIONS,
    }
    if panel.runbook:
        url = f"${{runbook}}#{panel.runbook.lower()}"
        content["links"] = [{"title": f"Runbook: {panel.runbook}", "url": url, "targetBlank": True}]
    return content


def _targets(panel: Panel) -> Iterator[Json]:
    of_now = panel.kind == "stat"
    for letter, (legend, expression) in zip("ABCDE", panel.expressions.items(), strict=False):
        yield {
            "refId": letter,
            "datasource": DATA_SOURCE,
            "expr": expression,
            "legendFormat": legend,
            "instant": of_now,
            "range": not of_now,
        }


_STAT_OPTIONS = {
    "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    "colorMode": "value",
    "graphMode": "none",
    "textMode": "auto",
}
_CHART_OPTIONS = {
    "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
    "tooltip": {"mode": "multi", "sort": "desc"},
}


def _defaults(panel: Panel) -> Json:
    steps = [{"color": colour, "value": value} for colour, value in panel.steps]
    defaults: Json = {"unit": panel.unit, "min": 0, "thresholds": {"mode": "absolute", "steps": steps}}
    if panel.maximum is not None:
        defaults["max"] = panel.maximum
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "fillOpacity": 20 if panel.stacked else 0,
            "stacking": {"mode": "normal" if panel.stacked else "none"},
            "thresholdsStyle": {"mode": "dashed" if len(steps) > 1 else "off"},
            "showPoints": "never",
        }
    return defaults


def main() -> None:
    """Write the files."""
    for name, content in contents().items():
        (HERE / "dashboards" / name).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
