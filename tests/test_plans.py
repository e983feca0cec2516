"""How many rows a page of a list reads, of 100,000 tasks. docs/decisions/0009 explains; `python -m tests.test_plans` prints it.

PostgreSQL tells for the statement as it is sent how many rows each scan of a table or an index had in its hands (EXPLAIN
ANALYZE). SQLite does not tell: the statement gets a function that counts as the first condition on each table that it reads,
and is held to have the same plan with it as without. `make test` reads SQLite alone: to fill either of them takes long, and
`make test-faults` does it for PostgreSQL.
"""

import asyncio
import fcntl
import json
import os
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import date
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Protocol

import msgspec
import pytest

from taskctl import Add, Changeset, Edit, NewTask, Settings, TaskPatch, TaskQuery, open_tasks, parse_filter
from taskctl.observe import Statement, ignore
from taskctl.seed import sample
from taskctl.storage.driver import Driver, Row
from taskctl.storage.sql import Questions
from taskctl.storage.sqlite import InlineSqlite
from taskctl.wiring import _file, _postgres, upgrade
from tests.postgres import ask, empty_database

TASKS = 100_000
PAGE_ROWS = 500
"""A page of 50 of any of `SHAPES` reads no more rows."""
DEEP = 2000
"""A later page is the one after so many tasks."""

# ------------------------------------------------------------------------------------------------------------- the workspaces

OLD = "old"
"""A second workspace: of its tasks 40 are open, all others are done."""
_COLUMNS = (
    "title, description, {status}, priority, project, labels, due_at, due_is_day, NULL, {completed}, created_at, created_at"
)
_OPEN = "CASE WHEN id % 2500 = 0 THEN {} ELSE {} END"
_COPY = (
    f"INSERT INTO workspaces (id, name) VALUES (2, '{OLD}')",
    "INSERT INTO tasks SELECT 2, id, uid, "
    + _COLUMNS.format(status=_OPEN.format(0, 2), completed=_OPEN.format("NULL", "created_at"))
    + ", 1, search FROM tasks WHERE workspace_id = 1",
    "INSERT INTO task_labels SELECT 2, label, task_id FROM task_labels WHERE workspace_id = 1",
)


def lifelike() -> Iterator[NewTask]:
    """Yield sample tasks, and among them some of a kind that is rare."""
    for n, task in enumerate(sample(TASKS, 1, date.today())):
        changed: dict[str, Any] = {}
        if task.status == "in_progress":
            changed["status"] = "todo"
        if task.priority == "urgent":
            changed["priority"] = "high"
        match n:
            case _ if n % 2500 == 7:
                changed["status"] = "in_progress"  # 40
            case _ if n % 3334 == 11:
                changed["project"] = "rare.kind" if n % 2 else "rare"  # 30
            case _ if n % 5000 == 13:
                changed["labels"] = ["rare"]  # 20
            case _ if n % 10_000 == 17:
                changed["title"] = "Feed the quokka"  # 10
            case _ if n % 3000 == 19:
                changed["priority"] = "urgent"  # 34
        yield NewTask(**{**msgspec.structs.asdict(task), **changed}) if changed else task


async def fill(url: str) -> None:
    samples = lifelike()
    async with open_tasks(url) as tasks:
        while batch := tuple(Add(task) for _, task in zip(range(500), samples, strict=False)):
            await tasks.write(Changeset(batch))
        edits = (Edit(1 + n * 2500, TaskPatch(description=f"looked at {n} times")) for n in range(40))
        await tasks.write(Changeset(tuple(edits)))


# -------------------------------------------------------------------------------------------------------------------- counting


class Counting(Driver, Protocol):
    """A driver that knows how many rows the last statement read, and whether it read a table without an index."""

    rows_read: int
    scans: list[str]


