"""Writes that are sent again, preferences, and what the headers say of an answer."""

import asyncio
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import ClientResponse
from pytest_aiohttp import AiohttpClient

from taskctl import Settings, create_app
from tests.postgres import database
from tests.support import Api, Shell, added, problem_of, serving

KEY = {"Idempotency-Key": "01936f0c-7a3e"}
TASKS = "/api/v1/tasks"
WHOLE = dict.fromkeys(("description", "project", "due")) | {"title": "w", "status": "todo", "priority": "low", "labels": []}


@pytest.fixture
async def api(aiohttp_client: AiohttpClient, tmp_path: Path) -> Api:
    return await aiohttp_client(create_app(Settings(database_url=f"sqlite:///{tmp_path}/tasks.db")))


async def said(answer: ClientResponse) -> tuple[int, bytes, dict[str, str | None]]:
    names = ("ETag", "Location", "Content-Type", "X-Taskctl-Seq", "Preference-Applied")
    return answer.status, await answer.read(), {name: answer.headers.get(name) for name in names}


async def entries(api: Api) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await (await api.get("/api/v1/changes?limit=1000")).json())["items"]
    return found


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"),
    [
        ("POST", TASKS, {"title": "new"}, {}, 201),
        ("POST", TASKS, {"title": "new"}, {"Prefer": "return=minimal"}, 201),
        ("PATCH", f"{TASKS}/1", {"title": "changed"}, {"If-Match": '"1"'}, 200),
        ("PATCH", f"{TASKS}/1", {"title": "changed"}, {"If-Match": '"1", "2"'}, 200),
        ("PUT", f"{TASKS}/1", WHOLE, {}, 200),
        ("PUT", f"{TASKS}/1", WHOLE, {"Prefer": "return=minimal"}, 204),
        ("DELETE", f"{TASKS}/1", None, {"If-Match": '"1", "2"'}, 204),
        ("POST", "/api/v1/batch", {"operations": [{"op": "remove", "id": 1}, {"op": "add", "task": {"title": "b"}}]}, {}, 200),
    ],
)
async def test_what_is_sent_again_gets_the_first_answer(
    api: Api, method: str, path: str, body: Any, headers: dict[str, str], status: int
) -> None:
    await added(api)
    first = await api.request(method, path, json=body, headers={**KEY, **headers})
    count = len(await entries(api))
    await added(api, "another")
    again = await api.request(method, path, json=body, headers={**KEY, **headers})
    assert first.status == status
    assert await said(again) == await said(first)
    assert first.headers.get("Idempotency-Replayed") is None
    assert again.headers["Idempotency-Replayed"] == "true"
    assert len(await entries(api)) == count + 1


@pytest.mark.parametrize(
    ("method", "path", "body", "headers"),
    [
        ("POST", TASKS, {"title": "b"}, {}),
        ("POST", TASKS, {"title": "a "}, {}),
        ("POST", f"{TASKS}?dry_run=false", {"title": "a"}, {}),
        ("POST", TASKS, {"title": "a"}, {"Prefer": "return=minimal"}),
        ("PATCH", f"{TASKS}/1", {"title": "a"}, {}),
        ("DELETE", f"{TASKS}/1", None, {}),
    ],
)
async def test_a_key_of_another_request_is_422(api: Api, method: str, path: str, body: Any, headers: dict[str, str]) -> None:
    assert (await api.post(TASKS, json={"title": "a"}, headers=KEY)).status == 201
    before = await entries(api)
    again = await api.request(method, path, json=body, headers={**KEY, **headers})
    assert not (await problem_of(again, 422, "idempotency_mismatch"))["retryable"]
    assert await entries(api) == before


async def test_a_condition_is_a_part_of_the_request(api: Api) -> None:
    await added(api)
    for tag, status in (('"1"', 200), ('"2"', 422), ('"1"', 200)):
        answer = await api.patch(f"{TASKS}/1", json={"title": "b"}, headers={**KEY, "If-Match": tag})
        assert answer.status == status


async def test_a_failure_leaves_the_key_unused(api: Api) -> None:
    for _ in range(2):
        await problem_of(await api.patch(f"{TASKS}/1", json={"title": "b"}, headers=KEY), 404, "task_not_found")
    await added(api)
    assert (await api.patch(f"{TASKS}/1", json={"title": "b"}, headers=KEY)).status == 200


async def test_a_quoted_key_is_the_same(api: Api) -> None:
    for key in ("abc", '"abc"'):
        await api.post(TASKS, json={"title": "a"}, headers={"Idempotency-Key": key})
    assert len(await entries(api)) == 1


@pytest.mark.parametrize("values", [["a b"], ["a", "b"], ["x" * 256], [""]])
async def test_what_is_no_key_is_400(api: Api, values: list[str]) -> None:
    answer = await api.post(TASKS, json={"title": "a"}, headers=[("Idempotency-Key", value) for value in values])
    await problem_of(answer, 400, "invalid_request")
    assert await entries(api) == []


