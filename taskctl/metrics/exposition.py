"""The collectors of aioprometheus with what they lack: plain numbers, escaping, OpenMetrics, exemplars. The only import of it.

aioprometheus keeps the collectors, their names and kinds. It escapes nothing, knows neither OpenMetrics nor exemplars, and takes
microseconds for each number. So on the path of a request there are plain numbers and a bisect, the collectors are asked only
when somebody scrapes, and the two formats are written here.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final, TypeAlias

from aioprometheus.collectors import Collector, Counter, Gauge, Histogram, Registry
from aioprometheus.formats.text import TextFormatter

from taskctl.access import redacted
from taskctl.observe import Reading

__all__ = ["Cell", "OpenMetrics", "PlainCounter", "PlainGauge", "PlainHistogram", "Registry", "Text", "wants_open_metrics"]

OPEN_METRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
EXEMPLAR_MAX: Final = 128
"""Characters that the labels of an exemplar may have, names and values together."""

_Key: TypeAlias = tuple[str, ...]
_Exemplar: TypeAlias = tuple[str, str, float]
"""The ids of a request and of its trace, "" if that is not kept, and how long it took."""


# ---------------------------------------------------------------------------------------------------------- the collectors


class PlainCounter(Counter):
    """A counter whose numbers are plain, by the values of its labels; or are read when somebody scrapes."""

    def __init__(self, registry: Registry, name: str, doc: str, *labels: str) -> None:
        super().__init__(name, doc, registry=registry)
        self.labels = labels
        self.numbers: dict[_Key, float] = {}
        self.read: Callable[[], Reading] | None = None

    def add_up(self, amount: float = 1, *key: str) -> None:
        """Add an amount."""
        self.numbers[key] = self.numbers.get(key, 0) + amount

    def get_all(self) -> list[tuple[dict[str, str], Any]]:
        return _read(self)


class PlainGauge(Gauge):
    """A gauge in the same way."""

    def __init__(self, registry: Registry, name: str, doc: str, *labels: str) -> None:
        super().__init__(name, doc, registry=registry)
        self.labels = labels
        self.numbers: dict[_Key, float] = {}
        self.read: Callable[[], Reading] | None = None

    def get_all(self) -> list[tuple[dict[str, str], Any]]:
        return _read(self)


def _read(of: PlainCounter | PlainGauge) -> list[tuple[dict[str, str], Any]]:
    numbers: Mapping[_Key, float] = of.numbers
    if of.read is not None:
        reading = of.read()
        numbers = reading if isinstance(reading, Mapping) else {(): reading}
    return [(dict(zip(of.labels, key, strict=True)), number) for key, number in numbers.items()]


class Cell:
    """What was observed for one set of labels.

    counts: how much fell into each bucket, not into those below it. exemplars: the last one in each.
    """

    __slots__ = ("bounds", "counts", "exemplars", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.exemplars: list[_Exemplar | None] = [None] * len(self.counts)

    def observe(self, value: float) -> None:
        """Observe a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class PlainHistogram(Histogram):
    """A histogram in the same way."""

    def __init__(self, registry: Registry, name: str, doc: str, bounds: Sequence[float], *labels: str) -> None:
        super().__init__(name, doc, registry=registry, buckets=bounds)
        self.labels = labels
        self.cells: dict[_Key, Cell] = {}

    def cell(self, *key: str) -> Cell:
        """Return what is known of these values of the labels."""
        cell = self.cells.get(key)
        if cell is None:
            cell = self.cells[key] = Cell(self.upper_bounds)
        return cell

    def get_all(self) -> list[tuple[dict[str, str], Any]]:
        found: list[tuple[dict[str, str], Any]] = []
        for key, cell in self._used():
            counts = list(accumulate(cell.counts))
            value: dict[float | str, float] = dict(zip((*cell.bounds, float("inf")), counts, strict=True))
            found.append((dict(zip(self.labels, key, strict=True)), {**value, "count": counts[-1], "sum": cell.sum}))
        return found

    def _used(self) -> list[tuple[_Key, Cell]]:
        """Return what is told: without labels always, so that it begins at 0."""
        return [(key, cell) for key, cell in list(self.cells.items()) if not key or any(cell.counts)]

    def exemplars(self) -> list[list[_Exemplar | None]]:
        """Return those of each of `get_all`, bucket by bucket."""
        return [list(cell.exemplars) for _, cell in self._used()]


# ------------------------------------------------------------------------------------------------------------- the formats


