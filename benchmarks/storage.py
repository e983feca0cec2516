"""How much the committer gains: adds per second from 64 concurrent callers, next to one caller at a time.

    python -m benchmarks.storage [ROUNDS]

Both write to the same kind of file with synchronous=FULL, in turn; printed are the medians and their ratio.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

from taskctl import NewTask, TaskService, open_tasks

CALLERS = 64
SECONDS = 2.0
"""How long each measurement goes on adding."""


async def rate(tasks: TaskService, callers: int) -> float:
    """Return how many adds a second that many callers get done, each waiting for its own."""
    added = 0
    until = time.perf_counter() + SECONDS

    async def call() -> None:
        nonlocal added
        while time.perf_counter() < until:
            await tasks.add(NewTask(title="Measure how long this takes", priority="high", labels=("bench",)))
            added += 1

    started = time.perf_counter()
    await asyncio.gather(*(call() for _ in range(callers)))
    return added / (time.perf_counter() - started)


async def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    rates: dict[int, list[float]] = {1: [], CALLERS: []}
    for _ in range(rounds):
        for callers, found in rates.items():
            with tempfile.TemporaryDirectory(prefix="taskctl-bench-") as folder:
                async with open_tasks(f"sqlite:///{Path(folder, 'tasks.db')}") as tasks:
                    found.append(await rate(tasks, callers))
    one, many = (statistics.median(found) for found in rates.values())
    print(f"adds per second, medians of {rounds}: one caller {one:.0f}, {CALLERS} callers {many:.0f}, ratio {many / one:.1f}")


if __name__ == "__main__":
    asyncio.run(main())
