"""What is shown and watched of taskctl: dashboards for Grafana, rules and alerts for Prometheus, as the files that these read.

Texts only: nothing here asks anybody, and nothing of taskctl is needed for it. contrib/ has the same files; docs/monitoring.md
says how they are used.
"""

from taskctl.monitoring.alerts import FILES
from taskctl.monitoring.exporters import EXPORTERS
from taskctl.monitoring.grafana import drawn
from taskctl.monitoring.internals import INTERNALS
from taskctl.monitoring.rules import RUNBOOK, written
from taskctl.monitoring.service import SERVICE
from taskctl.monitoring.work import WORK

__all__ = ["RUNBOOK", "dashboards", "rule_files"]


def dashboards() -> dict[str, str]:
    """Return the dashboards by their files' names, as JSON."""
    return {f"{each.name}.json": drawn(each) for each in (SERVICE, INTERNALS, WORK, *EXPORTERS)}


def rule_files(runbook: str = RUNBOOK) -> dict[str, str]:
    """Return the rules and alerts by their files' names, as YAML. runbook: where alerts say that one reads about them."""
    return {name: written(groups, runbook) for name, groups in FILES.items()}
