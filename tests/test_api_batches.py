"""Batches, the log and the reports over HTTP: the shapes as the contract settles them."""

import json
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from pytest_aiohttp import AiohttpClient
from yarl import URL

from taskctl import Settings, create_app
from tests.support import Api, Json, added, pointers, problem_of


@pytest.fixture
async def api(aiohttp_client: AiohttpClient, tmp_path: Path) -> Api:
    return await aiohttp_client(create_app(Settings(database_url=f"sqlite:///{tmp_path}/tasks.db")))


async def batch(api: Api, *operations: Json, **more: Json) -> dict[str, Any]:
    answer = await api.post("/api/v1/batch", json={"operations": operations, **more})
    assert answer.status == 200, await answer.text()
    written: dict[str, Any] = await answer.json()
    return written


async def log(api: Api) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = (await (await api.get("/api/v1/changes")).json())["items"]
    return items


def add(title: object = "x", **fields: Json) -> dict[str, Any]:
    return {"op": "add", "task": {"title": title, **fields}}


# --------------------------------------------------------------------------------------------------------------- batches


async def test_a_batch_answers_operation_by_operation_and_is_one_changeset(api: Api) -> None:
    one, two = await added(api, "one"), await added(api, "two")
    edit = {"op": "edit", "id": two["id"], "patch": {"status": "done"}, "if_version": 1}
    written = await batch(api, add("three"), edit, {"op": "remove", "id": one["uid"]}, message="Tidy up")
    assert list(written) == ["changeset", "seq", "results"]
    assert written["seq"] == 5
    assert [list(result) for result in written["results"]] == [["status", "task"], ["status", "task"], ["status"]]
    assert [result["status"] for result in written["results"]] == [201, 200, 204]
    assert [result["task"]["title"] for result in written["results"][:2]] == ["three", "two"]
    entries = (await log(api))[2:]
    assert {(entry["changeset"], entry["message"], entry["source"]) for entry in entries} == {
        (written["changeset"], "Tidy up", "api")
    }
    assert UUID(written["changeset"])


async def test_a_task_added_in_a_batch_can_be_named_later_in_it_by_its_uid(api: Api) -> None:
    uid = str(uuid4())
    edit = {"op": "edit", "id": uid, "patch": {"priority": "high"}}
    written = await batch(api, add(uid=uid), edit)
    assert written["results"][1]["task"]["version"] == 2


async def test_a_failure_in_an_atomic_batch_undoes_all_of_it_and_is_named_by_its_index(api: Api) -> None:
    before = await added(api)
    operations = [add("a"), {"op": "remove", "id": 1}, {"op": "edit", "id": 9, "patch": {}}, add("b")]
    for more in ({}, {"atomic": True}):
        answer = await api.post("/api/v1/batch", json={"operations": operations, **more})
        problem = await problem_of(answer, 404, "task_not_found")
        assert (problem["index"], problem["id"]) == (2, 9)
    assert (await (await api.get("/api/v1/tasks")).json())["items"] == [before]
    assert len(await log(api)) == 1
    assert (await added(api))["id"] == 2


async def test_a_batch_that_is_not_atomic_does_what_can_be_done(api: Api) -> None:
    await added(api, "one")
    written = await batch(
        api,
        {"op": "edit", "id": 9, "patch": {"status": "done"}},
        {"op": "edit", "id": 1, "patch": {"status": "done"}},
        {"op": "remove", "id": 1, "if_version": 1},
        add(""),
        {"op": "paint", "id": 1},
        add("last"),
        atomic=False,
    )
    assert [result["status"] for result in written["results"]] == [404, 200, 412, 422, 422, 201]
    problems = [result["problem"] for result in written["results"] if "problem" in result]
    assert [problem["code"] for problem in problems] == ["task_not_found", "stale_task", "invalid_task", "invalid_task"]
    assert problems[1]["current_version"] == 2
    assert pointers(problems[2]) == [("/title", "empty")]
    entries = (await log(api))[1:]
    assert [(entry["op"], entry["id"]) for entry in entries] == [("edit", 1), ("add", 2)]
    assert {entry["changeset"] for entry in entries} == {written["changeset"]}


async def test_mistakes_in_an_operation_are_pointed_at(api: Api) -> None:
    operations = [add(), add(), add(), add("two\nlines", labels=["", "x"], colour="red"), add("")]
    problem = await problem_of(await api.post("/api/v1/batch", json={"operations": operations}), 422, "invalid_task")
    assert problem["index"] == 3
    assert pointers(problem) == [
        ("/operations/3/task/colour", "unknown_field"),
        ("/operations/3/task/labels/0", "empty"),
        ("/operations/3/task/title", "character"),
    ]
    edit = {"op": "edit", "id": 1, "patch": {"due": "soon"}}
    problem = await problem_of(await api.post("/api/v1/batch", json={"operations": [edit]}), 422, "invalid_task")
    assert (problem["index"], pointers(problem)) == (0, [("/operations/0/patch/due", "format")])
    assert await log(api) == []


