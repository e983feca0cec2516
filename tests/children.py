"""What test processes run. They start by spawning, so that each is a process of its own, as another taskctl would be."""

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from taskctl import NewTask, Settings, TaskctlError, TaskService, open_tasks
from taskctl.tasks import Query, Remembering
from taskctl.wiring import upgrade

SPAWN = get_context("spawn")
NOBODY = 65534
WAIT_SECONDS = 60


class Child:
    """A process that runs `work(url, its end of a pipe, ...)`."""

    def __init__(self, work: Callable[..., None], url: str, *args: Any) -> None:
        self.pipe, theirs = SPAWN.Pipe()
        self.process: BaseProcess = SPAWN.Process(target=work, args=(url, theirs, *args), daemon=True)
        self.process.start()
        theirs.close()  # so that the pipe ends when the child does

    def receive(self) -> Any:
        """Return the next thing that the child sends. Raises EOFError once it has ended."""
        assert self.pipe.poll(WAIT_SECONDS), "the child has sent nothing in time"
        return self.pipe.recv()

    def receive_or_end(self) -> Any:
        """Return the next thing that the child sends, None once it has ended."""
        try:
            return self.receive()
        except (EOFError, OSError):
            return None

    def close(self) -> int | None:
        """Wait for the end of the process, end it if it does not come, and return its exit code."""
        self.process.join(WAIT_SECONDS)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.pipe.close()
        return self.process.exitcode


@contextmanager
def children(number: int, work: Callable[..., None], url: str, *args: Any) -> Iterator[list[Child]]:
    """Run several processes of the same work; a barrier that all of them and this process share comes after the pipe."""
    barrier = SPAWN.Barrier(number + 1)
    started = [Child(work, url, barrier, *args) for _ in range(number)]
    try:
        barrier.wait(WAIT_SECONDS)
        yield started
    finally:
        codes = [child.close() for child in started]
    assert codes == [0] * number


def add_one(url: str, pipe: Connection, barrier: Barrier) -> None:
    """Open the tasks when all the others do, add one, and send its id or what went wrong."""

    async def run() -> int:
        async with open_tasks(url) as tasks:
            return (await tasks.add(NewTask(title="t"))).id

    barrier.wait(WAIT_SECONDS)
    try:
        pipe.send(asyncio.run(run()))
    except Exception as e:
        pipe.send(repr(e))


def add_many(url: str, pipe: Connection, barrier: Barrier, count: int, size: int = 0) -> None:
    """Add tasks one after another, each as soon as the last one is written, and send ids and the longest wait in seconds."""

    async def run() -> tuple[list[int], float]:
        loop = asyncio.get_running_loop()
        ids, longest = [], 0.0
        async with open_tasks(url) as tasks:
            await asyncio.to_thread(barrier.wait, WAIT_SECONDS)
            for _ in range(count):
                started = loop.time()
                ids.append((await tasks.add(NewTask(title="t", description="x" * size))).id)
                longest = max(longest, loop.time() - started)
        return ids, longest

    pipe.send(asyncio.run(run()))


def add_busily(url: str, pipe: Connection, barrier: Barrier) -> None:
    """Add tasks from 64 callers, so that a next batch always waits, until the pipe says stop; send how many were added."""

    async def run() -> int:
        done = 0

        async def caller(tasks: TaskService) -> None:
            nonlocal done
            while not pipe.poll():
                await tasks.add(NewTask(title="t"))
                done += 1

        async with open_tasks(url) as tasks:
            await tasks.add(NewTask(title="t"))
            await asyncio.to_thread(barrier.wait, WAIT_SECONDS)
            await asyncio.gather(*(caller(tasks) for _ in range(64)))
        return done

    pipe.send(asyncio.run(run()))


def add_until_killed(url: str, pipe: Connection, callers: int, count: int) -> None:
    """Add up to `count` tasks from several callers, and send each id once it is acknowledged."""

    async def caller(tasks: TaskService) -> None:
        for _ in range(count // callers):
            task = await tasks.add(NewTask(title="t", labels=["a"], description="some words"))
            pipe.send(task.id)

    async def run() -> None:
        async with open_tasks(url) as tasks:
            await asyncio.gather(*(caller(tasks) for _ in range(callers)))

    asyncio.run(run())


def try_as_nobody(url: str, pipe: Connection) -> None:
    """Open the tasks as a user who may write nothing here, and send code and words of the failure."""

    async def run(place: str) -> None:
        async with open_tasks(place) as tasks:
            await tasks.add(NewTask(title="t"))

    # Once before, as root: Python itself may lie where nobody else can import from it.
    with TemporaryDirectory() as folder:
        asyncio.run(run(f"sqlite:///{folder}/tasks.db"))
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    try:
        asyncio.run(run(url))
        pipe.send(("none", "it was written"))
    except TaskctlError as e:
        pipe.send((e.code, e.detail))
    except Exception as e:
        pipe.send(("unforeseen", repr(e)))


def upgrade_once(url: str, pipe: Connection, barrier: Barrier) -> None:
    """Upgrade when all the others do, and send the revisions before and after, or what went wrong."""
    barrier.wait(WAIT_SECONDS)
    try:
        pipe.send(upgrade(Settings(database_url=url)))
    except Exception as e:
        pipe.send(repr(e))


def remember(url: str, pipe: Connection, limit: int, questions: Sequence[Query[Any]]) -> None:
    """Ask a service with caches of so many bytes, and send how much its process has grown, and what it says of itself."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    async def run() -> None:
        asking = iter(questions)

        async def caller(tasks: TaskService) -> None:
            for query in asking:
                await tasks.ask(query)

        async with open_tasks(url, cached=True, settings=Settings(cache_bytes=limit)) as tasks:
            assert isinstance(tasks, Remembering)
            while not tasks.remembered().entries:
                await tasks.ask(questions[0])
            before = resident()
            await asyncio.gather(*(caller(tasks) for _ in range(64)))
            pipe.send((resident() - before, tasks.remembered()))

    asyncio.run(run())
