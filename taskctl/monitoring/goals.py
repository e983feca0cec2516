"""The goals of the service: what is worked out of how many requests fail and take long, and when somebody is told."""

from collections.abc import Iterator, Sequence
from typing import Final

from taskctl.monitoring.rules import Alert, Record, Severity

AVAILABILITY: Final = 0.999
"""Of the requests to the API, how many should not fail by a fault of ours (5xx)."""
QUICK: Final = 0.99
"""Of those that do not, how many should be answered within half a second."""
WINDOWS: Final = ("30m", "1h", "2h", "6h", "1d", "3d")
"""Beside five minutes, from which they are made."""
BURNS: Final[Sequence[tuple[str, str, float, str, Severity]]] = (
    ("5m", "1h", 14.4, "2m", "critical"),
    ("30m", "6h", 6, "5m", "critical"),
    ("2h", "1d", 3, "15m", "warning"),
    ("6h", "3d", 1, "30m", "warning"),
)
"""Short and long window, how many times faster than it may the budget of 30 days goes, how long that must last, and who should look."""

_FINE: Final = 'job="taskctl",http_route=~".*/api/v1/.*",http_response_status_code!~"5.."'
_SECONDS: Final = "http_server_request_duration_seconds"
_BY_ROUTE: Final = "sum by (job, http_request_method, http_route)"


def goals() -> Iterator[Record]:
    """Yield what is worked out over all requests to the API, window by window."""
    # A counter that begins at 0: of a series of the histogram, which begins with its first failures, nobody would see these.
    failed = 'sum(rate(taskctl_requests_failed_total{job="taskctl"}[5m]))'
    # What a HAProxy in front answers by itself, when there is no server that it could ask, no server has seen. Without one, it is 0.
    answered = 'sum(rate(haproxy_frontend_http_responses_total{job="proxy",proxy="http",code="5xx"}[5m]))'
    passed_on = 'sum(rate(haproxy_server_http_responses_total{job="proxy",code="5xx"}[5m]))'
    yield Record("taskctl:requests_failed_at_proxy:rate5m", f"clamp_min({answered} - {passed_on}, 0) or vector(0)")
    fine = f"sum(rate({_SECONDS}_count{{{_FINE}}}[5m]))"
    yield Record("taskctl:requests_failed:rate5m", f"({failed} or vector(0)) + taskctl:requests_failed_at_proxy:rate5m")
    yield Record("taskctl:requests_fine:rate5m", f"{fine}\nor 0 * taskctl:requests_failed:rate5m")
    yield Record("taskctl:requests:rate5m", "taskctl:requests_fine:rate5m + taskctl:requests_failed:rate5m")
    quick = f'sum(rate({_SECONDS}_bucket{{{_FINE},le="0.5"}}[5m]))'
    yield Record("taskctl:requests_slow:rate5m", f"taskctl:requests_fine:rate5m - ({quick} or 0 * taskctl:requests_fine:rate5m)")
    for bad, of in (("failed", "requests"), ("slow", "requests_fine")):
        name = f"taskctl:requests_{bad}"
        yield Record(f"{name}:ratio_rate5m", f"{name}:rate5m / (taskctl:{of}:rate5m > 0)")
        for window in WINDOWS:
            all_of_them = f"(avg_over_time(taskctl:{of}:rate5m[{window}]) > 0)"
            yield Record(f"{name}:ratio_rate{window}", f"avg_over_time({name}:rate5m[{window}]) / {all_of_them}")


def routes() -> Iterator[Record]:
    """Yield how much is asked for, fails, and how long it takes, route by route."""
    every = 'job="taskctl"'
    yield Record("route:http_server_requests:rate5m", f"{_BY_ROUTE} (rate({_SECONDS}_count{{{every}}}[5m]))")
    failed = f'{_BY_ROUTE} (rate({_SECONDS}_count{{{every},http_response_status_code=~"5.."}}[5m]))'
    ratio = f"({failed} or 0 * route:http_server_requests:rate5m)\n/ (route:http_server_requests:rate5m > 0)"
    yield Record("route:http_server_requests_failed:ratio_rate5m", ratio)
    buckets = f"sum by (job, http_request_method, http_route, le) (rate({_SECONDS}_bucket{{{every}}}[5m]))"
    for name, quantile in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        yield Record(f"route:{_SECONDS}:{name}_rate5m", f"histogram_quantile({quantile}, {buckets})")


def burns() -> Iterator[Alert]:
    """Yield the alerts on budgets that go too fast: fast enough in a long window, and still so in a short one."""
    goals = (
        ("availability", "failed", AVAILABILITY, "were not answered, by a fault of the server or of what it needs"),
        ("latency", "slow", QUICK, "took longer than half a second"),
    )
    for goal, bad, wanted, what in goals:
        for short, long, times, wait, severity in BURNS:
            limit = f"> {times:g} * {1 - wanted:.3g}"
            ratio = f"taskctl:requests_{bad}:ratio_rate"
            yield Alert(
                f"Taskctl{goal.title()}BudgetBurn",
                f"{ratio}{long} {limit}\nand\n{ratio}{short} {limit}",
                wait,
                severity,
                f"The {goal} budget of 30 days goes {times:g} times faster than it may",
                f"Of the requests of the last {long}, {{{{ $value | humanizePercentage }}}} {what}; the goal is at most {1 - wanted:.1%}.",
                {"goal": goal, "window": long},
            )
