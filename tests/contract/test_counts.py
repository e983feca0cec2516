"""What is counted: projects, labels, and the workspace in numbers."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from taskctl import Add, Changeset, NewTask, TaskPatch, TaskService
from taskctl.tasks import Tallies


async def add_all(tasks: TaskService, *members: dict[str, Any]) -> None:
    await tasks.write(Changeset(tuple(Add(NewTask(**{"title": "t", **one})) for one in members)))


def counted(tallies: Tallies) -> list[tuple[str, list[int]]]:
    for tally in tallies.items:
        assert list(tally.counts) == ["todo", "in_progress", "done", "cancelled"]
    return [(tally.name, list(tally.counts.values())) for tally in tallies.items]


async def test_an_empty_workspace_counts_nothing(tasks: TaskService) -> None:
    assert (await tasks.projects()).items == (await tasks.labels()).items == ()
    stats = await tasks.stats()
    assert stats.counts == {"todo": 0, "in_progress": 0, "done": 0, "cancelled": 0}
    assert (stats.overdue, sum(day.count for day in stats.done_per_day)) == (0, 0)


async def test_projects_are_counted_by_status_each_by_itself(tasks: TaskService) -> None:
    await add_all(
        tasks,
        {"project": "work"},
        {"project": "work", "status": "done"},
        {"project": "work.api", "status": "in_progress"},
        {"project": "Zoo"},
        {"project": "été"},
        {},
    )
    assert counted(await tasks.projects()) == [
        ("Zoo", [1, 0, 0, 0]),
        ("work", [1, 0, 1, 0]),
        ("work.api", [0, 1, 0, 0]),
        ("été", [1, 0, 0, 0]),
    ]
    await tasks.edit(3, TaskPatch(project="work", status="cancelled"))
    await tasks.remove(4)
    assert counted(await tasks.projects()) == [("work", [1, 0, 1, 1]), ("été", [1, 0, 0, 0])]


async def test_labels_are_counted_by_status(tasks: TaskService) -> None:
    await add_all(tasks, {"labels": ["b", "a"]}, {"labels": ["b"], "status": "done"}, {"labels": ["😀", "\uffee"]}, {})
    assert counted(await tasks.labels()) == [
        ("a", [1, 0, 0, 0]),
        ("b", [1, 0, 1, 0]),
        ("\uffee", [1, 0, 0, 0]),
        ("😀", [1, 0, 0, 0]),
    ]
    await tasks.edit(1, TaskPatch(labels=["a"], status="cancelled"))
    await tasks.remove(3)
    assert counted(await tasks.labels()) == [("a", [0, 0, 0, 1]), ("b", [0, 0, 1, 0])]


async def test_the_overdue_are_the_open_ones_past_their_due(tasks: TaskService) -> None:
    await add_all(
        tasks,
        {"due": "2020-01-01"},
        {"due": "2020-01-01T00:00:00Z", "status": "in_progress"},
        {"due": "2020-01-01", "status": "done"},
        {"due": "2020-01-01", "status": "cancelled"},
        {"due": "2090-01-01"},
        {},
    )
    stats = await tasks.stats()
    assert stats.counts == {"todo": 3, "in_progress": 1, "done": 1, "cancelled": 1}
    assert stats.overdue == 2


async def test_a_day_is_overdue_only_after_it_has_ended_in_the_readers_zone(tasks: TaskService) -> None:
    # 26 hours lie between these zones, so this day has always ended in the one and never in the other.
    earliest, latest = "Pacific/Kiritimati", "Etc/GMT+12"
    ended = datetime.now(ZoneInfo(earliest)).date() - timedelta(days=1)
    await add_all(tasks, {"due": ended})
    assert (await tasks.stats(zone=earliest)).overdue == 1
    assert (await tasks.stats(zone=latest)).overdue == 0


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu", "America/Havana", "Pacific/Kiritimati", "Etc/GMT+12"])
async def test_the_completed_are_counted_for_thirty_days_of_the_readers_zone(tasks: TaskService, zone: str) -> None:
    await add_all(tasks, {"status": "done"}, {"status": "done"}, {}, {"status": "cancelled"})
    done = [await tasks.edit(3, TaskPatch(status="done")), await tasks.get(1), await tasks.get(2)]
    await tasks.edit(2, TaskPatch(status="todo"))
    asked = datetime.now(UTC).astimezone(ZoneInfo(zone)).date()
    days = (await tasks.stats(zone=zone)).done_per_day
    assert len(days) == 30
    assert [day.date for day in days] == [days[-1].date - timedelta(days=ago) for ago in reversed(range(30))]
    assert days[-1].date - asked in (timedelta(0), timedelta(1))  # midnight may pass meanwhile
    expected = dict.fromkeys((day.date for day in days), 0)
    for task in (done[0], done[1]):
        assert task.completed_at is not None
        expected[task.completed_at.astimezone(ZoneInfo(zone)).date()] += 1
    assert {day.date: day.count for day in days} == expected
