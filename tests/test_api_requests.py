"""What every request over HTTP is held to: addresses, methods, bodies, request ids, and how refusals are told."""

import asyncio
import re
import sqlite3
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from pytest_aiohttp import AiohttpClient
from yarl import URL

from taskctl import Settings, __version__, create_app
from tests.support import Api, added, pointers, problem_of

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


@pytest.fixture
async def api(aiohttp_client: AiohttpClient, database: Path) -> Api:
    return await aiohttp_client(create_app(Settings(database_url=f"sqlite:///{database}")))


# ------------------------------------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    "path", ["/", "/api/v1", "/api/v1/", "/api/v1/tasks/", "/api/v1/task", "/api/v2/tasks", "/tasks/1", "/%00"]
)
async def test_an_unknown_address_is_a_problem(api: Api, path: str) -> None:
    await problem_of(await api.get(path), 404, "not_found")


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/tasks/7",
        "/api/v1/tasks/-1",
        f"/api/v1/tasks/{'9' * 30}",
        "/api/v1/tasks/7/history",
        "/api/v1/tasks/01936f0c-7a3e-7c4b-9d2e-5b1f0a6c8e7d",
    ],
)
async def test_an_unknown_task_is_a_problem_of_its_own(api: Api, path: str) -> None:
    problem = await problem_of(await api.get(path), 404, "task_not_found")
    assert str(problem["id"]) in path


@pytest.mark.parametrize("id", ["abc", "--1", "1.0", "0x1", "%D9%A1", "9" * 41, "01936f0c7a3e7c4b9d2e5b1f0a6c8e7d", "%20"])
async def test_what_cannot_be_an_id_is_refused(api: Api, id: str) -> None:
    for method in ("GET", "DELETE"):
        await problem_of(await api.request(method, f"/api/v1/tasks/{id}"), 400, "invalid_request")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("DELETE", "/api/v1/tasks", "GET, HEAD, POST"),
        ("POST", "/api/v1/tasks/1", "DELETE, GET, HEAD, PATCH, PUT"),
        ("GET", "/api/v1/batch", "POST"),
        ("POST", "/api/v1/tasks/1/history", "GET, HEAD"),
        ("PUT", "/api/v1/changes", "GET, HEAD"),
        ("POST", "/api/v1/projects", "GET, HEAD"),
        ("PATCH", "/api/v1/labels", "GET, HEAD"),
        ("DELETE", "/api/v1/stats", "GET, HEAD"),
        ("POST", "/livez", "GET, HEAD"),
    ],
)
async def test_a_method_that_does_not_fit_is_405_and_those_that_do_are_named(
    api: Api, method: str, path: str, allow: str
) -> None:
    answer = await api.request(method, path)
    await problem_of(answer, 405, "method_not_allowed")
    assert answer.headers["Allow"] == allow


# ---------------------------------------------------------------------------------------------------------------- bodies


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/merge-patch+json"},
        {"Content-Type": "application/octet-stream"},
        {"Content-Type": "nonsense"},
        {**JSON, "Content-Encoding": "gzip"},
        {**JSON, "Content-Encoding": "identity"},
    ],
)
async def test_only_plain_json_bodies_are_read(api: Api, headers: dict[str, str]) -> None:
    await problem_of(await api.post("/api/v1/tasks", data=b'{"title": "x"}', headers=headers), 415, "unsupported_media_type")