class Text(TextFormatter):
    """The text format 0.0.4, with what may stand in a label or a help escaped."""

    def marshall_lines(self, collector: Collector) -> list[str]:
        """Return the lines of a collector, none if there is nothing in it."""
        found: list[tuple[dict[str, str], Any]] = collector.get_all()
        if not found:
            return []
        family = self._family(collector)
        lines = [f"# HELP {family} {self._help(collector.doc)}", f"# TYPE {family} {collector.kind.name}"]
        name = collector.name
        if not isinstance(collector, Histogram):
            return [*lines, *(f"{name}{_braced(_told(labels))} {_number(value)}" for labels, value in found)]
        marks = self._exemplars(collector, len(found))
        for (labels, value), exemplars in zip(found, marks, strict=False):
            told = _told(labels)
            before = f"{told}," if told else ""
            bounds = [bound for bound in value if isinstance(bound, float)]
            lines += [
                f'{name}_bucket{{{before}le="{_number(bound)}"}} {value[bound]}{mark}'
                for bound, mark in zip(bounds, exemplars, strict=False)
            ]
            lines += [f"{name}_{part}{_braced(told)} {_number(value[part])}" for part in ("count", "sum")]
        return lines

    def marshall(self, registry: Registry) -> bytes:
        """Return all collectors of a registry, each with its lines."""
        return "".join(f"{line}\n" for collector in registry.get_all() for line in self.marshall_lines(collector)).encode()

    def _family(self, collector: Collector) -> str:
        return collector.name

    def _help(self, text: str) -> str:
        return text.replace("\\", "\\\\").replace("\n", "\\n")

    def _exemplars(self, collector: Histogram, count: int) -> Sequence[Sequence[str]]:
        return [[""] * (len(collector.upper_bounds) + 1)] * count


class OpenMetrics(Text):
    """OpenMetrics 1.0: counters lose their `_total` where they are named, buckets have exemplars, and the end is told."""

    def get_headers(self) -> dict[str, str]:
        """Return the header that says which format this is."""
        return {"Content-Type": OPEN_METRICS}

    def marshall(self, registry: Registry) -> bytes:
        """Return all collectors of a registry, and that there are no more."""
        return super().marshall(registry) + b"# EOF\n"

    def _family(self, collector: Collector) -> str:
        return collector.name.removesuffix("_total") if isinstance(collector, Counter) else collector.name

    def _help(self, text: str) -> str:
        return _escaped(text)

    def _exemplars(self, collector: Histogram, count: int) -> Sequence[Sequence[str]]:
        if not isinstance(collector, PlainHistogram):
            return super()._exemplars(collector, count)
        return [[_mark(one) for one in exemplars] for exemplars in collector.exemplars()]


def _mark(exemplar: _Exemplar | None) -> str:
    if exemplar is None:
        return ""
    request_id, trace_id, value = exemplar
    labels = {"trace_id": trace_id} if trace_id else {}
    # Whoever asks may choose it: it may be long, or what should be in no log.
    room = EXEMPLAR_MAX - sum(len(name) + len(value) for name, value in labels.items()) - len("request_id")
    if len(request_id) <= room and redacted(request_id) == request_id:
        labels["request_id"] = request_id
    return f" # {{{_told(labels)}}} {_number(value)}" if labels else ""


def _told(labels: Mapping[str, str]) -> str:
    return ",".join([f'{name}="{_escaped(value)}"' for name, value in labels.items()])


def _braced(told: str) -> str:
    return f"{{{told}}}" if told else ""


def _escaped(value: str) -> str:
    if _PLAIN.fullmatch(value):  # as nearly always
        return value
    value = value.encode("utf-8", "replace").decode()  # half of a surrogate pair is no text
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


_PLAIN: Final = re.compile(r"[ !#-\[\]-~]*")


def _number(value: float) -> str:
    if value == float("inf"):
        return "+Inf"
    return repr(value)


def wants_open_metrics(accept: str) -> bool:
    """Return whether an Accept asks for OpenMetrics 1.0 at least as much as for the text format."""
    wanted = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    for part in accept.split(","):
        media, *params = (one.strip() for one in part.split(";"))
        given = {name.strip().lower(): value.strip().strip('"') for name, _, value in (one.partition("=") for one in params)}
        try:
            weight = float(given.get("q", "1"))
        except ValueError:
            continue
        if media.lower() == "application/openmetrics-text" and given.get("version", "1.0.0") != "1.0.0":
            continue
        media = "text/plain" if media in ("*/*", "text/*") else media.lower()
        if media in wanted:
            wanted[media] = max(wanted[media], weight)
    return 0 < wanted["application/openmetrics-text"] >= wanted["text/plain"]
