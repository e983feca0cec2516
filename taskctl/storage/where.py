"""A `TaskQuery` as SQL: which rows, in which order, after which place; and how to find a page of them by reading few others.

Every condition is true or false for every row, never null, so that `not` means what it says. docs/decisions/0009 has the
reasons for the indexes and for `plan`.
"""

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, datetime
from functools import partial
from typing import Any, NamedTuple, TypeAlias
from zoneinfo import ZoneInfo

from taskctl.fields import OPEN, PRIORITIES, STATUSES
from taskctl.filters import DueLimits, before, due_limits, overdue_limits
from taskctl.storage.driver import Dialect, Row, Sql
from taskctl.tasks import And, Compare, Condition, Match, Not, Op, Or, Overdue, Text

_FIRST, _LAST = -(2**63) + 1, 2**63 - 1  # one more than the least: PostgreSQL reads -(2**63) as something larger than a BIGINT
WORKSPACE = "workspace_id = (SELECT id FROM workspaces WHERE name = ?)"
_SQL_OPEN = f"status < {STATUSES.index('done')}"
_SQL_AN_OPEN = f"+{_SQL_OPEN}"
"""As the index of open tasks by due says it: with the plus SQLite does not think of the index by status."""
_SQL_DUE = f"COALESCE(due_at, {_LAST})"


class Context(NamedTuple):
    """What a condition is judged by: the workspace's name, the reader's zone, and the moment.

    gate: a further condition for there to be a workspace. Without one, whatever reads by its id has nothing to read, and
    both databases know that before they begin; a condition of another kind SQLite looks at for each row.
    """

    dialect: Dialect
    workspace: str
    zone: ZoneInfo
    now: datetime
    gate: str = "1 = 1"

    def here(self, sql: str = "1 = 1", params: Sequence[Any] = ()) -> Sql:
        """Say it of the rows of the workspace."""
        return f"workspace_id = (SELECT id FROM workspaces WHERE name = ? AND {self.gate}) AND {sql}", [self.workspace, *params]


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
            return _match(field, values)
        case Compare("priority", op, value):
            return f"priority {op} {PRIORITIES.index(str(value))}", []
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
    sql = f"({_SQL_DUE} <= ? AND CASE WHEN due_is_day = 1 THEN due_at <= ? ELSE due_at < ? END)"
    return sql, [max(limits), limits.day, limits.instant]


def _match(field: str, values: Sequence[Any]) -> Sql:
    some = [value for value in values if value is not None]
    sql = "1 = 0"
    params: list[Any] = []
    match field:
        case "status" | "priority":
            ranks = _ranks(field)
            sql = f"{field} IN ({', '.join(str(ranks.index(value)) for value in some)})"
        case "id":
            sql, params = _in("id", [value for value in some if 0 < value <= _LAST])
        case "project" if some:
            below = "project = ? OR (project >= ? AND project < ?)"  # "/" is the character after "."
            sql = f"(project IS NOT NULL AND ({' OR '.join([below] * len(some))}))"
            params = [bound for value in some for bound in (value, f"{value}.", f"{value}/")]
        case "label" if some:
            # Looked up for the row at hand: neither database reads all that carry the label for this, as it might for an IN.
            among, params = _in("label", some)
            task = "l.workspace_id = tasks.workspace_id AND l.task_id = tasks.id"
            sql = f"(SELECT 1 FROM task_labels AS l WHERE {task} AND {among} LIMIT 1) IS NOT NULL"
    if None in values:
        column = {"label": "labels = '[]'", "due": "due_at IS NULL"}.get(field, f"{field} IS NULL")
        sql = f"({sql} OR {column})"
    return sql, params


def _ranks(field: str) -> Sequence[str]:
    return STATUSES if field == "status" else PRIORITIES


def _in(column: str, values: Sequence[Any]) -> Sql:
    return f"{column} IN ({', '.join('?' * len(values))})", list(values)


# -------------------------------------------------------------------------------------------------------------------- order


class Key(NamedTuple):
    """One key of an order: the column that it is made of and where that stands in a row, the expression, and the direction."""

    column: str
    position: int
    sql: str
    descending: bool


