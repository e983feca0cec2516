"""One task over HTTP: statuses, headers and bodies of its methods, and requests under conditions."""

from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from pytest_aiohttp import AiohttpClient

from taskctl import Settings, create_app
from tests.support import Api, added, pointers, problem_of

COMPLETE: dict[str, Any] = {
    "title": "Buy oat milk",
    "description": "the *good* one",
    "status": "in_progress",
    "priority": "high",
    "project": "home.kitchen",
    "labels": ["errand", "quick"],
    "due": "2026-12-01",
}
MERGE_PATCH = {"Content-Type": "application/merge-patch+json"}


@pytest.fixture
async def api(aiohttp_client: AiohttpClient, tmp_path: Path) -> Api:
    return await aiohttp_client(create_app(Settings(database_url=f"sqlite:///{tmp_path}/tasks.db")))


async def test_post_answers_with_the_task_its_place_and_its_etag(api: Api) -> None:
    answer = await api.post("/api/v1/tasks", json=COMPLETE)
    assert answer.status == 201
    assert answer.headers["Location"] == "/api/v1/tasks/1"
    assert answer.headers["ETag"] == '"1"'
    assert answer.content_type == "application/json"
    task = await answer.json()
    assert {name: task[name] for name in COMPLETE} == COMPLETE
    assert (task["id"], task["version"], UUID(task["uid"]).version) == (1, 1, 7)
    assert (await (await api.get(answer.headers["Location"])).json()) == task


async def test_a_task_has_exactly_the_promised_members(api: Api) -> None:
    task = await added(api, "Only a title")
    assert list(task) == [
        *("id", "uid", "title", "description", "status", "priority", "project", "labels", "due"),
        *("started_at", "completed_at", "created_at", "updated_at", "version"),
    ]
    assert (task["status"], task["priority"], task["labels"]) == ("todo", "none", [])
    assert [task[name] for name in ("description", "project", "due", "started_at", "completed_at")] == [None] * 5
    assert task["created_at"] == task["updated_at"]
    assert task["created_at"].endswith("Z")


async def test_post_takes_a_uid_and_any_status_and_refuses_a_uid_that_is_taken(api: Api) -> None:
    uid = str(uuid4())
    task = await added(api, uid=uid, status="done")
    assert (task["uid"], task["status"], task["completed_at"]) == (uid, "done", task["created_at"])
    again = await problem_of(await api.post("/api/v1/tasks", json={"title": "again", "uid": uid}), 409, "conflict")
    assert again["id"] == task["id"]


@pytest.mark.parametrize(
    "title", ["🧑‍🚀 café", "שלום עולם", "100 %s :name ? $1", "'; DROP TABLE tasks; --", '"quoted" \\', "--title"]
)
async def test_a_title_comes_back_to_the_letter(api: Api, title: str) -> None:
    task = await added(api, title)
    shown = await (await api.get(f"/api/v1/tasks/{task['id']}")).json()
    assert shown["title"] == task["title"] == title


async def test_a_title_is_normalised_to_nfc(api: Api) -> None:
    assert (await added(api, "cafe\u0301"))["title"] == "caf\u00e9"


async def test_head_answers_as_get_without_a_body(api: Api) -> None:
    await added(api)
    got, head = await api.get("/api/v1/tasks/1"), await api.head("/api/v1/tasks/1")
    assert (head.status, await head.read()) == (200, b"")
    for name in ("ETag", "Content-Type", "Content-Length"):
        assert head.headers[name] == got.headers[name]
    assert (await api.head("/api/v1/tasks/2")).status == 404


async def test_a_uid_names_a_task_wherever_an_id_does(api: Api) -> None:
    task = await added(api)
    path = f"/api/v1/tasks/{task['uid']}"
    assert await (await api.get(path)).json() == task
    assert (await (await api.patch(path, json={"status": "done"})).json())["version"] == 2
    assert len((await (await api.get(f"{path}/history")).json())["items"]) == 2
    assert (await api.get(path.upper().replace("/API/V1/TASKS", "/api/v1/tasks"))).status == 200
    assert (await api.delete(path)).status == 204
    assert (await api.get(path)).status == 404


