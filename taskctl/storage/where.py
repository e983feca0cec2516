"""A `TaskQuery` as SQL: which rows, in which order, after which place.

Every condition is true or false for every row, never null, so that `not` means what it says.
"""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from taskctl.conditions import And, Compare, Condition, Match, Not, Or, Overdue, Text
from taskctl.fields import OPEN, PRIORITIES, STATUSES
from taskctl.filters import FIRST, LAST, DueLimits, before, due_limits, overdue_limits, whole_order
from taskctl.storage.driver import Dialect, Sql


def within(*terms: str) -> str:
    """Return a WHERE: the workspace, whose name is the first parameter, and all of the terms.

    Each is in parentheses of its own, so that no OR in one of them leads out of the workspace.
    """
    return " AND ".join(f"({term})" for term in ("workspace_id = (SELECT id FROM workspaces WHERE name = ?)", *terms))


_SQL_OPEN = f"status < {STATUSES.index('done')}"


FEW = 500
"""If a term picks no more tasks, they are found by it and sorted; otherwise they are met on the way through the order."""


class Context(NamedTuple):
    """What a condition is judged by: the workspace's name, the reader's zone, the moment; and the first field of the order."""

    dialect: Dialect
    workspace: str
    zone: ZoneInfo
    now: datetime
    sort: str = ""


def terms(where: Condition | None) -> Sequence[Condition]:
    """Return the conditions that must all hold."""
    if isinstance(where, And):
        return [term for each in where.terms for term in terms(each)]
    return [where] if where is not None else []


def counts(terms: Sequence[Condition], context: Context) -> Sql:
    """Return the question how many tasks each of the terms picks by an index, up to one more than FEW."""
    found = [_ids(term, context) for term in terms]
    columns = [f"(SELECT count(*) FROM ({sql} LIMIT {FEW + 1}))" if sql else f"{FEW + 1}" for sql, _ in found]
    return f"SELECT {', '.join(columns)}", [param for _, params in found for param in params]


def among_few(term: Condition, context: Context) -> Sql:
    """Say that a task is among those that a term picks by an index, which are few."""
    sql, params = _ids(term, context)
    return f"id IN ({sql})", params


def in_passing(term: Condition, context: Context) -> Sql:
    """Say a term of tasks that are found without it, so that no index is chosen for it.

    A term about the field of the order bounds that way, and stays as it is.
    """
    sort = context.sort.lstrip("-")
    match term:
        case Overdue() if sort == "due":
            return condition(term, context)
        case Match(field) | Compare(field) if sort == field:
            return condition(term, context)
        case Match("label", values) if None not in values:
            return _carries(values)
    sql, params = condition(term, context)
    return f"+({sql})" if context.dialect.blind else sql, params


def _ids(term: Condition, context: Context) -> Sql:
    """Return the statement for the ids of a term's tasks, and maybe some others, by an index; nothing if none has them."""
    table, id = "tasks", "id"
    match term:
        case Match("label", values) if None not in values:
            table, id, (sql, params) = "task_labels", "task_id", _in("label", values)
        case Match("project", values) if None not in values:
            # One range for a name and all below it, and for the few names that sort in between.
            sql = " OR ".join(["project >= ? AND project < ?"] * len(values))
            params = [bound for value in values for bound in (value, f"{value}/")]
        case Match("id" | "status" | "priority") | Compare("priority" | "due") | Overdue() | Text():
            sql, params = condition(term, context)
        case _:
            return "", []
    return f"SELECT {id} FROM {table} WHERE {within(sql)}", [context.workspace, *params]


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
            sql, params = _due_before(overdue_limits(context.now, context.zone), context)
            return f"{_SQL_OPEN} AND {sql}", params
        case Text(words, prefix):
            return context.dialect.search(context.workspace, words, prefix=prefix)
        case Match(field, values):
            return _match(field, values, context)
        case Compare("priority", op, value):
            return f"priority {op} {PRIORITIES.index(str(value))}", []
        case Compare(field, op, value):
            assert isinstance(value, date)
            if field == "due":
                sql, params = _due_before(due_limits(op, value, context.zone), context)
            else:
                sql, params = f"({field} IS NOT NULL AND {field} < ?)", [before(op, value, context.zone)]
            if op.startswith("<"):
                return sql, params
            column = "due_at" if field == "due" else field
            return f"({column} IS NOT NULL AND NOT {sql})", params


def _joined(word: str, terms: Sequence[Condition], context: Context) -> Sql:
    parts = [condition(term, context) for term in terms]
    return word.join(f"({sql})" for sql, _ in parts), [p for _, params in parts for p in params]


def _due_before(limits: DueLimits, context: Context) -> Sql:
    # The first term is what an index has; it is implied by the others.
    index = f"COALESCE(due_at, {FIRST if context.sort == '-due' else LAST}) <= ?"
    exact = "due_at IS NOT NULL AND CASE WHEN due_is_day = 1 THEN due_at <= ? ELSE due_at < ? END"
    return f"({index} AND {exact})", [max(limits), limits.day, limits.instant]


