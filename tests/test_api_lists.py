"""Lists over HTTP: what each parameter picks, in which order, page by page, and in whose time zone."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pytest_aiohttp import AiohttpClient
from yarl import URL

from taskctl import Settings, create_app
from tests.support import Api, added, problem_of

TASKS: list[dict[str, Any]] = [
    {"title": "Apples", "status": "todo", "priority": "high", "project": "home", "labels": ["errand"], "due": "2020-01-10"},
    {
        "title": "bread and Äpfel",
        "status": "in_progress",
        "priority": "low",
        "project": "home.kitchen",
        "labels": ["errand", "quick"],
    },
    {"title": "Call Zoë", "status": "done", "priority": "urgent", "project": "work", "due": "2020-01-20"},
    {"title": "Deploy", "status": "cancelled", "project": "work.api", "labels": ["quick"], "due": "2020-01-15T12:00:00Z"},
    {"title": "Every day", "priority": "medium", "project": "workshop", "due": "2999-01-01", "description": "one apple"},
]


@pytest.fixture
async def api(aiohttp_client: AiohttpClient, tmp_path: Path) -> Api:
    return await aiohttp_client(create_app(Settings(database_url=f"sqlite:///{tmp_path}/tasks.db")))


@pytest.fixture
async def filled(api: Api) -> Api:
    for task in TASKS:
        await added(api, **task)
    return api


async def listed(api: Api, query: str = "", *, zone: str | None = None) -> str:
    """Return the first letters of the titles of a list, in its order."""
    answer = await api.get(f"/api/v1/tasks?{query}", headers={"Prefer": f"timezone={zone}"} if zone else {})
    assert answer.status == 200, await answer.text()
    page = await answer.json()
    assert list(page) == ["items", "next_cursor"]
    return "".join(task["title"][0] for task in page["items"])


@pytest.mark.parametrize(
    ("query", "titles"),
    [
        ("", "EDCbA"),
        ("status=done", "C"),
        ("status=done&status=todo", "ECA"),
        ("label=errand", "bA"),
        ("label=errand&label=quick", "DbA"),
        ("project=home", "bA"),
        ("project=work", "DC"),
        ("project=home.kitchen&project=workshop", "Eb"),
        ("priority=urgent&priority=none", "DC"),
        ("due_before=2020-01-15", "A"),
        ("due_before=2020-01-16", "DA"),
        ("due_after=2020-01-14", "EDC"),
        ("due_after=2020-01-20", "E"),
        ("due_after=2020-01-09&due_before=2020-01-15T12:00:00Z", "A"),
        ("due_before=2020-01-15T12:00:00.000001Z", "DA"),
        ("due_after=today", "E"),
        ("overdue=true", "A"),
        ("overdue=false", "EDCb"),
        ("q=appl", "EA"),
        ("q=one+apple", "E"),
        ("q=%C3%84PFEL", "b"),
        ("q=%22every%20day%22", "E"),
        ("q=status:done", ""),
        ("filter=priority%3E%3Dhigh", "CA"),
        ("filter=project:work+or+label:errand", "DCbA"),
        ("filter=not+overdue+status:todo", "E"),
        ("status=todo&filter=apple&priority=medium", "E"),
        ("filter=", "EDCbA"),
        ("q=", "EDCbA"),
        ("sort=id", "AbCDE"),
        ("sort=title", "ACDEb"),
        ("sort=-title", "bEDCA"),
        ("sort=due", "ADCEb"),
        ("sort=-due", "ECDAb"),
        ("sort=-priority", "CAEbD"),
        ("sort=status,-id", "EAbCD"),
        ("sort=-updated_at&limit=2", "ED"),
        ("sort=created_at&limit=1", "A"),
    ],
)
async def test_the_parameters_pick_and_sort(filled: Api, query: str, titles: str) -> None:
    assert await listed(filled, query) == titles


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("status=open", "status"),
        ("status=todo&status=", "status"),
        ("priority=top", "priority"),
        ("due_before=soon", "due_before"),
        ("due_after=2020-13-01", "due_after"),
        ("overdue=yes", "overdue"),
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=-1", "limit"),
        ("limit=ten", "limit"),
        ("limit=", "limit"),
        ("limit=1&limit=2", "limit"),
        ("limit=%D9%A1", "limit"),
        ("q=a&q=b", "q"),
        ("sort=id&sort=title", "sort"),
        ("page=2", "page"),
        ("Status=todo", "Status"),
    ],
)
async def test_a_parameter_that_cannot_be_understood_is_named(api: Api, query: str, parameter: str) -> None:
    problem = await problem_of(await api.get(f"/api/v1/tasks?{query}"), 400, "invalid_request")
    assert problem["parameter"] == parameter
    assert parameter in problem["detail"]


@pytest.mark.parametrize("sort", ["", "colour", "--id", "id,-id", "id,", " id"])
async def test_a_sort_that_there_is_not_is_refused(api: Api, sort: str) -> None:
    await problem_of(await api.get("/api/v1/tasks", params={"sort": sort}), 400, "invalid_request")


@pytest.mark.parametrize(
    ("said", "position"),
    [("due<", 4), ("milk and", 8), ("colour:red", 0), ("status:todo (", 13), ("priority>=top", 10), ("ready", 0)],
)
async def test_a_mistake_in_a_filter_is_told_with_its_position(api: Api, said: str, position: int) -> None:
    problem = await problem_of(await api.get("/api/v1/tasks", params={"filter": said}), 400, "invalid_filter")
    assert problem["position"] == position
    assert problem["expected"]
    assert str(position) in problem["detail"]


async def test_limits_of_a_page(api: Api) -> None:
    operations = [{"op": "add", "task": {"title": f"T {n}"}} for n in range(250)]
    assert (await api.post("/api/v1/batch", json={"operations": operations})).status == 200
    for query, count in (("", 50), ("?limit=1", 1), ("?limit=200", 200)):
        page = await (await api.get(f"/api/v1/tasks{query}")).json()
        assert (len(page["items"]), page["next_cursor"] is None) == (count, False)


@pytest.mark.parametrize(
    ("query", "limit"), [("", 2), ("sort=-priority,due", 2), ("filter=project:home or project:work&sort=title", 1), ("q=appl", 1)]
)
async def test_links_lead_through_all_pages_to_the_end(filled: Api, query: str, limit: int) -> None:
    whole = await listed(filled, query)
    seen = ""
    answer = await filled.get(f"/api/v1/tasks?{query}&limit={limit}")
    while True:
        page = await answer.json()
        assert len(page["items"]) <= limit
        seen += "".join(task["title"][0] for task in page["items"])
        assert ("next" in answer.links) == (page["next_cursor"] is not None)
        if "next" not in answer.links:
            break
        answer = await filled.get(str(URL(answer.links["next"]["url"]).relative()))
    assert seen == whole
    assert len(whole) > limit


async def test_a_page_is_stable_when_tasks_are_added_and_removed_before_it(filled: Api) -> None:
    first = await (await filled.get("/api/v1/tasks?limit=2")).json()
    await added(filled, "Fresh")
    await filled.delete("/api/v1/tasks/5")
    assert await listed(filled, f"limit=2&cursor={first['next_cursor']}") == "Cb"


async def test_a_cursor_belongs_to_its_query(filled: Api) -> None:
    cursor = (await (await filled.get("/api/v1/tasks?limit=2&status=todo&status=done")).json())["next_cursor"]
    same = {"status": "done", "cursor": cursor}
    for params in (same, {"cursor": cursor}, {"cursor": "nonsense"}, {"cursor": cursor[:-2]}, {"cursor": ""}, {"cursor": "ü"}):
        await problem_of(await filled.get("/api/v1/tasks", params=params), 400, "invalid_request")
    params_of_now = [("status", "todo"), ("status", "done"), ("cursor", cursor)]
    zone = {"Prefer": "timezone=Asia/Tokyo"}
    await problem_of(await filled.get("/api/v1/tasks", params=params_of_now, headers=zone), 400, "invalid_request")
    assert (await filled.get("/api/v1/tasks", params=params_of_now)).status == 200


# ------------------------------------------------------------------------------------------------------------ time zones


async def test_a_day_is_over_when_it_has_ended_in_the_readers_zone(api: Api) -> None:
    # 25 hours and a bit lie between the two zones' clocks: this day has begun or not even that in one, and is over in the other.
    day = (datetime.now(UTC) - timedelta(hours=11)).date()
    await added(api, "A day", due=day.isoformat())
    west, east = "Etc/GMT+12", "Pacific/Kiritimati"
    assert await listed(api, "overdue=true", zone=west) == ""
    assert await listed(api, "overdue=true", zone=east) == "A"
    assert await listed(api, "filter=overdue", zone=east) == "A"
    assert await listed(api, "overdue=false", zone=west) == "A"
    overdue = [
        (await (await api.get("/api/v1/stats", headers={"Prefer": f"timezone={zone}"})).json())["overdue"]
        for zone in (west, east)
    ]
    assert overdue == [0, 1]


async def test_days_that_bound_instants_begin_in_the_readers_zone(api: Api) -> None:
    await added(api, "Instant", due="2026-12-01T02:00:00Z")
    await added(api, "Day", due="2026-11-30")
    for query in ("due_before=2026-12-01", "filter=due%3C2026-12-01"):
        assert await listed(api, query) == "D"
        assert await listed(api, query, zone="America/New_York") == "DI"
    assert await listed(api, "due_after=2026-11-30", zone="America/New_York") == ""
    assert await listed(api, "due_after=2026-11-30", zone="Asia/Tokyo") == "I"


async def test_relative_dates_are_seen_from_the_readers_day(api: Api) -> None:
    near, far = "Etc/GMT+12", "Pacific/Kiritimati"
    day = (datetime.now(UTC) - timedelta(hours=11)).date()
    await added(api, "Marked", due=day.isoformat())
    assert await listed(api, "filter=due%3Ctoday", zone=far) == "M"
    assert await listed(api, "filter=due%3Ctoday", zone=near) == ""


@pytest.mark.parametrize(
    "prefer",
    [
        'timezone="Asia/Tokyo"',
        "respond-async, timezone=Asia/Tokyo",
        "TimeZone=Asia/Tokyo",
        "return=minimal; x=y, timezone=Asia/Tokyo;a",
    ],
)
async def test_the_zone_is_found_among_other_preferences(api: Api, prefer: str) -> None:
    await added(api, "Instant", due="2026-11-30T16:00:00Z")
    answer = await api.get("/api/v1/tasks?due_after=2026-11-30", headers={"Prefer": prefer})
    assert len((await answer.json())["items"]) == 1


@pytest.mark.parametrize("zone", ["Mars/Olympus", "../../etc/passwd", "/etc/localtime", "Europe", "x" * 300])
async def test_a_zone_that_there_is_not_is_refused(api: Api, zone: str) -> None:
    for path in ("/api/v1/tasks", "/api/v1/stats"):
        answer = await api.get(path, headers={"Prefer": f"timezone={zone}"})
        await problem_of(answer, 400, "invalid_request")


async def test_stats_count_the_days_of_the_readers_zone(api: Api) -> None:
    await added(api, status="done")
    zones = {"Etc/GMT+12": -12, "UTC": 0, "Pacific/Kiritimati": 14}
    for zone, hours in zones.items():

        def today(hours: int = hours) -> date:
            return (datetime.now(UTC) + timedelta(hours=hours)).date()

        before = today()
        stats = await (await api.get("/api/v1/stats", headers={"Prefer": f"timezone={zone}"})).json()
        days = [date.fromisoformat(day["date"]) for day in stats["done_per_day"]]
        assert days[-1] in (before, today())
        assert days == [days[-1] - timedelta(days=ago) for ago in reversed(range(30))]
        assert sum(day["count"] for day in stats["done_per_day"]) == 1