def order(sort: Sequence[str], columns: Sequence[str]) -> list[Key]:
    """Return the keys of an order of the rows of `columns`. No two rows are equal in it.

    The id that breaks ties goes the way of the key before it, so that one index serves an order and its reverse.
    """
    keys: list[Key] = []
    for word in [*sort, "-id" if sort and sort[-1].startswith("-") else "id"]:
        name, descending = word.lstrip("-"), word.startswith("-")
        column = "due_at" if name == "due" else name
        # Without a due a task comes last either way.
        sql = f"COALESCE(due_at, {_FIRST if descending else _LAST})" if name == "due" else column
        keys.append(Key(column, columns.index(column), sql, descending))
        if column == "id":
            break
    return keys


def order_by(keys: Sequence[Key]) -> str:
    """Return the ORDER BY list."""
    return ", ".join(f"{key.sql} DESC" if key.descending else key.sql for key in keys)


def place(keys: Sequence[Key], row: Row) -> list[int | str]:
    """Return where a row stands in the order."""
    values = []
    for key in keys:
        value = row[key.position]
        values.append(value if value is not None else _FIRST if key.descending else _LAST)
    return values


def after(keys: Sequence[Key], place: Sequence[int | str]) -> Sql:
    """Say that a row comes after a place in the order."""
    if len({key.descending for key in keys}) == 1:  # as one value, which an index finds as such
        row, marks = ", ".join(key.sql for key in keys), ", ".join("?" * len(keys))
        return f"({row}) {'<' if keys[0].descending else '>'} ({marks})", list(place)
    branches, params = [], []
    for depth, key in enumerate(keys):
        equal = [f"{k.sql} = ?" for k in keys[:depth]]
        branches.append(" AND ".join([*equal, f"{key.sql} {'<' if key.descending else '>'} ?"]))
        params += [*place[:depth], place[depth]]
    # The first key alone bounds the range that an index has to walk.
    bound = f"{keys[0].sql} {'<=' if keys[0].descending else '>='} ?"
    return f"({bound} AND ({' OR '.join(f'({b})' for b in branches)}))", [place[0], *params]


# --------------------------------------------------------------------------------------------------------------------- page

NEAR = 8
"""For each task of a page so many are looked at in the order asked for before anything else is tried."""
FEW = 2000
"""If a term then picks no more tasks, these are read and sorted, rather than more of the order."""
_PROBES_MAX = 3
_PAGE_MAX = 10_000

Place: TypeAlias = Sequence[int | str] | None


class Part(NamedTuple):
    """Some of the rows: what they come from, what holds for them, and the keys of the order as they are called there."""

    source: Sql
    terms: Sequence[Sql]
    keys: Sequence[Key]

    def where(self, *terms: Sql) -> "Part":
        """Return those of the rows for which these hold, too."""
        return self._replace(terms=[*self.terms, *terms])


_TASKS: Sql = "tasks", []


