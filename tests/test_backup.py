"""Backups: a database in a file and back, whichever kind of database; and files that are not what they should be."""

import asyncio
import gzip
import hashlib
import json
import secrets
import sqlite3
import subprocess
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from taskctl import (
    Add,
    Changeset,
    Conflict,
    CursorExpired,
    InvalidRequest,
    NewTask,
    SchemaOutdated,
    Settings,
    TaskPatch,
    TaskQuery,
    Unavailable,
    open_tasks,
    parse_filter,
    wiring,
)
from taskctl.cache.feed import LEASE_SECONDS
from taskctl.errors import TaskctlError, UsageError
from taskctl.observe import Event, StatementDone, ignore
from taskctl.storage import backup as backups
from taskctl.storage.driver import Driver
from taskctl.storage.migrations.upgrade import upgrade_sqlite
from taskctl.storage.rows import ENTRY, TASK
from taskctl.storage.sqlite import File
from taskctl.storage.threads import ThreadedSqlite
from tests.postgres import ask, database, empty_database
from tests.support import SECONDS, Shell, serving
from tests.test_cli_terminal import STYLE, on_terminal

KINDS = ("sqlite", "postgres")
TABLES = {
    "workspaces": "id",
    "tasks": "workspace_id, id",
    "task_labels": "workspace_id, label, task_id",
    "log": "workspace_id, seq",
}


@contextmanager
def place(kind: str, folder: Path, name: str = "tasks") -> Iterator[str]:
    """Yield the URL of a database with nothing in it: the file is not there yet, the tables are."""
    if kind == "sqlite":
        yield f"sqlite:///{folder}/{name}.db"
    else:
        with database() as url:
            yield url


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with place(request.param, tmp_path) as url:
        yield url


def sql(url: str, *statements: str) -> list[Any]:
    """Run statements, each by itself, and return the rows of the last one."""
    if not url.startswith("sqlite"):
        return ask(url, *statements)
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as raw:
        return [raw.execute(statement).fetchall() for statement in statements][-1]


def contents(url: str) -> dict[str, list[Any]]:
    """Return all rows, those of derived tables, too; without the epoch."""
    return {table: sql(url, f"SELECT * FROM {table} ORDER BY {key}") for table, key in TABLES.items()}


def epoch(url: str) -> str:
    [(found,)] = sql(url, "SELECT epoch FROM meta")
    return str(found)


def nothing(size: int, total: int) -> None:
    pass


def back_up(url: str, file: Path | str, progress: Callable[[int, int], None] = nothing) -> backups.Counts:
    return wiring.backup(Settings(database_url=url), str(file), progress)


def restore(url: str, file: Path | str, progress: Callable[[int, int], None] = nothing, *, force: bool = False) -> backups.Counts:
    return wiring.restore(Settings(database_url=url), str(file), progress, force=force).counts


def lines_of(file: Path) -> list[bytes]:
    return gzip.decompress(file.read_bytes()).splitlines(keepends=True)


ODD = "naïve 🚀 \"quoted\" 'single' back\\slash {curly} %s ? $1 ;-- \u202eright"
LONG = ('wörd \\ "x" 🚀\n\tline' * 4000)[:40_000]


def filled(url: str) -> None:
    """Put something of everything into an empty database: two workspaces, removed tasks, long and odd texts."""

    async def fill() -> None:
        async with open_tasks(url, actor="Zoë") as tasks:
            odd = await tasks.add(NewTask(title=ODD, description=LONG, labels=["späť", "a b", '"q"', "x\\y"], due="2026-12-01"))
            await tasks.add(NewTask(title="gone"))
            await tasks.add(NewTask(title="at ten", due="2026-12-01T10:00:00Z", project="work.api", priority="urgent"))
            await tasks.edit(odd.id, TaskPatch(status="done", labels=["späť"], due=None))
            await tasks.remove(2)
            await tasks.write(Changeset(tuple(Add(NewTask(title=f"one of many {n}")) for n in range(400)), message="many 🚀"))
            await tasks.remove((await tasks.add(NewTask(title="the last one"))).id)
        sql(url, "INSERT INTO workspaces (id, name) VALUES (7, 'other')")
        async with open_tasks(url, workspace="other") as tasks:
            await tasks.add(NewTask(title="elsewhere", labels=["a b"]))

    asyncio.run(fill())


