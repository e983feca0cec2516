"""Draw what every panel gets from a real Prometheus, to look at: python -m tests.ops.draw DIR [SECONDS]. It needs matplotlib.

It is no Grafana: the pictures show values, units, legends, thresholds and the places of the panels, not the colours and fonts.
"""

import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt

from taskctl.monitoring import dashboards
from tests.ops.lab import Lab, Prometheus, lab
from tests.ops.test_ops import asked

CELL = 0.72
"""Inches of a column of a dashboard; a row is half as high."""
KINDS = {
    "s": (1, " s"),
    "percentunit": (100, " %"),
    "bytes": (2**-20, " MiB"),
    "Bps": (2**-10, " KiB/s"),
    "reqps": (1, "/s"),
    "ops": (1, "/s"),
}


def main(folder: Path, seconds: float) -> None:
    """Draw all dashboards."""
    mpl.use("agg")
    folder.mkdir(parents=True, exist_ok=True)
    with lab(seconds) as everything:
        for name, text in dashboards().items():
            _board(everything, json.loads(text), folder / f"{Path(name).stem}.png", seconds)


def _board(everything: Lab, board: Mapping[str, Any], file: Path, seconds: float) -> None:
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"])
    figure = plt.figure(figsize=(24 * CELL, rows * CELL / 2))
    for panel in board["panels"]:
        at = panel["gridPos"]
        left, top = at["x"] / 24, 1 - at["y"] / rows
        if panel["type"] == "row":
            figure.text(0.005, top - 0.7 / rows, panel["title"], fontsize=13, weight="bold")
            continue
        place = (left + 0.025, top - (at["h"] - 0.9) / rows, at["w"] / 24 - 0.035, (at["h"] - 2.2) / rows)
        _panel(everything.prometheus, panel, figure.add_axes(place), seconds)
    figure.savefig(file, dpi=65)
    plt.close(figure)


def _panel(prometheus: Prometheus, panel: Mapping[str, Any], axes: Any, seconds: float) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    times, unit = KINDS.get(defaults["unit"], (1, ""))
    axes.set_title(f"{panel['title']} [{defaults['unit']}]", fontsize=8, loc="left")
    axes.tick_params(labelsize=6)
    if panel["type"] in ("stat", "table"):
        axes.axis("off")
        words = {int(value): each["text"] for mapping in defaults["mappings"] for value, each in mapping["options"].items()}
        for number, target in enumerate(panel["targets"]):
            found = prometheus.samples(asked(target["expr"]))
            lines = [
                f"{_called(target, each['metric'])}: {words.get(int(float(each['value'][1])), '')}"
                f"{float(each['value'][1]) * times:.4g}{unit}"
                for each in found
            ]
            axes.text(number / len(panel["targets"]), 1, "\n".join(lines) or defaults["noValue"], fontsize=7, va="top")
        return
    drawn = 0
    for target in panel["targets"]:
        for series in prometheus.lines(asked(target["expr"]), seconds):
            points = [(datetime.fromtimestamp(at, UTC), float(value) * times) for at, value in series["values"]]
            axes.plot(*zip(*points, strict=True), linewidth=0.9, label=_called(target, series["metric"]))
            drawn += 1
    if drawn:
        axes.legend(fontsize=5, loc="upper left", ncols=1 + drawn // 8, framealpha=0.4)
    else:
        axes.text(0.3, 0.5, defaults["noValue"], transform=axes.transAxes)
    for step in defaults["thresholds"]["steps"][1:]:
        if step["value"] * times <= axes.get_ylim()[1]:
            axes.axhline(step["value"] * times, color=step["color"], linestyle="--", linewidth=0.7)
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    axes.set_ylabel(unit, fontsize=6)


def _called(target: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    """Return the legend of a series as Grafana would fill it in."""
    legend: str = target["legendFormat"]
    if legend == "__auto":
        return " ".join(value for name, value in labels.items() if name not in ("__name__", "job"))
    for name, value in labels.items():
        legend = legend.replace(f"{{{{{name}}}}}", value)
    return legend


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 30.0)