def page(columns: str, where: Condition | None, keys: Sequence[Key], place: Place, limit: int | None, context: Context) -> Sql:
    """Return the statement for the first rows after a place.

    No database is left to guess how many tasks a term picks: SQLite has no statistics, and PostgreSQL's are those of all
    workspaces together. Where an index has the tasks of a term in the order asked for, they come from there. If other
    terms are to hold as well, the nearest tasks in that order are looked at first. If there is no page among them, a
    term is looked for that picks few, and if there is none, the order is gone through: what is asked for is not that rare.
    (Or, for words in PostgreSQL, whose tasks are in no order, all tasks are read that have them.)
    """
    if limit is None or limit > _PAGE_MAX:  # so many that reading others does not matter: as the database likes
        plain = [condition(where, context)] if where is not None else []
        return _merged(columns, [_part(_TASKS, plain, keys, place, context)], keys, _LAST if limit is None else limit)
    terms = list(_flat(where))
    walk = _by_id if keys[0].column == "id" else _by_column
    parts, found, rest = walk(terms, keys, place, context)
    checks = [_opaque(condition(term, context)) for term in rest]
    few = _few([term for term in terms if term not in found], context)
    # Words of which an index knows the tasks, but these in no order, and not how many before it has found them all.
    words = [] if _words_are_ordered(context) else [term for term in terms if isinstance(term, Text)]
    if not few and not words:
        return _merged(columns, [part.where(*checks) for part in parts], keys, limit)

    size = NEAR * limit // sum(2 if "JOIN" in source else 1 for (source, _), _, _ in parts)
    near, params = _merged(f"tasks.workspace_id, tasks.search, {columns}", parts, keys, size)
    conditions, more = _all(checks)
    enough = f"(SELECT count(*) FROM near) < {size} OR (SELECT count(*) FROM nearest) = {limit}"
    tables = [
        f"near AS ({near})",
        f"nearest AS (SELECT {columns} FROM near AS tasks WHERE {conditions} ORDER BY {order_by(keys)} LIMIT {limit})",
        f"seen AS (SELECT CASE WHEN {enough} THEN 1 ELSE 0 END AS enough)",
    ]
    params += more
    gate, whens = "(SELECT enough FROM seen) = 0", ["WHEN (SELECT enough FROM seen) = 1 THEN -1"]
    ways: list[Part] = []
    every = [_opaque(condition(term, context)) for term in terms]
    for n, probe in enumerate(few):
        sql, more = probe(context._replace(gate=gate))
        tables.append(f"few_{n} AS ({sql} LIMIT {FEW + 1})")
        params += more
        whens.append(f"WHEN (SELECT count(*) FROM few_{n}) <= {FEW} THEN {n}")
        gate = f"{gate} AND (SELECT count(*) FROM few_{n}) > {FEW}"
        gated = context._replace(gate=f"{_CHOSEN} = {n}")
        joined = f"(SELECT DISTINCT few_id FROM few_{n}) AS few CROSS JOIN tasks"
        sql, more = _all([(gated.gate, []), gated.here(), ("id = few_id", [])])
        # A limit that is never met keeps PostgreSQL from looking for them in the order that is asked for.
        source = f"(SELECT tasks.* FROM {joined} WHERE {sql} LIMIT {FEW}) AS tasks", more
        ways.append(_part(source, every, keys, place, context))
    tables.append(f"way AS (SELECT CASE {' '.join(whens)} ELSE {len(few)} END AS chosen)")
    gated = context._replace(gate=f"{_CHOSEN} = {len(few)}")
    if words:
        sql, more = _all([gated.here(), *(condition(term, context) for term in words)])
        source = f"(SELECT * FROM tasks WHERE {sql} LIMIT {_LAST}) AS tasks", more
        ways.append(_part(source, [(gated.gate, []), *every], keys, place, context))
    else:
        ways += [part.where((gated.gate, []), *checks) for part in walk(terms, keys, place, gated)[0]]
    selects = [(f"SELECT * FROM nearest WHERE {_CHOSEN} = -1", []), *(_select(columns, way, limit) for way in ways)]
    sql, more = _union(selects, keys, limit)
    return f"WITH {', '.join(tables)} {sql}", [*params, *more]


_CHOSEN = "(SELECT chosen FROM way)"


def _merged(columns: str, parts: Sequence[Part], keys: Sequence[Key], limit: int) -> Sql:
    """Return the statement for the first rows of all parts."""
    return _union([_select(columns, part, limit) for part in parts], keys, limit)


def _select(columns: str, part: Part, limit: int) -> Sql:
    # The limit is a number, not a parameter, for a plan that knows how few are wanted.
    (source, sources), terms, keys = part
    conditions, params = _all(terms)
    return f"SELECT {columns} FROM {source} WHERE {conditions} ORDER BY {order_by(keys)} LIMIT {limit}", [*sources, *params]


def _union(selects: Sequence[Sql], keys: Sequence[Key], limit: int) -> Sql:
    [*others, (sql, params)] = selects
    if not others:
        return sql, params
    parts = " UNION ALL ".join(f"SELECT * FROM ({sql}) AS part_{n}" for n, (sql, _) in enumerate(selects))
    params = [param for _, more in selects for param in more]
    return f"SELECT * FROM ({parts}) AS parts ORDER BY {order_by(keys)} LIMIT {limit}", params


