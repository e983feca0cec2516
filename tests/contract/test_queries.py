"""Any tasks, any condition, any order: what a database answers is what `matches` and the documented order say."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taskctl import Add, Changeset, Edit, InvalidRequest, NewTask, Task, TaskPatch, TaskQuery, TaskService
from taskctl.conditions import Condition
from taskctl.fields import PRIORITIES, STATUSES
from taskctl.filters import matches
from tests.contract.stacks import Stack
from tests.strategies import conditions, examples, new_tasks, patches, sorts, zones

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def due_rank(task: Task) -> timedelta:
    """Return how a due sorts: a day as its end in UTC. Days later than any due of these tests stand for none."""
    due = task.due
    assert due is not None
    if isinstance(due, datetime):
        return due - _EPOCH
    return datetime(due.year, due.month, due.day, tzinfo=UTC) + timedelta(days=1) - _EPOCH


def sort_key(name: str, task: Task) -> Any:
    match name:
        case "status":
            return STATUSES.index(task.status)
        case "priority":
            return PRIORITIES.index(task.priority)
        case _:
            return getattr(task, name)


def documented_order(tasks: list[Task], sort: tuple[str, ...]) -> list[int]:
    """Return the ids in the order that the contract promises, by stable sorts from the last key to the first."""
    found = sorted(tasks, key=lambda task: task.id, reverse=bool(sort) and sort[-1].startswith("-"))
    for word in reversed(sort):
        name, descending = word.removeprefix("-"), word.startswith("-")
        if name == "due":
            some = [task for task in found if task.due is not None]
            found = [*sorted(some, key=due_rank, reverse=descending), *(task for task in found if task.due is None)]
        else:
            found = sorted(found, key=lambda task: sort_key(name, task), reverse=descending)
    return [task.id for task in found]


IDS = st.integers(1, 11)
QUESTIONS = st.lists(st.tuples(conditions(IDS), sorts, zones, st.integers(1, 4)), min_size=1, max_size=5)


@settings(examples(0.7), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    new=st.lists(new_tasks, min_size=1, max_size=10),
    edits=st.lists(st.builds(Edit, IDS, patches), max_size=5),
    questions=QUESTIONS,
)
async def test_a_list_is_what_its_condition_and_its_order_say(
    stack: Stack, new: list[NewTask], edits: list[Edit], questions: list[tuple[Condition, tuple[str, ...], str, int]]
) -> None:
    with TemporaryDirectory() as folder:
        async with stack.open(Path(folder)) as tasks:
            await tasks.write(Changeset((*map(Add, new), *edits), atomic=False))
            full = list((await tasks.list(TaskQuery(limit=None))).items)
            assert len(full) == len(new)
            for where, sort, zone, limit in questions:
                query = TaskQuery(where=where, sort=sort, limit=None, zone=zone)
                found = [task.id for task in (await tasks.list(query)).items]
                now = datetime.now(UTC)
                expected = [task for task in full if matches(task, where, zone=ZoneInfo(zone), now=now)]
                assert found == documented_order(expected, sort)
                assert found == await by_pages(tasks, query, limit)


async def by_pages(tasks: TaskService, query: TaskQuery, limit: int) -> list[int]:
    found: list[int] = []
    cursor = None
    while True:
        page = await tasks.list(TaskQuery(where=query.where, sort=query.sort, limit=limit, cursor=cursor, zone=query.zone))
        found += [task.id for task in page.items]
        assert len(found) < 100
        if page.next_cursor is None:
            return found
        cursor = page.next_cursor


@settings(examples(0.5), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(cursor=st.text() | st.text("ABCabcWyIsMTIzNDU2Nzg5MF0=_-", max_size=60), cut=st.integers(0, 60))
async def test_any_text_for_a_cursor_is_a_place_or_refused(tasks: TaskService, cursor: str, cut: int) -> None:
    if not (await tasks.list()).items:
        await tasks.write(Changeset((Add(NewTask(title="a")), Add(NewTask(title="b")), Edit(1, TaskPatch(title="c")))))
    real = (await tasks.list(TaskQuery(limit=1))).next_cursor
    assert real is not None
    for text in (cursor, real[:cut] + cursor, real[:cut] + cursor + real[cut + 1 :]):
        try:
            page = await tasks.list(TaskQuery(limit=1, cursor=text))
        except InvalidRequest:
            continue
        assert all(task.id in (1, 2) for task in page.items)