class CountingPostgres(Counting):
    def __init__(self, url: str) -> None:
        self.driver, _ = _postgres(url, Settings(), ignore)
        self.dialect = self.driver.dialect
        self.rows_read = 0
        self.scans: list[str] = []

    async def fetch(self, sql: str, params: Sequence[Any] = (), *, fixed: bool = False, name: Statement = "other") -> list[Row]:
        [(told,)] = await self.driver.fetch(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", params)
        [plan] = json.loads(told) if isinstance(told, str) else told
        self.scans.clear()
        self.rows_read = self._rows(plan["Plan"])
        return await self.driver.fetch(sql, params)

    async def close(self) -> None:
        await self.driver.close()

    def _rows(self, node: dict[str, Any]) -> int:
        kind = node["Node Type"]
        if kind == "Seq Scan":
            self.scans.append(node["Relation Name"])
        rows = sum(self._rows(below) for below in node.get("Plans", ()))
        if kind.endswith("Scan") and kind not in ("CTE Scan", "Subquery Scan"):
            dropped = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
            rows += round((node["Actual Rows"] + dropped) * node["Actual Loops"])
        return rows


_COUNTED = (("tasks", "id"), ("log", "entity_id"), ("task_labels", "task_id"), ("tasks_search", "rowid"))


class CountingSqlite(Counting):
    def __init__(self, url: str) -> None:
        self.driver = InlineSqlite(_file(url, Settings(), ignore))
        self.dialect = self.driver.dialect
        self.raw = self.driver._open().raw
        self.raw.create_function("counted", 1, self._count)
        self.rows_read = 0
        self.scans: list[str] = []

    def _count(self, of: int) -> int:
        self.rows_read += 1
        return 1

    async def fetch(self, sql: str, params: Sequence[Any] = (), *, fixed: bool = False, name: Statement = "other") -> list[Row]:
        counting = sql.replace("CROSS JOIN tasks WHERE ", "CROSS JOIN tasks WHERE counted(tasks.id) AND ")
        counting = counting.replace("task_labels AS l WHERE ", "task_labels AS l WHERE counted(l.task_id) AND ")
        for table, column in _COUNTED:
            for start in (f"FROM {table} WHERE ", f"FROM {table} CROSS JOIN tasks WHERE "):
                counting = counting.replace(start, f"{start}counted({table}.{column}) AND ")
        plan = self._plan(sql, params)
        assert plan == self._plan(counting, params)
        # A part of the statement that few tasks are put into is scanned, under the name of tasks.
        parts = sql.count("AS tasks")
        scans = [step for step in plan if step.split()[:2] in (["SCAN", "log"], ["SCAN", "tasks"], ["SCAN", "task_labels"])]
        self.scans = [step for step in scans if step != "SCAN tasks" or scans.count(step) > parts]
        self.rows_read = 0
        return await self.driver.fetch(counting, params)

    async def close(self) -> None:
        await self.driver.close()

    def _plan(self, sql: str, params: Sequence[Any]) -> list[str]:
        return [step for *_, step in self.raw.execute(f"EXPLAIN QUERY PLAN {sql}", params)]


# ----------------------------------------------------------------------------------------------------------------- the shapes


class Shape(NamedTuple):
    """A kind of list. `{...}` in the filter stands for a moment of the workspace's life."""

    text: str
    sort: str = "-id"
    workspace: str = "default"

    def __str__(self) -> str:
        return " ".join([self.text or "all", "by", self.sort, *(["in old"] if self.workspace == OLD else [])])


_KEYS = ("id", "title", "status", "priority", "due", "created_at", "updated_at")
SHAPES = [
    *(Shape("", sort) for key in _KEYS for sort in (key, f"-{key}")),
    *(Shape(f"status:{status}") for status in ("todo", "in_progress", "done", "todo,in_progress", "done,cancelled")),
    *(Shape("status:todo,in_progress", sort) for sort in ("due", "-due", "-priority", "-updated_at")),
    *(Shape(f"project:{name}") for name in ("work", "work.api", "rare", "rare.kind", "none")),
    *(Shape("project:work status:todo,in_progress", sort) for sort in ("-id", "due")),
    *(Shape("project:rare", sort) for sort in ("due", "-due", "title", "-updated_at")),
    *(Shape(f"label:{name}") for name in ("rare", "none")),
    *(Shape(text) for text in ("label:next status:in_progress", "label:rare status:todo")),
    *(Shape(text) for text in ("priority:none", "priority:urgent", "priority>=high", "priority>=medium", "priority<low")),
    Shape("priority>=high", "-priority"),
    *(Shape(text) for text in ("due<-30d", "due<-19d", "due>+3d", "due<+0d", "due:none")),
    *(Shape(text, "due") for text in ("overdue", "due<+3d")),
    *(Shape(text) for text in ("created_at>={half}", "completed_at>={half}", "updated_at>={half}")),
    Shape("updated_at>={half}", "-updated_at"),
    *(Shape(text) for text in ("quokka", "quok", '"feed the quokka"', "quokka status:todo")),
    *(Shape("status:todo", sort, OLD) for sort in ("-id", "due")),
    Shape("status:todo,in_progress", "due", OLD),
    Shape("overdue", "due", OLD),
    Shape("status:done", "-id", OLD),
    Shape("overdue project:work", "due", OLD),
    Shape("project:work status:todo", "-id", OLD),
]
LARGER = {
    # One in 16, or fewer, in an order that has nothing to do with it: too many to sort, too few to meet soon.
    Shape("status:cancelled"): (2_000, PAGE_ROWS),
    Shape("overdue"): (1_500, 1_500),
    Shape("overdue", "title"): (2_000, 2_000),
    Shape("due:tomorrow"): (8_000, 8_000),
    Shape("label:next"): (PAGE_ROWS, 5_000),
    Shape("label:next", "due"): (1_000, 1_000),
    Shape("label:next status:todo"): (1_500, 8_000),
    Shape("label:next label:quick"): (8_000, 4_000),
    Shape("overdue project:work"): (4_000, 4_000),
    # Titles that begin alike are of one project, and that of none of these.
    Shape("project:work", "title"): (9_000, 9_000),
    # A later page of what stands together in the order, and is all but equal there.
    Shape("priority>=high", "priority"): (4_000, PAGE_ROWS),
    Shape("overdue", "-due"): (6_000, PAGE_ROWS),
    Shape("due<+3d", "-due"): (4_000, PAGE_ROWS),
    # A moment of the past, in an order that begins with the newest, or that knows nothing of it.
    Shape("created_at<{half}"): (TASKS, TASKS),
    Shape("created_at<={first}"): (TASKS, TASKS),
    Shape("updated_at>{last}"): (TASKS, 2 * TASKS),
    Shape("updated_at>={half}", "updated_at"): (TASKS, 2 * TASKS),
    Shape("updated_at<={first}"): (TASKS, 3 * TASKS),
    # PostgreSQL's statistics are those of all workspaces: it takes the few open tasks of this one for many.
    Shape("status:todo,in_progress", "-id", OLD): (PAGE_ROWS, 2 * TASKS),
    Shape("status:todo,in_progress", "-due", OLD): (PAGE_ROWS, 2 * TASKS),
    Shape("status:todo,in_progress", "title", OLD): (PAGE_ROWS, 2 * TASKS),
    Shape("overdue", "-id", OLD): (PAGE_ROWS, 2 * TASKS),
    # Neither index of words has an order: all tasks with a word are found, and those with a frequent one are many.
    Shape("pagination"): (8_000, 16_000),
    Shape('"the pagination"'): (8_000, 16_000),
    Shape("fix the"): (TASKS, 16_000),
    Shape("the"): (TASKS, 4 * TASKS),
    Shape("the", "title"): (TASKS, 4 * TASKS),
    Shape("the or quokka"): (TASKS, 4 * TASKS),
}
"""What neither is met soon nor found alone, and how many rows it reads at most: in SQLite, in PostgreSQL."""


class Reads(NamedTuple):
    """The rows that the first page reads and, if there is one, a later page; and what was read without an index."""

    first: int
    later: int | None
    scans: list[str]


async def reads(counting: Counting) -> dict[Shape, Reads]:
    """Return how many rows every shape reads."""
    questions = Questions(counting)
    moments = {}
    for name, sort in (("first", ("id",)), ("last", ("-id",))):
        page = (await questions._list("default", TaskQuery(sort=sort, limit=1))).value
        moments[name] = page.items[0].created_at.isoformat().replace("+00:00", "Z")
    [task] = (await questions._list("default", TaskQuery(where=parse_filter(f"id:{TASKS // 2}")))).value.items
    moments["half"] = task.created_at.isoformat().replace("+00:00", "Z")
    found = {}
    for shape in [*SHAPES, *LARGER]:
        picked = parse_filter(shape.text.format(**moments))
        sort = (shape.sort,)
        page = (await questions._list(shape.workspace, TaskQuery(where=picked, sort=sort))).value
        first, later, scans = counting.rows_read, None, counting.scans.copy()
        if page.next_cursor is not None:
            cursor = (await questions._list(shape.workspace, TaskQuery(where=picked, sort=sort, limit=DEEP))).value.next_cursor
            cursor = cursor or page.next_cursor
            await questions._list(shape.workspace, TaskQuery(where=picked, sort=sort, cursor=cursor))
            later, scans = counting.rows_read, [*scans, *counting.scans]
        found[shape] = Reads(first, later, scans)
    return found


async def _measured(url: str, kind: type[CountingPostgres | CountingSqlite]) -> dict[Shape, Reads]:
    counting = kind(url)
    try:
        return await reads(counting)
    finally:
        await counting.close()


def measure(database: str) -> dict[Shape, Reads]:
    """Fill a database, and return how many rows every shape reads there."""
    if database == "postgres":
        with empty_database() as url:
            upgrade(Settings(database_url=url))
            asyncio.run(fill(url))
            ask(url, *_COPY, "VACUUM ANALYZE")  # as the server does by itself in time
            return asyncio.run(_measured(url, CountingPostgres))
    with TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/tasks.db"
        asyncio.run(fill(url))
        with closing(sqlite3.connect(f"{folder}/tasks.db")) as raw, raw:
            for statement in _COPY:
                raw.execute(statement)
        return asyncio.run(_measured(url, CountingSqlite))


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgres", marks=pytest.mark.faults)])
def database(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def measured(database: str, tmp_path_factory: pytest.TempPathFactory) -> dict[Shape, Reads]:
    """Return what was measured: by this process, or by another one of this run, since it takes half a minute."""
    found = tmp_path_factory.getbasetemp().parent / f"plans-{database}-{os.environ.get('PYTEST_XDIST_TESTRUNUID', os.getpid())}"
    with found.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not found.stat().st_size:
            file.write(json.dumps(list(measure(database).values())))
            file.flush()
        file.seek(0)
        return {shape: Reads(*reads) for shape, reads in zip([*SHAPES, *LARGER], json.load(file), strict=True)}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_page_reads_few_rows(measured: dict[Shape, Reads], shape: Shape) -> None:
    first, later, scans = measured[shape]
    assert set(scans) <= {"meta"}  # which has one row
    assert max(first, later or 0) <= PAGE_ROWS


@pytest.mark.parametrize("shape", LARGER, ids=str)
def test_what_is_neither_near_nor_rare_reads_more(database: str, measured: dict[Shape, Reads], shape: Shape) -> None:
    first, later, scans = measured[shape]
    assert set(scans) <= {"meta"}  # which has one row
    assert max(first, later or 0) <= LARGER[shape][database == "postgres"]


def main() -> None:
    lite, postgres = measure("sqlite"), measure("postgres")
    for shape, first in lite.items():
        pages = [f"{one.first} / {'-' if one.later is None else one.later}" for one in (first, postgres[shape])]
        sys.stdout.write(f"| {shape} | {' | '.join(pages)} |\n")


if __name__ == "__main__":
    main()
