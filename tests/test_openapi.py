"""The OpenAPI document: it is valid, says what the server has, is as strict as the server, and is served well."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse, web
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from pytest_aiohttp import AiohttpClient
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

import taskctl.server
from taskctl import Settings, create_app
from taskctl.errors import ConfigError, TaskctlError, UsageError
from tests.support import Api, added, bearing, minted

SWAGGER = Path(taskctl.server.__file__).parent / "swagger"
STATIC = {"/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js", "/docs/initializer.js"}
METHODS = ("get", "head", "post", "put", "patch", "delete")


@pytest.fixture
def app(tmp_path: Path) -> web.Application:
    return create_app(Settings(database_url=f"sqlite:///{tmp_path}/tasks.db", auth="tokens"))


@pytest.fixture
async def api(aiohttp_client: AiohttpClient, app: web.Application) -> Api:
    found: Api = await aiohttp_client(app)
    found.session.headers.update(bearing(await minted(found, "admin")))
    return found


@pytest.fixture
async def document(api: Api) -> dict[str, Any]:
    answer = await api.get("/openapi.json")
    assert (answer.status, answer.content_type) == (200, "application/json")
    found: dict[str, Any] = await answer.json()
    return found


def resolved(document: dict[str, Any], node: Any) -> Any:
    """Return what a reference stands for, and anything else as it is."""
    while isinstance(node, dict) and "$ref" in node:
        value = document
        for part in node["$ref"].removeprefix("#/").split("/"):
            value = value[part]
        node = value
    return node


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            assert method in METHODS
            yield path, method, operation


class Shapes:
    """The schemas of a document, to check values by."""

    def __init__(self, document: dict[str, Any]) -> None:
        resource: Resource[Any] = DRAFT202012.create_resource(document)
        self.registry: Registry[Any] = Registry().with_resource("urn:document", resource)

    def mistakes(self, schema: Any, value: object) -> list[str]:
        checker = Draft202012Validator.FORMAT_CHECKER
        schema = json.loads(json.dumps(schema).replace('"#/', '"urn:document#/'))
        validator = Draft202012Validator(schema, registry=self.registry, format_checker=checker)
        return [error.message for error in validator.iter_errors(value)]

    def fits(self, name: str, value: object) -> bool:
        return not self.mistakes({"$ref": f"#/components/schemas/{name}"}, value)


# ----------------------------------------------------------------------------------------------------------- the document


async def test_it_is_valid_openapi_of_version_3_1(document: dict[str, Any]) -> None:
    validate(document)
    assert document["openapi"] == "3.1.0"
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


async def test_routes_and_document_are_equal(app: web.Application, document: dict[str, Any]) -> None:
    served = {(route.resource.canonical, route.method.lower()) for route in app.router.routes() if route.resource}
    served = {(path, method) for path, method in served if path not in STATIC}
    told = {(path, method) for path, method, _ in operations(document)}
    told |= {(path, "head") for path, method in told if method == "get"}  # as the document says of all of them
    assert served == told


async def test_every_operation_has_a_name_of_its_own_a_summary_and_a_place(document: dict[str, Any]) -> None:
    found = [operation for _, _, operation in operations(document)]
    names = [operation["operationId"] for operation in found]
    assert sorted(names) == sorted(
        [
            *("listTasks", "addTask", "getTask", "headTask", "replaceTask", "editTask", "removeTask", "taskHistory"),
            *("writeBatch", "listChanges", "listProjects", "listLabels", "getStats", "getCache", "clearCache"),
            *("getMe", "listTokens", "createToken", "revokeToken", "listWorkspaces", "createWorkspace"),
            *("livez", "readyz", "getMetrics", "version", "getOpenapi", "getDocs"),
        ]
    )
    tags = {tag["name"] for tag in document["tags"]}
    for operation in found:
        assert operation["summary"]
        assert set(operation["tags"]) <= tags
        assert operation["responses"]["default"] == {"$ref": "#/components/responses/Problem"}


async def test_every_write_takes_a_key_and_a_dry_run_and_every_body_has_its_refusals(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        given = {parameter["name"] for parameter in operation["parameters"]}
        assert "X-Request-Id" in given
        of_tasks = operation["tags"][0] in ("tasks", "workspace")
        assert of_tasks == (path.split("/")[3:4] not in ([], ["cache"], ["me"], ["tokens"], ["workspaces"]))
        assert ("X-Taskctl-Seq" in given) == of_tasks
        assert ({"Idempotency-Key", "dry_run"} <= given) == (of_tasks and method not in ("get", "head"))
        assert ("If-Match" in given) == path.endswith("tasks/{id}")
        assert "431" in operation["responses"]
        assert {"400", "500", "503"} <= operation["responses"].keys() or not of_tasks
        assert ({"408", "413", "415", "422"} <= operation["responses"].keys()) == ("requestBody" in operation)
    patch = document["paths"]["/api/v1/tasks/{id}"]["patch"]["requestBody"]["content"]
    assert patch.keys() == {"application/json", "application/merge-patch+json"}


async def test_problems_are_those_of_the_tree_of_failures_with_their_status(document: dict[str, Any]) -> None:
    waiting, known = [TaskctlError], dict[str, int]()
    while waiting:
        cls = waiting.pop()
        known[cls.code] = cls.status
        waiting += cls.__subclasses__()
    for cls in (UsageError, ConfigError):  # the command line's own
        del known[cls.code]
    assert set(document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"]) == set(known)
    for code, status in known.items():
        example = document["components"]["examples"][code]["value"]
        assert (example["type"], example["status"]) == (f"urn:taskctl:problem:{code}", status)
    for _, _, operation in operations(document):
        for status_text, response in operation["responses"].items():
            problems = resolved(document, response).get("content", {}).get("application/problem+json", {}).get("examples", {})
            assert all(known[code] == int(status_text) for code in problems)


async def test_every_example_fits_its_schema(document: dict[str, Any]) -> None:
    shapes, seen = Shapes(document), set()

    def look(node: Any) -> None:
        if isinstance(node, list):
            for inner in node:
                look(inner)
        if not isinstance(node, dict):
            return
        if "schema" in node:
            given = [node["example"]] if "example" in node else []
            for name, example in node.get("examples", {}).items():
                seen.add(name)
                given.append(resolved(document, example)["value"])
            for value in given:
                assert shapes.mistakes(node["schema"], value) == [], value
        for inner in node.values():
            look(inner)

    look(document["paths"])
    assert {"Task", "NewTask", "Batch", "Changes", "stale_task"} <= seen
    of_no_operation = {"not_found", "method_not_allowed", "not_implemented", "uri_too_long", "expectation_failed"}
    of_no_operation |= {"misdirected_request", "too_many_requests"}
    assert document["components"]["examples"].keys() - seen <= of_no_operation


async def test_links_lead_to_operations_that_take_an_id(document: dict[str, Any]) -> None:
    named = {operation["operationId"]: operation for _, _, operation in operations(document)}
    links = named["addTask"]["responses"]["201"]["links"]
    assert {"getTask", "editTask", "removeTask"} <= links.keys()
    for link in links.values():
        taken = {parameter["name"] for parameter in named[link["operationId"]]["parameters"] if parameter["in"] == "path"}
        assert link["parameters"].keys() == taken == {"id"}


# ------------------------------------------------------------------------------------------------ as strict as the server


async def tried(api: Api, method: str, path: str, body: object) -> ClientResponse:
    """Return the answer to a write that changes nothing; a body of None is a null."""
    headers = {"Content-Type": "application/json"}
    return await api.request(method, f"{path}?dry_run=true", data=json.dumps(body), headers=headers)


LINES = [
    "x",
    " x ",
    "x" * 500,
    "é",
    "🧑‍🚀 \u2009",
    "\ufeff",
    "x" * 501,
    "",
    " ",
    "\u2003\u00a0",
    "a\nb",
    "\x00",
    "a\x1b",
    "\x85",
    "\u2028",
    5,
    None,
]
VALUES: dict[str, list[Any]] = {
    "title": LINES,
    "description": [None, "", "a\n\tb", "x" * 65536, "x" * 65537, "\x00", "a\x0bb", "\x9f", "\u2028", 1, ["x"]],
    "status": ["todo", "cancelled", "open", "", None, "Todo", 1],
    "priority": ["none", "urgent", "Urgent", None, 3],
    "project": [None, "a", "a.b.c", " a . b ", "x" * 100, "x" * 101, "", "a..b", ".a", "a.", ".", "a. .b", "a\tb", 1],
    "labels": [
        *([], ["a"], ["a", "b"], ["x" * 60], ["x" * 61], [""], [" "], ["a\nb"], [1], [None], "a", None, 5, {}, {"a": 1}),
        *([f"{n}" for n in range(50)], [f"{n}" for n in range(51)]),
    ],
    "due": [
        *(None, "2026-12-01", "2024-02-29", "2026-12-01T15:00:00Z", "2026-12-01t15:00:00.123456789+05:30", "9999-12-31"),
        *("2026-02-29", "2026-13-01", "0000-01-01", "2026-12-01T15:00:00", "2026-12-01 15:00:00Z", "2026-12-01T15:00:60Z"),
        *("2026-12-01T15:00:00.1234567890Z", "2026-12-01T24:00:00Z", "tomorrow", "", "20261201", "2026-W01-1", 20261201, True),
    ],
    "uid": [
        *(None, "01936f0c-7a3e-7c4b-9d2e-5b1f0a6c8e7d", "01936F0C-7A3E-7C4B-9D2E-5B1F0A6C8E7E"),
        *("01936f0c7a3e7c4b9d2e5b1f0a6c8e7d", "{01936f0c-7a3e-7c4b-9d2e-5b1f0a6c8e7d}", "", 7),
    ],
    "colour": ["red"],
    "id": [1],
    "version": [1],
}


async def test_a_task_fits_the_document_if_and_only_if_the_server_takes_it(api: Api, document: dict[str, Any]) -> None:
    shapes = Shapes(document)
    for member, values in VALUES.items():
        for value in values:
            body = {"title": "x", member: value}
            answer = await tried(api, "POST", "/api/v1/tasks", body)
            assert answer.status in (200, 422)
            assert shapes.fits("NewTask", body) == (answer.status == 200), (member, value, await answer.text())
            if answer.status == 200:
                assert shapes.mistakes({"$ref": "#/components/schemas/Task"}, await answer.json()) == []
    odd: Any
    for odd in ([], "x", None, {}, {"description": "no title"}):
        assert not shapes.fits("NewTask", odd)
        assert (await tried(api, "POST", "/api/v1/tasks", odd)).status == 422


async def test_edits_fit_the_document_if_and_only_if_the_server_takes_them(api: Api, document: dict[str, Any]) -> None:
    shapes, task = Shapes(document), await added(api, due="2026-12-01", labels=["a"])
    complete = {name: task[name] for name in ("title", "description", "status", "priority", "project", "labels", "due")}
    bodies: list[Any] = [{}, task, complete, {**complete, "uid": task["uid"]}, {**complete, "colour": "red"}, [], None]
    bodies += [{name: value for name, value in complete.items() if name != gone} for gone in complete]
    bodies += [{name: None} for name in complete] + [{"title": "\n"}, {"labels": "x"}, {"due": "soon"}, {"version": 1}]
    for method, shape in (("PATCH", "TaskPatch"), ("PUT", "TaskReplacement")):
        for body in bodies:
            answer = await tried(api, method, "/api/v1/tasks/1", body)
            assert answer.status in (200, 422)
            assert shapes.fits(shape, body) == (answer.status == 200), (method, body, await answer.text())


VERSIONS: list[Any] = [[None], ["1"], True, 1.5, {}]


async def test_a_batch_fits_the_document_if_and_only_if_the_server_takes_it(api: Api, document: dict[str, Any]) -> None:
    shapes, task = Shapes(document), await added(api)
    add = {"op": "add", "task": {"title": "x"}}
    fine: list[Any] = [
        {"operations": [add]},
        {"operations": [add, add], "atomic": False, "message": "why"},
        {"operations": [add], "message": None},
        {"operations": [{"op": "edit", "id": 1, "patch": {}, "if_version": 1}]},
        {"operations": [{"op": "edit", "id": task["uid"], "patch": {"title": "y"}, "if_version": None}]},
        {"operations": [{"op": "remove", "id": 1}]},
        {"operations": [{"op": "remove", "id": 1, "if_version": [7, 1]}]},
        {"operations": [add] * 500},
    ]
    wrong: list[Any] = [
        *({}, [], None, {"operations": []}, {"operations": {}}, {"operations": [add] * 501}),
        *({"operations": [add], "atomic": None}, {"operations": [add], "message": ""}, {"operations": [add], "why": ""}),
        *({"operations": [{**add, "id": 1}]}, {"operations": [{"op": "add"}]}, {"operations": [{"op": "move", "id": 1}]}),
        *({"operations": [{"op": "edit", "id": 1}]}, {"operations": [{"op": "remove", "id": "x"}]}),
        *({"operations": [{"op": "remove", "id": True}]}, {"operations": [{"op": "remove", "id": 1, "if_version": "1"}]}),
        *({"operations": [{"op": "remove", "id": 1, "if_version": one}]} for one in VERSIONS),
        *({"operations": [{"op": "add", "task": {"title": ""}}]}, {"operations": [1]}),
    ]
    for number, body in enumerate([*fine, *wrong]):
        answer = await tried(api, "POST", "/api/v1/batch", body)
        assert answer.status in (200, 422)
        assert shapes.fits("Batch", body) == (answer.status == 200) == (number < len(fine)), (body, await answer.text())
        if answer.status == 200:
            assert shapes.mistakes({"$ref": "#/components/schemas/BatchAnswer"}, await answer.json()) == []


QUERIES = {
    "status": ["todo", "open", ""],
    "priority": ["none", "highest"],
    "label": ["a", "", "x" * 60, "x" * 61, "a\0b", "a\nb", "none"],
    "project": ["a", "a.b", "a..b", "", "x" * 101],
    "due_before": [
        "2026-12-01",
        "2026-12-01T15:00:00Z",
        "tomorrow",
        "fri",
        "+3d",
        "-2w",
        "+12m",
        "sometime",
        "",
        "+3x",
        "2026-02-30",
    ],
    "overdue": ["true", "false", "yes", ""],
    "sort": ["id", "-due", "-priority,due,id", "due,-due", "id,id", "label", "", ",", "created_at,-updated_at", "Id"],
    "limit": ["1", "200", "0", "201", "x", "1.5", ""],
}


async def test_parameters_fit_the_document_if_and_only_if_the_server_takes_them(api: Api, document: dict[str, Any]) -> None:
    shapes = Shapes(document)
    told = {parameter["name"]: parameter for parameter in document["paths"]["/api/v1/tasks"]["get"]["parameters"]}
    for name, values in QUERIES.items():
        for text in values:
            schema = told[name]["schema"]
            value: Any = [text] if schema.get("type") == "array" else text
            if schema.get("type") in ("integer", "boolean"):
                with suppress(ValueError):
                    value = json.loads(text)
            answer = await api.get("/api/v1/tasks", params={name: text})
            assert (not shapes.mistakes(schema, value)) == (answer.status == 200), (name, text)


@pytest.mark.parametrize("key", ["k", "x" * 255, "~!", "", "x" * 256, "a b", "grün"])
async def test_a_key_fits_the_document_if_and_only_if_the_server_takes_it(api: Api, document: dict[str, Any], key: str) -> None:
    told = {parameter["name"]: parameter for parameter in document["paths"]["/api/v1/tasks"]["post"]["parameters"]}
    answer = await api.post("/api/v1/tasks", json={"title": "x"}, headers={"Idempotency-Key": key})
    assert (not Shapes(document).mistakes(told["Idempotency-Key"]["schema"], key)) == (answer.status == 201)


async def test_answers_fit_their_schemas_and_have_their_headers(api: Api, document: dict[str, Any]) -> None:
    shapes, task = Shapes(document), await added(api, project="home", labels=["a"], due="2026-12-01")
    await api.patch("/api/v1/tasks/1", json={"status": "done"})
    for path, item in document["paths"].items():
        answer = await api.get(path.replace("{id}", str(task["id"])), headers={"Prefer": "count=exact"})
        if "get" not in item:
            assert answer.status == 405
            continue
        told = item["get"]["responses"]["200"]
        assert answer.status == 200
        assert answer.content_type in told["content"]
        schema = told["content"][answer.content_type]["schema"]
        value = await answer.json() if answer.content_type == "application/json" else await answer.text()
        assert shapes.mistakes(schema, value) == []
        assert {"X-Request-Id", *(["ETag"] if path.endswith("{id}") else [])} <= told["headers"].keys()
        missing = {name for name in told["headers"] if name not in answer.headers}
        assert missing <= {"Link", "Preference-Applied", "RateLimit", "RateLimit-Policy", "Vary"}
    for answer in (await api.get("/api/v1/tasks/99"), await api.post("/api/v1/tasks", json={}), await api.get("/nothing")):
        assert shapes.mistakes({"$ref": "#/components/schemas/Problem"}, await answer.json(content_type=None)) == []


# --------------------------------------------------------------------------------------------------------- how it is served


@pytest.mark.parametrize("path", ["/openapi.json", "/docs", *sorted(STATIC)])
async def test_what_the_browser_gets_is_held_to_a_strict_policy_and_is_not_sent_twice(api: Api, path: str) -> None:
    answer = await api.get(path)
    assert answer.status == 200
    policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-cache"
    assert answer.headers["X-Request-Id"]
    again = await api.get(path, headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status, await again.read(), again.headers["ETag"]) == (304, b"", answer.headers["ETag"])
    for other in ('"another"', "nonsense", '"1', "", '*, "1"'):  # what is no entity tag fits nothing
        assert (await api.get(path, headers={"If-None-Match": other})).status == 200


async def test_the_page_has_no_script_of_its_own_and_names_nothing_from_elsewhere(api: Api) -> None:
    page = await (await api.get("/docs")).text()
    assert re.findall(r"<script[^>]*>([^<]*)</script>", page) == ["", ""]
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert {f"/{address}" for address in addresses if address != "data:,"} == STATIC
    assert "queryConfigEnabled: false" in await (await api.get("/docs/initializer.js")).text()


async def test_mounted_under_a_prefix_the_document_is_the_same_and_its_server_is_where_it_lies(
    tmp_path: Path, aiohttp_client: AiohttpClient
) -> None:
    outer = web.Application()
    outer.add_subapp("/guests/todo", create_app(Settings(database_url=f"sqlite:///{tmp_path}/tasks.db")))
    api: Api = await aiohttp_client(outer)
    answer = await api.get("/guests/todo/openapi.json")
    document = await answer.json()
    assert "/api/v1/tasks" in document["paths"]
    [server] = document["servers"]
    base = answer.url.join(type(answer.url)(server["url"]))
    assert base.path == "/guests/todo/"
    assert (await api.get(f"{base.path.rstrip('/')}/api/v1/tasks")).status == 200
    for path in ("/docs", *STATIC):
        assert (await api.get(f"/guests/todo{path}")).status == 200


def test_the_vendored_files_are_as_their_makers_published_them() -> None:
    readme = (SWAGGER / "README.md").read_text("utf-8")
    told = dict(re.findall(r"^\| `([^`]+)` \| `([0-9a-f]{64})` \|$", readme, re.MULTILINE))
    there = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in SWAGGER.iterdir()}
    assert {name: digest for name, digest in there.items() if name not in ("README.md", "initializer.js")} == told
