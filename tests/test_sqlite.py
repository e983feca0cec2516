"""SQLite as a place for tasks: files that cannot be used, other processes, sudden ends, and the committer's promises."""

import asyncio
import os
import random
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from taskctl import (
    Add,
    Changeset,
    Edit,
    NewTask,
    Remove,
    Settings,
    StorageFull,
    Task,
    TaskNotFound,
    TaskPatch,
    TaskQuery,
    TaskService,
    Unavailable,
    open_tasks,
    parse_filter,
)
from taskctl.errors import ConfigError, NotFound, Overloaded
from taskctl.observe import BatchCommitted, Event
from taskctl.storage import checks
from taskctl.storage.committer import OPERATIONS_MAX, WAITING_MAX, Committer
from taskctl.storage.driver import Driver
from taskctl.storage.sqlite import CHECKPOINT_BYTES
from taskctl.wiring import check
from tests.children import Child, add_busily, add_many, add_one, add_until_killed, children, try_as_nobody


def driver_of(tasks: TaskService) -> Driver:
    """Return what is under a service that is open."""
    committer = cast(Any, tasks)._submit.__self__
    assert isinstance(committer, Committer)
    return committer._ledger._driver


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


async def opening(path: Path) -> str:
    """Return what is said when the path cannot be opened."""
    with pytest.raises(Unavailable) as caught:
        async with open_tasks(url_of(path)):
            pass
    assert type(caught.value) is Unavailable
    assert str(path) in caught.value.detail
    return caught.value.detail


# ------------------------------------------------------------------------------------------------------------------ paths


async def test_a_folder_is_no_database(tmp_path: Path) -> None:
    assert "is a folder" in await opening(tmp_path)
    assert list(tmp_path.iterdir()) == []


async def test_a_missing_folder_is_named_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=f"there is no folder {tmp_path}/a/b"):
        async with open_tasks(url_of(tmp_path / "a" / "b" / "tasks.db")):
            pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [2, 20, 100, 511, 512, 4096, 100_000])
