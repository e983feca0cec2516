"""The dashboard of what users notice."""

from typing import Final

from taskctl.monitoring.grafana import Dashboard, Panel, Query, Row
from taskctl.monitoring.promql import API, OURS, SECONDS, gauge, quantile, spread, total

_ROUTE: Final = "{{http_request_method}} {{http_route}}"
_BY_ROUTE: Final = "http_request_method, http_route"
_FAILED: Final = ',http_response_status_code=~"5.."'
_BUDGET: Final = "30d"
_PROXY: Final = 'job="proxy"'
_NO_PROXY: Final = "no HAProxy"


def _left(bad: str, of: str, goal: float) -> str:
    """Return which part of the budget of 30 days is left."""
    ratio = f"avg_over_time(taskctl:requests_{bad}:rate5m[{_BUDGET}])\n/ (avg_over_time(taskctl:{of}:rate5m[{_BUDGET}]) > 0)"
    return f"1 - ({ratio}) / {goal:g}"


def _answers(side: str, by: str, more: str) -> str:
    """Return how many answers a second left the proxy (frontend), or came to it (server)."""
    return f"sum {by}(rate(haproxy_{side}_http_responses_total{{{_PROXY}{more}}}[$__rate_interval]))"


def _by_itself(code: str) -> str:
    """Return how many answers a second of a kind left the proxy and came from no server."""
    left, came = _answers("frontend", "", f',proxy="http",code="{code}"'), _answers("server", "", f',code="{code}"')
    return f"clamp_min({left}\n- {came}, 0)"


def _burn(bad: str, goal: float) -> tuple[Query, ...]:
    windows = ("5m", "1h", "6h", "3d")
    return tuple(Query(f"taskctl:requests_{bad}:ratio_rate{each} / {goal:g}", f"over {each}") for each in windows)