@pytest.mark.parametrize("tags", ['"1"', 'W/"1"', "*", '"7", "1"', 'W/"7" ,W/"1"', '"a,b", "1"'])
async def test_if_none_match_with_the_version_of_now_is_304(api: Api, tags: str) -> None:
    await added(api)
    answer = await api.get("/api/v1/tasks/1", headers={"If-None-Match": tags})
    assert (answer.status, answer.headers["ETag"], await answer.read()) == (304, '"1"', b"")
    assert (await api.head("/api/v1/tasks/1", headers={"If-None-Match": tags})).status == 304


@pytest.mark.parametrize("tags", ['"2"', 'W/"2"', '"11"', '"3", "4"', ""])
async def test_if_none_match_with_other_versions_is_200(api: Api, tags: str) -> None:
    await added(api)
    answer = await api.get("/api/v1/tasks/1", headers={"If-None-Match": tags})
    assert (answer.status, (await answer.json())["id"]) == (200, 1)


@pytest.mark.parametrize("headers", [MERGE_PATCH, {"Content-Type": "application/json; charset=utf-8"}])
async def test_patch_changes_what_it_names_and_nothing_else(api: Api, headers: dict[str, str]) -> None:
    before = await added(api, **{name: value for name, value in COMPLETE.items() if name != "title"})
    answer = await api.patch("/api/v1/tasks/1", data=b'{"priority": "urgent", "due": null}', headers=headers)
    assert (answer.status, answer.headers["ETag"]) == (200, '"2"')
    after = await answer.json()
    assert {name for name in after if after[name] != before[name]} == {"priority", "due", "version", "updated_at"}
    assert (after["priority"], after["due"]) == ("urgent", None)


async def test_a_patch_that_changes_nothing_makes_no_version_and_no_entry(api: Api) -> None:
    task = await added(api)
    for patch in ({}, {"title": "Buy milk"}, {"status": "todo", "labels": []}):
        answer = await api.patch("/api/v1/tasks/1", json=patch)
        assert (await answer.json(), answer.headers["ETag"]) == (task, '"1"')
    assert (await (await api.get("/api/v1/changes")).json())["next"] == 1


async def test_an_impossible_transition_is_a_conflict(api: Api) -> None:
    await added(api, status="done")
    problem = await problem_of(await api.patch("/api/v1/tasks/1", json={"status": "in_progress"}), 409, "conflict")
    assert (problem["id"], problem["retryable"]) == (1, False)


async def test_put_replaces_all_that_can_be_written(api: Api) -> None:
    task = await added(api, labels=["later"], project="work")
    answer = await api.put("/api/v1/tasks/1", json=COMPLETE)
    assert (answer.status, answer.headers["ETag"]) == (200, '"2"')
    after = await answer.json()
    assert {name: after[name] for name in COMPLETE} == COMPLETE
    assert (after["uid"], after["created_at"]) == (task["uid"], task["created_at"])


async def test_put_names_every_member_that_is_missing(api: Api) -> None:
    await added(api)
    problem = await problem_of(await api.put("/api/v1/tasks/1", json={"due": None, "labels": []}), 422, "invalid_task")
    assert pointers(problem) == [
        (f"/{name}", "required") for name in ("description", "priority", "project", "status", "title")
    ]  # by pointer
    assert (await (await api.get("/api/v1/tasks/1")).json())["version"] == 1


async def test_put_never_creates(api: Api) -> None:
    await problem_of(await api.put("/api/v1/tasks/5", json=COMPLETE), 404, "task_not_found")


async def test_what_get_gave_can_be_put_and_patched_back(api: Api) -> None:
    """Read-only members are accepted when they are equal."""
    task = await added(api)
    for send in (api.put, api.patch):
        answer = await send("/api/v1/tasks/1", json=task)
        assert (answer.status, await answer.json()) == (200, task)
    answer = await api.put("/api/v1/tasks/1", json={**task, "title": "Buy bread"})
    assert (answer.status, (await answer.json())["version"]) == (200, 2)