async def test_a_stale_operation_of_an_atomic_batch_tells_the_version_of_now(api: Api) -> None:
    await added(api)
    body = {"operations": [{"op": "remove", "id": 1, "if_version": 3}]}
    answer = await api.post("/api/v1/batch", json=body)
    problem = await problem_of(answer, 412, "stale_task")
    # The address is the batch's, which has no version; the task's is in the problem.
    assert (problem["index"], problem["current_version"], "ETag" in answer.headers) == (0, 1, False)


EDIT = {"op": "edit", "id": 1, "patch": {}}
REMOVE = {"op": "remove", "id": 1}


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ([], [("", "type")]),
        (None, [("", "type")]),
        ({}, [("/operations", "required")]),
        ({"operations": {}}, [("/operations", "type")]),
        ({"operations": None}, [("/operations", "type")]),
        ({"operations": []}, [("/operations", "length")]),
        ({"operations": [add()] * 501}, [("/operations", "length")]),
        ({"operations": [add()], "atomic": "yes"}, [("/atomic", "type")]),
        ({"operations": [add()], "atomic": None}, [("/atomic", "type")]),
        ({"operations": [add()], "message": 3}, [("/message", "type")]),
        ({"operations": [add()], "message": ""}, [("/message", "empty")]),
        ({"operations": [add()], "message": "two\nlines"}, [("/message", "character")]),
        ({"operations": [add()], "message": "a\0b"}, [("/message", "character")]),
        ({"operations": [add()], "message": "x" * 501}, [("/message", "length")]),
        ({"operations": [add()], "colour": "red"}, [("/colour", "unknown_field")]),
        (
            {"operations": [], "atomic": 1, "message": [], "a/b": 1},
            [("/atomic", "type"), ("/a~1b", "unknown_field"), ("/message", "type"), ("/operations", "length")],
        ),
        ({"operations": [3]}, [("/operations/0", "type")]),
        ({"operations": [{}]}, [("/operations/0/op", "required")]),
        ({"operations": [add(), {"op": "add"}]}, [("/operations/1/task", "required")]),
        ({"operations": [{"op": "paint", "id": 1}]}, [("/operations/0/op", "choice")]),
        ({"operations": [{"op": ["add"]}]}, [("/operations/0/op", "type")]),
        ({"operations": [{**add(), "id": 1}]}, [("/operations/0/id", "unknown_field")]),
        ({"operations": [{**add(), "foo": 1}]}, [("/operations/0/foo", "unknown_field")]),
        ({"operations": [{"op": "edit", "id": 1}]}, [("/operations/0/patch", "required")]),
        (
            {"operations": [{"op": "edit", "if_version": "a"}]},
            [
                (f"/operations/0/{name}", code)
                for name, code in (("id", "required"), ("if_version", "format"), ("patch", "required"))
            ],
        ),
        ({"operations": [{**EDIT, "id": None}]}, [("/operations/0/id", "type")]),
        ({"operations": [{**EDIT, "id": True}]}, [("/operations/0/id", "type")]),
        ({"operations": [{**EDIT, "id": 1.5}]}, [("/operations/0/id", "type")]),
        ({"operations": [{**EDIT, "id": "abc"}]}, [("/operations/0/id", "format")]),
        ({"operations": [{**EDIT, "id": 10**4200}]}, [("/operations/0/id", "type")]),
        ({"operations": [{**EDIT, "patch": []}]}, [("/operations/0/patch", "type")]),
        ({"operations": [{"op": "add", "task": None}]}, [("/operations/0/task", "type")]),
        ({"operations": [{**REMOVE, "if_version": "1"}]}, [("/operations/0/if_version", "format")]),
        ({"operations": [{**REMOVE, "if_version": 1.5}]}, [("/operations/0/if_version", "type")]),
        ({"operations": [{**REMOVE, "if_version": True}]}, [("/operations/0/if_version", "type")]),
        ({"operations": [{**REMOVE, "if_version": [1, None]}]}, [("/operations/0/if_version", "type")]),
        ({"operations": [{**REMOVE, "patch": {}}]}, [("/operations/0/patch", "unknown_field")]),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_every_mistake_in_the_shape_of_a_batch_is_pointed_at(api: Api, body: Json, wrong: list[tuple[str, str]]) -> None:
    await added(api)
    headers = {"Content-Type": "application/json"}
    problem = await problem_of(await api.post("/api/v1/batch", data=json.dumps(body), headers=headers), 422, "invalid_task")
    assert pointers(problem) == wrong
    assert problem.get("index") == (int(wrong[0][0].split("/")[2]) if wrong[0][0].startswith("/operations/") else None)
    assert len(await log(api)) == 1


