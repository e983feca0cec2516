"""What is remembered, for how long, and what of it is told."""

import asyncio
import gc
import random
import subprocess
import sys
import threading
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given
from hypothesis import strategies as st

from taskctl import NewTask, Settings, TaskPatch, TaskQuery, TaskService, create_app, open_tasks, parse_filter
from taskctl.cache.memory import OVERHEAD, Kept, Memory
from taskctl.cache.tasks import CachedTasks
from taskctl.conditions import Match
from taskctl.config import Loaded
from taskctl.errors import Conflict, StaleTask, TaskNotFound
from taskctl.filters import place
from taskctl.observe import Event, RedisDone, StatementDone
from taskctl.seed import sample, seed
from taskctl.tasks import (
    Add,
    Changeset,
    Edit,
    GetTask,
    History,
    IdempotencyKey,
    Labels,
    Origin,
    Page,
    Projects,
    Query,
    Remove,
    Task,
    create,
)
from taskctl.wire import encode, encode_task_cursor
from taskctl.wiring import backup, restore, run_command
from tests.children import Child, remember
from tests.contract.stacks import STACKS
from tests.postgres import database
from tests.redis import emptied
from tests.simulation import Database, queries, run, writes
from tests.support import SECONDS, Api, Server, Shell, added

# -------------------------------------------------------------------------------------------------------------- the memory


def kept(id: int, seq: int = 1, length: int = 300) -> Kept:
    return Kept(GetTask(id), seq, b"x" * length, None, 0)


def test_a_memory_holds_its_bytes_and_keeps_what_was_used_last() -> None:
    memory = Memory(100 * (OVERHEAD + 300))
    for id in range(1000):
        memory.put(id, kept(id))
        memory.get(3)
        assert memory.bytes <= 100 * (OVERHEAD + 300)
    assert len(memory) == 100
    assert memory.get(3) is not None
    assert [id for id in range(901) if id in memory] == [3]
    memory.clear()
    assert (len(memory), memory.bytes) == (0, 0)


def test_one_answer_does_not_push_out_all_others() -> None:
    memory = Memory(100_000)
    memory.put(1, kept(1))
    memory.put(2, kept(2, length=50_000))
    assert (1 in memory, 2 in memory, memory.bytes) == (True, False, OVERHEAD + 300)
    memory.put(1, kept(1, seq=2, length=50_000))  # what it had is out of date, too
    assert (len(memory), memory.bytes) == (0, 0)


def test_an_older_answer_does_not_replace_a_newer_one() -> None:
    memory = Memory(100_000)
    newer, older = kept(1, seq=7), kept(1, seq=6)
    memory.put(1, newer)
    memory.put(1, older)
    assert memory.get(1) is newer
    memory.put(1, again := kept(1, seq=7))
    assert memory.get(1) is again
    memory.drop(1)
    assert memory.bytes == 0


def task(id: int, title: str = "Review the changelog") -> Task:
    new = NewTask(title=f"{title} {id}", project="work.api", labels=["next"])
    return create(new, id=id, uid=UUID(int=id), now=datetime(2026, 1, 1, tzinfo=UTC))


def page(number: int, *, sort: str = "-priority", title: str = "Review the changelog", size: int = 20) -> tuple[TaskQuery, Any]:
    """Return a page with another one behind it, and the question for it."""
    query = TaskQuery(where=parse_filter(f"-label:x{number}"), sort=(sort, "id"), limit=size)
    items = tuple(task(id, title) for id in range(number, number + size))
    return query, Page(items, encode_task_cursor("default", query, 0, place(items[-1], query.sort)))


def further(number: int) -> tuple[TaskQuery, Any]:
    query, value = page(number)
    return msgspec.structs.replace(query, cursor=value.next_cursor), value


def filtered(text: str) -> tuple[TaskQuery, Any]:
    return TaskQuery(where=parse_filter(text)), Page((), None)


