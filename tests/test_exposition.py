"""How metrics are written: held against the parsers of Prometheus' own Python client, and against promtool."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from typing import Any

import pytest
from aioprometheus.collectors import Registry
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as text_format

from taskctl.access import new_secret
from taskctl.metrics import Metrics
from taskctl.metrics.exposition import OpenMetrics, PlainCounter, PlainGauge, PlainHistogram, Text, wants_open_metrics
from taskctl.observe import METHODS, RequestDone

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
PARSERS = [pytest.param(Text, text_format, id="text"), pytest.param(OpenMetrics, open_metrics, id="openmetrics")]
HOSTILE = ['"', "\\", "\n", '\\"', "\\n", "a{b}", 'x",y="z', "#", "} 1", "\r", "\0", "é", "🐢", "", " ", "\u2028", "\x85"]


def samples(families: Iterable[Any]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return the samples, by name and labels; the parser has refused what is there twice or out of place."""
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def read_back(parse: Any, body: bytes) -> list[Any]:
    """Return the families in an answer."""
    return list(parse(body.decode()))


@pytest.mark.parametrize(("format", "parse"), PARSERS)
@given(values=st.lists(st.one_of(st.sampled_from(HOSTILE), st.text()), min_size=1, unique=True), doc=st.text())
def test_whatever_stands_in_a_label_or_a_help_is_read_back(format: Any, parse: Any, values: list[str], doc: str) -> None:
    registry = Registry()
    counter = PlainCounter(registry, "a_total", doc, "x", "y")
    gauge = PlainGauge(registry, "b", doc, "x", "y")
    histogram = PlainHistogram(registry, "c", doc, (0.5, 2.0), "x", "y")
    for number, value in enumerate(values):
        counter.add_up(number, value, "y")
        gauge.numbers["x", value] = number
        histogram.cell(value, value).observe(number)
    written = format().marshall(registry).decode()
    families = list(parse(written))
    found = samples(families)
    assert [family.name for family in families] == ["a", "b", "c"]
    for number, value in enumerate(values):
        assert found["a_total", (("x", value), ("y", "y"))] == number
        assert found["b", (("x", "x"), ("y", value))] == number
        assert found["c_sum", (("x", value), ("y", value))] == number
        assert found["c_bucket", (("le", "+Inf"), ("x", value), ("y", value))] == 1
    assert len(found) == len(values) * (1 + 1 + 5)
    if doc and doc == doc.strip() and doc.isprintable():  # the parsers take the space around it away
        assert {family.documentation for family in families} == {doc}


@pytest.mark.parametrize(("format", "parse"), PARSERS)
def test_half_of_a_character_breaks_nothing(format: Any, parse: Any) -> None:
    registry = Registry()
    PlainCounter(registry, "a_total", "A.", "x").add_up(1, "\ud800")
    assert samples(parse(format().marshall(registry).decode())) == {("a_total", (("x", "?"),)): 1}


@pytest.mark.parametrize(("format", "parse"), PARSERS)
@given(observed=st.lists(st.floats(0, 1e300)))
def test_a_histogram_counts_what_is_at_most_a_bound(format: Any, parse: Any, observed: list[float]) -> None:
    registry = Registry()
    cell = PlainHistogram(registry, "h", "H.", (0.1, 1.0, 1e6)).cell()
    for value in observed:
        cell.observe(value)
    found = samples(parse(format().marshall(registry).decode()))
    for bound in (0.1, 1.0, 1e6):
        assert found["h_bucket", (("le", repr(bound)),)] == sum(value <= bound for value in observed)
    assert found["h_bucket", (("le", "+Inf"),)] == found["h_count", ()] == len(observed)
    assert found["h_sum", ()] == sum(observed)


def done(
    request_id: str = "r", *, method: str = "GET", route: str = "/x", status: int = 200, seconds: float = 0.3, trace: str = ""
) -> RequestDone:
    return RequestDone(method, "/path", route, status, seconds, request_id, received=10, sent=1000, trace=trace)


def exemplars(metrics: Metrics) -> dict[str, Any]:
    """Return the exemplars, by the bound of their bucket."""
    _, body = metrics.scrape(OPEN_METRICS)
    return {s.labels["le"]: s.exemplar for family in read_back(open_metrics, body) for s in family.samples if s.exemplar}