async def test_read_only_members_that_differ_are_refused(api: Api) -> None:
    task = await added(api)
    wrong = {
        "id": 2,
        "uid": str(uuid4()),
        "created_at": "2020-01-01T00:00:00Z",
        "completed_at": "2020-01-01T00:00:00Z",
    }
    problem = await problem_of(await api.patch("/api/v1/tasks/1", json=wrong), 422, "invalid_task")
    assert pointers(problem) == [(f"/{name}", "read_only") for name in sorted(wrong)]
    problem = await problem_of(await api.put("/api/v1/tasks/1", json={**task, "version": "1"}), 422, "invalid_task")
    assert pointers(problem) == [("/version", "read_only")]


async def test_a_representation_that_is_sent_back_too_late_is_stale(api: Api) -> None:
    seen = await added(api)
    await api.patch("/api/v1/tasks/1", json={"title": "changed meanwhile"})
    problem = await problem_of(await api.put("/api/v1/tasks/1", json={**seen, "title": "late"}), 412, "stale_task")
    assert problem["current_version"] == 2


@pytest.mark.parametrize("tags", ["1", '"1', '1"', '"1" "2"', "W/1", '"1", x'])
async def test_what_is_no_entity_tag_is_400(api: Api, tags: str) -> None:
    await added(api)
    problem = await problem_of(
        await api.patch("/api/v1/tasks/1", json={"title": "b"}, headers={"If-Match": tags}), 400, "invalid_request"
    )
    assert "quotes" in problem["detail"]


async def test_a_condition_that_means_nothing_is_not_passed_over(api: Api) -> None:
    await added(api)
    for headers in ({"If-Match": '"1"'}, {"If-None-Match": "*"}):
        await problem_of(await api.post("/api/v1/tasks", json={"title": "b"}, headers=headers), 400, "invalid_request")
        batch = {"operations": [{"op": "remove", "id": 1}]}
        await problem_of(await api.post("/api/v1/batch", json=batch, headers=headers), 400, "invalid_request")
    for method in ("PATCH", "DELETE"):
        answer = await api.request(method, "/api/v1/tasks/1", json={"title": "b"}, headers={"If-None-Match": "*"})
        await problem_of(answer, 400, "invalid_request")
    assert (await (await api.get("/api/v1/tasks/1")).json())["version"] == 1


async def test_delete_answers_204_and_the_id_is_not_used_again(api: Api) -> None:
    await added(api)
    answer = await api.delete("/api/v1/tasks/1")
    assert (answer.status, await answer.read()) == (204, b"")
    await problem_of(await api.get("/api/v1/tasks/1"), 404, "task_not_found")
    await problem_of(await api.delete("/api/v1/tasks/1"), 404, "task_not_found")
    assert (await added(api))["id"] == 2


WRITES = [
    pytest.param("PATCH", {"title": "Buy bread"}, id="PATCH"),
    pytest.param("PUT", COMPLETE, id="PUT"),
    pytest.param("DELETE", None, id="DELETE"),
]


@pytest.mark.parametrize("tags", ['"1"', "*", '"7", "1"', '"foreign-tag", "a,b" , "1"'])
@pytest.mark.parametrize(("method", "body"), WRITES)
async def test_if_match_with_the_version_of_now_lets_a_write_through(api: Api, method: str, body: object, tags: str) -> None:
    await added(api)
    answer = await api.request(method, "/api/v1/tasks/1", json=body, headers={"If-Match": tags})
    assert answer.status == (204 if method == "DELETE" else 200)


@pytest.mark.parametrize(
    "tags", ['"2"', 'W/"1"', '"foreign-tag"', '"7", "8"', '"01"', '"-1"', f'"{"9" * 5000}"', '"x", "y", "z"', '"١"', '""']
)
@pytest.mark.parametrize(("method", "body"), WRITES)
async def test_if_match_with_anything_else_is_412_and_tells_the_version_of_now(
    api: Api, method: str, body: object, tags: str
) -> None:
    before = await added(api)
    answer = await api.request(method, "/api/v1/tasks/1", json=body, headers={"If-Match": tags})
    problem = await problem_of(answer, 412, "stale_task")
    assert (problem["current_version"], answer.headers["ETag"]) == (1, '"1"')
    assert await (await api.get("/api/v1/tasks/1")).json() == before


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_if_match_is_a_condition_of_reading_too(api: Api, method: str) -> None:
    await added(api)
    for tags in ('"1"', "*", '"7", "1"'):
        assert (await api.request(method, "/api/v1/tasks/1", headers={"If-Match": tags})).status == 200
        fresh = {"If-Match": tags, "If-None-Match": 'W/"1"'}
        assert (await api.request(method, "/api/v1/tasks/1", headers=fresh)).status == 304
    for tags in ('"2"', 'W/"1"', '"foreign-tag"', '""'):
        for more in ({}, {"If-None-Match": '"1"'}):
            answer = await api.request(method, "/api/v1/tasks/1", headers={"If-Match": tags, **more})
            assert (answer.status, answer.headers["ETag"]) == (412, '"1"')
            if method == "GET":
                problem = await problem_of(answer, 412, "stale_task")
                assert (problem["id"], problem["current_version"]) == (1, 1)
    assert (await api.request(method, "/api/v1/tasks/9", headers={"If-Match": '"1"'})).status == 404