async def test_an_operation_of_the_wrong_shape_keeps_its_place_where_others_are_done(api: Api) -> None:
    """There, as for a task, a pointer leads into that operation, task or patch alone."""
    written = await batch(api, {"op": "zap"}, add(""), {**EDIT, "id": "x"}, 7, add("fine"), atomic=False)
    assert [result["status"] for result in written["results"]] == [422, 422, 422, 422, 201]
    problems = [result["problem"] for result in written["results"][:-1]]
    assert [pointers(problem) for problem in problems] == [
        [("/op", "choice")],
        [("/title", "empty")],
        [("/id", "format")],
        [("", "type")],
    ]


async def test_a_condition_may_name_several_versions(api: Api) -> None:
    await added(api)
    for versions, status in (([7, 8], 412), ([], 412), ([7, 1], 200), (1, 200), (None, 200)):
        body = {"operations": [{**EDIT, "if_version": versions}]}
        assert (await api.post("/api/v1/batch", json=body)).status == status


async def test_a_batch_has_up_to_500_operations(api: Api) -> None:
    written = await batch(api, *[add(f"T {n}") for n in range(500)])
    assert [result["task"]["id"] for result in written["results"]] == list(range(1, 501))
    assert written["seq"] == 500


@pytest.mark.parametrize("id", [0, -1, 2**63, 10**30])
async def test_an_id_out_of_all_bounds_is_no_task(api: Api, id: int) -> None:
    await added(api)
    for operation in ({"op": "edit", "id": id, "patch": {}}, {"op": "remove", "id": id}):
        problem = await problem_of(await api.post("/api/v1/batch", json={"operations": [operation]}), 404, "task_not_found")
        assert problem["index"] == 0


async def test_a_version_out_of_all_bounds_is_stale(api: Api) -> None:
    await added(api)
    body = {"operations": [{"op": "remove", "id": 1, "if_version": 10**30}]}
    await problem_of(await api.post("/api/v1/batch", json=body), 412, "stale_task")


# --------------------------------------------------------------------------------------------------------------- the log


async def test_the_log_tells_who_did_what_from_what_to_what(api: Api) -> None:
    first = await added(api, "one", labels=["x"])
    edited = await (await api.patch("/api/v1/tasks/1", json={"status": "done", "labels": []})).json()
    await api.delete("/api/v1/tasks/1")
    answer = await (await api.get("/api/v1/changes")).json()
    assert list(answer) == ["items", "next", "more", "epoch"]
    assert (answer["next"], answer["more"]) == (3, False)
    names = ["seq", "at", "changeset", "actor", "source", "entity", "id", "op", "version", "before", "after"]
    assert [list(entry) for entry in answer["items"]] == [names] * 3
    add_, edit, remove = answer["items"]
    about = [(e["seq"], e["op"], e["version"], e["id"], e["entity"], e["source"], e["actor"]) for e in answer["items"]]
    assert about == [
        (1, "add", 1, 1, "task", "api", None),
        (2, "edit", 2, 1, "task", "api", None),
        (3, "remove", 3, 1, "task", "api", None),
    ]
    assert (add_["before"], add_["after"]) == (None, first)
    assert edit["before"] == {"status": "todo", "labels": ["x"], "completed_at": None}
    assert edit["after"] == {"status": "done", "labels": [], "completed_at": edited["completed_at"]}
    assert (remove["before"], remove["after"]) == (edited, None)
    assert edit["at"] == edited["updated_at"]
    assert len({entry["changeset"] for entry in answer["items"]}) == 3


async def test_the_history_of_a_task_is_the_same_entries_newest_first_and_outlives_it(api: Api) -> None:
    await added(api, "one")
    await added(api, "two")
    await api.patch("/api/v1/tasks/1", json={"status": "done"})
    await api.delete("/api/v1/tasks/1")
    history = await (await api.get("/api/v1/tasks/1/history")).json()
    assert history == {"items": [entry for entry in reversed(await log(api)) if entry["id"] == 1], "next_cursor": None}
    assert [entry["seq"] for entry in history["items"]] == [4, 3, 1]