async def test_a_body_without_a_content_type_is_415(api: Api) -> None:
    answer = await api.post("/api/v1/tasks", data=b"{}", skip_auto_headers=["Content-Type"])
    await problem_of(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"title": "x",}', "not JSON"),
        (b"{'title': 'x'}", "not JSON"),
        (b'{"title": "x"} {}', "not JSON"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b'{"title": NaN}', "NaN"),
        (b'{"title": -Infinity}', "Infinity"),
        (b'{"title": "x", "title": "y"}', "'title' twice"),
        (b'{"title": "x", "a": [{"b": 1, "b": 1}]}', "'b' twice"),
        (b'{"title": "\xff"}', "UTF-8"),
        ('{"title": "x"}'.encode("utf-16"), "UTF-8"),
        (b'{"title": ' + b"[" * 32 + b"]" * 32 + b"}", "deep"),
        (b"[" * 100_000, "deep"),
        (b'{"title": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"title": "a\tb"}', "not JSON"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
async def test_what_is_not_strict_json_is_400(api: Api, body: bytes, said: str) -> None:
    for method, path in (("POST", "/api/v1/tasks"), ("PATCH", "/api/v1/tasks/1"), ("POST", "/api/v1/batch")):
        problem = await problem_of(await api.request(method, path, data=body, headers=JSON), 400, "invalid_request")
        assert said in problem["detail"]


async def test_depth_32_is_read(api: Api) -> None:
    body = b'{"title": ' + b"[" * 31 + b"]" * 31 + b"}"
    problem = await problem_of(await api.post("/api/v1/tasks", data=body, headers=JSON), 422, "invalid_task")
    assert pointers(problem) == [("/title", "type")]


async def test_a_lone_surrogate_is_refused(api: Api) -> None:
    answer = await api.post("/api/v1/tasks", data=rb'{"title": "\ud800"}', headers=JSON)
    await problem_of(answer, 400, "invalid_request")
    answer = await api.post("/api/v1/tasks", data=rb'{"title": "x", "\uDC00": 1}', headers=JSON)
    await problem_of(answer, 400, "invalid_request")
    whole = await api.post("/api/v1/tasks", data=rb'{"title": "\ud83d\ude80"}', headers=JSON)
    assert (await whole.json())["title"] == "🚀"


@pytest.mark.parametrize(("body", "kind"), [(b"[]", ""), (b"null", ""), (b'"x"', ""), (b"1e400", "")])
async def test_a_task_must_be_an_object(api: Api, body: bytes, kind: str) -> None:
    problem = await problem_of(await api.post("/api/v1/tasks", data=body, headers=JSON), 422, "invalid_task")
    assert pointers(problem) == [(kind, "type")]


async def test_a_body_of_a_mebibyte_is_read_and_a_longer_one_is_413(api: Api) -> None:
    most = 1024 * 1024
    for size, status, code in ((most, 422, "invalid_task"), (most + 1, 413, "payload_too_large")):
        body = b'{"title": "' + b"x" * (size - 13) + b'"}'
        assert len(body) == size
        await problem_of(await api.post("/api/v1/tasks", data=BytesIO(body), headers=JSON), status, code)
    await added(api)


async def test_all_mistakes_of_a_body_are_told_at_once(api: Api) -> None:
    body = {
        "title": "two\nlines",
        "description": "\0",
        "status": "open",
        "priority": 3,
        "project": "a..b",
        "labels": ["fine", ""],
        "due": "tomorrow",
        "uid": "nonsense",
        "version": 7,
        "a/b~c": 1,
    }
    problem = await problem_of(await api.post("/api/v1/tasks", json=body), 422, "invalid_task")
    assert pointers(problem) == [
        ("/a~1b~0c", "unknown_field"),
        ("/description", "character"),
        ("/due", "format"),
        ("/labels/1", "empty"),
        ("/priority", "type"),
        ("/project", "path"),
        ("/status", "choice"),
        ("/title", "character"),
        ("/uid", "uid"),
        ("/version", "read_only"),
    ]
    assert (await (await api.get("/api/v1/tasks")).json())["items"] == []


async def test_mistakes_and_missing_members_of_a_put_are_told_together(api: Api) -> None:
    await added(api)
    body: dict[str, Any] = {"title": "", "status": "todo", "priority": "none", "labels": [], "due": None, "colour": "red"}
    problem = await problem_of(await api.put("/api/v1/tasks/1", json=body), 422, "invalid_task")
    assert pointers(problem) == [
        ("/colour", "unknown_field"),
        ("/description", "required"),
        ("/project", "required"),
        ("/title", "empty"),
    ]


@pytest.mark.parametrize(
    "path", ["/api/v1/tasks", "/api/v1/tasks/1/history", "/api/v1/changes", "/api/v1/projects", "/api/v1/labels"]
)
async def test_an_unknown_parameter_is_refused(api: Api, path: str) -> None:
    await added(api)
    problem = await problem_of(await api.get(path, params={"statsu": "todo"}), 400, "invalid_request")
    assert problem["parameter"] == "statsu"


@pytest.mark.parametrize(
    "path",
    ["/livez", "/readyz", "/readyz?verbose&", "/version", "/openapi.json", "/docs", "/docs/swagger-ui.css", "/api/v1/stats"],
)
async def test_an_unknown_parameter_is_refused_beside_the_api_too(api: Api, path: str) -> None:
    answer = await api.get(URL(f"{path}{'' if '?' in path else '?'}nonsense=1", encoded=True))
    assert (await problem_of(answer, 400, "invalid_request"))["parameter"] == "nonsense"


@pytest.mark.parametrize("escape", ["%zz", "%", "%a", "a%ff", "%c0%80", "%ed%a0%80", "caf%e9", "%25%zz"])
async def test_what_is_not_percent_encoded_utf_8_is_not_read_as_something_else(api: Api, escape: str) -> None:
    await added(api)
    for path, name in (
        ("/api/v1/tasks?limit=1&label=", "label"),
        ("/api/v1/tasks?q=", "q"),
        ("/api/v1/tasks?cursor=", "cursor"),
        ("/api/v1/changes?epoch=", "epoch"),
        ("/readyz?verbose=", "verbose"),
        ("/docs?a%20b=", "a b"),
    ):
        problem = await problem_of(await api.get(URL(path + escape, encoded=True)), 400, "invalid_request")
        assert problem["parameter"] == name
    for path in ("/api/v1/tasks?{}=1", "/livez?{}"):
        problem = await problem_of(await api.get(URL(path.format(escape), encoded=True)), 400, "invalid_request")
        assert "parameter" not in problem
    for path in ("/api/v1/tasks/1{}", "/api/v1/tasks/{}/history"):
        problem = await problem_of(await api.get(URL(path.format(escape), encoded=True)), 400, "invalid_request")
        assert problem["parameter"] == "id"


@pytest.mark.parametrize("escape", ["%C3%A9", "%c3%a9", "a+b", "100%25", "%F0%9F%9A%80"])
async def test_what_is_percent_encoded_utf_8_is_read(api: Api, escape: str) -> None:
    assert (await api.get(URL(f"/api/v1/tasks?label={escape}", encoded=True))).status == 200


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("sort=", "sort"),
        ("sort=colour", "sort"),
        ("sort=id,id", "sort"),
        ("cursor=", "cursor"),
        ("cursor=abc", "cursor"),
        ("label=", "label"),
        ("label=a%0Ab", "label"),
        ("label=a%00b", "label"),
        ("project=a..b", "project"),
        ("status=open", "status"),
        ("priority=", "priority"),
        ("due_before=soon", "due_before"),
        ("overdue=yes", "overdue"),
        ("limit=0", "limit"),
    ],
)
async def test_the_parameter_at_fault_is_named(api: Api, query: str, name: str) -> None:
    problem = await problem_of(await api.get(URL(f"/api/v1/tasks?{query}", encoded=True)), 400, "invalid_request")
    assert problem["parameter"] == name