@pytest.mark.parametrize("tags", ['*, "1"', '"1", *', "*, *"])
async def test_any_version_and_some_versions_cannot_be_meant_together(api: Api, tags: str) -> None:
    await added(api)
    await problem_of(await api.patch("/api/v1/tasks/1", json={}, headers={"If-Match": tags}), 400, "invalid_request")
    for name in ("If-Match", "If-None-Match"):
        await problem_of(await api.get("/api/v1/tasks/1", headers={name: tags}), 400, "invalid_request")


@pytest.mark.parametrize("tags", ["*", '"1"', '"1", "2"'])
async def test_if_match_on_a_task_that_is_not_there_is_404(api: Api, tags: str) -> None:
    await problem_of(await api.delete("/api/v1/tasks/9", headers={"If-Match": tags}), 404, "task_not_found")


async def test_dry_runs_answer_like_writes_and_write_nothing(api: Api) -> None:
    before = await added(api)
    added_ = await api.post("/api/v1/tasks?dry_run=true", json={"title": "Not there"})
    assert ((await added_.json())["id"], "Location" in added_.headers) == (2, False)
    patched = await api.patch("/api/v1/tasks/1?dry_run=true", json={"status": "done"})
    assert (await patched.json())["version"] == 2
    put = await api.put("/api/v1/tasks/1?dry_run=true", json=COMPLETE)
    assert (await put.json())["project"] == "home.kitchen"
    assert (await api.delete("/api/v1/tasks/1?dry_run=true")).status == 204
    body = {"operations": [{"op": "remove", "id": 1}, {"op": "add", "task": {"title": "Not there"}}]}
    batch = await (await api.post("/api/v1/batch?dry_run=true", json=body)).json()
    assert [result["status"] for result in batch["results"]] == [204, 201]
    assert (await (await api.get("/api/v1/tasks")).json())["items"] == [before]
    assert (await (await api.get("/api/v1/changes")).json())["next"] == 1


async def test_dry_runs_fail_as_the_writes_would(api: Api) -> None:
    await added(api, status="done")
    dry = {"dry_run": "true"}
    await problem_of(await api.patch("/api/v1/tasks/1", json={"status": "in_progress"}, params=dry), 409, "conflict")
    await problem_of(await api.delete("/api/v1/tasks/1", params=dry, headers={"If-Match": '"2"'}), 412, "stale_task")
    await problem_of(await api.delete("/api/v1/tasks/2", params=dry), 404, "task_not_found")
    await problem_of(await api.post("/api/v1/tasks", json={}, params=dry), 422, "invalid_task")
    await problem_of(await api.post("/api/v1/tasks", json={"title": "x"}, params={"dry_run": "maybe"}), 400, "invalid_request")


async def test_instants_that_come_along_may_be_written_in_other_ways(api: Api) -> None:
    task = await added(api)
    same = {"created_at": task["created_at"].replace("Z", "+00:00"), "version": 1, "completed_at": None}
    assert (await api.patch("/api/v1/tasks/1", json={**same, "title": "b"})).status == 200
    for other in ("2020-01-01T00:00:00Z", task["created_at"].rstrip("Z"), "x", None, 7):
        answer = await api.patch("/api/v1/tasks/1", json={"created_at": other, "title": "c"})
        assert pointers(await problem_of(answer, 422, "invalid_task")) == [("/created_at", "read_only")]
