"""How the service on PostgreSQL does next to the plainest code for the same database, from 64 concurrent callers and from one.

    python -m benchmarks.postgres [ROUNDS] [NAME...]

Everything is measured in turn, in one run, against one server with fsync on: `taskctl` is `open_tasks`, with a log entry for
every write; `asyncpg` and `aiopg` are one statement for each call on a pool of ten connections, on a table with the columns
of a task, the primary key and one more index, and without any log. Printed are the medians per second, and taskctl's ratio
to each.
"""

import asyncio
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import aiopg
import asyncpg  # type: ignore[import-untyped]

from taskctl import Add, Changeset, NewTask, TaskPatch, open_tasks
from tests.postgres import Cluster, ask

CALLERS = 64
SECONDS = 1.5
"""How long each measurement goes on."""
TASKS = 20_000
"""There before the first measurement; reads and edits pick among them."""
TITLE, LABELS = "Measure how long this takes", ["bench"]

PLAIN = """
CREATE TABLE plain (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, title text NOT NULL, description text,
    status text NOT NULL DEFAULT 'todo', priority text NOT NULL, due timestamptz, labels text[] NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now(),
    version integer NOT NULL DEFAULT 1
)
"""
FILL = f"INSERT INTO plain (title, priority, labels) SELECT '{TITLE}', 'high', '{{bench}}' FROM generate_series(1, {TASKS})"

Call: TypeAlias = Callable[[], Awaitable[object]]
Calls: TypeAlias = dict[str, Call]
"""What is measured, by its name: `read`, `add` and `edit`."""


def some() -> int:
    return random.randint(1, TASKS)


@asynccontextmanager
async def taskctl(url: str) -> AsyncIterator[Calls]:
    async with open_tasks(url) as tasks:
        yield {
            "read": lambda: tasks.get(some()),
            "add": lambda: tasks.add(NewTask(title=TITLE, priority="high", labels=LABELS)),
            "edit": lambda: tasks.edit(some(), TaskPatch(title=f"{TITLE} {some()}")),
        }


@asynccontextmanager
async def with_asyncpg(url: str) -> AsyncIterator[Calls]:
    add = "INSERT INTO plain (title, priority, labels) VALUES ($1, $2, $3) RETURNING *"
    edit = "UPDATE plain SET title = $2, updated_at = now(), version = version + 1 WHERE id = $1 RETURNING *"
    async with asyncpg.create_pool(url, min_size=10, max_size=10) as pool:
        yield {
            "read": lambda: pool.fetchrow("SELECT * FROM plain WHERE id = $1", some()),
            "add": lambda: pool.fetchrow(add, TITLE, "high", LABELS),
            "edit": lambda: pool.fetchrow(edit, some(), f"{TITLE} {some()}"),
        }


@asynccontextmanager
async def with_aiopg(url: str) -> AsyncIterator[Calls]:
    async with aiopg.create_pool(url, minsize=10, maxsize=10) as pool:

        async def run(sql: str, *params: Any) -> Any:
            async with pool.acquire() as connection, connection.cursor() as cursor:
                await cursor.execute(sql, params)
                return await cursor.fetchone()

        add = "INSERT INTO plain (title, priority, labels) VALUES (%s, %s, %s) RETURNING *"
        edit = "UPDATE plain SET title = %s, updated_at = now(), version = version + 1 WHERE id = %s RETURNING *"
        yield {
            "read": lambda: run("SELECT * FROM plain WHERE id = %s", some()),
            "add": lambda: run(add, TITLE, "high", LABELS),
            "edit": lambda: run(edit, f"{TITLE} {some()}", some()),
        }


ALL = {"taskctl": taskctl, "asyncpg": with_asyncpg, "aiopg": with_aiopg}


async def rate(call: Call, callers: int) -> float:
    """Return how many calls a second that many callers get done, each waiting for its own."""
    done = 0
    started = time.perf_counter()
    until = started + SECONDS

    async def go_on() -> None:
        nonlocal done
        while time.perf_counter() < until:
            await call()
            done += 1

    await asyncio.gather(*(go_on() for _ in range(callers)))
    return done / (time.perf_counter() - started)


async def main(url: str, rounds: int, names: list[str]) -> None:
    ask(url, PLAIN, "CREATE INDEX ON plain (status, id DESC)", FILL)
    async with open_tasks(url) as tasks:
        batch = Changeset(tuple(Add(NewTask(title=TITLE, priority="high", labels=LABELS)) for _ in range(500)))
        for _ in range(TASKS // 500):
            await tasks.write(batch)
    ask(url, "VACUUM ANALYZE")
    rates: dict[tuple[str, int, str], list[float]] = {}
    for _ in range(rounds):
        for callers in (CALLERS, 1):
            for name in names:
                for who, using in ALL.items():
                    async with using(url) as calls:
                        await asyncio.gather(*(calls[name]() for _ in range(callers)))  # connections are there, plans are made
                        rates.setdefault((name, callers, who), []).append(await rate(calls[name], callers))
    print(f"{f'medians of {rounds}':<18}" + "".join(f"{who:>10}" for who in ALL) + f"{'x asyncpg':>12}{'x aiopg':>10}")
    for name in names:
        for callers in (CALLERS, 1):
            found = {who: statistics.median(rates[name, callers, who]) for who in ALL}
            ratios = [found["taskctl"] / found[who] for who in ("asyncpg", "aiopg")]
            label = f"{name}, {callers} caller{'s' if callers > 1 else ''}"
            print(f"{label:<18}" + "".join(f"{found[who]:>10.0f}" for who in ALL) + "{:>12.2f}{:>10.2f}".format(*ratios))


if __name__ == "__main__":
    arguments = sys.argv[1:]
    given = int(arguments.pop(0)) if arguments and arguments[0].isdigit() else 5
    cluster = Cluster("fsync=on", "shared_buffers=256MB", "max_wal_size=2GB")
    try:
        asyncio.run(main(cluster.tasks(), given, arguments or ["read", "add", "edit"]))
    finally:
        cluster.close()
