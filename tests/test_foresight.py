"""Batches that are worked out before the lock is held: whatever others do meanwhile, nothing is lost, doubled or mistaken."""

import asyncio
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import msgspec
import psycopg2
import pytest

from taskctl import (
    Add,
    Changeset,
    Conflict,
    Edit,
    NewTask,
    Remove,
    Settings,
    TaskctlError,
    TaskPatch,
    TaskQuery,
    TaskService,
    Unavailable,
    open_tasks,
)
from taskctl.observe import Event, StatementDone, ignore
from taskctl.storage.driver import Overtaken
from taskctl.storage.ledger import Entered, Ledger
from taskctl.storage.postgres import Session
from taskctl.storage.rows import Head
from taskctl.wiring import _postgres
from tests.postgres import Cluster, ask, database


@pytest.fixture
def url() -> Iterator[str]:
    with database() as found:
        yield found


def head(url: str) -> Head:
    last = "(SELECT changeset::text FROM log WHERE workspace_id = workspaces.id AND seq = workspaces.seq)"
    [row] = ask(url, f"SELECT id, next_id, written_at, seq, {last} FROM workspaces WHERE name = 'default'")
    return Head(*row)


async def assert_told_by_the_log(tasks: TaskService) -> int:
    """Assert that the log, followed from its beginning, tells exactly the tasks that there are. Return how long it is."""
    told: dict[int, dict[str, Any]] = {}
    since, more = 0, True
    while more:
        changes = await tasks.changes(since, limit=1000)
        for entry in changes.items:
            assert entry.seq == since + 1
            since = entry.seq
            match entry.op:
                case "add":
                    assert entry.id not in told
                    assert entry.after is not None
                    told[entry.id] = dict(entry.after)
                case "edit":
                    assert entry.before is not None
                    assert entry.after is not None
                    task = told[entry.id]
                    assert {name: task[name] for name in entry.before} == entry.before
                    assert entry.version == task["version"] + 1
                    task.update(entry.after, version=entry.version)
                case "remove":
                    assert entry.version == told.pop(entry.id)["version"] + 1
        more = changes.more
    there = {task.id: msgspec.json.decode(msgspec.json.encode(task)) for task in (await tasks.list(TaskQuery(limit=None))).items}
    for task in (*there.values(), *told.values()):
        del task["updated_at"]  # an edit's is the time of its entry
    assert there == told
    return since


@pytest.mark.parametrize("replicas", [1, 2])
async def test_whatever_many_do_at_once_the_log_tells_the_tasks(url: str, replicas: int) -> None:
    chance = random.Random(replicas)
    uids = [uuid4() for _ in range(6)]
    written = 0

    async def caller(tasks: TaskService) -> None:
        nonlocal written
        for _ in range(25):
            ref: int | UUID = chance.choice((chance.randint(1, 12), chance.choice(uids)))
            operation = chance.choice(
                (
                    Add(NewTask(title="new", uid=chance.choice((None, *uids)), labels=chance.choice(((), ("a", "b"))))),
                    Edit(ref, TaskPatch(title=f"{chance.random()}", labels=chance.choice(((), ("b", "c"))))),
                    Edit(ref, TaskPatch(priority="high")),
                    Remove(ref),
                )
            )
            try:
                await tasks.perform(operation)
                written += 1
            except TaskctlError as e:
                assert e.code in ("task_not_found", "conflict")

    async with open_tasks(url) as one, open_tasks(url) as other:
        both = (one, other)
        await asyncio.gather(*(caller(both[n % replicas]) for n in range(40)))
        assert 0 < await assert_told_by_the_log(one) <= written  # an edit to what is there already leaves no entry


async def test_every_increment_of_two_replicas_counts(url: str) -> None:
    async with open_tasks(url) as one, open_tasks(url) as other:
        await one.add(NewTask(title="0"))

        async def increment(tasks: TaskService) -> None:
            for _ in range(20):
                while True:
                    task = await tasks.get(1)
                    try:
                        await tasks.edit(1, TaskPatch(title=str(int(task.title) + 1)), if_version=task.version)
                        break
                    except TaskctlError as e:
                        assert e.code == "stale_task"

        await asyncio.gather(*(increment(tasks) for tasks in (one, other) for _ in range(4)))
        assert (await one.get(1)).title == "160"
        assert await assert_told_by_the_log(one) == 161