def checked(url: str) -> None:
    assert set(wiring.check(Settings(database_url=url)).values()) == {"ok"}


# ------------------------------------------------------------------------------------------------------------- there and back


@pytest.mark.parametrize("target", KINDS)
@pytest.mark.parametrize("source", KINDS)
def test_everything_gets_there_and_back(tmp_path: Path, source: str, target: str) -> None:
    with place(source, tmp_path, "a") as a, place(target, tmp_path, "b") as b, place(source, tmp_path, "c") as c:
        filled(a)
        counts = back_up(a, tmp_path / "a.gz")
        assert counts == (2, 403, 408)
        assert restore(b, tmp_path / "a.gz") == counts
        assert contents(b) == contents(a)
        assert back_up(b, tmp_path / "b.gz") == counts
        assert lines_of(tmp_path / "b.gz")[1:-1] == lines_of(tmp_path / "a.gz")[1:-1]
        restore(c, tmp_path / "b.gz")
        assert contents(c) == contents(a)
        for url in (b, c):
            checked(url)
        assert len({epoch(a), epoch(b), epoch(c)}) == 3


async def test_a_service_finds_all_of_it_again(url: str, tmp_path: Path) -> None:
    old = f"sqlite:///{tmp_path}/old.db"
    await asyncio.to_thread(filled, old)
    async with open_tasks(old) as tasks:
        before = [await tasks.get(1), await tasks.history(1), await tasks.labels(), await tasks.projects()]
        feed = await tasks.changes(since=0, limit=500)
    await asyncio.to_thread(back_up, old, tmp_path / "b.gz")
    await asyncio.to_thread(restore, url, tmp_path / "b.gz")
    async with open_tasks(url) as tasks:
        assert [await tasks.get(1), await tasks.history(1), await tasks.labels(), await tasks.projects()] == before
        assert [e.op for e in (await tasks.history(2)).items] == ["remove", "add"]
        for text in ("naïve quoted", '"curly s 1"', "label:späť", "wörd -project:work"):
            assert [task.id for task in (await tasks.list(TaskQuery(where=parse_filter(text)))).items] == [1], text
        again = await tasks.changes(since=0, limit=500)
        assert (again.items, again.next) == (feed.items, feed.next)
        assert again.epoch != feed.epoch
        with pytest.raises(CursorExpired) as caught:
            await tasks.changes(since=feed.next, epoch=feed.epoch)
        assert caught.value.extra["epoch"] == again.epoch
        assert (await tasks.add(NewTask(title="new"))).id == 405
        assert [e.seq for e in (await tasks.history(405)).items] == [408]
    async with open_tasks(url, workspace="other") as tasks:
        assert [task.title for task in (await tasks.list(TaskQuery())).items] == ["elsewhere"]
        assert (await tasks.add(NewTask(title="new"))).id == 2
    await asyncio.to_thread(checked, url)


def test_an_empty_database_is_a_backup_too(url: str, tmp_path: Path) -> None:
    with place("sqlite", tmp_path, "empty") as empty:
        asyncio.run(_opened(empty))
        assert back_up(empty, tmp_path / "b.gz") == (1, 0, 0)
    assert restore(url, tmp_path / "b.gz") == (1, 0, 0)
    checked(url)


async def _opened(url: str) -> None:
    async with open_tasks(url):
        pass


def test_tables_are_made_where_there_are_none(tmp_path: Path) -> None:
    with place("sqlite", tmp_path) as old, empty_database() as url:
        filled(old)
        back_up(old, tmp_path / "b.gz")
        with pytest.raises(InvalidRequest):
            restore(url, _written(tmp_path / "no.gz", b"nothing"))
        assert wiring.current(Settings(database_url=url))[0] is None
        restore(url, tmp_path / "b.gz")
        assert contents(url) == contents(old)
        checked(url)