def test_a_bucket_names_the_last_request_in_it() -> None:
    metrics = Metrics("1")
    for request_id, seconds in (("first", 0.3), ("later", 0.4), ("slow", 60.0)):
        metrics.observe(done(request_id, seconds=seconds))
    found = exemplars(metrics)
    assert {bound: (one.labels, one.value) for bound, one in found.items()} == {
        "0.5": ({"request_id": "later"}, 0.4),
        "+Inf": ({"request_id": "slow"}, 60.0),
    }
    assert b"later" not in metrics.scrape("")[1]


def test_an_id_that_is_too_long_or_should_be_in_no_log_is_not_named() -> None:
    for request_id in ("x" * 119, new_secret()[1], f"a.{new_secret()[1]}"):
        metrics = Metrics("1")
        metrics.observe(done(request_id))
        assert exemplars(metrics) == {}
    metrics.observe(done("x" * 118))
    assert len(exemplars(metrics)) == 1


def test_a_bucket_names_the_trace_and_beside_it_the_request_if_there_is_room() -> None:
    for request_id, named in (("r" * 78, True), ("r" * 79, False), (new_secret()[1], False)):
        metrics = Metrics("1")
        metrics.observe(done(request_id, trace="f" * 32))
        [exemplar] = exemplars(metrics).values()
        assert exemplar.labels == {"trace_id": "f" * 32} | ({"request_id": request_id} if named else {})
        metrics.observe(done("without a trace"))
        assert list(exemplars(metrics).values()) == [exemplar]


def test_the_goals_are_bounds() -> None:
    metrics = Metrics("1")
    metrics.observe(done())
    bounds = re.findall(r'duration_seconds_bucket\{.*le="([0-9.]+)"', metrics.scrape("")[1].decode())
    assert {"0.1", "0.5"} <= set(bounds)


def test_methods_and_routes_that_are_not_known_are_one() -> None:
    metrics = Metrics("1")
    metrics.observe(done(route=""))
    size = len(metrics.scrape("")[1].splitlines())
    for number in range(1000):
        metrics.observe(done(method=f"M{number}", route=""))
    body = metrics.scrape("")[1].decode()
    assert set(re.findall(r'http_request_method="(\w+)"', body)) == {"GET", "_OTHER"} == {*METHODS} & {"GET"} | {"_OTHER"}
    assert len(body.splitlines()) < 2 * size
    assert len(metrics._routes) == 1


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("application/openmetrics-text", True),
        ("application/openmetrics-text; version=1.0.0", True),
        ('Application/OpenMetrics-Text; Version="1.0.0"', True),
        ("application/openmetrics-text; version=0.0.1", False),
        ("application/openmetrics-text; version=2.0.0", False),
        ("application/openmetrics-text; q=0", False),
        ("application/openmetrics-text; q=much", False),
        ("application/openmetrics-text;q=0.1, text/plain;q=0.2", False),
        ("application/openmetrics-text, */*", True),
        (PROMETHEUS_2, True),
        (PROMETHEUS_3, True),
        (";;;,,q=,=;", False),
    ],
)
def test_what_is_asked_for_is_told(accept: str, expected: bool) -> None:
    assert wants_open_metrics(accept) == expected
    content_type, body = Metrics("1").scrape(accept)
    assert content_type == (OPEN_METRICS if expected else TEXT)
    assert body.endswith(b"\n# EOF\n") == expected


def promtool(body: bytes) -> None:
    """Have Prometheus' own tool look at what it would scrape."""
    program = shutil.which("promtool")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("promtool is missing; Debian has it in the package prometheus")
        pytest.skip("there is no promtool here; Debian has it in the package prometheus")
    ran = subprocess.run([program, "check", "metrics"], input=body, capture_output=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"", b"")


def test_promtool_finds_nothing_wrong_with_hostile_values() -> None:
    registry = Registry()
    counter = PlainCounter(registry, "things_total", 'Things, "quoted" \\ and\nbroken.', "x")
    histogram = PlainHistogram(registry, "durations_seconds", "Durations.", (0.5, 2.0), "x")
    for value in HOSTILE:
        counter.add_up(1, value)
        histogram.cell(value).observe(1.0)
    promtool(Text().marshall(registry))