async def test_the_history_comes_in_pages(api: Api) -> None:
    await added(api)
    for n in range(4):
        await api.patch("/api/v1/tasks/1", json={"title": f"{n}"})
    seen: list[int] = []
    answer = await api.get("/api/v1/tasks/1/history?limit=2")
    while True:
        seen += [entry["version"] for entry in (await answer.json())["items"]]
        if "next" not in answer.links:
            break
        answer = await api.get(str(URL(answer.links["next"]["url"]).relative()))
    assert seen == [5, 4, 3, 2, 1]
    await added(api)
    cursor = (await (await api.get("/api/v1/tasks/1/history?limit=2")).json())["next_cursor"]
    await problem_of(await api.get("/api/v1/tasks/2/history", params={"cursor": cursor}), 400, "invalid_request")
    for limit in ("0", "201", "x"):
        await problem_of(await api.get("/api/v1/tasks/1/history", params={"limit": limit}), 400, "invalid_request")


async def test_changes_go_on_from_where_a_reader_was(api: Api) -> None:
    await batch(api, *[add(f"T {n}") for n in range(5)])
    since, seen = 0, []
    while True:
        answer = await (await api.get("/api/v1/changes", params={"since": since, "limit": 2})).json()
        seen += [entry["seq"] for entry in answer["items"]]
        since = answer["next"]
        if not answer["more"]:
            break
    assert (seen, since) == ([1, 2, 3, 4, 5], 5)
    after = await (await api.get("/api/v1/changes?since=5")).json()
    assert (after["items"], after["next"], after["more"]) == ([], 5, False)
    for params in ({"limit": "0"}, {"limit": "1001"}, {"since": "-1"}, {"since": "x"}):
        await problem_of(await api.get("/api/v1/changes", params=params), 400, "invalid_request")
    assert (await api.get("/api/v1/changes?limit=1000")).status == 200


async def test_changes_of_another_epoch_are_gone(api: Api) -> None:
    await added(api)
    epoch = (await (await api.get("/api/v1/changes")).json())["epoch"]
    assert (await api.get("/api/v1/changes", params={"since": 1, "epoch": epoch})).status == 200
    for params in ({"since": "1", "epoch": "another"}, {"since": "2"}):
        await problem_of(await api.get("/api/v1/changes", params=params), 410, "cursor_expired")


# --------------------------------------------------------------------------------------------------------------- reports


async def test_projects_and_labels_are_counted_by_status(api: Api) -> None:
    await batch(
        api,
        add(project="work", labels=["b", "a"]),
        add(project="work", labels=["b"], status="done"),
        add(project="work.api", status="in_progress"),
        add(project="Äther", labels=["é"], status="cancelled"),
        add(),
    )

    def counts(todo: int = 0, in_progress: int = 0, done: int = 0, cancelled: int = 0) -> dict[str, int]:
        return {"todo": todo, "in_progress": in_progress, "done": done, "cancelled": cancelled}

    projects = await (await api.get("/api/v1/projects")).json()
    assert projects == {
        "items": [
            {"name": "work", "counts": counts(todo=1, done=1)},
            {"name": "work.api", "counts": counts(in_progress=1)},
            {"name": "Äther", "counts": counts(cancelled=1)},
        ]
    }
    labels = await (await api.get("/api/v1/labels")).json()
    assert labels == {
        "items": [
            {"name": "a", "counts": counts(todo=1)},
            {"name": "b", "counts": counts(todo=1, done=1)},
            {"name": "é", "counts": counts(cancelled=1)},
        ]
    }


async def test_stats_have_the_promised_shape(api: Api) -> None:
    await batch(api, add(due="2020-01-01"), add(due="2020-01-01", status="done"), add(status="done"), add(status="cancelled"))
    stats = await (await api.get("/api/v1/stats")).json()
    assert list(stats) == ["counts", "overdue", "done_per_day"]
    assert stats["counts"] == {"todo": 1, "in_progress": 0, "done": 2, "cancelled": 1}
    assert stats["overdue"] == 1
    assert len(stats["done_per_day"]) == 30
    assert all(list(day) == ["date", "count"] for day in stats["done_per_day"])
    assert sum(day["count"] for day in stats["done_per_day"]) == 2


async def test_an_empty_workspace_answers_with_empty_shapes(api: Api) -> None:
    assert await (await api.get("/api/v1/tasks")).json() == {"items": [], "next_cursor": None}
    assert await (await api.get("/api/v1/projects")).json() == {"items": []}
    assert await (await api.get("/api/v1/labels")).json() == {"items": []}
    changes = await (await api.get("/api/v1/changes")).json()
    assert (changes["items"], changes["next"], changes["more"]) == ([], 0, False)
    stats = await (await api.get("/api/v1/stats")).json()
    assert (set(stats["counts"].values()), stats["overdue"]) == ({0}, 0)
