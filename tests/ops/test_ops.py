"""What is shown and watched, on real parts: each query of each panel, and each rule, on a Prometheus of real servers."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from taskctl.monitoring import dashboards
from taskctl.monitoring.alerts import FILES
from taskctl.monitoring.rules import Alert
from tests.ops.lab import PROMETHEUS, ROOT, Lab, lab, missing

pytestmark = [pytest.mark.ops, pytest.mark.timeout(300)]

LOAD_SECONDS = 20
WAIT_SECONDS = 20
QUERIES = [
    (f"{name}: {panel['title']} {target['refId']}", target["expr"])
    for name, text in dashboards().items()
    for panel in json.loads(text)["panels"]
    for target in panel.get("targets", [])
]
RULES = [rule for groups in FILES.values() for group in groups for rule in group.rules]

IN_TROUBLE = {"service.json: Failures by route B"}
"""Queries that have no data while all is well: a 5xx has no series before the first one."""
QUIET = {"service.json: Alerts A"}
"""Queries that are 0 while all is well."""
NEWER = {
    # PostgreSQL 17 and postgres_exporter 0.13; the query says `or`.
    "pg_stat_checkpointer_num_timed_total",
    "pg_stat_checkpointer_num_requested_total",
    "pg_stat_bgwriter_checkpoints_timed",
    "pg_stat_bgwriter_checkpoints_req",
    "pg_stat_bgwriter_checkpoints_timed_total",
    "pg_stat_bgwriter_checkpoints_req_total",
}
"""Metrics that are called otherwise here; of each pair of names that a query has, one must be there."""


@pytest.fixture(scope="module", autouse=True)
def _parts() -> None:
    lacking = missing()
    if lacking and not os.environ.get("CI"):
        pytest.skip(f"needs {', '.join(lacking)} (Debian has them)")
    assert not lacking, "what continuous integration needs must be there"


@pytest.fixture(scope="module")
def running() -> Iterator[Lab]:
    with lab(LOAD_SECONDS) as everything:
        yield everything


def promtool(*arguments: str | Path) -> str:
    ran = subprocess.run(["promtool", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert ran.returncode == 0, ran.stdout
    return ran.stdout


def asked(expr: str) -> str:
    """Return a panel's query as Grafana sends it, for all instances and the short time that there is."""
    return expr.replace("$__rate_interval", "10s").replace("$instance", ".*")


def metrics_in(expr: str) -> set[str]:
    """Return the names of the metrics that an expression asks for."""
    bare = re.sub(r'"[^"]*"|\[[^]]*\]|\b(by|on)\s*\([^)]*\)|\b\d+e\d+', "", expr)
    names = set(re.findall(r"[a-z][a-z_0-9:]*[a-z0-9](?!\s*\(|[a-z_0-9:])", re.sub(r"\{[^}]*\}", "", bare)))
    return names - {"or", "and", "by", "offset", "on", "d"}


# ------------------------------------------------------------------------------------------------------------ by themselves


def test_prometheus_accepts_rules_and_configuration() -> None:
    told = promtool("check", "rules", *sorted((PROMETHEUS / "rules").glob("*.yml")))
    assert sum(map(int, re.findall(r"SUCCESS: (\d+) rules found", told))) == len(RULES)
    assert "SUCCESS" in promtool("check", "config", PROMETHEUS / "prometheus.yml")


@pytest.mark.parametrize("file", sorted((PROMETHEUS / "tests").glob("*.yml")), ids=lambda file: file.stem)
def test_alerts_fire_when_they_should_and_only_then(file: Path) -> None:
    assert "SUCCESS" in promtool("test", "rules", file)


def checked(program: str, *arguments: str | Path) -> None:
    ran = subprocess.run(
        [Path(sys.executable).parent / program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout


def test_the_compose_file_is_one() -> None:
    checked("check-jsonschema", "--builtin-schema", "vendor.compose-spec", ROOT / "compose.yaml")


@pytest.mark.parametrize("file", sorted((ROOT / "contrib/docker").glob("*Dockerfile")), ids=lambda file: file.name)
def test_images_are_built_as_they_should_be(file: Path) -> None:
    checked("hadolint", file)


# ------------------------------------------------------------------------------------------------------------- all together


def test_every_panel_has_data(running: Lab) -> None:
    empty = [name for name, expr in QUERIES if not running.prometheus.samples(asked(expr))]
    assert set(empty) == IN_TROUBLE


def test_panels_show_more_than_what_they_say_if_there_is_nothing(running: Lab) -> None:
    """A query with a wrong label would be 0 where it says `or` or `clamp_min`, and have data all the same."""
    replaced = [(name, expr) for name, expr in QUERIES if re.search(r"\bor (0 \*|vector)|\bclamp_min\b", expr)]
    zero = {
        name
        for name, expr in replaced
        if not any(float(each["value"][1]) > 0 for each in running.prometheus.samples(asked(expr)))
    }
    assert len(replaced) > len(zero)
    assert zero == QUIET


def test_every_rule_is_worked_out_and_a_healthy_system_is_quiet(running: Lab) -> None:
    groups: list[Any] = running.prometheus.ask("rules")["groups"]
    told = [rule for group in groups for rule in group["rules"]]
    assert len(told) == len(RULES)
    assert [(rule["name"], rule.get("lastError")) for rule in told if rule["health"] != "ok"] == []
    assert [rule["alerts"] for rule in told if rule.get("state") == "firing"] == []
    assert [rule.name for rule in RULES if not isinstance(rule, Alert) and not running.prometheus.samples(rule.name)] == []


def test_every_metric_that_is_asked_for_is_there(running: Lab) -> None:
    there = set(running.prometheus.ask("label/__name__/values"))
    wanted = {name for _, expr in QUERIES for name in metrics_in(expr)} | {
        name for rule in RULES for name in metrics_in(rule.expr)
    }
    assert wanted - there - NEWER - {"ALERTS"} == set()


def seen(running: Lab, *queries: str) -> None:
    """Wait until queries have answers."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not all(running.prometheus.samples(query) for query in queries):  # Prometheus tells nobody what it has scraped
        assert time.monotonic() < deadline, queries
        time.sleep(0.2)


def pending(running: Lab, *alerts: str) -> None:
    """Wait until alerts would fire if it stays so."""
    seen(running, *(f'ALERTS{{alertname="{name}",alertstate="pending"}}' for name in alerts))


def test_what_the_proxy_answers_by_itself_has_failed(running: Lab) -> None:
    """And nothing else has, here: what comes through the proxy is counted by the servers, too."""
    [by_itself] = running.prometheus.samples("taskctl:requests_failed_at_proxy:rate5m")
    assert float(by_itself["value"][1]) > 0
    pending(running, "ProxyFailing")


def test_a_proxy_that_finds_no_server_is_missed(running: Lab) -> None:
    seen(running, f'haproxy_backend_active_servers{{proxy="ready"}} == {len(running.servers)}')
    with running.proxy.without("ready"):
        pending(running, "ProxyWithoutServers")
        with urlopen(f"{running.proxy.url}/livez", timeout=10) as answer:  # of one that lives
            assert answer.status == 200


def test_a_server_and_a_proxy_that_go_are_missed(running: Lab) -> None:
    """The last test here, for it takes them away. TaskctlReplicaVanished counts what lasted longer than all of this."""
    assert running.prometheus.samples("taskctl:replicas_up:count")[0]["value"][1] == str(len(running.servers))
    running.servers[0].stop()
    running.proxy.process.terminate()
    pending(running, "TaskctlTargetDown", "ProxyDown")