SERVICE: Final = Dashboard(
    "service",
    "taskctl: the service",
    "What users notice: how much is asked for, how much of it fails, how long it takes, and what that leaves of the goals.",
    "taskctl_build_info",
    (
        Row(
            "Now",
            (
                Panel(
                    "Servers",
                    "Servers that Prometheus reaches. One that is gone from the addresses of its name is not missed here, but by an alert.",
                    "short",
                    [Query(f"count(up{{{OURS}}} == 1) or vector(0)", "up")],
                    kind="stat",
                    limits=(1, 0.5),
                    width=3,
                    height=5,
                    decimals=0,
                ),
                Panel(
                    "Alerts",
                    "Alerts that fire, of taskctl and what it needs. docs/runbook.md says what to do.",
                    "short",
                    [Query('count(ALERTS{alertstate="firing"}) or vector(0)', "firing")],
                    kind="stat",
                    limits=(1, 3),
                    width=3,
                    height=5,
                    decimals=0,
                ),
                Panel(
                    "Requests",
                    "Requests a second, probes and scrapes included.",
                    "reqps",
                    [Query(total(f"{SECONDS}_count"), "requests")],
                    nothing="no requests",
                    kind="stat",
                    width=3,
                    height=5,
                ),
                Panel(
                    "Failed",
                    "The part of the requests to the API of the last five minutes that failed by a fault of the server or of what it needs (5xx).",
                    "percentunit",
                    [Query("taskctl:requests_failed:ratio_rate5m", "failed")],
                    nothing="no requests",
                    kind="stat",
                    limits=(0.001, 0.01),
                    width=3,
                    height=5,
                    decimals=2,
                ),
                Panel(
                    "99 % within",
                    "Within what time 99 of 100 requests to the API were answered. The goal is half a second.",
                    "s",
                    [Query(quantile(0.99, SECONDS, more=API), "99 %")],
                    nothing="no requests",
                    kind="stat",
                    limits=(0.25, 0.5),
                    width=4,
                    height=5,
                ),
                Panel(
                    "Budget for failures",
                    "What is left of the requests that may fail in 30 days (0.1 %). Below 0 the goal of 99.9 % is missed.",
                    "percentunit",
                    [Query(_left("failed", "requests", 0.001), "left")],
                    nothing="no requests",
                    kind="stat",
                    limits=(0.25, 0),
                    low=None,
                    width=4,
                    height=5,
                    decimals=1,
                ),
                Panel(
                    "Budget for slowness",
                    "What is left of the requests that may take more than 0.5 s in 30 days (1 %). Below 0 the goal of 99 % is missed.",
                    "percentunit",
                    [Query(_left("slow", "requests_fine", 0.01), "left")],
                    nothing="no requests",
                    kind="stat",
                    limits=(0.25, 0),
                    low=None,
                    width=4,
                    height=5,
                    decimals=1,
                ),
            ),
        ),
        Row(
            "Requests",
            (
                Panel(
                    "Requests by route",
                    "Requests a second. A route is a template: {id} stands for any task.",
                    "reqps",
                    [Query(total(f"{SECONDS}_count", _BY_ROUTE), _ROUTE)],
                    nothing="no requests",
                    stacked=True,
                ),
                Panel(
                    "Failures by route",
                    "Answers 5xx a second: a fault of the server, or of what it needs. 503 is the database away or too much at once, 507 a full disk.",
                    "reqps",
                    [
                        Query(total("taskctl_requests_failed_total"), "all of the API"),
                        Query(
                            total(f"{SECONDS}_count", f"{_BY_ROUTE}, http_response_status_code", _FAILED),
                            _ROUTE + " {{http_response_status_code}}",
                        ),
                    ],
                    nothing="no failures",
                    limits=(0.1, 1),
                ),
                Panel(
                    "Answers by status",
                    "Answers a second. 4xx is what callers did wrong: 401 no valid token, 409 and 412 somebody was faster, 422 not a task, 429 too much.",
                    "reqps",
                    [Query(total(f"{SECONDS}_count", "http_response_status_code"), "{{http_response_status_code}}")],
                    nothing="no requests",
                    stacked=True,
                ),
                Panel(
                    "Time of all requests",
                    "Within what time requests to the API were answered.",
                    "s",
                    spread(SECONDS, API),
                    nothing="no requests",
                    limits=(0.25, 0.5),
                ),
                Panel(
                    "Time by route",
                    "Within what time 95 of 100 requests of a route were answered.",
                    "s",
                    [Query(quantile(0.95, SECONDS, _BY_ROUTE), _ROUTE)],
                    nothing="no requests",
                    limits=(0.25, 0.5),
                ),
                Panel(
                    "Times",
                    "How many requests to the API took how long: two bands are two kinds of request, or a cache and what it spares.",
                    "short",
                    [Query(total(f"{SECONDS}_bucket", "le", API), "{{le}}")],
                    nothing="no requests",
                    kind="heatmap",
                ),
                Panel(
                    "Routes",
                    "Each route in the last five minutes: requests a second, which part failed (5xx), and within what time 95 and 99 of 100 were answered.",
                    "short",
                    [
                        Query("route:http_server_requests:rate5m"),
                        Query("route:http_server_requests_failed:ratio_rate5m"),
                        Query(f"route:{SECONDS}:p95_rate5m"),
                        Query(f"route:{SECONDS}:p99_rate5m"),
                    ],
                    nothing="no requests",
                    kind="table",
                    width=24,
                    columns=(("Requests", "reqps"), ("Failed", "percentunit"), ("95 % within", "s"), ("99 % within", "s")),
                ),
            ),
        ),
        Row(
            "Goals",
            (
                Panel(
                    "How fast the budget for failures goes",
                    "1 is a budget that is used up after exactly 30 days. An alert fires above 14.4 (1h), 6 (6h), 3 (1d) and 1 (3d), if it is still so.",
                    "none",
                    _burn("failed", 0.001),
                    nothing="no requests",
                    limits=(1, 14.4),
                    width=12,
                ),
                Panel(
                    "How fast the budget for slowness goes",
                    "The same for requests that take more than half a second, of which 1 % may.",
                    "none",
                    _burn("slow", 0.01),
                    nothing="no requests",
                    limits=(1, 14.4),
                    width=12,
                ),
            ),
        ),
        Row(
            "The proxy",
            (
                Panel(
                    "Answers of the proxy",
                    "Answers a second to all who come through the proxy, by the first digit of their status.",
                    "reqps",
                    [Query(_answers("frontend", "by (code) ", ',proxy="http"'), "{{code}}")],
                    nothing=_NO_PROXY,
                    stacked=True,
                    width=6,
                ),
                Panel(
                    "What the proxy answers itself",
                    "Answers a second that are of no server. 5xx: it found none, or got no answer from it. 4xx: what it could not read.",
                    "reqps",
                    [Query(_by_itself(code), code) for code in ("5xx", "4xx")],
                    nothing=_NO_PROXY,
                    limits=(0.1, 1),
                    width=6,
                ),
                Panel(
                    "Servers of the proxy",
                    "Servers that it finds: those that are ready get the requests. If none is, those that live do, and answer what they remember.",
                    "short",
                    [
                        Query(
                            f'min by (proxy) (haproxy_backend_active_servers{{{_PROXY},proxy=~"ready|alive"}})',
                            "{{proxy}}",
                        )
                    ],
                    nothing=_NO_PROXY,
                    limits=(1, 0.5),
                    width=6,
                    decimals=0,
                ),
                Panel(
                    "Connections of the proxy",
                    "The part of maxconn that is open. Beyond it, whoever comes waits.",
                    "percentunit",
                    [
                        Query(
                            f"max by (instance) (haproxy_process_current_connections{{{_PROXY}}}\n"
                            f"/ haproxy_process_max_connections{{{_PROXY}}})",
                            "{{instance}}",
                        )
                    ],
                    nothing=_NO_PROXY,
                    limits=(0.5, 0.8),
                    width=6,
                ),
            ),
        ),
        Row(
            "Callers",
            (
                Panel(
                    "Requests under way",
                    "Requests that have no answer yet; the scrape itself is one.",
                    "short",
                    [Query(gauge("sum", "http_server_active_requests", "instance"), "{{instance}}")],
                ),
                Panel(
                    "Refused by limits",
                    "Requests a second that were refused (429): too many of one token, of one address, or with tokens that are worth nothing.",
                    "reqps",
                    [Query(total("taskctl_rate_limited_total", "limit"), "{{limit}}")],
                    limits=(1, 10),
                ),
                Panel(
                    "Refused tokens",
                    "Tokens a second that were shown and are worth nothing. Many that are unknown are somebody who guesses.",
                    "reqps",
                    [Query(total("taskctl_tokens_refused_total", "reason"), "{{reason}}")],
                    limits=(0.5, 5),
                ),
                Panel(
                    "Tokens made and revoked",
                    "Within an hour, through the API.",
                    "short",
                    [
                        Query(f"sum (increase(taskctl_tokens_created_total{{{OURS}}}[1h]))", "made"),
                        Query(f"sum (increase(taskctl_tokens_revoked_total{{{OURS}}}[1h]))", "revoked"),
                    ],
                    decimals=0,
                ),
                Panel(
                    "What comes in",
                    "Bytes a second of the bodies of requests.",
                    "Bps",
                    [Query(total("http_server_request_body_size_bytes_sum", _BY_ROUTE), _ROUTE)],
                    nothing="no bodies",
                    stacked=True,
                ),
                Panel(
                    "What goes out",
                    "Bytes a second of the bodies of answers.",
                    "Bps",
                    [Query(total("http_server_response_body_size_bytes_sum", _BY_ROUTE), _ROUTE)],
                    nothing="no answers",
                    stacked=True,
                ),
            ),
        ),
    ),
)
