"""Recording rules and alerts, as files that every Prometheus from 2.42 on reads."""

import json
from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple, TypeAlias

RUNBOOK: Final = "docs/runbook.md"
"""Where people read what an alert means; the name of an alert, in small letters, is an anchor there."""

Severity: TypeAlias = Literal["critical", "warning"]
"""critical: somebody should look now, for users notice it. warning: on the next working day. An Alertmanager tells them."""


class Record(NamedTuple):
    """A query whose answers are kept under a name."""

    name: str
    expr: str


class Alert(NamedTuple):
    """A query that should have no answer. wait: for how long it must have one; labels: beside the severity."""

    name: str
    expr: str
    wait: str
    severity: Severity
    summary: str
    description: str
    labels: Mapping[str, str] = {}


class Group(NamedTuple):
    """Rules that are worked out one after the other, each seeing what those before it found."""

    name: str
    rules: Sequence[Record | Alert]


def written(groups: Sequence[Group], runbook: str = RUNBOOK) -> str:
    """Return groups as a rule file."""
    lines = ["# Made by `taskctl metrics rules`; docs/monitoring.md says what it needs.", "groups:"]
    for group in groups:
        lines += [f"  - name: {group.name}", "    rules:"]
        for rule in group.rules:
            lines += _record(rule) if isinstance(rule, Record) else _alert(rule, runbook)
    return "\n".join(lines) + "\n"


def _record(rule: Record) -> list[str]:
    return [f"      - record: {rule.name}", *_expr(rule.expr)]


def _alert(rule: Alert, runbook: str) -> list[str]:
    labels = {"severity": rule.severity, **rule.labels}
    notes = {"summary": rule.summary, "description": rule.description, "runbook_url": f"{runbook}#{rule.name.lower()}"}
    return [
        f"      - alert: {rule.name}",
        *_expr(rule.expr),
        f"        for: {rule.wait}",
        "        labels:",
        *(f"          {name}: {_text(value)}" for name, value in labels.items()),
        "        annotations:",
        *(f"          {name}: {_text(value)}" for name, value in notes.items()),
    ]


def _expr(expr: str) -> list[str]:
    return ["        expr: |-", *(f"          {line}" for line in expr.splitlines())]


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)  # which is YAML, too