def _all(terms: Sequence[Sql]) -> Sql:
    return " AND ".join(f"({sql})" for sql, _ in terms), [param for _, params in terms for param in params]


def _flat(where: Condition | None) -> Iterator[Condition]:
    """Yield the conditions that must all hold."""
    if isinstance(where, And):
        for term in where.terms:
            yield from _flat(term)
    elif where is not None:
        yield where


def _opaque(sql: Sql) -> Sql:
    """Say the same in a way that takes part in no choice of an index, and that PostgreSQL takes for almost always true."""
    return f"CASE WHEN {sql[0]} THEN 1 ELSE 0 END <> 0", sql[1]


def _part(source: Sql, terms: Sequence[Sql], keys: Sequence[Key], place: Place, context: Context) -> Part:
    here = [after(keys, place)] if place is not None and keys else []
    return Part(source, [context.here(), *terms, *here], keys)


_Walks: TypeAlias = tuple[list[Part], list[Condition], list[Condition]]


def _by_id(terms: Sequence[Condition], keys: Sequence[Key], place: Place, context: Context) -> _Walks:
    """Return the ways through an order by id, the terms whose tasks they have and hardly any others, and those to be checked."""
    [key] = keys
    bounds, found = [], list[Condition]()
    for term in terms:
        match term:
            case Match("id", values):
                bounds.append(_match("id", values))
            case Compare("created_at", op, date() as value):
                # Whoever gives an id gives the time, too, and neither goes back: what was created later has a greater id.
                early = op.startswith("<")
                if place is None or early != key.descending:  # otherwise the place is a closer bound
                    bounds.append(_created(before(op, value, context.zone), early=early, context=context))
            case _:
                continue
        found.append(term)
    rest = list(terms)
    if (texts := [term for term in terms if isinstance(term, Text)]) and _words_are_ordered(context):
        low, high = 1, _LAST
        if place is not None:
            at = int(place[0])
            low, high = (low, at - 1) if key.descending else (at + 1, high)
        hits = context.dialect.hits(context.workspace, texts, low, high, gate=context.gate)
        assert hits is not None
        joined = [hits.where, (f"id = {hits.id}", list[Any]()), *bounds]
        part = _part((f"{hits.source} CROSS JOIN tasks", []), joined, [key._replace(sql=hits.key)], None, context)
        return [part], [*found, *texts], [term for term in rest if term not in texts]
    for term in terms:
        match term:
            case Match("label", (str(label),)):
                sql, params = context.here("label = ?", [label])
                source: Sql = f"(SELECT task_id FROM task_labels WHERE {sql}) AS carried CROSS JOIN tasks", params
                # Not for PostgreSQL to merge two indexes of which one is the whole workspace.
                joined = [("id = task_id + 0", []), *bounds]
                parts = [_part(source, joined, [key._replace(sql="task_id")], place, context)]
                return parts, [*found, term], [other for other in rest if other != term]
    for term in terms:
        match term:
            case Match("due", (None,)):
                parts = [_level(_SQL_DUE, _LAST, bounds, keys, place, context)]
            case Match("status" | "priority" as field) | Compare("priority" as field):
                parts = [_level(field, rank, bounds, keys, place, context) for rank in _picked(term) or [-1]]
            case _:
                continue
        return parts, [*found, term], [other for other in rest if other != term]
    return [_part(_TASKS, bounds, keys, place, context)], found, rest


def _created(limit: int, *, early: bool, context: Context) -> Sql:
    """Say by the id that a task was created before the limit, or not before it."""
    if early:
        sql, params = context.here("created_at < ? ORDER BY created_at DESC, id DESC LIMIT 1", [limit])
        return f"id <= COALESCE((SELECT id FROM tasks WHERE {sql}), 0)", params
    sql, params = context.here("created_at >= ? ORDER BY created_at, id LIMIT 1", [limit])
    return f"id >= COALESCE((SELECT id FROM tasks WHERE {sql}), {_LAST})", params