async def test_a_client_that_wants_little_gets_no_body(api: Api) -> None:
    minimal = {"Prefer": "return=minimal"}
    new = await api.post(TASKS, json={"title": "a"}, headers=minimal)
    assert await said(new) == (
        *(201, b""),
        {**(await said(new))[2], "ETag": '"1"', "Location": f"{TASKS}/1", "Preference-Applied": "return=minimal"},
    )
    changed = await api.patch(f"{TASKS}/1", json={"title": "b"}, headers=minimal)
    assert (changed.status, await changed.read(), changed.headers["ETag"]) == (204, b"", '"2"')
    whole = await api.put(f"{TASKS}/1", json=WHOLE, headers={"Prefer": "Return=representation; foo, wait=3"})
    assert (whole.status, (await whole.json())["title"], whole.headers["Preference-Applied"]) == (
        200,
        "w",
        "return=representation",
    )


async def test_a_list_is_counted_if_that_is_asked_for(api: Api) -> None:
    for n in range(5):
        await added(api, f"t{n}", priority="high" if n % 2 else "low")
    prefer = {"Prefer": 'count=exact, timezone="Europe/Berlin"'}
    answer = await api.get(f"{TASKS}?limit=1&priority=low", headers=prefer)
    page = await answer.json()
    assert (page["total"], len(page["items"])) == (3, 1)
    assert answer.headers["Preference-Applied"] == "timezone=Europe/Berlin, count=exact"
    page = await (await api.get(f"{TASKS}?limit=1&priority=low&cursor={page['next_cursor']}", headers=prefer)).json()
    assert page["total"] == 3
    assert (await (await api.get(f"{TASKS}?label=none-has-it", headers=prefer)).json())["total"] == 0
    assert "total" not in await (await api.get(TASKS)).json()


async def test_answers_tell_how_new_they_are_and_how_long_they_took(api: Api) -> None:
    first = await api.post(TASKS, json={"title": "a"})
    at = first.headers["X-Taskctl-Seq"]
    for path in ("/tasks", "/tasks/1", "/tasks/1/history", "/changes", "/projects", "/labels", "/stats"):
        answer = await api.get(f"/api/v1{path}", headers={"X-Taskctl-Seq": at})
        assert answer.headers["X-Taskctl-Seq"] == at
        assert float(answer.headers["Server-Timing"].removeprefix("total;dur=")) > 0
    second = await api.delete(f"{TASKS}/1")
    assert second.headers["X-Taskctl-Seq"] != at
    assert (await api.get(TASKS)).headers["X-Taskctl-Seq"] == second.headers["X-Taskctl-Seq"]


PREFERENCES = {
    "return=minimal": True,
    "Return=minimal": True,
    'return="minimal"': True,
    "return = minimal": True,
    'return="min\\imal"': True,
    "foo, return=minimal": True,
    "foo;a=b, return=minimal;c": True,
    'foo="a, b", return=minimal': True,
    'foo="a\\"b", return=minimal': True,
    'foo=1; p="a,b"; q, return=minimal': True,
    'foo="return=minimal"': False,
    'foo="a, return=minimal, b"': False,
    'foo=1; p="a,return=minimal,b"': False,
    'foo=1; p="a\\",return=minimal,b"': False,
    'foo="a\\",return=minimal,b"': False,
    'foo="a, return=minimal': False,
    "return=representation, return=minimal": False,
    "return=Minimal": False,
    "return minimal": False,
}


@pytest.mark.parametrize(("prefer", "minimal"), PREFERENCES.items())
async def test_preferences_are_read_as_they_are_quoted(api: Api, prefer: str, minimal: bool) -> None:
    await added(api)
    answer = await api.patch(f"{TASKS}/1", json={}, headers={"Prefer": prefer})
    assert answer.status == (204 if minimal else 200)


async def test_a_header_that_was_made_to_take_long_does_not(api: Api) -> None:
    await added(api)
    started = time.perf_counter()
    for odd in ('"' * 8000, 'a="' * 2600, '\\"' * 4000, "a;" * 4000, "a=" * 4000, '"\\' * 4000, " " * 8000 + "x", ",;=" * 2600):
        assert (await api.patch(f"{TASKS}/1", json={}, headers={"Prefer": f"x{odd}"})).status == 200
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_no_increment_is_lost_if_everybody_says_what_they_have_seen(kind: str, tmp_path: Path) -> None:
    """With the process that people run, and a connection for everybody."""

    async def increment(url: str) -> int:
        refused = 0
        async with aiohttp.ClientSession() as api:
            for _ in range(40):
                while True:
                    seen = await api.get(f"{url}/1")
                    title = str(int((await seen.json())["title"]) + 1)
                    answer = await api.patch(f"{url}/1", json={"title": title}, headers={"If-Match": seen.headers["ETag"]})
                    if answer.status == 200:
                        break
                    problem = await problem_of(answer, 412, "stale_task")
                    assert problem["current_version"] > int(seen.headers["ETag"].strip('"'))
                    refused += 1
        return refused

    with database() as address:
        options = ["--database-url", address] if kind == "postgres" else []
        with serving(Shell(tmp_path), *options) as server:
            url = f"{server.url}{TASKS}"
            async with aiohttp.ClientSession() as api:
                assert (await api.post(url, json={"title": "0"})).status == 201
                refused = sum(await asyncio.gather(*(increment(url) for _ in range(8))))
                task = await (await api.get(f"{url}/1")).json()
                log = await (await api.get(f"{server.url}/api/v1/changes?limit=1000")).json()
    assert (task["title"], task["version"]) == ("320", 321)
    assert [entry["after"]["title"] for entry in log["items"]] == [str(n) for n in range(321)]
    assert refused > 0
