"""Dashboards as Grafana reads them: what is shown comes in, JSON of schema version 41 goes out; newer ones migrate that.

Whoever describes a panel says what it shows, in which unit, and what to read where there is nothing; ids, places, letters of
queries and everything that is the same everywhere are added here.
"""

import json
import re
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, Final, Literal, NamedTuple, TypeAlias

SCHEMA_VERSION: Final = 41
SOURCE_UID: Final = "taskctl-prometheus"
"""The data source that contrib/grafana/provisioning makes."""
TAG: Final = "taskctl"
COLUMNS: Final = 24

Kind: TypeAlias = Literal["timeseries", "stat", "heatmap", "table"]
_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_DAYS: Final = re.compile(r"\[\d+d\]")


class Query(NamedTuple):
    """PromQL, and how each series of it is called: `{{label}}` stands for its value."""

    expr: str
    legend: str = ""


class Panel(NamedTuple):
    """One picture.

    unit: as Grafana names it. nothing: what is shown without data. limits: from which values on it is orange, and red; falling
    ones mean that less is worse. low, high: where the axis ends. stacked: on top of each other. columns: what a table calls the
    result of each query, and in which unit it is. words: what numbers mean.
    """

    title: str
    description: str
    unit: str
    queries: Sequence[Query]
    nothing: str = "nothing yet"
    kind: Kind = "timeseries"
    limits: tuple[float, float] | None = None
    low: float | None = 0
    high: float | None = None
    stacked: bool = False
    width: int = 8
    height: int = 8
    decimals: int | None = None
    columns: Sequence[tuple[str, str]] = ()
    words: Sequence[tuple[int, str]] = ()


class Row(NamedTuple):
    """Panels that belong together, from left to right."""

    title: str
    panels: Sequence[Panel]


class Dashboard(NamedTuple):
    """One page. instances: the metric that each process has, which can be chosen there; name: of its file and in its address."""

    name: str
    title: str
    description: str
    instances: str
    rows: Sequence[Row]


def drawn(dashboard: Dashboard) -> str:
    """Return a dashboard as the JSON that Grafana imports."""
    return json.dumps(_dashboard(dashboard), indent=2, ensure_ascii=False) + "\n"


def _dashboard(dashboard: Dashboard) -> dict[str, Any]:
    return {
        "uid": f"taskctl-{dashboard.name}",
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": [TAG],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "fiscalYearStartMonth": 0,
        "liveNow": False,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timepicker": {},
        "timezone": "browser",
        "weekStart": "",
        "annotations": {"list": [_RESTARTS]},
        "links": [_LINKS],
        "templating": {"list": [_CHOOSE_SOURCE, _choose_instance(dashboard.instances)]},
        "panels": _panels(dashboard.rows),
    }


_RESTARTS: Final = {
    "name": "Starts of taskctl",
    "datasource": _SOURCE,
    "enable": True,
    "hide": False,
    "iconColor": "blue",
    "expr": 'changes(process_start_time_seconds{job="taskctl"}[1m]) > 0',
    "step": "30s",
    "titleFormat": "taskctl was started",
    "textFormat": "{{instance}}",
    "useValueForTime": False,
}
_LINKS: Final = {
    "type": "dashboards",
    "title": "taskctl",
    "tags": [TAG],
    "asDropdown": False,
    "includeVars": False,  # the instances of one are not those of another
    "keepTime": True,
    "targetBlank": False,
    "icon": "external link",
    "tooltip": "",
    "url": "",
}
_CHOOSE_SOURCE: Final = {
    "type": "datasource",
    "name": "datasource",
    "label": "Data source",
    "query": "prometheus",
    "regex": "",
    "hide": 0,
    "refresh": 1,
    "includeAll": False,
    "multi": False,
    "options": [],
    "current": {"selected": True, "text": "Prometheus", "value": SOURCE_UID},
}


def _choose_instance(metric: str) -> dict[str, Any]:
    query = f"label_values({metric}, instance)"
    return {
        "type": "query",
        "name": "instance",
        "label": "Instance",
        "datasource": _SOURCE,
        "definition": query,
        "query": {"query": query, "refId": "instance"},
        "regex": "",
        "hide": 0,
        "refresh": 2,
        "sort": 1,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "options": [],
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    }