async def test_a_cursor_is_read_as_strictly_as_it_is_written(api: Api) -> None:
    for title in "ab":
        await added(api, title)
    cursor = (await (await api.get("/api/v1/tasks?limit=1")).json())["next_cursor"]
    assert (await api.get("/api/v1/tasks", params={"cursor": cursor})).status == 200
    for odd in (
        f"{cursor[:4]}!{cursor[4:]}",
        f" {cursor}",
        f"{cursor}\n",
        f"{cursor[:4]}-{cursor[4:]}",
        f"{cursor[:5]}={cursor[5:]}",
    ):
        answer = await api.get("/api/v1/tasks", params={"cursor": odd})
        assert (await problem_of(answer, 400, "invalid_request"))["parameter"] == "cursor"


async def test_all_parameters_of_a_list_together_have_an_end(api: Api) -> None:
    labels = "&".join(f"label={n}" for n in range(60))
    assert (await api.get(f"/api/v1/tasks?{labels}&q={'+'.join('a' * 40)}&status=todo&status=done")).status == 200
    problem = await problem_of(await api.get(f"/api/v1/tasks?{labels}&q={'+'.join('a' * 41)}"), 400, "invalid_request")
    assert "at most 100 terms" in problem["detail"]
    long = await api.get(f"/api/v1/tasks?q={'a' * 3000}&filter={'a' * 3000}")
    assert "at most 4096 characters" in (await problem_of(long, 400, "invalid_request"))["detail"]