_HOLDS: Mapping[Op, Callable[[int, int], bool]] = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def _picked(term: Match | Compare) -> list[int]:
    """Return the ranks of the statuses or priorities that a term picks."""
    ranks = _ranks(term.field)
    if isinstance(term, Match):
        return sorted({ranks.index(str(value)) for value in term.values})
    return [rank for rank in range(len(ranks)) if _HOLDS[term.op](rank, ranks.index(str(term.value)))]


def _level(sql: str, value: int, bounds: Sequence[Sql], keys: Sequence[Key], place: Place, context: Context) -> Part:
    """Return the tasks with a value, from an index that has them by that and then in the order of the keys."""
    if place is not None:
        return _part(_TASKS, [(f"{sql} = {value}", []), *bounds], keys, place, context)
    # As if other values were possible and mattered to the order: SQLite would take the primary key, which has the ids in
    # order, too, and look at every task.
    keys = [Key("", -1, sql, keys[0].descending), *keys]
    return _part(_TASKS, [(f"{sql} >= {value} AND {sql} <= {value}", []), *bounds], keys, None, context)


class _Range(NamedTuple):
    """A range of an indexed column, both ends in it: all tasks of some terms are there, and hardly any others."""

    terms: Sequence[Condition]
    low: int | None
    high: int | None

    def sql(self, sql: str) -> list[Sql]:
        ends = [(">=", self.low), ("<=", self.high)]
        return [(f"{sql} {op} ?", [end]) for op, end in ends if end is not None]


def _ranges(terms: Sequence[Condition], context: Context) -> dict[str, _Range]:
    """Return the ranges of columns in which the tasks of all the terms are."""
    found: dict[str, _Range] = {}
    for term in terms:
        low: int | None = None
        high: int | None = None
        match term:
            case Overdue():
                column, high = "due_at", max(overdue_limits(context.now, context.zone))
            case Compare("due", op, date() as value):
                limits = due_limits(op, value, context.zone)
                column = "due_at"
                low, high = (None, max(limits)) if op.startswith("<") else (min(limits), _LAST - 1)
            case Compare("created_at" | "updated_at" | "completed_at" as column, op, date() as value):
                limit = before(op, value, context.zone)
                low, high = (None, limit - 1) if op.startswith("<") else (limit, None)
            case Match("status" | "priority" as column) | Compare("priority" as column):
                picked = _picked(term)
                if not picked or len(picked) <= picked[-1] - picked[0]:
                    continue
                low, high = picked[0], picked[-1]
            case _:
                continue
        same = found.get(column, _Range([], None, None))
        lows, highs = [n for n in (low, same.low) if n is not None], [n for n in (high, same.high) if n is not None]
        found[column] = _Range([*same.terms, term], max(lows, default=None), min(highs, default=None))
    return found


def _by_column(terms: Sequence[Condition], keys: Sequence[Key], place: Place, context: Context) -> _Walks:
    """Return what `_by_id` does, for any other order."""
    first = keys[0]
    span = _ranges(terms, context).get(first.column, _Range([], None, None))
    found, rest = list(span.terms), list(terms)
    if place is not None:  # a closer bound
        span = span._replace(high=None) if first.descending else span._replace(low=None)
    match first.column:
        case "updated_at":
            # There is no index by updated_at, which would make every edit dear: the log is in that order.
            names = {"updated_at": "changed_at", "id": "changed_id"}
            logged = [key._replace(sql=names.get(key.column, key.sql)) for key in keys]
            sql, params = context.here()
            log = f"SELECT entity_id AS changed_id, version AS changed_version, at AS changed_at FROM log WHERE {sql}"
            source: Sql = f"({log}) AS changes CROSS JOIN tasks", params
            joined: list[Sql] = [("id = changed_id", []), ("version = changed_version", []), *span.sql("changed_at")]
            return [_part(source, joined, logged, place, context)], found, rest
        case "due_at":
            return _by_due(terms, span, keys, place, context), [*found, *(term for term in terms if _of_open(term))], rest
    return [_part(_TASKS, span.sql(first.sql), keys, place, context)], found, rest