async def test_a_file_that_is_not_sqlites_is_left_alone(tmp_path: Path, size: int) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes((b"Dear diary, " * 10_000)[:size])
    before = path.read_bytes()
    assert "not a SQLite database" in await opening(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
async def test_another_programs_database_is_left_alone(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute(f"PRAGMA journal_mode = {mode}")
        raw.execute("CREATE TABLE cookies (name TEXT)")
    before = path.read_bytes()
    assert "another program" in await opening(path)
    assert path.read_bytes() == before


async def test_an_empty_file_becomes_a_database(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    path.touch()
    async with open_tasks(url_of(path)) as tasks:
        assert (await tasks.add(NewTask(title="t"))).id == 1


@pytest.mark.parametrize("name", ["with space.db", "ünï🚀.db", "100%.db", "a#b.db", "a?b.db", "semi;colon&.db"])
async def test_a_path_may_have_any_name(tmp_path: Path, name: str) -> None:
    from urllib.parse import quote

    async with open_tasks(f"sqlite:///{quote(str(tmp_path / name))}") as tasks:
        await tasks.add(NewTask(title="t"))
    assert (tmp_path / name).is_file()


async def test_a_relative_path_is_seen_from_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with open_tasks("sqlite:///tasks.db"):
        pass
    assert (tmp_path / "tasks.db").is_file()


@pytest.mark.parametrize(
    "url",
    ["tasks.db", "mysql://u:secret@h/db", "sqlite://tasks.db", "sqlite://", "sqlite:///", "sqlite:///a?mode=ro", "ftp://x"],
)
async def test_an_address_of_nothing_known_is_wrong_usage(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        async with open_tasks(url):
            pass
    assert "secret" not in caught.value.detail


async def test_a_place_that_takes_no_files_is_unavailable() -> None:
    assert "cannot be" in await opening(Path("/proc/tasks.db"))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("exists", [False, True])
def test_a_file_that_one_may_not_write_is_unavailable(tmp_path: Path, exists: bool) -> None:
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    path = tmp_path / "tasks.db"
    if exists:
        asyncio.run(add_to(path, 1))
    before = path.read_bytes() if exists else None
    child = Child(try_as_nobody, url_of(path))
    code, detail = child.receive()
    assert child.close() == 0
    assert (code, str(path) in detail) == ("unavailable", True), detail
    assert (path.read_bytes() if path.exists() else None) == before


async def test_a_database_that_is_damaged_is_told_in_words(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    await add_to(path, 200)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (size - 4096))
    with pytest.raises(Unavailable, match="is damaged"):
        async with open_tasks(url_of(path)) as tasks:
            await tasks.list(TaskQuery(limit=None))


async def test_a_full_disk_is_told_as_such(tmp_path: Path) -> None:
    # SQLite says the same for a file at its greatest size as for a full disk.
    path = tmp_path / "tasks.db"
    async with open_tasks(url_of(path)) as tasks:
        await tasks.add(NewTask(title="t"))
        await driver_of(tasks).write(lambda connection: connection.fetch("PRAGMA max_page_count = 1"))
        with pytest.raises(StorageFull, match="is full"):
            await tasks.add(NewTask(title="u", description="x" * 65536))
        assert len((await tasks.list()).items) == 1


async def add_to(path: Path, count: int) -> None:
    async with open_tasks(url_of(path)) as tasks:
        for first in range(0, count, 500):
            await tasks.write(Changeset(tuple(Add(NewTask(title="t")) for _ in range(min(500, count - first)))))


# --------------------------------------------------------------------------------------------------------- other processes


async def state_of(path: Path) -> tuple[list[int], list[int]]:
    """Return the ids of the tasks and the numbers of the log, after seeing that the database is whole."""
    assert set(check(Settings(database_url=url_of(path))).values()) == {"ok"}
    async with open_tasks(url_of(path)) as tasks:
        ids = [task.id for task in (await tasks.list(TaskQuery(limit=None, sort=("id",)))).items]
        numbers: list[int] = []
        while True:
            changes = await tasks.changes(len(numbers), limit=1000)
            numbers += [entry.seq for entry in changes.items]
            if not changes.more:
                return ids, numbers


@pytest.mark.faults
async def test_processes_may_make_the_same_new_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    with children(4, add_one, url_of(path)) as started:
        results = [child.receive() for child in started]
    assert sorted(results, key=str) == [1, 2, 3, 4]
    assert await state_of(path) == ([1, 2, 3, 4], [1, 2, 3, 4])


@pytest.mark.faults
async def test_processes_that_write_at_once_take_turns(tmp_path: Path) -> None:
    path, count = tmp_path / "tasks.db", 300
    await add_to(path, 1)
    with children(2, add_many, url_of(path), count) as started:
        results = [child.receive() for child in started]
    added = [id for ids, _ in results for id in ids]
    assert sorted(added) == list(range(2, 2 * count + 2))
    everything = list(range(1, 2 * count + 2))
    assert await state_of(path) == (everything, everything)
    assert max(longest for _, longest in results) < 2.0


@pytest.mark.faults
async def test_a_busy_process_does_not_starve_another(tmp_path: Path) -> None:
    path, waits = tmp_path / "tasks.db", []
    loop = asyncio.get_running_loop()
    async with open_tasks(url_of(path)) as tasks:
        with children(1, add_busily, url_of(path)) as [busy]:
            for _ in range(100):
                started = loop.time()
                await tasks.add(NewTask(title="t"))
                waits.append(loop.time() - started)
            busy.pipe.send("stop")
            others = busy.receive()
    assert others > 100
    assert max(waits) < 1.0
    everything = list(range(1, others + 102))
    assert await state_of(path) == (everything, everything)


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(4))
async def test_what_was_acknowledged_survives_kill_9(tmp_path: Path, seed: int) -> None:
    path, chance = tmp_path / "tasks.db", random.Random(seed)
    callers, wanted = chance.choice([1, 8, 32]), chance.randrange(1, 400)
    child = Child(add_until_killed, url_of(path), callers, 1000)
    acknowledged = [child.receive() for _ in range(wanted)]
    assert child.process.pid is not None
    os.kill(child.process.pid, signal.SIGKILL)
    acknowledged += iter(child.receive_or_end, None)
    assert child.close() == -signal.SIGKILL
    assert len(acknowledged) < 1000
    # The next one to open it need do nothing.
    ids, numbers = await state_of(path)
    assert set(acknowledged) <= set(ids)
    assert ids == numbers == list(range(1, len(ids) + 1))
    # What nobody acknowledged can only be what was on its way.
    assert len(ids) - len(acknowledged) <= callers
    async with open_tasks(url_of(path)) as tasks:
        assert (await tasks.add(NewTask(title="t"))).id == len(ids) + 1
        assert len((await tasks.list(TaskQuery(where=parse_filter("words label:a"), limit=None))).items) == len(ids)


@pytest.mark.faults
async def test_the_log_beside_the_database_stays_bounded_while_two_processes_write(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    longest = 0
    async with open_tasks(url_of(path)) as tasks:
        with children(1, add_many, url_of(path), 300, 30_000) as [child]:
            while not child.pipe.poll():
                await tasks.add(NewTask(title="t", description="y" * 30_000))
                longest = max(longest, Path(f"{path}-wal").stat().st_size)
            ids, _ = child.receive()
        assert len(ids) == 300
    assert path.stat().st_size > 4 * CHECKPOINT_BYTES
    assert longest < 2 * CHECKPOINT_BYTES
    assert not Path(f"{path}-wal").exists()


async def test_a_log_that_was_written_back_is_not_written_back_at_every_write(tmp_path: Path) -> None:
    # Each time costs two syncs of the disk, so it must be rare: about once in CHECKPOINT_BYTES.
    path = tmp_path / "tasks.db"
    async with open_tasks(url_of(path)) as tasks:
        while path.stat().st_size < CHECKPOINT_BYTES:
            await tasks.add(NewTask(title="t", description="y" * 60_000))
        modified = []
        for _ in range(20):
            await tasks.add(NewTask(title="small"))
            modified.append(path.stat().st_mtime_ns)
    assert len(set(modified)) <= 3


async def test_a_check_finds_a_tasks_last_entry_by_an_index(tmp_path: Path) -> None:
    # Without it the check of 20,000 tasks takes half a minute, and that of 100,000 a quarter of an hour.
    path = tmp_path / "tasks.db"
    await add_to(path, 1)
    with closing(sqlite3.connect(path)) as raw:
        plan = [row[3] for row in raw.execute("EXPLAIN QUERY PLAN " + checks._CHECKS["tasks"])]
    assert any("log_entity" in step for step in plan), plan


# -------------------------------------------------------------------------------------------------------------- committer


async def test_the_time_of_the_log_never_goes_back(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with open_tasks(url_of(path)) as tasks:
        await tasks.add(NewTask(title="t"))
        # As if the clock had been set back by an hour since.
        with closing(sqlite3.connect(path)) as raw, raw:
            raw.execute("UPDATE workspaces SET written_at = written_at + 3600000000")
        later = await tasks.add(NewTask(title="u"))
        last = await tasks.edit(1, TaskPatch(title="v"))
        times = [entry.at for entry in (await tasks.changes()).items]
    assert times[1] - times[0] >= timedelta(hours=1)
    assert times == sorted(times)
    assert (later.created_at, last.updated_at) == (times[1], times[2])


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep the database from being written, as a slow process would."""
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        raw.execute("BEGIN IMMEDIATE")
        yield


async def turn() -> None:
    """Let every task that can run do so, up to its first wait."""
    for _ in range(5):
        await asyncio.sleep(0)


def batch(size: int) -> Changeset:
    return Changeset(tuple(Add(NewTask(title="t")) for _ in range(size)))


async def test_writes_that_arrive_together_are_committed_together(tmp_path: Path) -> None:
    events: list[Event] = []
    path = tmp_path / "tasks.db"
    async with open_tasks(url_of(path), observer=events.append) as tasks:
        with locked(path):
            first = asyncio.create_task(tasks.add(NewTask(title="first")))
            await turn()
            others = [asyncio.create_task(tasks.add(NewTask(title=str(n)))) for n in range(64)]
            await turn()
        added = await asyncio.gather(first, *others)
    assert [task.id for task in added] == list(range(1, 66))
    committed = [event for event in events if isinstance(event, BatchCommitted)]
    assert [(event.changesets, event.operations, event.waiting) for event in committed] == [(1, 1, 64), (64, 64, 0)]


async def test_what_fails_or_is_dry_spends_nothing_of_the_batch_it_is_in(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with open_tasks(url_of(path)) as tasks:
        with locked(path):
            first = asyncio.create_task(tasks.add(NewTask(title="first")))
            await turn()
            dry = asyncio.create_task(tasks.add(NewTask(title="dry"), dry_run=True))
            bad = asyncio.create_task(
                tasks.write(Changeset((Add(NewTask(title="bad")), Edit(1, TaskPatch(title="bad")), Remove(9))))
            )
            last = asyncio.create_task(tasks.add(NewTask(title="last")))
            await turn()
        results = await asyncio.gather(first, dry, bad, last, return_exceptions=True)
        assert isinstance(results[2], TaskNotFound)
        assert [task.id for task in results if isinstance(task, Task)] == [1, 2, 2]
        assert [(task.id, task.title) for task in (await tasks.list()).items] == [(2, "last"), (1, "first")]
    assert await state_of(path) == ([1, 2], [1, 2])


async def test_a_transaction_takes_a_thousand_operations_at_most(tmp_path: Path) -> None:
    events: list[Event] = []
    path = tmp_path / "tasks.db"
    async with open_tasks(url_of(path), observer=events.append) as tasks:
        with locked(path):
            writes = [asyncio.create_task(tasks.write(batch(size))) for size in (1, 400, 400, 400, 500)]
            await turn()
        await asyncio.gather(*writes)
    sizes = [event.operations for event in events if isinstance(event, BatchCommitted)]
    assert sum(sizes) == 1701
    assert max(sizes) <= OPERATIONS_MAX


async def test_when_too_much_waits_the_answer_is_overloaded_at_once(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with open_tasks(url_of(path), settings=Settings(database_timeout=60.0)) as tasks:
        with locked(path):
            writes = [asyncio.create_task(tasks.write(batch(500))) for _ in range(WAITING_MAX // 500)]
            await turn()
            with pytest.raises(Overloaded) as caught:
                await tasks.add(NewTask(title="one too many"))
            assert caught.value.extra["retry_after"] >= 1
            assert caught.value.retryable
            assert not any(write.done() for write in writes)
        await asyncio.gather(*writes)
        assert (await tasks.add(NewTask(title="now"))).id == WAITING_MAX + 1


async def test_a_caller_who_goes_away_does_not_cancel_the_write(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with open_tasks(url_of(path)) as tasks:
        with locked(path):
            gone = asyncio.create_task(tasks.add(NewTask(title="gone")))
            stays = asyncio.create_task(tasks.add(NewTask(title="stays")))
            await turn()
            gone.cancel()
            with pytest.raises(asyncio.CancelledError):
                await gone
        await stays
        assert {task.title for task in (await tasks.list()).items} == {"gone", "stays"}


async def test_closing_writes_everything_that_was_taken(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with open_tasks(url_of(path)) as tasks:
        adds = [asyncio.create_task(tasks.add(NewTask(title=str(n)))) for n in range(300)]
        await turn()
    assert all(add.done() for add in adds)
    assert [(await add).id for add in adds] == list(range(1, 301))
    assert len((await state_of(path))[0]) == 300


async def test_a_closed_service_says_so(tmp_path: Path) -> None:
    async with open_tasks(url_of(tmp_path / "tasks.db")) as tasks:
        pass
    calls: list[Any] = [tasks.add(NewTask(title="t")), tasks.list(), tasks.ready()]
    for call in calls:
        with pytest.raises(Unavailable, match="closed"):
            await call


async def test_a_database_that_stays_busy_is_unavailable_and_serves_again_after(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with open_tasks(url_of(path), settings=Settings(database_timeout=0.2)) as tasks:
        with locked(path):
            with pytest.raises(Unavailable, match="busy") as caught:
                await tasks.add(NewTask(title="t"))
            assert caught.value.retryable
            assert (await tasks.list()).items == ()  # who reads does not wait for who writes
        assert (await tasks.add(NewTask(title="t"))).id == 1


@pytest.mark.parametrize(("synchronous", "pragma"), [("full", 2), ("normal", 1)])
async def test_every_connection_syncs_as_it_is_set(tmp_path: Path, synchronous: Any, pragma: int) -> None:
    settings = Settings(sqlite_synchronous=synchronous)
    async with open_tasks(url_of(tmp_path / "tasks.db"), settings=settings) as tasks:
        driver = driver_of(tasks)
        assert await driver.read(lambda connection: connection.fetch("PRAGMA synchronous")) == [(pragma,)]
        assert await driver.write(lambda connection: connection.fetch("PRAGMA synchronous")) == [(pragma,)]


def test_every_write_is_synced_unless_something_else_is_set() -> None:
    assert Settings().sqlite_synchronous == "full"


async def test_workspaces_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no workspace 'other'"):
        async with open_tasks(url_of(tmp_path / "tasks.db"), workspace="other") as tasks:
            assert isinstance(tasks, TaskService)
