"""Lists: which tasks, in which order, page by page."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from taskctl import (
    Add,
    Changeset,
    Edit,
    InvalidRequest,
    NewTask,
    Page,
    Task,
    TaskPatch,
    TaskQuery,
    TaskService,
    parse_filter,
)
from taskctl.filters import LENGTH_MAX
from taskctl.tasks import Match
from tests.contract.told import Told, failure_of

Ask = Callable[[str | None, int], Awaitable[Page[Any]]]


async def add_all(tasks: TaskService, *members: dict[str, Any]) -> None:
    await tasks.write(Changeset(tuple(Add(NewTask(**{"title": "t", **one})) for one in members)))


async def ids(tasks: TaskService, text: str = "", *sort: str) -> list[int]:
    found = await tasks.list(TaskQuery(where=parse_filter(text), sort=sort or ("-id",), limit=None))
    return [task.id for task in found.items]


async def walk(ask: Ask, limit: int) -> list[list[Any]]:
    """Return all pages."""
    pages, cursor = [], None
    while True:
        page = await ask(cursor, limit)
        pages.append(list(page.items))
        assert len(pages) < 100
        if page.next_cursor is None:
            return pages
        cursor = page.next_cursor


async def test_an_empty_workspace_has_an_empty_list(tasks: TaskService) -> None:
    assert await tasks.list() == Page(())
    assert await tasks.list(TaskQuery(limit=None, where=parse_filter("milk"))) == Page(())


async def test_the_newest_fifty_are_listed_unless_more_is_asked_for(tasks: TaskService) -> None:
    await add_all(tasks, *[{}] * 250)
    page = await tasks.list()
    assert [task.id for task in page.items] == list(range(250, 200, -1))
    assert page.next_cursor is not None
    whole = await tasks.list(TaskQuery(limit=None))
    assert [task.id for task in whole.items] == list(range(250, 0, -1))
    assert whole.next_cursor is None
    most = await tasks.list(TaskQuery(limit=230))
    assert [task.id for task in most.items] == list(range(250, 20, -1))
    assert most.next_cursor is not None
    rest = await tasks.list(TaskQuery(limit=230, cursor=most.next_cursor))
    assert [task.id for task in rest.items] == list(range(20, 0, -1))


FILTERS: dict[str, list[int]] = {
    "status:todo": [6, 4, 3, 1],
    "status:done,in_progress": [5, 2],
    "not status:todo": [5, 2],
    "priority:urgent": [3],
    "priority>=medium": [3, 2],
    "priority<medium": [6, 5, 4, 1],
    "project:work": [4, 3, 2],
    "project:work.api": [4, 3],
    "project:none": [6, 5, 1],
    "-project:work": [6, 5, 1],
    'project:"work.api v2"': [],
    "label:home": [2, 1],
    "label:home,later": [3, 2, 1],
    "label:home label:later": [2],
    "label:none": [6, 5, 4],
    "label:none,later": [6, 5, 4, 3, 2],
    "not label:home": [6, 5, 4, 3],
    "due:none": [6, 5, 4, 3],
    "due<2030-01-01": [1],
    "due<=2030-01-01": [2, 1],
    "due:2030-01-01": [2],
    "due>2020-01-01": [2],
    "not due>2020-01-01": [6, 5, 4, 3, 1],
    "overdue": [1],
    "not overdue": [6, 5, 4, 3, 2],
    "id:1,3,99": [3, 1],
    "created_at>2020-01-01": [6, 5, 4, 3, 2, 1],
    "created_at<2020-01-01": [],
    "completed_at:none": [6, 4, 3, 2, 1],
    "not completed_at:none": [5],
    "started_at>2020-01-01": [2],
    "milk": [3, 1],
    "MIL": [3, 1],
    '"mil"': [],
    '"oat milk"': [3],
    "oat-mi": [3],
    '"milk oat"': [],
    "milk -oat": [1],
    "strasse": [5],
    "Straße": [5],
    "café": [6],
    "cafe": [],
    '"butter bread"': [],
    "butter bread": [4],
    "買": [6],
    '"買"': [],
    "(milk or straße) status:todo": [3, 1],
    "milk or status:done": [5, 3, 1],
}


@pytest.mark.parametrize(("text", "found"), FILTERS.items(), ids=FILTERS)
async def test_a_filter_picks_tasks(tasks: TaskService, text: str, found: list[int]) -> None:
    await add_all(
        tasks,
        {"title": "Buy milk", "labels": ["home"], "due": "2020-01-01"},
        {"status": "in_progress", "priority": "medium", "project": "work", "labels": ["home", "later"], "due": "2030-01-01"},
        {"title": "Oat milk, user@example.com", "priority": "urgent", "project": "work.api", "labels": ["later"]},
        {"title": "Toast & butter", "description": "Bread first", "project": "work.api.v2", "priority": "low"},
        {"title": "Lange Straße 5", "status": "done"},
        {"title": "Cafe\u0301", "description": "買牛奶"},
    )
    assert await ids(tasks, text) == found


async def test_a_project_takes_in_those_below_it_and_no_others(tasks: TaskService) -> None:
    names = ["work", "work.a", "work.a.b", "work-a", "work/", "work/a", "work0", "Work", "work.\U0010fffd", "wor", "é", "é.a"]
    await add_all(tasks, *({"project": name} for name in names))
    assert await ids(tasks, "project:work", "id") == [1, 2, 3, 9]
    assert await ids(tasks, "project:work.a", "id") == [2, 3]
    assert await ids(tasks, 'project:"work/"', "id") == [5]
    assert await ids(tasks, "project:é,wor", "id") == [10, 11, 12]


async def test_what_is_searched_follows_every_change(tasks: TaskService) -> None:
    await add_all(tasks, {"title": "apple"}, {"title": "pear", "description": "apple"}, {"title": "plum"})
    assert await ids(tasks, "apple") == [2, 1]
    await tasks.edit(1, TaskPatch(title="cherry"))
    await tasks.edit(3, TaskPatch(description="an apple tree"))
    assert await ids(tasks, "apple") == [3, 2]
    assert await ids(tasks, "cherry") == [1]
    await tasks.remove(2)
    await tasks.edit(3, TaskPatch(priority="low"))
    assert await ids(tasks, "apple") == [3]
    assert await ids(tasks, "plum") == [3]


async def test_what_is_labelled_follows_every_change(tasks: TaskService) -> None:
    await add_all(tasks, {"labels": ["a", "b"]}, {"labels": ["b"]})
    await tasks.write(Changeset((Edit(1, TaskPatch(labels=["a", "c"])), Edit(2, TaskPatch(labels=["a"])))))
    assert [await ids(tasks, f"label:{label}") for label in "abc"] == [[2, 1], [], [1]]
    await tasks.remove(1)
    assert [await ids(tasks, f"label:{label}") for label in "abc"] == [[2], [], []]


SORTED: dict[tuple[str, ...], list[int]] = {
    ("id",): [1, 2, 3, 4, 5],
    ("-id",): [5, 4, 3, 2, 1],
    ("title",): [2, 1, 3, 5, 4],
    ("-title",): [4, 5, 3, 1, 2],
    ("status",): [3, 2, 1, 4, 5],
    ("-status",): [5, 4, 1, 2, 3],
    ("priority",): [2, 3, 5, 1, 4],
    ("-priority",): [4, 1, 5, 3, 2],
    ("due",): [4, 2, 1, 3, 5],
    ("-due",): [1, 2, 4, 5, 3],
    ("-due", "id"): [1, 2, 4, 3, 5],
    ("-priority", "due", "id"): [4, 1, 3, 5, 2],
    ("status", "-title"): [3, 2, 4, 1, 5],
    ("created_at",): [1, 2, 3, 4, 5],
    ("-created_at",): [5, 4, 3, 2, 1],
    ("-created_at", "id"): [1, 2, 3, 4, 5],
    ("updated_at",): [2, 3, 5, 1, 4],
    ("-updated_at",): [4, 1, 5, 3, 2],
}


@pytest.mark.parametrize(("sort", "found"), SORTED.items(), ids=[",".join(sort) for sort in SORTED])
async def test_a_list_is_sorted_as_asked(tasks: TaskService, sort: tuple[str, ...], found: list[int]) -> None:
    await add_all(
        tasks,
        {"title": "a", "status": "done", "priority": "high", "due": "2030-01-02"},
        {"title": "Z", "status": "in_progress", "due": "2030-01-01"},
        {"title": "é", "priority": "low"},
        {"title": "😀", "status": "done", "priority": "high", "due": "2030-01-01T23:59:59.999999Z"},
        {"title": "é", "status": "cancelled", "priority": "low"},
    )
    await tasks.edit(1, TaskPatch(title="A"))
    await tasks.edit(1, TaskPatch(title="a", priority="medium"))
    await tasks.edit(1, TaskPatch(priority="high"))
    await tasks.write(Changeset((Edit(4, TaskPatch(priority="urgent")), Edit(1, TaskPatch(description="x")))))
    assert await ids(tasks, "", *sort) == found


async def test_without_any_key_the_id_alone_sorts(tasks: TaskService) -> None:
    await add_all(tasks, {}, {}, {})
    assert [task.id for task in (await tasks.list(TaskQuery(sort=()))).items] == [1, 2, 3]


@pytest.mark.parametrize(
    "sort", [("-id",), ("id",), ("title",), ("-due",), ("due", "-id"), ("-priority", "due", "id"), ("updated_at",)]
)
@pytest.mark.parametrize("limit", [1, 3, 7])
async def test_pages_neither_skip_nor_repeat(tasks: TaskService, sort: tuple[str, ...], limit: int) -> None:
    dues = [None, "2030-01-01", "2030-01-01T12:00:00Z", "2029-01-01"]
    priorities = ["none", "high", "high", "low", "urgent"]
    await add_all(tasks, *({"title": f"t{n % 3}", "due": dues[n % 4], "priority": priorities[n % 5]} for n in range(20)))
    pages = await walk(lambda cursor, n: tasks.list(TaskQuery(sort=sort, limit=n, cursor=cursor)), limit)
    assert all(len(page) == limit for page in pages[:-1])
    assert [task.id for page in pages for task in page] == await ids(tasks, "", *sort)


async def test_pages_stand_still_while_tasks_come_and_go(tasks: TaskService) -> None:
    await add_all(tasks, *({"title": f"{n:02}"} for n in range(1, 21)))
    for sort in (("-id",), ("title",)):
        before = [task.id for task in (await tasks.list(TaskQuery(sort=sort, limit=None))).items]
        seen: list[Task] = []
        removed: set[int] = set()
        cursor = None
        while True:
            page = await tasks.list(TaskQuery(sort=sort, limit=3, cursor=cursor))
            seen += page.items
            assert len(seen) < 300
            if page.next_cursor is None:
                break
            cursor = page.next_cursor
            # One comes before everything, one where we stand; one that was seen goes.
            await add_all(tasks, {"title": "00"}, {"title": page.items[-1].title})
            await tasks.remove(page.items[0].id)
            removed.add(page.items[0].id)
        got = [task.id for task in seen]
        assert len(set(got)) == len(got)
        assert [id for id in got if id in before] == before


@pytest.mark.parametrize(
    ("text", "sort"),
    [
        ("", ("-id",)),
        ("", ("title",)),
        ("", ("-due",)),
        ("status:todo", ("-id",)),
        ("label:home milk", ("due",)),
        ("label:home", ("-priority", "title")),
        ("milk", ("-created_at",)),
    ],
)
async def test_pages_neither_skip_nor_repeat_while_others_add(tasks: TaskService, text: str, sort: tuple[str, ...]) -> None:
    def one(n: int) -> dict[str, Any]:
        due = None if n % 3 == 0 else f"2030-01-{n % 5 + 1:02}"
        priority = ("none", "high", "low")[n % 3]
        return {"title": f"{n * 7 % 40:02} milk", "due": due, "priority": priority, "labels": ["home"]}

    await add_all(tasks, *map(one, range(60)))
    before = await ids(tasks, text, *sort)
    walked = asyncio.Event()

    async def add(name: int) -> int:
        n = 0
        while n < 100 and not walked.is_set():  # the walk must end, however quickly others add before it
            await tasks.add(NewTask(**one(name + 4 * n)))
            n += 1
        return n

    adding = [asyncio.create_task(add(name)) for name in range(4)]
    where, seen, cursor = parse_filter(text), [], None
    try:
        while True:
            page = await tasks.list(TaskQuery(where=where, sort=sort, limit=3, cursor=cursor))
            seen += [task.id for task in page.items]
            # The walk must end, however quickly others add behind it.
            if page.next_cursor is None or set(before) <= set(seen):
                break
            cursor = page.next_cursor
    finally:
        walked.set()
        added = sum(await asyncio.gather(*adding))
    assert added > 0
    assert len(set(seen)) == len(seen)
    assert [id for id in seen if id in set(before)] == before


async def test_a_page_that_ends_the_list_exactly_has_no_next(tasks: TaskService) -> None:
    await add_all(tasks, {}, {}, {}, {})
    first = await tasks.list(TaskQuery(limit=2))
    second = await tasks.list(TaskQuery(limit=2, cursor=first.next_cursor))
    assert (len(second.items), second.next_cursor) == (2, None)


NOT_OF_IT: Told = (InvalidRequest, "the cursor does not belong to this query; start again without it", {})


async def test_a_cursor_belongs_to_its_query(tasks: TaskService) -> None:
    await add_all(tasks, *[{}] * 5)
    where = parse_filter("status:todo")
    cursor = (await tasks.list(TaskQuery(where=where, limit=2))).next_cursor
    assert cursor is not None
    for other in (
        TaskQuery(cursor=cursor),
        TaskQuery(where=parse_filter("status:done"), cursor=cursor),
        TaskQuery(where=where, sort=("id",), cursor=cursor),
        TaskQuery(where=where, sort=("-id", "title"), cursor=cursor),
        TaskQuery(where=where, zone="Europe/Berlin", cursor=cursor),
    ):
        assert await failure_of(tasks.list(other)) == NOT_OF_IT
    assert await failure_of(tasks.history(1, cursor=cursor)) == NOT_OF_IT
    # How many are wanted is not what is asked.
    assert [task.id for task in (await tasks.list(TaskQuery(where=where, limit=9, cursor=cursor))).items] == [3, 2, 1]


@pytest.mark.parametrize(
    "cursor", ["", "x", "🚀", "AAAA", "W10", "bnVsbA", "a" * 2000, "==", "\x00", "W251bGwsbnVsbF0"], ids=ascii
)
async def test_what_is_no_cursor_is_refused(tasks: TaskService, cursor: str) -> None:
    await add_all(tasks, {})
    assert await failure_of(tasks.list(TaskQuery(cursor=cursor))) == NOT_OF_IT
    assert await failure_of(tasks.history(1, cursor=cursor)) == NOT_OF_IT


async def test_a_zone_that_there_is_not_is_refused(tasks: TaskService) -> None:
    unknown: Told = (InvalidRequest, "there is no time zone 'Mars/Olympus'; a name such as Europe/Berlin or UTC was expected", {})
    assert await failure_of(tasks.list(TaskQuery(zone="Mars/Olympus"))) == unknown
    assert await failure_of(tasks.stats(zone="Mars/Olympus")) == unknown


async def test_days_are_those_of_the_readers_zone(tasks: TaskService) -> None:
    await add_all(tasks, {"due": "2030-06-01T23:00:00Z"}, {"due": "2030-06-01"}, {"due": "2030-06-02T01:00:00Z"})
    where = parse_filter("due<2030-06-02")
    for zone, found in (("UTC", [1, 2]), ("Europe/Berlin", [2]), ("America/New_York", [1, 2, 3])):
        page = await tasks.list(TaskQuery(where=where, zone=zone, sort=("id",)))
        assert [task.id for task in page.items] == found


async def test_a_nul_is_refused_before_a_database_sees_it(tasks: TaskService) -> None:
    for field in ("label", "project"):
        with pytest.raises(InvalidRequest, match="NUL"):
            await tasks.list(TaskQuery(where=Match(field, ("a\0b",))))


async def test_a_filter_may_be_as_long_as_it_may_be(tasks: TaskService) -> None:
    await add_all(tasks, {}, {}, {})
    words = "молоко" * ((LENGTH_MAX - len('not ""')) // 6)
    page = await tasks.list(TaskQuery(where=parse_filter(f'not "{words}"'), limit=2))
    assert [task.id for task in page.items] == [3, 2]
    rest = await tasks.list(TaskQuery(where=parse_filter(f'not "{words}"'), limit=2, cursor=page.next_cursor))
    assert [task.id for task in rest.items] == [1]