def test_the_format_has_all_that_is_not_worked_out_again(tmp_path: Path) -> None:
    """A column that is added to a table has to be added to the format, or restored tasks would be without it."""
    assert ("workspace_id", *TASK) == backups.Task.__struct_fields__
    assert {"workspace_id", *ENTRY} == set(backups.Entry.__struct_fields__)
    url = f"sqlite:///{tmp_path}/tasks.db"
    asyncio.run(_opened(url))
    for kind, (table, _) in backups._TABLES.items():
        columns = {name for _, name, *_ in sql(url, f"PRAGMA table_info({table})")}
        assert columns - {"search"} == set(kind.__struct_fields__)


# ------------------------------------------------------------------------------------------------------------------ at one moment


async def test_a_backup_under_writes_is_of_one_moment(url: str, tmp_path: Path) -> None:
    """Between any two pages of the backup there are more writes, to tasks that it has read and to those that it has not."""
    written, stop, moved = 0, False, threading.Condition()

    async def write() -> None:
        nonlocal written
        async with open_tasks(url) as tasks:
            while not stop:
                await tasks.write(Changeset(tuple(Add(NewTask(title=f"n {written} {n}", labels=["new"])) for n in range(20))))
                await tasks.edit(1, TaskPatch(title=f"edited {written}"))
                await tasks.edit(900, TaskPatch(priority="low" if written % 2 else "high"))
                await tasks.remove(10 + written)
                with moved:
                    written += 1
                    moved.notify_all()

    def wait(size: int, total: int) -> None:
        with moved:
            before = written
            assert moved.wait_for(lambda: written >= before + 2, SECONDS)

    async with open_tasks(url) as tasks:
        for _ in range(2):
            await tasks.write(Changeset(tuple(Add(NewTask(title="t", labels=["old"])) for n in range(500))))
    writer = asyncio.create_task(write())
    counts = await asyncio.to_thread(back_up, url, tmp_path / "b.gz", wait)
    stop = True
    await writer
    assert written > 10
    assert counts.entries >= 1000
    copy = f"sqlite:///{tmp_path}/copy.db"
    await asyncio.to_thread(restore, copy, tmp_path / "b.gz")
    await asyncio.to_thread(checked, copy)
    assert len(sql(copy, "SELECT 1 FROM log")) == counts.entries < len(sql(url, "SELECT 1 FROM log"))
    # The log up to there tells of just the tasks that are there.
    kept = {row for row in sql(url, f"SELECT entity_id, op FROM log WHERE seq <= {counts.entries}") if row[1] != "edit"}
    left = {id for id, op in kept if op == "add"} - {id for id, op in kept if op == "remove"}
    assert {id for (id,) in sql(copy, "SELECT id FROM tasks")} == left


async def test_nobody_writes_while_a_restore_is_under_way_and_readers_see_the_old_tasks(url: str, tmp_path: Path) -> None:
    await asyncio.to_thread(filled, url)
    await asyncio.to_thread(back_up, url, tmp_path / "b.gz")
    refused: list[TaskctlError] = []
    counts: list[int] = []

    async def look() -> None:
        async with open_tasks(url, settings=Settings(database_timeout=0.4)) as tasks:
            counts.append(sum((await tasks.stats()).counts.values()))
            try:
                await tasks.add(NewTask(title="late"))
            except Unavailable as e:
                refused.append(e)

    def once(size: int, total: int) -> None:
        if not counts:
            pool.submit(asyncio.run, look()).result(SECONDS)

    with ThreadPoolExecutor(1) as pool:
        await asyncio.to_thread(restore, url, tmp_path / "b.gz", once, force=True)
    assert (counts, len(refused)) == ([402], 1)
    await asyncio.to_thread(checked, url)
    assert len(sql(url, "SELECT 1 FROM tasks WHERE title = 'late'")) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_running_server_goes_on_with_what_was_restored(kind: str, tmp_path: Path) -> None:
    with place(kind, tmp_path) as url:
        filled(url)
        shell = Shell(tmp_path, TASKCTL_DATABASE_URL=url)
        with serving(shell) as server:
            there = ["--server", server.url]
            assert shell("db", "backup", "b.gz").code == 0
            for id in ("1", "3"):
                assert shell("task", "rm", id, *there).code == 0
            assert shell("task", "add", "too much", *there).code == 0
            assert shell("task", "show", "1", *there).code == 3
            assert shell("db", "restore", "b.gz", "--force").code == 0
            began = time.monotonic()
            while (shown := shell("task", "show", "1", "-o", "json", *there)).code:
                assert kind == "postgres"  # on a file it is seen at once
                assert time.monotonic() - began < 2 * LEASE_SECONDS
            assert shown.json["title"] == ODD
            assert shell("task", "add", "next", "-o", "json", *there).json["id"] == 405
            assert server.stop() == 0
        checked(url)


