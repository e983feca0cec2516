"""What is asked of the metrics of taskctl, over the instances that are chosen on a dashboard."""

from typing import Final

from taskctl.monitoring.grafana import Query

OURS: Final = 'job="taskctl",instance=~"$instance"'
SECONDS: Final = "http_server_request_duration_seconds"
API: Final = ',http_route=~".*/api/v1/.*"'
"""The requests that are not for probes, metrics and documents; under whatever prefix the application is mounted."""
_RATE: Final = "[$__rate_interval]"


def total(metric: str, by: str = "", more: str = "") -> str:
    """Return how much of a counter there is a second, over the chosen instances."""
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{{{OURS}{more}}}{_RATE}))"


def per(upper: str, lower: str, by: str = "") -> str:
    """Return a ratio of two counters; it is nothing where there is nothing to divide by."""
    return f"{total(upper, by)}\n/ ({total(lower, by)} > 0)"


def quantile(part: float, histogram: str, by: str = "", more: str = "") -> str:
    """Return below what a part of what a histogram observed was."""
    return f"histogram_quantile({part}, {total(f'{histogram}_bucket', f'{by}, le' if by else 'le', more)})"


def gauge(how: str, metric: str, by: str = "") -> str:
    """Return a gauge, with those of several instances put together: how is sum, min, max or count."""
    return f"{how}{f' by ({by})' if by else ''} ({metric}{{{OURS}}})"


def spread(histogram: str, more: str = "") -> tuple[Query, ...]:
    """Return the usual three of a histogram."""
    return (
        Query(quantile(0.5, histogram, more=more), "half within"),
        Query(quantile(0.95, histogram, more=more), "95 % within"),
        Query(quantile(0.99, histogram, more=more), "99 % within"),
    )