def asked(events: list[Event]) -> list[str]:
    """Return what was sent, round trip by round trip."""
    return [event.sql for event in events if isinstance(event, StatementDone)]


async def test_one_who_writes_alone_needs_one_round_trip_for_an_add(url: str) -> None:
    events: list[Event] = []
    async with open_tasks(url, observer=events.append) as tasks:
        await tasks.add(NewTask(title="first"))
        events.clear()
        await tasks.add(NewTask(title="second"))
        assert asked(events) == ["COMMIT"]
        ask(url, "UPDATE workspaces SET next_id = 10")
        assert (await tasks.add(NewTask(title="third"))).id == 10
        events.clear()
        await tasks.add(NewTask(title="fourth"))
        assert len(asked(events)) > 1  # somebody else writes, it seems
        events.clear()
        assert (await tasks.add(NewTask(title="fifth"))).id == 12
        assert asked(events) == ["COMMIT"]


async def test_what_is_not_written_is_not_foreseen(url: str) -> None:
    async with open_tasks(url) as tasks:
        uid = (await tasks.add(NewTask(title="first"))).uid
        add = Add(NewTask(title="tried"))
        assert (await tasks.write(Changeset((add,), dry_run=True))).seq == 1
        with pytest.raises(Conflict):
            await tasks.add(NewTask(title="mistaken", uid=uid))
        assert (await tasks.add(NewTask(title="second"))).id == 2
        assert await assert_told_by_the_log(tasks) == 2


@pytest.mark.parametrize("column", [name for name in Head._fields if name != "changeset"])
async def test_a_workspace_that_stands_otherwise_is_left_as_it_is(url: str, column: str) -> None:
    driver, _ = _postgres(url, Settings(), ignore)
    before = head(url)
    expected = before._replace(**{column: getattr(before, column) + 1})

    async def work(session: Session) -> None:
        await session.take("default", expected)
        await session.run("UPDATE workspaces SET next_id = 77 WHERE id = ?", [before.id], fixed=True)
        await session.insert("task_labels", ("workspace_id", "label", "task_id"), [(before.id, "a", 1)])

    try:
        with pytest.raises(Overtaken):
            await driver.write(work)
        assert head(url) == before
        assert ask(url, "SELECT count(*) FROM task_labels") == [(0,)]
        expected = before
        await driver.write(work)  # on the same session, where it went wrong before
        assert head(url).next_id == 77
        assert ask(url, "SELECT count(*) FROM task_labels") == [(1,)]
        with pytest.raises(Overtaken):
            await driver.write(work)
    finally:
        await driver.close()


async def test_a_workspace_that_is_gone_is_not_taken(url: str) -> None:
    driver, _ = _postgres(url, Settings(), ignore)
    before = head(url)

    async def work(session: Session) -> None:
        await session.take("default", before)
        await session.insert("task_labels", ("workspace_id", "label", "task_id"), [(before.id, "a", 1)])

    try:
        await driver.write(work)
        ask(url, "UPDATE workspaces SET name = 'renamed'", "TRUNCATE task_labels")
        with pytest.raises(Overtaken):
            await driver.write(work)
        assert ask(url, "SELECT count(*) FROM task_labels") == [(0,)]
    finally:
        ask(url, "UPDATE workspaces SET name = 'default'")
        await driver.close()


@pytest.mark.parametrize("as_expected", [True, False])
async def test_who_waits_for_the_lock_judges_by_what_is_there_then(url: str, as_expected: bool) -> None:
    driver, _ = _postgres(url, Settings(), ignore)
    now = head(url)
    expected = now._replace(seq=now.seq + 1) if as_expected else now

    async def work(session: Session) -> None:
        await session.take("default", expected)
        await session.run("UPDATE workspaces SET next_id = 77 WHERE id = ?", [now.id], fixed=True)

    holder = psycopg2.connect(url)
    try:
        holder.cursor().execute("UPDATE workspaces SET seq = seq + 1")
        writing = asyncio.ensure_future(driver.write(work))
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        while ask(url, waiting) != [(1,)]:  # noqa: ASYNC110  # the event is another process's
            await asyncio.sleep(0.01)
        holder.commit()
        if as_expected:
            await writing
        else:
            with pytest.raises(Overtaken):
                await writing
        assert head(url).next_id == (77 if as_expected else now.next_id)
    finally:
        holder.close()
        await driver.close()