# ------------------------------------------------------------------------------------------------------- what is there already


def test_what_is_there_is_replaced_only_by_force(url: str, tmp_path: Path) -> None:
    filled(url)
    with place("sqlite", tmp_path, "new") as new:
        asyncio.run(_added(new, 5))
        back_up(new, tmp_path / "new.gz")
        before, of_before = contents(url), epoch(url)
        with pytest.raises(Conflict, match="--force"):
            restore(url, tmp_path / "new.gz")
        assert (contents(url), epoch(url)) == (before, of_before)
        assert restore(url, tmp_path / "new.gz", force=True) == (1, 5, 5)
        assert contents(url) == contents(new)
        assert epoch(url) not in (of_before, epoch(new))
    checked(url)


async def _added(url: str, count: int) -> None:
    async with open_tasks(url) as tasks:
        for n in range(count):
            await tasks.add(NewTask(title=f"t {n}", labels=["x"]))


def test_a_log_alone_is_something_too(url: str, tmp_path: Path) -> None:
    async def add_and_remove() -> None:
        async with open_tasks(url) as tasks:
            await tasks.add(NewTask(title="t"))
            await tasks.remove(1)

    asyncio.run(add_and_remove())
    back_up(url, tmp_path / "b.gz")
    with pytest.raises(Conflict):
        restore(url, tmp_path / "b.gz")


