"""The `tasks` of every stack, and the promise that closing a service leaves nothing behind."""

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from taskctl import TaskService
from tests.contract.stacks import STACKS, Stack


@pytest.fixture(params=list(STACKS.values()), ids=list(STACKS))
def stack(request: pytest.FixtureRequest) -> Stack:
    """Return each of the stacks in turn."""
    chosen: Stack = request.param
    return chosen


def _open_files() -> Counter[str]:
    found: Counter[str] = Counter()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found[str(entry.readlink())] += 1
        except FileNotFoundError:  # the one that listed the folder
            continue
    return found


def _others() -> set[asyncio.Task[object]]:
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}


def _threads() -> set[str]:
    """Return the names of the threads, but for those that belong to the event loop."""
    return {thread.name for thread in threading.enumerate() if not thread.name.startswith("asyncio_")}


async def _left(files: Counter[str], running: set[asyncio.Task[object]], threads: set[str]) -> list[str]:
    """Return what is open or runs now and did not before. Transports close in the loop's next turns, so it gets some."""
    left: list[str] = []
    for _ in range(100):
        left = [*(_open_files() - files), *map(repr, _others() - running), *(_threads() - threads)]
        if not left:
            break
        await asyncio.sleep(0.01)
    return left


@pytest_asyncio.fixture
async def tasks(stack: Stack, tmp_path: Path) -> AsyncIterator[TaskService]:
    """Yield the service of a stack, with nothing in it, and see that nothing is left of it."""
    files, running, threads = _open_files(), _others(), _threads()
    async with stack.open(tmp_path) as opened:
        yield opened
    assert await _left(files, running, threads) == []