def _match(field: str, values: Sequence[Any], context: Context) -> Sql:
    some = [value for value in values if value is not None]
    sql = "1 = 0"
    params: list[Any] = []
    match field:
        case "status" | "priority":
            ranks = [(STATUSES if field == "status" else PRIORITIES).index(value) for value in some]
            # Numbers, not parameters: which of them are meant decides which index is the best.
            sql = f"{field} IN ({', '.join(map(str, ranks))})"
            if len(ranks) == 1:
                sql = f"{field} = {ranks[0]}"
            elif field == "status" and set(some) == set(OPEN):
                sql = _SQL_OPEN
        case "id":
            sql, params = _in("id", [value for value in some if 0 < value <= LAST])
        case "project" if some:
            below = "project = ? OR (project >= ? AND project < ?)"  # "/" is the character after "."
            sql = f"(project IS NOT NULL AND ({' OR '.join([below] * len(some))}))"
            params = [bound for value in some for bound in (value, f"{value}.", f"{value}/")]
        case "label" if some:
            among, params = _in("label", some)
            sql = f"id IN (SELECT task_id FROM task_labels WHERE {within(among)})"
            params = [context.workspace, *params]
    if None in values:
        column = {"label": "labels = '[]'", "due": "due_at IS NULL"}.get(field, f"{field} IS NULL")
        sql = f"({sql} OR {column})"
    return sql, params


def _carries(labels: Sequence[Any]) -> Sql:
    """Say of the task at hand that it has one of the labels. No database makes a join of it."""
    among, params = _in("label", labels)
    task = "l.workspace_id = tasks.workspace_id AND l.task_id = tasks.id"
    return f"(SELECT 1 FROM task_labels AS l WHERE {task} AND {among} LIMIT 1) IS NOT NULL", params


def _in(column: str, values: Sequence[Any]) -> Sql:
    return f"{column} IN ({', '.join('?' * len(values))})", list(values)


class _Key(NamedTuple):
    """One key of an order: the expression and its direction. `filters.place` gives the values of a task's."""

    sql: str
    descending: bool


class Order(NamedTuple):
    """The keys of an order, the last one unique; and what the rows come from."""

    keys: list[_Key]
    source: Sql


_LOG_FIRST = (
    f"(SELECT entity_id AS changed_id, version AS changed_version, at AS changed_at FROM log WHERE {within()}) AS changes "
    f"JOIN tasks ON {within('id = changed_id AND version = changed_version')}"
)


def order(sort: Sequence[str], context: Context, *, walk: bool) -> Order:
    """Return an order of tasks. No two rows are equal in it. walk: whether they are found in this order.

    The id that breaks ties goes the way of the key before it, so that one index serves an order and its reverse. By
    `updated_at` the rows are found through the log, because an index of it would make every edit dear (docs/decisions/0009).
    """
    through_log = walk and context.sort.lstrip("-") == "updated_at"
    keys: list[_Key] = []
    for name, descending in whole_order(sort):
        sql = name
        if name == "due":  # without one a task comes last either way
            sql = f"COALESCE(due_at, {FIRST if descending else LAST})"
        elif through_log:
            sql = {"updated_at": "changed_at", "id": "changed_id"}.get(name, name)
        keys.append(_Key(sql, descending))
    return Order(keys, (_LOG_FIRST, [context.workspace] * 2) if through_log else ("tasks", []))


def fenced(found: Sequence[Sql], context: Context) -> Sql:
    """Return what the rows come from if these conditions are to find them before anything else is looked at."""
    whole = within(*(sql for sql, _ in found))
    params = [context.workspace, *(param for _, more in found for param in more)]
    return f"(SELECT * FROM tasks WHERE {whole} OFFSET 0) AS tasks", params


def order_by(keys: Sequence[_Key], mark: str = "") -> str:
    """Return the ORDER BY list. mark: a plus keeps SQLite from going through an index in this order."""
    return ", ".join(f"{mark}{key.sql} DESC" if key.descending else f"{mark}{key.sql}" for key in keys)


def after(keys: Sequence[_Key], place: Sequence[int | str]) -> Sql:
    """Say that a row comes after a place in the order."""
    # The first key alone bounds the range that an index has to walk.
    bound = f"{keys[0].sql} {'<=' if keys[0].descending else '>='} ?"
    if len({key.descending for key in keys}) == 1:  # as one value, which an index of these keys finds as such
        row, marks = ", ".join(key.sql for key in keys), ", ".join("?" * len(keys))
        sql = f"({row}) {'<' if keys[0].descending else '>'} ({marks})"
        if keys[0].sql.isidentifier():
            return sql, list(place)
        return f"({bound} AND {sql})", [place[0], *place]  # SQLite finds no row of expressions
    branches, params = [], []
    for depth, key in enumerate(keys):
        equal = [f"{k.sql} = ?" for k in keys[:depth]]
        branches.append(" AND ".join([*equal, f"{key.sql} {'<' if key.descending else '>'} ?"]))
        params += [*place[:depth], place[depth]]
    return f"({bound} AND ({' OR '.join(f'({b})' for b in branches)}))", [place[0], *params]
