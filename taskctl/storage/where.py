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

_FIRST, _LAST = -(2**63), 2**63 - 1
_SQL_OPEN = f"status < {STATUSES.index('done')}"


class Context(NamedTuple):
    """What a condition is judged by: the workspace, the reader's zone, and the moment."""

    dialect: Dialect
    workspace: int
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
    # The first term is implied by the second; an index on due_at can use it.
    sql = "(due_at IS NOT NULL AND due_at <= ? AND CASE WHEN due_is_day = 1 THEN due_at <= ? ELSE due_at < ? END)"
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
            sql = f"id IN (SELECT task_id FROM task_labels WHERE workspace_id = ? AND {among})"
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


def order(sort: Sequence[str], columns: Sequence[str]) -> list[_Key]:
    """Return the keys of an order over `columns`; the last one is unique, so no two rows are equal."""
    keys = []
    for word in sort:
        name, descending = word.lstrip("-"), word.startswith("-")
        column = "due_at" if name == "due" else name
        # Without a due a task comes last either way.
        sql = f"COALESCE(due_at, {_FIRST if descending else _LAST})" if name == "due" else column
        keys.append(_Key(sql, descending, columns.index(column)))
        if name == "id":
            return keys
    return [*keys, _Key("id", False, columns.index("id"))]


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