async def test_what_may_be_kept_of_an_answer_is_said(api: Api) -> None:
    task = await added(api)
    for path in ("/tasks", "/tasks/1", "/tasks/1/history", "/changes", "/projects", "/labels", "/stats"):
        for method in ("GET", "HEAD"):
            answer = await api.request(method, f"/api/v1{path}")
            assert answer.headers["Cache-Control"] == "no-cache"
            assert answer.headers.get("Vary") == ("Prefer" if path in ("/tasks", "/stats") else None)
    fresh = await api.get("/api/v1/tasks/1", headers={"If-None-Match": '"1"'})
    assert (fresh.status, fresh.headers["Cache-Control"]) == (304, "no-cache")
    for path in ("/api/v1/tasks/9", "/nowhere", "/api/v1/tasks?x=1"):
        assert (await api.get(path)).headers["Cache-Control"] == "no-store"
    for prefer in ("return=minimal", "return=representation", "foo"):
        answer = await api.patch("/api/v1/tasks/1", json={"title": task["title"]}, headers={"Prefer": prefer})
        assert answer.headers["Vary"] == "Prefer"


async def test_what_would_be_read_is_said_where_a_type_is_not(api: Api) -> None:
    await added(api)
    merge = "application/merge-patch+json, application/json"
    for method, path, accept, patch in (
        ("POST", "/api/v1/tasks", "application/json", None),
        ("POST", "/api/v1/batch", "application/json", None),
        ("PUT", "/api/v1/tasks/1", "application/json", None),
        ("PATCH", "/api/v1/tasks/1", merge, merge),
    ):
        answer = await api.request(method, path, data=b"{}", headers={"Content-Type": "text/plain"})
        problem = await problem_of(answer, 415, "unsupported_media_type")
        assert (answer.headers["Accept"], answer.headers.get("Accept-Patch")) == (accept, patch)
        assert problem["accept"] == accept.split(", ")
        assert "Accept-Encoding" not in answer.headers
        answer = await api.request(method, path, data=b"{}", headers={**JSON, "Content-Encoding": "identity"})
        await problem_of(answer, 415, "unsupported_media_type")
        assert (answer.headers["Accept-Encoding"], "Accept" in answer.headers) == ("identity", False)


async def test_failures_about_a_task_tell_how_new_they_are(api: Api) -> None:
    await added(api, status="done")
    at = (await api.get("/api/v1/tasks/1")).headers["X-Taskctl-Seq"]
    uid = (await (await api.get("/api/v1/tasks/1")).json())["uid"]
    old = {"If-Match": '"7"'}
    for method, path, body, headers, status in (
        ("GET", "/9", None, {}, 404),
        ("GET", "/9/history", None, {}, 404),
        ("DELETE", "/9", None, {}, 404),
        ("PATCH", "/9", {}, {}, 404),
        ("PATCH", "/1", {"status": "in_progress"}, {}, 409),
        ("POST", "", {"title": "a", "uid": uid}, {}, 409),
        ("GET", "/1", None, old, 412),
        ("DELETE", "/1", None, old, 412),
        ("PATCH", "/1", {}, old, 412),
    ):
        answer = await api.request(method, f"/api/v1/tasks{path}", json=body, headers=headers)
        assert (answer.status, answer.headers["X-Taskctl-Seq"]) == (status, at)
        assert answer.headers.get("ETag") == ('"1"' if status == 412 else None)


async def test_unknown_parameters_of_writes_are_refused_before_anything_is_written(api: Api) -> None:
    for method, path in (("POST", "/api/v1/tasks"), ("PATCH", "/api/v1/tasks/1"), ("DELETE", "/api/v1/tasks/1")):
        answer = await api.request(method, path, json={"title": "x"}, params={"dryrun": "true"})
        await problem_of(answer, 400, "invalid_request")
    assert (await (await api.get("/api/v1/tasks")).json())["items"] == []


# ---------------------------------------------------------------------------------------------------------- request ids


@pytest.mark.parametrize("given", ["a", "01936f0c-7a3e", "A.b_c-9", "x" * 128])
async def test_a_sane_request_id_is_kept(api: Api, given: str) -> None:
    for path in ("/api/v1/tasks", "/nowhere", "/livez"):
        assert (await api.get(path, headers={"X-Request-Id": given})).headers["X-Request-Id"] == given


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", 'a"b', "a\tb", "grün", "a;b", "../x"])
async def test_an_insane_request_id_is_replaced(api: Api, given: str) -> None:
    answers = [await api.get("/api/v1/tasks/9", headers={"X-Request-Id": given}) for _ in range(2)]
    made = [(await problem_of(answer, 404, "task_not_found"))["request_id"] for answer in answers]
    assert given not in made
    assert made[0] != made[1]
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in made)