def test_a_database_of_an_older_schema_is_refused_both_ways(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    upgrade_sqlite(File(path, synchronous="full", timeout=5.0, observer=ignore), "0001")
    old, new = f"sqlite:///{path}", f"sqlite:///{tmp_path}/new.db"
    with pytest.raises(SchemaOutdated):
        back_up(old, tmp_path / "b.gz")
    assert not (tmp_path / "b.gz").exists()
    asyncio.run(_added(new, 1))
    back_up(new, tmp_path / "b.gz")
    with pytest.raises(SchemaOutdated):
        restore(old, tmp_path / "b.gz")


# ---------------------------------------------------------------------------------------------------------- files that are wrong


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def packed(lines: Sequence[Any], **end: Any) -> bytes:
    """Return a backup of these lines, the first of which is the header, with an end that fits them or is as said."""
    text = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    last = {"end": True, "rows": len(lines) - 1, "sha256": hashlib.sha256(text).hexdigest(), **end}
    return gzip.compress(text + json.dumps(last).encode() + b"\n")


HEADER: dict[str, Any] = {
    "format": "taskctl-backup",
    "version": 1,
    "taskctl": "0.1.0",
    "created_at": "2026-11-24T10:00:00Z",
    "epoch": "00ff00ff00ff00ff",
    "workspaces": 1,
    "tasks": 1,
    "entries": 1,
}
UID, SET = "01936f0c-7a3e-7c4b-9d2e-5b1f0a6c8e7d", "01936f0c-7a3e-7c4b-9d2e-000000000000"
ROWS: list[list[Any]] = [
    ["workspace", 1, "default", 1, 4, 1764000000000000],
    [
        *("task", 1, 3, UID, "Buy milk 🚀", "Semi-skimmed", 1, 4, "home.shop", '["later"]', 1796083200000000, 1),
        *(1764000000000000, None, 1763990000000000, 1764000000000000, 2),
    ],
    ["entry", 1, 1, 1764000000000000, SET, None, "cli", "task", 3, UID, "add", 2, '{"id":3,"title":"Buy milk 🚀"}', None, None],
]
"""A backup of version 1, as it was written; whatever comes later reads it."""


def changed(row: int, column: int, value: object) -> list[list[Any]]:
    rows = [list(row) for row in ROWS]
    rows[row][column] = value
    return rows


async def test_a_backup_of_the_first_version_is_read(url: str, tmp_path: Path) -> None:
    await asyncio.to_thread(restore, url, _written(tmp_path / "b.gz", packed([HEADER, *ROWS])))
    async with open_tasks(url) as tasks:
        task = await tasks.get(3)
        assert (task.title, task.description, task.status, task.priority) == (
            *("Buy milk 🚀", "Semi-skimmed", "in_progress", "urgent"),
        )
        assert (task.project, task.labels, str(task.due), task.version) == ("home.shop", ("later",), "2026-11-30", 2)
        for text in ("milk", "label:later", "project:home", '"semi skimmed"'):
            assert (await tasks.list(TaskQuery(where=parse_filter(text)))).items == (task,)
        assert (await tasks.add(NewTask(title="next"))).id == 4
    await asyncio.to_thread(checked, url)


WRONG: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "no backup"),
    "plain text": (b"buy milk\n", "no backup"),
    "rows without gzip": (gzip.decompress(packed([HEADER, *ROWS])), "no backup"),
    "another's gzip": (gzip.compress(b"buy milk\n" * 1000), "no backup"),
    "another's JSON": (gzip.compress(b'{"format": "other", "version": 1}\n'), "no backup"),
    "a long line": (gzip.compress(b"x" * (20 * 1024 * 1024)), "no backup"),
    "a newer version": (packed([{**HEADER, "version": 2, "more": []}, *ROWS]), "the format 2, which a newer taskctl wrote"),
    "an older version": (packed([{**HEADER, "version": 0}, *ROWS]), "damaged"),
    "a header without counts": (packed([{"format": "taskctl-backup", "version": 1}, *ROWS]), "damaged.*line 1"),
    "a number that is a text": (packed([HEADER, *changed(1, 2, "3")]), r"damaged.*Expected `int`, got `str`.*line 3"),
    "no such status": (packed([HEADER, *changed(1, 6, 4)]), "damaged.*line 3"),
    "a number that fits no column": (packed([HEADER, *changed(1, 12, 2**63)]), "damaged.*line 3"),
    "a uid that is none": (packed([HEADER, *changed(1, 3, UID[:-1] + "\n")]), "damaged.*line 3"),
    "labels that are none": (packed([HEADER, *changed(1, 9, "later")]), "damaged"),
    "a row of another kind": (packed([HEADER, *changed(1, 0, "note")]), "damaged.*line 3"),
    "a column more": (packed([HEADER, ROWS[0], [*ROWS[1], 1], ROWS[2]]), "damaged.*line 3"),
    "a column less": (packed([HEADER, ROWS[0], ROWS[1][:-1], ROWS[2]]), "damaged.*line 3"),
    "a task of no workspace": (packed([HEADER, *changed(1, 1, 2)]), "there is no workspace 2"),
    "an entry of no workspace": (packed([HEADER, *changed(2, 1, 2)]), "there is no workspace 2"),
    "a task from the future": (packed([HEADER, *changed(0, 4, 3)]), "the task 3 has a number that was not given out yet"),
    "a log that begins late": (packed([HEADER, *changed(2, 2, 2)]), "numbers are missing in the log before 2"),
    "a log that ends early": (packed([HEADER, *changed(0, 3, 2)]), "the log of default ends at 1, and not at 2"),
    "a row twice": (packed([HEADER, *ROWS[:2], *ROWS[1:]]), "a row is there twice"),
    "rows in another order": (packed([HEADER, ROWS[0], ROWS[2], ROWS[1]]), "is not in its place"),
    "a row less": (packed([HEADER, ROWS[0], ROWS[2]]), "some rows are missing"),
    "another count at the end": (packed([HEADER, *ROWS], rows=4), "some rows are missing"),
    "another checksum": (packed([HEADER, *ROWS], sha256="0" * 64), "the checksum"),
    "no end": (gzip.compress(gzip.decompress(packed([HEADER, *ROWS])).rpartition(b'{"end"')[0]), "damaged.*line 5"),
    "two backups in a row": (packed([HEADER, *ROWS]) * 2, "something follows its end"),
    "something behind it": (packed([HEADER, *ROWS]) + b"more", "damaged"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_whole_backup_is_refused_and_changes_nothing(kind: str, tmp_path: Path) -> None:
    with place(kind, tmp_path) as url:
        asyncio.run(_added(url, 3))
        before = contents(url), epoch(url)
        for name, (data, told) in WRONG.items():
            with pytest.raises(InvalidRequest, match=told):
                restore(url, _written(tmp_path / "b.gz", data), force=True)
            assert (contents(url), epoch(url)) == before, name
        checked(url)


@pytest.mark.parametrize("kind", KINDS)
def test_a_backup_that_was_cut_or_changed_anywhere_is_refused_and_changes_nothing(kind: str, tmp_path: Path) -> None:
    with place(kind, tmp_path) as url, place("sqlite", tmp_path, "new") as new:
        asyncio.run(_added(url, 3))
        filled(new)
        back_up(new, tmp_path / "whole.gz")
        whole = (tmp_path / "whole.gz").read_bytes()
        before = contents(url), epoch(url)
        steps = [*range(0, len(whole), len(whole) // 40), *range(len(whole) - 12, len(whole))]
        flips = [at for at in steps if not 4 <= at < 10]  # there gzip notes when and where it was made, which nobody needs
        damaged = [whole[:at] for at in steps]
        damaged += [whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :] for at in flips]
        for data in damaged:
            with pytest.raises(InvalidRequest, match="damaged"):
                restore(url, _written(tmp_path / "b.gz", data), force=True)
            assert epoch(url) == before[1]
        assert contents(url) == before[0]
        checked(url)
        restore(url, tmp_path / "whole.gz", force=True)
        assert contents(url) == contents(new)


def test_a_database_whose_log_has_a_gap_is_not_backed_up(url: str, tmp_path: Path) -> None:
    asyncio.run(_added(url, 5))
    for harm in ("DELETE FROM log WHERE seq = 5", "DELETE FROM log WHERE seq = 3"):
        sql(url, harm)
        with pytest.raises(Unavailable, match=r"damaged.*db check"):
            back_up(url, tmp_path / "b.gz")
    assert not [found for found in tmp_path.iterdir() if "b.gz" in found.name]


# ------------------------------------------------------------------------------------------------------ slow, broken, and large


def test_postgres_waits_for_a_slow_source(tmp_path: Path) -> None:
    with place("sqlite", tmp_path) as old, database() as url:
        filled(old)
        back_up(old, tmp_path / "b.gz")
        naps = iter([1.3])
        restore(url, tmp_path / "b.gz", lambda size, total: time.sleep(next(naps, 0)))
        assert contents(url) == contents(old)


def test_a_connection_that_breaks_in_the_middle_leaves_all_as_it_was(tmp_path: Path) -> None:
    with place("sqlite", tmp_path) as old, database() as url:

        def end(size: int, total: int) -> None:
            ask(
                url,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()",
            )

        filled(old)
        back_up(old, tmp_path / "b.gz")
        asyncio.run(_added(url, 3))
        before = contents(url), epoch(url)
        with pytest.raises(Unavailable, match="nothing was restored"):
            restore(url, tmp_path / "b.gz", end, force=True)
        assert (contents(url), epoch(url)) == before
        with pytest.raises(Unavailable):
            back_up(url, tmp_path / "c.gz", end)
        assert not [found for found in tmp_path.iterdir() if "c.gz" in found.name]


async def test_neither_way_holds_more_than_a_part_of_it(url: str, tmp_path: Path) -> None:
    count, most = 600, 20_000_000
    described = tuple(Add(NewTask(title="large", description=secrets.token_hex(16_384))) for _ in range(100))
    async with open_tasks(url) as tasks:
        for _ in range(count // len(described)):
            await tasks.write(Changeset(described))
    assert 2 * 32_768 * count > 1.9 * most
    seen: list[StatementDone] = []

    def observe(event: Event) -> None:
        if isinstance(event, StatementDone):
            seen.append(event)

    sizes, rows = list[tuple[int, int]](), 2 * count + 1
    driver: Driver = (
        wiring._postgres(url, Settings(), observe)[0]
        if wiring.is_postgres(url)
        else ThreadedSqlite(wiring._file(url, Settings(), observe))
    )
    tracemalloc.start()
    try:
        with backups.writing(f"{tmp_path}/b.gz") as write:
            await backups.backup(driver, write, lambda *step: sizes.append(step))
        assert tracemalloc.get_traced_memory()[1] < most
        assert max(done.rows for done in seen) <= backups.PAGE
        assert (sum(size for size, _ in sizes), {total for _, total in sizes}) == (rows, {rows})
        sizes.clear()
        tracemalloc.reset_peak()
        with backups.reading(f"{tmp_path}/b.gz") as source:
            await backups.restore(driver, source, lambda *step: sizes.append(step), force=True)
        assert tracemalloc.get_traced_memory()[1] < most
        assert (sum(size for size, _ in sizes), {total for _, total in sizes}) == (rows, {rows})
    finally:
        tracemalloc.stop()
        await driver.close()


# -------------------------------------------------------------------------------------------------------------- the command line


NO_TOKENS = "no tokens came along, a backup has none: where a server asks for them, `taskctl token create` makes new ones\n"


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    shell = Shell(tmp_path, TASKCTL_DATABASE_URL=f"sqlite:///{tmp_path}/tasks.db", TERM="xterm-256color")
    assert shell("db", "seed", "--count", "600").code == 0
    return shell


def test_the_commands_say_what_they_did(shell: Shell) -> None:
    told = "600 tasks with 600 changes, in 1 workspace\n"
    assert shell("db", "backup", "a.gz") == (0, f"backed up {told}", "")
    assert shell("db", "backup", "b.gz", "--quiet") == (0, "", "")
    counts = {"workspaces": 1, "tasks": 600, "entries": 600}
    assert shell("db", "backup", "c.gz", "-o", "json").json == counts
    for file in ("a.gz", "b.gz", "c.gz"):
        assert (shell.home / file).stat().st_mode & 0o777 == 0o600
    new = {"TASKCTL_DATABASE_URL": f"sqlite:///{shell.home}/new.db"}
    assert shell("db", "restore", "a.gz", env=new) == (0, f"restored {told}", NO_TOKENS)
    assert shell("db", "restore", "a.gz", "--force", "-o", "json", "-q", env=new).json == counts
    assert shell("db", "restore", "a.gz", "--force", "-q", env=new) == (0, "", "")


def test_a_restore_says_what_has_become_of_the_tokens(shell: Shell) -> None:
    shell("db", "backup", "b.gz")
    shell("workspace", "create", "garden")
    for number, workspace in enumerate(("default", "garden", "garden")):
        shell("token", "create", f"t{number}", "--scope", "admin", "--workspace", workspace)
    assert shell("db", "restore", "b.gz", "--force").err == (
        "removed 2 tokens, with the workspaces that the backup does not have\nkept 1 token of the database\n"
    )
    assert [token["name"] for token in shell("token", "list", "-o", "json").json] == ["t0"]


def test_the_commands_refuse_in_a_line(shell: Shell) -> None:
    (shell.home / "there").write_text("mine")
    assert shell.fails(2, "db", "backup", "there") == "there is there already; a backup goes into a new file"
    assert (shell.home / "there").read_text() == "mine"
    assert "cannot be written: No such file" in shell.fails(7, "db", "backup", "no/such/b.gz")
    assert shell.fails(2, "db", "restore", "missing") == "missing cannot be read: No such file or directory"
    assert "no backup of taskctl" in shell.fails(6, "db", "restore", "there")
    assert "Is a directory" in shell.fails(2, "db", "restore", ".")
    assert shell("db", "backup", "b.gz").code == 0
    assert "--force" in shell.fails(4, "db", "restore", "b.gz")
    for command in (["backup", "x.gz"], ["restore", "b.gz"]):
        assert "done where the database is" in shell.fails(2, "db", *command, "--server", "http://127.0.0.1:9")
    missing = {"TASKCTL_DATABASE_URL": f"sqlite:///{shell.home}/missing.db"}
    assert "there is no database" in shell.fails(7, "db", "backup", "x.gz", env=missing)
    assert not (shell.home / "missing.db").exists()
    assert "no backup of taskctl" in shell.fails(6, "db", "restore", "there", env=missing)
    assert not (shell.home / "missing.db").exists()
    assert sorted(path.name for path in shell.home.iterdir() if "gz" in path.name) == ["b.gz"]


def test_backups_go_through_pipes(shell: Shell) -> None:
    with database() as url:
        line = (
            "taskctl db backup - | taskctl db restore - --database-url $TARGET && taskctl db backup - --database-url $TARGET -q"
        )
        program = " ".join(str(word) for word in shell.argv())
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {line.replace('taskctl', program)} > c.gz"],
            env={**shell.environment, "TARGET": url},
            cwd=shell.home,
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, b"restored 600 tasks with 600 changes, in 1 workspace\n"), done
        assert done.stderr.decode() == f"backed up 600 tasks with 600 changes, in 1 workspace\n{NO_TOKENS}"
        assert contents(url) == contents(f"sqlite:///{shell.home}/tasks.db")
    assert shell("db", "restore", "c.gz", "--force").code == 0


def run_in_bash(shell: Shell, line: str) -> tuple[int, str]:
    program = " ".join(str(word) for word in shell.argv())
    done = subprocess.run(
        ["bash", "-c", f'taskctl() {{ exec {program} "$@"; }}; {line}'],
        env=shell.environment,
        cwd=shell.home,
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    return done.returncode, done.stderr.decode()


def test_a_backup_that_cannot_be_written_leaves_nothing_behind(shell: Shell) -> None:
    for n in range(12):
        assert shell("task", "add", f"large {n}", "-d", secrets.token_hex(20_000)).code == 0
    before = sorted(shell.home.iterdir())
    code, told = run_in_bash(shell, "ulimit -f 200; taskctl db backup b.gz")
    assert (code, told) == (7, "taskctl: the backup b.gz cannot be written: File too large\n")
    assert sorted(shell.home.iterdir()) == before
    code, told = run_in_bash(shell, "taskctl db backup - > /dev/full")
    assert (code, told) == (7, "taskctl: the backup - cannot be written: No space left on device\n")
    code, told = run_in_bash(shell, "set -o pipefail; (taskctl db backup -) | head -c 20 > /dev/null")
    assert (code, told) == (141, "")


def test_progress_is_for_a_terminal_alone(shell: Shell) -> None:
    drawn = STYLE.sub("", on_terminal(shell, "db", "backup", "a.gz"))
    assert "backing up" in drawn
    assert "1201/1201" in drawn
    drawn = STYLE.sub("", on_terminal(shell, "db", "restore", "a.gz", "--force"))
    assert "restoring" in drawn
    assert "1201/1201" in drawn
    assert on_terminal(shell, "db", "backup", "b.gz", "--quiet") == ""
    assert on_terminal(shell, "db", "restore", "b.gz", "--force", "--quiet") == ""


def test_a_terminal_gets_no_backup(shell: Shell, monkeypatch: pytest.MonkeyPatch, capfdbinary: Any) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    with pytest.raises(UsageError, match="not for a terminal"):
        back_up(f"sqlite:///{shell.home}/tasks.db", "-")