async def test_where_a_doubt_is_looked_into_the_workspace_is_taken_first(url: str) -> None:
    driver, _ = _postgres(url, Settings(database_timeout=0.5), ignore)
    holder = psycopg2.connect(url)
    try:
        holder.cursor().execute("SELECT 1 FROM workspaces FOR UPDATE")  # as the transaction in doubt does until it ends
        with pytest.raises(Unavailable, match="locked for too long"):
            await Ledger(driver).has("default", Entered([], 1, uuid4()))
        holder.rollback()
        assert not await Ledger(driver).has("default", Entered([], 1, uuid4()))
    finally:
        holder.close()
        await driver.close()


async def test_a_message_that_comes_after_it_was_looked_for_changes_nothing(url: str) -> None:
    driver, _ = _postgres(url, Settings(), ignore)
    before = head(url)
    try:
        assert not await Ledger(driver).has("default", Entered([], 1, uuid4()))

        async def late(session: Session) -> None:
            await session.take("default", before)

        with pytest.raises(Overtaken):
            await driver.write(late)
    finally:
        await driver.close()


async def test_a_commit_that_cannot_be_cancelled_any_more_is_told_as_done() -> None:
    cluster = Cluster("commit_delay=100000", "commit_siblings=0")  # 0.1 s in every commit
    try:
        url = cluster.tasks()
        cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%COMMIT%' AND pid <> pg_backend_pid()"
        async with open_tasks(url) as tasks:
            await tasks.add(NewTask(title="first"))
            for _ in range(3):
                writing = asyncio.ensure_future(tasks.add(NewTask(title="another")))
                for _ in range(4):
                    await asyncio.sleep(0.02)
                    ask(url, cancel)
                await writing
            assert [task.title for task in (await tasks.list()).items] == ["another", "another", "another", "first"]
            assert await assert_told_by_the_log(tasks) == 4
    finally:
        cluster.close()


async def test_a_log_from_the_future_waits_for_the_clock(url: str) -> None:
    clock = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
    ask(url, f"UPDATE workspaces SET written_at = {clock} + 500000")
    async with open_tasks(url) as tasks:
        while ask(url, f"SELECT written_at > {clock} - 1000000 FROM workspaces") == [(True,)]:
            at = (await tasks.add(NewTask(title="t"))).created_at
            if (ahead := (at - datetime.now(UTC)).total_seconds()) < -0.001:
                break
            assert ahead < 0.5
        changes = (await tasks.changes(limit=1000)).items
        assert [change.at for change in changes] == sorted(change.at for change in changes)


async def test_what_changes_nothing_spoils_no_foresight(url: str) -> None:
    events: list[Event] = []
    async with open_tasks(url, observer=events.append) as tasks:
        await tasks.add(NewTask(title="first"))
        await tasks.edit(1, TaskPatch(title="first"))
        await tasks.add(NewTask(title="tried"), dry_run=True)
        events.clear()
        await tasks.add(NewTask(title="second"))
        assert asked(events) == ["COMMIT"]


async def test_the_same_numbers_of_another_history_are_not_enough(url: str) -> None:
    async with open_tasks(url) as tasks:
        await tasks.add(NewTask(title="first"))
        ask(url, "UPDATE log SET changeset = gen_random_uuid()")
        await tasks.add(NewTask(title="second"))
    driver, _ = _postgres(url, Settings(), ignore)

    async def work(session: Session) -> None:
        await session.take("default", head(url)._replace(changeset=str(uuid4())))

    try:
        with pytest.raises(Overtaken):
            await driver.write(work)
    finally:
        await driver.close()