ANSWERS: dict[str, Callable[[int], tuple[Query[Any], Any]]] = {
    "a task": lambda number: (GetTask(number), task(number)),
    "no task": lambda number: (GetTask(number), None),
    "a page": page,
    "a further page": further,
    "a long title": lambda number: page(number, sort="title", title="🧑‍🚀" * 150, size=1),
    "an empty list": lambda number: (TaskQuery(limit=number), Page((), None)),
    "many values": lambda number: filtered("id:" + ",".join(f"{number * 1000 + value}" for value in range(90))),
    "many terms": lambda number: filtered(" or ".join(f"label:x{number}-{term} due<2026-01-01" for term in range(20))),
    "many words": lambda number: filtered(" ".join(f"word{number}x{term}" for term in range(40))),
    "a history": lambda number: (History(id=number), Page((), None)),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_an_answer_counts_for_about_what_it_takes(kind: str) -> None:
    memory, following = Memory(1 << 30), object()
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(101):
            query, value = ANSWERS[kind](number + 1)
            answer = Kept(query, 100_000 + number, encode(value) if value is not None else b"", value, 1_800_000_000 + number)
            memory.put((following, number if isinstance(query, GetTask) else query), answer)
            if number == 0:  # what the first one needs besides is there now
                gc.collect()
                first, (before, _) = memory.bytes, tracemalloc.get_traced_memory()
        del query, value, answer
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # What the allocator and the operating system add is in what an answer counts for, and not in what is measured here.
    assert 0.45 < (after - before) / (memory.bytes - first) < 1, (after - before, memory.bytes - first)


@pytest.mark.faults
@pytest.mark.timeout(300)
async def test_the_memory_takes_as_much_as_is_set(tmp_path: Path) -> None:
    url, count, limit = f"sqlite:///{tmp_path}/tasks.db", 100_000, 64 << 20
    async with open_tasks(url, settings=Settings(sqlite_synchronous="normal")) as tasks:
        await seed(tasks, sample(count, 1, date(2026, 1, 1)), lambda done: None)
    lists = [TaskQuery(where=Match("id", tuple(range(first, first + 50)))) for first in range(1, count // 2, 10)]
    factors = []
    for questions in ([GetTask(id) for id in range(1, count + 1)], lists):
        child = Child(remember, url, limit, questions)
        grown, remembered = child.receive()
        assert child.close() == 0
        assert limit * 0.99 < remembered.bytes <= limit
        assert remembered.entries < len(questions)  # it has forgotten some
        factors.append(grown / limit)
    assert all(0.8 < factor < 1.3 for factor in factors), factors


@given(seed=st.integers(0, 2**32))
def test_an_answer_that_no_entry_touches_is_still_right(seed: int) -> None:
    async def work() -> None:
        draw, model = random.Random(seed), Database()
        for _ in range(draw.randrange(12)):
            model.commit(writes(draw, model))
        query = queries(draw, model)
        answer, seq = model.answer(query, model.head), model.head
        remembered = Kept(query, seq, b"", answer, 0)
        for _ in range(5):
            entries, _ = model.commit(writes(draw, model))
            if any(remembered.touched(entry) for entry in entries):
                break
            assert model.answer(query, model.head) == answer, entries

    run(work)


# ------------------------------------------------------------------------------------------------------------- the service


@pytest.fixture(params=["sqlite-cached", "postgres-cached"])
async def tasks(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[TaskService]:
    async with STACKS[request.param].open(tmp_path) as opened:
        yield opened


async def origin(tasks: TaskService, query: Query[Any]) -> str:
    """Return where the answer to a question comes from, once the log has been looked at since the last write."""
    other = TaskQuery(sort=("created_at",), limit=1)
    while (await tasks.ask(other)).origin in (Origin("", "lease"), Origin("", "unfollowed")):  # noqa: ASYNC110  # nobody tells
        await asyncio.sleep(0)
    read = await tasks.ask(query)
    assert read.origin is not None
    return read.origin.tier


async def test_what_was_asked_is_remembered(tasks: TaskService) -> None:
    await tasks.add(NewTask(title="a", labels=["x"], project="work"))
    questions: list[Query[Any]] = [TaskQuery(), TaskQuery(where=parse_filter("label:x a")), Projects(), Labels(), History(id=1)]
    for query in questions:
        first = await tasks.ask(query)
        assert await origin(tasks, query) in ("memory", "redis", "")
        assert await origin(tasks, query) == "memory"
        assert (await tasks.ask(query)).value == first.value
    assert await origin(tasks, GetTask(1)) == "memory"  # by the write itself


@pytest.mark.parametrize(
    "query",
    [
        TaskQuery(where=parse_filter("overdue")),
        TaskQuery(limit=None),
    ],
)
async def test_what_depends_on_the_moment_or_has_no_end_is_not_remembered(tasks: TaskService, query: TaskQuery) -> None:
    for _ in range(3):
        assert (await tasks.ask(query)).origin == Origin("", "bypass")


async def test_that_there_is_no_such_task_is_remembered_until_there_is(tasks: TaskService) -> None:
    for _ in range(3):
        with pytest.raises(TaskNotFound):
            await origin(tasks, GetTask(1))
    with pytest.raises(TaskNotFound) as failed:
        await origin(tasks, GetTask(1))
    assert failed.value.origin is not None
    assert failed.value.origin[0] == "memory"
    await tasks.add(NewTask(title="a"))
    assert (await tasks.get(1)).title == "a"
    await tasks.remove(1)
    with pytest.raises(TaskNotFound):
        await tasks.get(1)


async def test_a_task_that_a_batch_changes_and_removes_is_gone(tasks: TaskService) -> None:
    task = await tasks.add(NewTask(title="a"))
    await tasks.write(Changeset((Edit(task.id, TaskPatch(title="b")), Remove(task.id))))
    with pytest.raises(TaskNotFound):
        await tasks.get(task.id)


async def test_an_own_write_is_seen_at_once_in_all_that_it_touches(tasks: TaskService) -> None:
    listed = TaskQuery(where=parse_filter("label:x"))
    for number in range(30):
        await origin(tasks, listed)
        task = await tasks.add(NewTask(title=f"task {number}", labels=["x"]))
        assert (await tasks.list(listed)).items[0] == task
        edited = await tasks.edit(task.id, TaskPatch(labels=["y"]))
        assert await tasks.get(task.id) == edited
        assert task.id not in [item.id for item in (await tasks.list(listed)).items]
        assert [change.version for change in (await tasks.history(task.id)).items] == [2, 1]


async def test_a_page_stays_when_nothing_in_it_changes(tasks: TaskService) -> None:
    for number in range(8):
        await tasks.add(NewTask(title=f"task {number}", labels=["x"] if number % 2 else [], project="work"))
    newest, odd = TaskQuery(limit=3), TaskQuery(where=parse_filter("label:x"), limit=3)
    later = TaskQuery(limit=3, cursor=(await tasks.list(newest)).next_cursor)
    projects = Projects()
    for query in (newest, odd, later, projects):
        await origin(tasks, query)
    await tasks.edit(1, TaskPatch(title="behind all pages"))
    assert [await origin(tasks, query) for query in (newest, odd, later, projects)] == ["memory"] * 4
    await tasks.edit(7, TaskPatch(title="on the first page, without a label"))
    assert [await origin(tasks, query) for query in (newest, odd, later, projects)] == ["", "memory", "memory", "memory"]
    await tasks.add(NewTask(title="a new one"))
    assert [await origin(tasks, query) for query in (newest, odd, later, projects)] == ["", "memory", "memory", ""]
    await tasks.edit(1, TaskPatch(labels=["x"]))
    assert [await origin(tasks, query) for query in (newest, odd, later, projects)] == ["memory", "memory", "memory", "memory"]
    await tasks.edit(8, TaskPatch(status="done"))
    assert [await origin(tasks, query) for query in (newest, odd, later, projects)] == ["", "", "memory", ""]


async def test_an_answer_can_be_asked_of_the_database_itself(tasks: TaskService) -> None:
    task = await tasks.add(NewTask(title="a"))
    await origin(tasks, GetTask(1))
    for _ in range(2):
        read = await tasks.ask(GetTask(1), fresh=True)
        assert (read.value, read.origin) == (task, Origin("", "request"))


async def test_an_answer_is_as_new_as_is_asked_for(tasks: TaskService) -> None:
    await tasks.add(NewTask(title="a"))
    await origin(tasks, GetTask(1))
    read = await tasks.ask(GetTask(1))
    epoch, _, seq = read.at.rpartition(".")
    assert (await tasks.ask(GetTask(1), at=read.at)).origin == read.origin
    ahead = await tasks.ask(GetTask(1), at=f"{epoch}.{int(seq) + 1}")
    assert (ahead.value, ahead.at, ahead.origin) == (read.value, read.at, Origin("", "miss"))
    for other in ("", "nonsense", f"another.{int(seq) + 1}", f"{epoch}.{'9' * 40}"):
        assert (await tasks.ask(GetTask(1), at=other)).value == read.value


async def test_a_thousand_who_ask_at_once_make_one_query(tmp_path: Path) -> None:
    asked: Counter[str] = Counter()

    def observe(event: Event) -> None:
        if isinstance(event, StatementDone):
            asked[event.sql] += 1

    with database() as url:
        async with open_tasks(url, cached=True, observer=observe) as tasks:
            await tasks.write(Changeset(tuple(Add(NewTask(title=f"{number}")) for number in range(3))))
            await origin(tasks, GetTask(1))
            questions: list[Query[Any]] = [GetTask(2), TaskQuery(sort=("title",))]
            for query in questions:
                assert await tasks.ask(query, fresh=True)
                assert isinstance(tasks, CachedTasks)
                await origin(tasks, GetTask(1))  # however slow this machine is, the log has just been looked at
                await tasks.forget()
                before = asked.total()
                reads = await asyncio.gather(*(tasks.ask(query) for _ in range(1000)))
                polls = sum(count for sql, count in asked.items() if "followed" in sql)
                assert len({read.encoded for read in reads}) == 1
                assert asked.total() - before - polls <= 1, asked
                assert sum(read.origin == Origin("", "miss") for read in reads) == 1


# ------------------------------------------------------------------------------------------- what ends while somebody waits


class Held:
    """Observes a server with caches, and within `with` holds up every answer of its database until `answer` is set.

    What a look at the log has found it holds up until the end, so that the server knows of nothing that is written meanwhile.
    """

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.put = asyncio.Event()
        self.answer = threading.Event()
        self.when_redis_answers: Callable[[], object] = lambda: None
        self._look = threading.Event()
        self._holds = False
        self._loop = asyncio.get_running_loop()

    def __call__(self, event: Event) -> None:
        match event:
            case StatementDone(sql) if self._holds and "followed" in sql:
                self._look.wait(SECONDS)
            case StatementDone() if self._holds:
                self._loop.call_soon_threadsafe(self.asked.set)
                self.answer.wait(SECONDS)
            case RedisDone("EVALSHA" | "SCRIPT"):
                self.put.set()
            case RedisDone("MGET") if self._holds:
                self.when_redis_answers()

    def __enter__(self) -> None:
        self._holds = True

    def __exit__(self, *_: object) -> None:
        self._holds = False
        self.answer.set()
        self._look.set()


async def test_who_waits_for_anothers_answer_does_not_get_it_if_somebody_writes_meanwhile(tmp_path: Path) -> None:
    url, query, held = f"sqlite:///{tmp_path}/tasks.db", TaskQuery(sort=("title",)), Held()
    async with open_tasks(url, cached=True, observer=held) as tasks, open_tasks(url) as other:
        task = await tasks.add(NewTask(title="before"))
        await origin(tasks, GetTask(task.id))
        with held:
            first, second = (asyncio.create_task(tasks.ask(query)) for _ in range(2))
            await held.asked.wait()
            edited = await other.edit(task.id, TaskPatch(title="after"))
            held.answer.set()
            assert (await first).value.items == (task,)
            read = await second
            assert (read.value.items, read.origin) == ((edited,), Origin("", "miss"))


async def test_what_redis_has_is_not_given_if_somebody_writes_while_it_is_asked(tmp_path: Path) -> None:
    url, query, held = f"sqlite:///{tmp_path}/tasks.db", TaskQuery(sort=("title",)), Held()
    with emptied() as redis:
        async with open_tasks(url, cached=True, observer=held, settings=Settings(redis_url=redis)) as tasks:
            assert isinstance(tasks, CachedTasks)
            task = await tasks.add(NewTask(title="before"))
            await origin(tasks, GetTask(task.id))
            while await origin(tasks, query) != "redis":
                held.put.clear()
                await held.put.wait()
                tasks._cache.memory.clear()
            tasks._cache.memory.clear()
            somebody, edit = Loaded(Settings(database_url=url), {}, tmp_path), Edit(task.id, TaskPatch(title="after"))
            held.when_redis_answers = lambda: run_command(lambda own: own.perform(edit), somebody, actor=None)
            held.answer.set()
            with held:
                read = await tasks.ask(query)
                assert ([item.title for item in read.value.items], read.origin) == (["after"], Origin("", "miss"))


# ------------------------------------------------------------------------------------------------------- several processes


@asynccontextmanager
async def two(url: str, **settings: Any) -> AsyncIterator[tuple[TaskService, TaskService]]:
    """Open two services that know nothing of each other."""
    async with AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(open_tasks(url, cached=True, settings=Settings(**settings))) for _ in range(2)]
        yield opened[0], opened[1]


async def test_on_a_file_what_others_write_is_seen_at_once(tmp_path: Path) -> None:
    async with two(f"sqlite:///{tmp_path}/tasks.db") as (one, other):
        task = await one.add(NewTask(title="0", labels=["x"]))
        listed = TaskQuery(where=parse_filter("label:x"))
        hits = 0
        for number in range(100):
            for service in (one, other):
                await origin(service, GetTask(task.id))
                hits += await origin(service, GetTask(task.id)) == "memory"
                await origin(service, listed)
            writer, reader = (one, other) if number % 2 else (other, one)
            task = await writer.edit(task.id, TaskPatch(title=f"{number}"))
            assert await reader.get(task.id) == task
            assert (await reader.list(listed)).items == (task,)
        assert hits == 200, hits


async def test_a_command_beside_the_server_is_seen_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/tasks.db"
    async with open_tasks(url, cached=True) as tasks:
        await tasks.add(NewTask(title="a"))
        await origin(tasks, GetTask(1))
        command = [sys.executable, "-m", "taskctl", "--database-url", url, "task", "edit", "1", "--priority", "high"]
        await asyncio.to_thread(subprocess.run, command, check=True, stdout=subprocess.DEVNULL)
        assert (await tasks.get(1)).priority == "high"


async def test_on_postgresql_what_others_write_is_seen_soon_and_by_redis_sooner() -> None:
    with database() as url, emptied() as redis:
        for settings in ({}, {"redis_url": redis, "redis_tasks": True}):
            async with two(url, **settings) as (one, other):
                task = await one.add(NewTask(title="0"))
                await origin(other, GetTask(task.id))
                assert await origin(other, GetTask(task.id)) == "memory"
                for number in range(3):
                    task = await one.edit(task.id, TaskPatch(title=f"{number}"))
                    async with asyncio.timeout(2.0):
                        while await other.get(task.id) != task:  # noqa: ASYNC110  # that is what is promised
                            await asyncio.sleep(0.005)
                    stale = await other.ask(GetTask(task.id), at=(await one.ask(GetTask(task.id))).at)
                    assert stale.value == task


async def test_what_one_server_has_asked_another_finds_in_redis() -> None:
    with database() as url, emptied() as redis:
        async with two(url, redis_url=redis, redis_tasks=True) as (one, other):
            await one.write(Changeset(tuple(Add(NewTask(title=f"{number}")) for number in range(5))))
            listed = TaskQuery(sort=("title",))
            assert isinstance(other, CachedTasks)
            for service in (one, other):
                await origin(service, TaskQuery(limit=1))
            page = (await one.ask(listed)).value
            await one.ask(GetTask(2), fresh=True)
            expected: list[tuple[Query[Any], Any]] = [(listed, page), (GetTask(2), page.items[1])]
            for query, value in expected:
                async with asyncio.timeout(2.0):
                    while (tier := await origin(other, query)) == "":  # it is on its way
                        other._cache.memory.clear()
                assert tier == "redis"
                assert (await other.ask(query)).value == value


async def test_whoever_is_told_of_a_newer_version_finds_it() -> None:
    with database() as url:
        async with two(url) as (one, other):
            task = await one.add(NewTask(title="a"))
            for number in range(20):
                await origin(other, GetTask(task.id))
                key = IdempotencyKey(f"once-{number}")
                changes = Changeset((Add(NewTask(title="b")),))
                listed = (await other.list()).items
                written = await one.write(changes, key=key)
                replayed = await other.write(changes, key=key)
                assert replayed.replayed
                assert len((await other.list()).items) == min(50, len(listed) + 1)
                assert isinstance(written.results[0], type(task))
                task = await one.edit(task.id, TaskPatch(title=f"{number}"))
                with pytest.raises(StaleTask):
                    await other.edit(task.id, TaskPatch(title="c"), if_version=task.version - 1)
                assert await other.get(task.id) == task
            await one.edit(task.id, TaskPatch(status="done"))
            with pytest.raises(Conflict):
                await other.edit(task.id, TaskPatch(status="in_progress"))
            assert (await other.get(task.id)).status == "done"


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_a_restored_database_is_another_one(kind: str, tmp_path: Path) -> None:
    with database() as there:
        url = there if kind == "postgres" else f"sqlite:///{tmp_path}/tasks.db"
        settings = Settings(database_url=url)
        async with open_tasks(url, cached=True) as tasks:
            await tasks.add(NewTask(title="before"))
            await origin(tasks, GetTask(1))
            ignore: Callable[[int, int], None] = lambda done, whole: None  # noqa: E731
            await asyncio.to_thread(backup, settings, str(tmp_path / "backup"), ignore)
            await tasks.edit(1, TaskPatch(title="after"))
            await tasks.add(NewTask(title="lost"))
            assert await origin(tasks, GetTask(2)) == "memory"
            await asyncio.to_thread(restore, settings, str(tmp_path / "backup"), ignore, force=True)
            async with asyncio.timeout(2.5):
                while (await tasks.get(1)).title != "before":  # at once, on a file
                    assert kind == "postgres"
                    await asyncio.sleep(0.01)
            with pytest.raises(TaskNotFound):
                await tasks.get(2)


# ----------------------------------------------------------------------------------------------------------------- the API


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    app = create_app(Settings(database_url=f"sqlite:///{tmp_path}/tasks.db"))
    async with TestClient(TestServer(app)) as client:
        yield client


async def status(api: Api, path: str, **headers: str) -> str:
    """Return what an answer says of memories, once the log has been looked at since the last write."""
    while (await api.get("/api/v1/projects")).headers["Cache-Status"].endswith(("lease", "unfollowed")):
        pass
    return (await api.get(f"/api/v1{path}", headers=headers)).headers["Cache-Status"]


async def test_an_answer_says_where_it_is_from(api: Api) -> None:
    await added(api)
    assert (await api.get("/api/v1/tasks/1")).headers["Cache-Status"].startswith("taskctl; ")
    assert await status(api, "/tasks?limit=3") == "taskctl; fwd=miss"
    assert await status(api, "/tasks?limit=3") == 'taskctl; hit; detail="memory; age=0"'
    assert await status(api, "/stats") == "taskctl; fwd=bypass"
    for said in ("no-cache", "max-age=0", "no-store, no-cache"):
        assert await status(api, "/tasks?limit=3", **{"Cache-Control": said}) == "taskctl; fwd=request"
    assert await status(api, "/tasks/9") == "taskctl; fwd=miss"
    assert await status(api, "/tasks/9") == 'taskctl; hit; detail="memory; age=0"'


async def test_an_answer_from_memory_is_the_same_but_for_that(api: Api) -> None:
    for number in range(3):
        await added(api, f"task {number}", labels=["x"])
    for path in ("/tasks/2", "/tasks?limit=2", "/tasks/2/history?limit=1", "/labels", "/tasks/9"):
        await status(api, path)
        remembered = await api.get(f"/api/v1{path}")
        fresh = await api.get(f"/api/v1{path}", headers={"Cache-Control": "no-cache"})
        assert "hit" in remembered.headers["Cache-Status"]
        assert remembered.status == fresh.status
        if fresh.status == 200:
            assert await remembered.read() == await fresh.read()
        for name in ("ETag", "Link", "X-Taskctl-Seq", "Content-Type"):
            assert remembered.headers.get(name) == fresh.headers.get(name), name
    etag = (await api.get("/api/v1/tasks/2")).headers["ETag"]
    assert (await api.get("/api/v1/tasks/2", headers={"If-None-Match": etag})).status == 304


async def test_what_is_remembered_can_be_looked_at_and_forgotten(tmp_path: Path) -> None:
    with Server(Shell(tmp_path)) as server:
        shell = Shell(tmp_path, TASKCTL_SERVER=server.url)
        shell("task", "add", "a")
        for _ in range(3):
            shell("task", "show", "1")
        stats = shell("cache", "stats", "-o", "json").json
        assert stats["entries"] >= 1
        assert stats["bytes"] > OVERHEAD
        assert stats["asked"]["memory"] >= 1
        table = shell("cache", "stats").out
        assert dict(line.split() for line in table.splitlines())["entries"] == str(stats["entries"])
        assert shell("cache", "clear") == (0, "", "")
        assert shell("cache", "stats", "-o", "json").json["entries"] == 0


def test_a_server_may_remember_nothing(tmp_path: Path) -> None:
    with Server(Shell(tmp_path), "--cache-bytes", "0") as server:
        shell = Shell(tmp_path, TASKCTL_SERVER=server.url)
        shell("task", "add", "a")
        assert "cache-status" not in shell("api", "GET", "/tasks/1", "-i").out.lower()
        assert shell.fails(3, "cache", "stats") == "this server remembers nothing: cache_bytes is 0"