def _panels(rows: Sequence[Row]) -> list[dict[str, Any]]:
    ids = count(1)
    found: list[dict[str, Any]] = []
    top = 0
    for row in rows:
        place = {"x": 0, "y": top, "w": COLUMNS, "h": 1}
        found.append({"id": next(ids), "type": "row", "title": row.title, "collapsed": False, "gridPos": place, "panels": []})
        top += 1
        left = tallest = 0
        for panel in row.panels:
            if left + panel.width > COLUMNS:
                top, left, tallest = top + tallest, 0, 0
            found.append(_panel(next(ids), panel, {"x": left, "y": top, "w": panel.width, "h": panel.height}))
            left, tallest = left + panel.width, max(tallest, panel.height)
        top += tallest
    return found


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    limits = {"min": panel.low, "max": panel.high, "decimals": panel.decimals}
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "noValue": panel.nothing,
        "color": {"mode": "palette-classic" if panel.kind == "timeseries" else "thresholds"},
        "thresholds": {"mode": "absolute", "steps": _steps(panel.limits)},
        "mappings": _mappings(panel.words),
        "custom": _CUSTOM[panel.kind](panel),
        **{name: value for name, value in limits.items() if value is not None},
    }
    made: dict[str, Any] = {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _SOURCE,
        "gridPos": place,
        "targets": [_target(panel, letter, query) for letter, query in zip("ABCDEFGH", panel.queries, strict=False)],
        "fieldConfig": {"defaults": defaults, "overrides": [_override(*column) for column in panel.columns]},
        "options": _OPTIONS[panel.kind],
    }
    if panel.kind == "table":
        made["transformations"] = _one_table(panel)
    if panel.kind == "stat" and _instant(panel):
        made["options"] = {**made["options"], "graphMode": "none"}
    return made


def _instant(panel: Panel) -> bool:
    """Return whether a panel asks for now only: a table, and one number that is made of days.

    For the line behind a number Prometheus would work it out anew for every moment that is shown, each time from days of samples.
    """
    return panel.kind == "table" or (panel.kind == "stat" and any(_DAYS.search(query.expr) for query in panel.queries))


def _target(panel: Panel, letter: str, query: Query) -> dict[str, Any]:
    instant = _instant(panel)
    return {
        "refId": letter,
        "datasource": _SOURCE,
        "editorMode": "code",
        "expr": query.expr,
        "legendFormat": query.legend or "__auto",
        "instant": instant,
        "range": not instant,
        "format": {"table": "table", "heatmap": "heatmap"}.get(panel.kind, "time_series"),
    }


def _steps(limits: tuple[float, float] | None) -> list[dict[str, Any]]:
    if limits is None:
        return [{"color": "green", "value": None}]
    orange, red = limits
    if orange > red:  # less is worse
        colours = [("red", None), ("orange", red), ("green", orange)]
    else:
        colours = [("green", None), ("orange", orange), ("red", red)]
    return [{"color": colour, "value": value} for colour, value in colours]


def _mappings(words: Sequence[tuple[int, str]]) -> list[dict[str, Any]]:
    if not words:
        return []
    return [{"type": "value", "options": {str(value): {"text": text, "index": i} for i, (value, text) in enumerate(words)}}]


def _one_table(panel: Panel) -> list[dict[str, Any]]:
    """Return what makes one row per set of labels of several queries."""
    named = {f"Value #{letter}": name for letter, (name, _) in zip("ABCDEFGH", panel.columns, strict=False)}
    if len(panel.queries) == 1:
        named = {"Value": panel.columns[0][0]}
    return [
        {"id": "merge", "options": {}},
        {"id": "organize", "options": {"excludeByName": {"Time": True}, "indexByName": {}, "renameByName": named}},
    ]


def _override(name: str, unit: str) -> dict[str, Any]:
    return {"matcher": {"id": "byName", "options": name}, "properties": [{"id": "unit", "value": unit}]}


def _lines(panel: Panel) -> dict[str, Any]:
    return {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 25 if panel.stacked else 10,
        "gradientMode": "none",
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "dashed" if panel.limits else "off"},
        "axisPlacement": "auto",
        "axisSoftMin": 0,
    }


_CUSTOM: Final[dict[Kind, Callable[[Panel], dict[str, Any]]]] = {
    "timeseries": _lines,
    "stat": lambda _: {},
    "heatmap": lambda _: {"hideFrom": {"legend": False, "tooltip": False, "viz": False}},
    "table": lambda _: {"align": "auto", "cellOptions": {"type": "auto"}, "filterable": True},
}
_OPTIONS: Final[dict[Kind, dict[str, Any]]] = {
    "timeseries": {
        "legend": {"displayMode": "table", "placement": "bottom", "showLegend": True, "calcs": ["lastNotNull", "max"]},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {
        "colorMode": "value",
        "graphMode": "area",
        "justifyMode": "auto",
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": "auto",
    },
    "heatmap": {
        "calculate": False,
        "cellGap": 1,
        "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64, "exponent": 0.5, "fill": "dark-orange", "reverse": False},
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "tooltip": {"mode": "single", "yHistogram": True, "showColorScale": False},
        "yAxis": {"axisPlacement": "left", "reverse": False, "unit": "s"},
        "cellValues": {"unit": "short"},
        "showValue": "never",
    },
    "table": {
        "showHeader": True,
        "cellHeight": "sm",
        "footer": {"show": False, "reducer": ["sum"], "countRows": False, "fields": ""},
        "sortBy": [],
    },
}
