"""A `TaskQuery` as SQL: which rows, in which order, after which place.

Every condition is true or false for every row, never null, so that `not` means what it says.
"""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from taskctl.fields import PRIORITIES, STATUSES
from taskctl.filters import DueLimits, before, due_limits, overdue_limits
from taskctl.storage.driver import Dialect, Row, Sql
from taskctl.tasks import And, Compare, Condition, Match, Not, Or, Overdue, Text

_FIRST, _LAST = -(2**63) + 1, 2**63 - 1  # one more than the least: PostgreSQL reads -(2**63) as something larger than a BIGINT
WORKSPACE = "workspace_id = (SELECT id FROM workspaces WHERE name = ?)"
_SQL_OPEN = f"status < {STATUSES.index('done')}"


class Context(NamedTuple):
    """What a condition is judged by: the workspace's name, the reader's zone, and the moment."""

    dialect: Dialect
    workspace: str
    zone: ZoneInfo
    now: datetime


def condition(where: Condition, context: Context) -> Sql:
    """Return the condition in SQL, over the columns of `tasks`."""
    match where:
        case And(terms):
            return _joined(" AND ", terms, context)
        case Or(terms):
            return _joined(" OR ", terms, context)
        case Not(term):
            sql, params = condition(term, context)
            return f"NOT ({sql})", params
        case Overdue():
            sql, params = _due_before(overdue_limits(context.now, context.zone))
            return f"{_SQL_OPEN} AND {sql}", params
        case Text(words, prefix):
            return context.dialect.search(context.workspace, words, prefix=prefix)
        case Match(field, values):
            return _match(field, values, context)
        case Compare("priority", op, value):
            return f"priority {op} ?", [PRIORITIES.index(str(value))]
        case Compare(field, op, value):
            assert isinstance(value, date)
            if field == "due":
                sql, params = _due_before(due_limits(op, value, context.zone))
            else:
                sql, params = f"({field} IS NOT NULL AND {field} < ?)", [before(op, value, context.zone)]
            if op.startswith("<"):
                return sql, params
            column = "due_at" if field == "due" else field
            return f"({column} IS NOT NULL AND NOT {sql})", params


def _joined(word: str, terms: Sequence[Condition], context: Context) -> Sql:
    parts = [condition(term, context) for term in terms]
    return word.join(f"({sql})" for sql, _ in parts), [p for _, params in parts for p in params]


def _due_before(limits: DueLimits) -> Sql:
    # The first term, of an index, is implied by the second where there is a due, and false where there is none.
    sql = f"(COALESCE(due_at, {_LAST}) <= ? AND CASE WHEN due_is_day = 1 THEN due_at <= ? ELSE due_at < ? END)"
    return sql, [max(limits), limits.day, limits.instant]


def _match(field: str, values: Sequence[Any], context: Context) -> Sql:
    some = [value for value in values if value is not None]
    sql = "1 = 0"
    params: list[Any] = []
    match field:
        case "status" | "priority":
            ranks = STATUSES if field == "status" else PRIORITIES
            sql, params = _in(field, [ranks.index(value) for value in some])
        case "id":
            sql, params = _in("id", [value for value in some if 0 < value <= _LAST])
        case "project" if some:
            below = "project = ? OR (project >= ? AND project < ?)"  # "/" is the character after "."
            sql = f"(project IS NOT NULL AND ({' OR '.join([below] * len(some))}))"
            params = [bound for value in some for bound in (value, f"{value}.", f"{value}/")]
        case "label" if some:
            among, params = _in("label", some)
            sql = f"id IN (SELECT task_id FROM task_labels WHERE {WORKSPACE} AND {among})"
            params = [context.workspace, *params]
    if None in values:
        column = {"label": "labels = '[]'", "due": "due_at IS NULL"}.get(field, f"{field} IS NULL")
        sql = f"({sql} OR {column})"
    return sql, params


def _in(column: str, values: Sequence[Any]) -> Sql:
    return f"{column} IN ({', '.join('?' * len(values))})", list(values)


class _Key(NamedTuple):
    """One key of an order: the expression, its direction, and the row's position that it is made of."""

    sql: str
    descending: bool
    position: int


class Order(NamedTuple):
    """The keys of an order, the last one unique; and what the rows come from, with the parameters of that."""

    keys: list[_Key]
    source: str
    params: list[Any]


_LOG_FIRST = (
    f"(SELECT entity_id AS changed_id, version AS changed_version, at AS changed_at FROM log WHERE {WORKSPACE}) AS changes "
    f"JOIN tasks ON {WORKSPACE} AND id = changed_id AND version = changed_version"
)


def order(sort: Sequence[str], columns: Sequence[str], workspace: str) -> Order:
    """Return an order of the rows of `columns`. No two rows are equal in it.

    The id that breaks ties goes the way of the key before it, so that one index serves an order and its reverse. By
    `updated_at` the rows are found through the log, because an index of it would make every edit dear (docs/decisions/0009).
    """
    through_log = bool(sort) and sort[0].lstrip("-") == "updated_at"
    keys: list[_Key] = []
    for word in [*sort, "-id" if sort and sort[-1].startswith("-") else "id"]:
        name, descending = word.lstrip("-"), word.startswith("-")
        column = "due_at" if name == "due" else name
        sql = column
        if name == "due":  # without one a task comes last either way
            sql = f"COALESCE(due_at, {_FIRST if descending else _LAST})"
        elif through_log:
            sql = {"updated_at": "changed_at", "id": "changed_id"}.get(column, column)
        keys.append(_Key(sql, descending, columns.index(column)))
        if column == "id":
            break
    return Order(keys, _LOG_FIRST, [workspace] * 2) if through_log else Order(keys, "tasks", [])


def order_by(keys: Sequence[_Key]) -> str:
    """Return the ORDER BY list."""
    return ", ".join(f"{key.sql} DESC" if key.descending else key.sql for key in keys)


def place(keys: Sequence[_Key], row: Row) -> list[int | str]:
    """Return where a row stands in the order."""
    values = []
    for key in keys:
        value = row[key.position]
        values.append(value if value is not None else _FIRST if key.descending else _LAST)
    return values


def after(keys: Sequence[_Key], place: Sequence[int | str]) -> Sql:
    """Say that a row comes after a place in the order."""
    branches, params = [], []
    for depth, key in enumerate(keys):
        equal = [f"{k.sql} = ?" for k in keys[:depth]]
        branches.append(" AND ".join([*equal, f"{key.sql} {'<' if key.descending else '>'} ?"]))
        params += [*place[:depth], place[depth]]
    # The first key alone bounds the range that an index has to walk.
    bound = f"{keys[0].sql} {'<=' if keys[0].descending else '>='} ?"
    return f"({bound} AND ({' OR '.join(f'({b})' for b in branches)}))", [place[0], *params]