# --------------------------------------------------------------------------------------------------- probes and failures


async def test_the_probes_answer(api: Api) -> None:
    for path, text in (("/livez", "ok\n"), ("/readyz", "ok\n"), ("/readyz?verbose", "database ok\nok\n")):
        answer = await api.get(path)
        assert (answer.status, answer.content_type, await answer.text()) == (200, "text/plain", text)
    assert (await (await api.get("/version")).json())["version"] == __version__


async def test_a_failure_that_nobody_foresaw_is_told_without_its_words(
    api: Api, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await added(api)
    with closing(sqlite3.connect(database)) as raw:
        raw.execute("ALTER TABLE task_labels RENAME TO taken_away")
    answer = await api.get("/api/v1/labels", headers={"X-Request-Id": "find-me"})
    problem = await problem_of(answer, 500, "internal")
    assert "task_labels" not in str(problem)
    assert any(record.exc_info and "find-me" in record.getMessage() for record in caplog.records)
    await problem_of(await api.post("/api/v1/tasks", json={"title": "x", "labels": ["y"]}), 500, "internal")
    assert (await api.get("/api/v1/tasks/1")).status == 200
    assert (await (await api.get("/api/v1/changes")).json())["next"] == 1


async def test_a_damaged_database_is_unavailable_and_makes_the_server_unready(api: Api, database: Path) -> None:
    await added(api)
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        touch = "UPDATE workspaces SET written_at = written_at + 1"
        other.execute(touch)
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        size = database.stat().st_size
        with database.open("r+b") as file:
            file.write((b"not a database at all" * size)[:size])
        # This one has in memory what it needs for it; the others have to read again after that.
        other.execute(touch)
    answer = await api.get("/api/v1/tasks/1")
    assert answer.status in (500, 503)
    assert (await api.get("/livez")).status == 200
    unready = await api.get("/readyz")
    problem = await problem_of(unready, 503, "unavailable")
    assert int(unready.headers["Retry-After"]) >= 1
    assert problem["retry_after"] == int(unready.headers["Retry-After"])


async def test_a_content_type_of_any_bytes_is_a_problem(tmp_path: Path) -> None:
    app = create_app(Settings(database_url=f"sqlite:///{tmp_path}/tasks.db"))
    async with TestServer(app) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(
            b"POST /api/v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: \xff\r\n"
            b"Content-Length: 2\r\nConnection: close\r\n\r\n{}"
        )
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 415 ")
    assert b"urn:taskctl:problem:unsupported_media_type" in answer
    assert b"its Content-Type says '\\\\xff'\"" in answer  # as JSON has a backslash


async def test_every_bad_label_is_told(api: Api) -> None:
    body = {"title": "x", "labels": ["fine", 5, None, "a\tb", "", "fine"]}
    problem = await problem_of(await api.post("/api/v1/tasks", json=body), 422, "invalid_task")
    assert pointers(problem) == [("/labels/1", "type"), ("/labels/2", "type"), ("/labels/3", "character"), ("/labels/4", "empty")]
    many = await api.post("/api/v1/tasks", json={"title": "x", "labels": [""] * 10_000})
    assert len((await problem_of(many, 422, "invalid_task"))["errors"]) == 50


@pytest.mark.parametrize("expected", ["100-continue", "200-ok"])
async def test_an_expectation_is_judged_inside_another_application_too(
    aiohttp_client: AiohttpClient, database: Path, expected: str
) -> None:
    outer = web.Application()
    outer.add_subapp("/todo/", create_app(Settings(database_url=f"sqlite:///{database}")))
    api: Api = await aiohttp_client(outer)
    for data in (b'{"title": "x"}', b"{"):
        answer = await api.post("/todo/api/v1/tasks", data=data, headers={**JSON, "Expect": expected, "X-Request-Id": "mine"})
        if expected != "100-continue":
            assert (await problem_of(answer, 417, "expectation_failed"))["request_id"] == "mine"
        else:
            assert answer.status == (201 if len(data) > 1 else 400)
