"""Lists: which tasks, in which order, page by page."""

import asyncio
import itertools
import re
from collections.abc import Awaitable, Callable
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from taskctl import (
    Add,
    Changeset,
    Edit,
    InvalidRequest,
    NewTask,
    Page,
    Task,
    TaskctlError,
    TaskPatch,
    TaskQuery,
    TaskService,
    open_tasks,
    parse_filter,
)
from taskctl.conditions import DEPTH_MAX, LENGTH_MAX, TERMS_MAX, And, Compare, Condition, Match, Not, Or, Overdue, Text
from taskctl.tasks import ChangesSince, GetStats, GetTask, History, Query
from tests.contract.told import Told, failure_of, told

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


NOT_OF_IT: Told = (InvalidRequest, "the cursor does not belong to this query; start again without it", {"parameter": "cursor"})


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


# ------------------------------------------------------------------------------------- what can be asked, here as over HTTP


def days(*fields: str) -> Condition:
    return And(tuple(Compare(field, "<", date(2030, 1, 1)) for field in fields))  # type: ignore[arg-type]


def nested(depth: int) -> Condition:
    where: Condition = Overdue()
    for number in range(depth):
        where = Not(where) if number % 2 else Or((where, Overdue()))
    return where


NO_QUESTIONS: dict[str, tuple[Callable[[], object], str]] = {
    **{
        f"zone {zone!r}": (make, "there is no time zone")
        for zone in ("", "UTC, return=minimal", 'Eur"ope', "UTC\r\nX-Evil: y", "a b", "é", "x" * 101, "\0", None)
        for make in (lambda zone=zone: TaskQuery(zone=zone), lambda zone=zone: GetStats(zone=zone))
    },
    "no status": (lambda: Match("status", ("nope",)), "status must be one of todo, "),
    "a status of none": (lambda: Match("status", (None,)), "status must be a text"),
    "no priority": (lambda: Match("priority", ("x",)), "priority must be one of none, "),
    "no order of priorities": (lambda: Compare("priority", "<", "zz"), "priority must be one of none, "),
    "no id": (lambda: Match("id", ("x",)), "id cannot be matched with 'x'"),
    "true as an id": (lambda: Match("id", (True,)), "id cannot be matched with True"),
    "an id below zero": (lambda: Match("id", (-1,)), "id cannot be matched with -1"),
    "a large id": (lambda: Match("id", (10**18,)), "id cannot be matched with 1000"),
    "a label of two lines": (lambda: Match("label", ("a\nb",)), "label must not contain a line break"),
    "half a character": (lambda: Match("label", ("\ud800",)), "label must not contain a lone surrogate"),
    "no label": (lambda: Match("label", ("",)), "label must not be empty"),
    "a long label": (lambda: Match("label", ("x" * 61,)), "label must be at most 60 characters"),
    "a broken project": (lambda: Match("project", ("a..b",)), "project must not have an empty part"),
    "a NUL": (lambda: Match("project", ("a\0",)), "no project has a NUL in it"),
    "a due that is matched": (lambda: Match("due", ("2026-12-01",)), "due cannot be matched"),
    "another field": (lambda: Match("title", ("a",)), "title cannot be matched"),  # type: ignore[arg-type]
    "many values": (lambda: Match("label", tuple(map(str, range(TERMS_MAX + 1)))), "label has more than 100 values"),
    "no date": (lambda: Compare("due", "<", "2026-12-01"), "due cannot be compared with '2026-12-01'"),
    "a time without its zone": (lambda: Compare("due", "<", datetime(2026, 12, 1)), "due must have a zone"),
    "another order": (lambda: Compare("title", "<", date(2026, 12, 1)), "title cannot be compared"),  # type: ignore[arg-type]
    "another comparison": (lambda: Compare("due", "=", date(2026, 12, 1)), "a comparison is one of"),  # type: ignore[arg-type]
    "no words": (lambda: Text((), prefix=True), "needs a letter or a digit"),
    "an empty word": (lambda: Text(("a", ""), prefix=True), "needs a letter or a digit"),
    "a word of nothing": (lambda: Text(("--",), prefix=True), "needs a letter or a digit"),
    "much text": (lambda: TaskQuery(where=Text(("x" * (LENGTH_MAX + 1),), prefix=True)), "at most 4096 characters as a filter"),
    "too deep": (lambda: TaskQuery(where=nested(2 * DEPTH_MAX)), "nested at most 32 deep"),
    "very deep": (lambda: TaskQuery(where=nested(100_000)), "nested at most 32 deep"),
    "many terms": (lambda: TaskQuery(where=Or((Overdue(),) * (TERMS_MAX + 1))), "at most 100 terms and values"),
    "many terms beside a status": (
        lambda: TaskQuery(where=And((Match("status", ("todo",)), Or((Overdue(),) * (TERMS_MAX + 1))))),
        "at most 100 terms and values",
    ),
    "a stranger": (lambda: TaskQuery(where=Not("a")), "where must be a condition"),  # type: ignore[arg-type]
    "a long cursor": (lambda: TaskQuery(cursor="a" * 100_000), "the cursor does not belong to this query"),
    "a long cursor of a history": (lambda: History(id=1, cursor="a" * 100_000), "the cursor does not belong to this query"),
    "a long epoch": (lambda: ChangesSince(epoch="a" * 100_000), "no epoch is longer"),
    "a long since": (lambda: ChangesSince(since=10**40), "at most 40 digits"),
    "a long id": (lambda: GetTask(10**40), "at most 40 digits"),
    "a long id of a history": (lambda: History(id=-(10**40)), "at most 40 digits"),
}