def _by_due(terms: Sequence[Condition], span: _Range, keys: Sequence[Key], place: Place, context: Context) -> list[Part]:
    first, *others = keys
    is_open: list[Sql] = [(_SQL_AN_OPEN, [])] if any(_of_open(term) for term in terms) else []
    there = place[1:] if place is not None else None
    if place is not None and place[0] == (_FIRST if first.descending else _LAST):  # among those without a due
        return [_level(_SQL_DUE, _LAST, is_open, others, there, context)]
    # SQLite does not find a pair in an index if one of it is an expression: what is due with the place is a part of its own.
    parts = [] if place is None else [_level(_SQL_DUE, int(place[0]), is_open, others, there, context)]
    if not first.descending:
        bounds = span.sql(_SQL_DUE) if place is None else span._replace(low=int(place[0]) + 1).sql(_SQL_DUE)
        return [*parts, _part(_TASKS, [*bounds, *is_open], keys, None, context)]
    high = int(place[0]) - 1 if place is not None else _LAST - 1 if span.high is None else span.high
    dated = [first._replace(sql=_SQL_DUE), *others]
    parts.append(_part(_TASKS, [*span._replace(high=high).sql(_SQL_DUE), *is_open], dated, None, context))
    if span.terms:  # which all ask for a due
        return parts
    # The index has those without a due last, and so first from its other end.
    return [*parts, _level(_SQL_DUE, _LAST, is_open, others, None, context)]


def _of_open(term: Condition) -> bool:
    return isinstance(term, Overdue) or (isinstance(term, Match) and term.field == "status" and set(term.values) <= set(OPEN))


def _words_are_ordered(context: Context) -> bool:
    return context.dialect.hits(context.workspace, []) is not None


_Probe: TypeAlias = Callable[[Context], Sql]


def _few(terms: Sequence[Condition], context: Context) -> list[_Probe]:
    """Return selects of ids in the order of an index, the likeliest to be short first. What is asked for is in each of them."""
    found: list[tuple[int, _Probe]] = []
    for term in terms:
        match term:
            case Match("id", values):
                found.append((0, partial(_probe, "tasks", "id", _match("id", values), "id")))
            case Match("label", values) if None not in values:
                found.append((1, partial(_probe, "task_labels", "task_id", _in("label", values), "label, task_id")))
            case Text() if _words_are_ordered(context):
                found.append((2, partial(_hits, term)))
            case Match("project", (str(name),)):
                # One range for a name and all below it, and for the few names that sort in between.
                below: Sql = "project >= ? AND project < ?", [name, f"{name}/"]
                found.append((3, partial(_probe, "tasks", "id", below, "project, id")))
    for column, span in _ranges(terms, context).items():
        if column == "updated_at":
            found.append((5, partial(_probe, "log", "entity_id", _all(span.sql("at")), "at, entity_id")))
            continue
        name = _SQL_DUE if column == "due_at" else column
        conditions = span.sql(name)
        if column == "due_at" and any(_of_open(term) for term in terms):
            conditions.append((_SQL_AN_OPEN, []))
        rank = {"due_at": 4, "status": 6, "priority": 6}.get(column, 5)
        found.append((rank, partial(_probe, "tasks", "id", _all(conditions), f"{name}, id")))
    return [probe for _, probe in sorted(found, key=lambda one: one[0])][:_PROBES_MAX]


def _probe(table: str, id: str, sql: Sql, order: str, context: Context) -> Sql:
    # The order keeps PostgreSQL from reading all of a range before it takes the first ones.
    here, params = context.here(*sql)
    return f"SELECT {id} AS few_id FROM {table} WHERE {here} ORDER BY {order}", params


def _hits(text: Text, context: Context) -> Sql:
    hits = context.dialect.hits(context.workspace, [text], gate=context.gate)
    assert hits is not None
    sql, params = hits.where
    return f"SELECT {hits.id} AS few_id FROM {hits.source} WHERE {sql}", params