@pytest.mark.parametrize(("make", "words"), NO_QUESTIONS.values(), ids=NO_QUESTIONS)
def test_what_cannot_be_asked_over_http_cannot_be_asked_here(make: Callable[[], object], words: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(words)):
        make()


QUESTIONS: dict[str, Query[Any]] = {
    "many ids": TaskQuery(where=Match("id", tuple(range(10**17, 10**17 + TERMS_MAX)))),
    "many labels": TaskQuery(where=Match("label", tuple(f'"{n}\\' for n in range(TERMS_MAX)))),
    "many terms": TaskQuery(where=And((Or((Overdue(),) * 50), Not(And((Overdue(),) * 50))))),
    "many days": TaskQuery(where=Or((days("due", "created_at"), *[And((days("due"), Text(("a",), prefix=True)))] * 40))),
    "deep": TaskQuery(where=nested(22)),
    "deep without a parenthesis": TaskQuery(where=Or((And((Not(Overdue()), Or((days("due", "created_at"),)))), Overdue()))),
    "a status and much else": TaskQuery(where=And((Match("status", ("todo",) * 100), Or((Overdue(),) * TERMS_MAX)))),
    "a status alone": TaskQuery(where=And((Match("status", ("todo",)),))),
    "one of one": TaskQuery(where=Or((And((Overdue(),)),))),
    "words": TaskQuery(where=Text(("x" * LENGTH_MAX,), prefix=True)),
    "words as they are written": TaskQuery(where=Text(("FOO Bar", "Straße"), prefix=False)),
    "a label of two characters": TaskQuery(where=Match("label", ("e\u0301",))),
    "a moment elsewhere": TaskQuery(where=Compare("due", "<", datetime(2030, 1, 1, tzinfo=timezone(timedelta(hours=5))))),
    "a zone": TaskQuery(zone="America/Argentina/Buenos_Aires"),
    "another zone": GetStats(zone="Etc/GMT+5"),
    "no zone": TaskQuery(zone="Mars/Olympus"),
    "a long cursor": TaskQuery(cursor="a" * 8192),
    "a long epoch": ChangesSince(epoch="a" * 1000),
    "an epoch of anything": ChangesSince(epoch="é\0 ,"),
    "a since that is far away": ChangesSince(since=10**40 - 1),
    "an id that is far away": GetTask(10**40 - 1),
}


@pytest.mark.parametrize("query", QUESTIONS.values(), ids=QUESTIONS)
async def test_what_can_be_asked_is_answered_alike(tasks: TaskService, query: Query[Any], tmp_path: Path) -> None:
    """Not only by the same rules: the very same tasks, numbers, or failure, as from a file here."""
    outcomes: list[Any] = []
    async with open_tasks(f"sqlite:///{tmp_path}/here.db") as here:
        for one in (tasks, here):
            uid = UUID(int=7)
            await add_all(one, {"title": "foo bar strasse", "labels": ["é"], "due": "2029-12-31", "uid": uid}, {"title": "a"})
            try:
                answer = await one.read(query)
                ids = [task.id for task in answer.items] if isinstance(answer, Page) else answer
                outcomes.append(("answer", ids, getattr(answer, "next_cursor", None)))
            except TaskctlError as e:
                kind, words, extra = told(e)
                outcomes.append((kind, words, {**extra, "epoch": None} if "epoch" in extra else extra))
    assert outcomes[0] == outcomes[1]


async def test_how_new_an_answer_must_be_is_a_text(tasks: TaskService) -> None:
    wrong: list[Any] = [5, None, b"e.1", ("e", 1)]
    questions: list[Query[Any]] = [TaskQuery(), GetTask(1), GetStats()]
    for at, query in itertools.product(wrong, questions):
        words = f"at is a text, the `at` of an answer or of something written, not {at!r}"
        assert await failure_of(tasks.ask(query, at=at)) == (InvalidRequest, words, {})
    assert (await tasks.list()).items == ()


async def test_a_place_in_no_log_is_passed_over(tasks: TaskService) -> None:
    task = await tasks.add(NewTask(title="a"))
    for at in ("5", "e", ".", "é.1", "e.\u0663", "e\n.1", "\0", "\udcff", "a" * 10_000):
        for _ in range(2):
            read = await tasks.ask(TaskQuery(), at=at)
            assert read.value.items == (task,)
            assert (await tasks.ask(TaskQuery(), at=read.at)).value == read.value
