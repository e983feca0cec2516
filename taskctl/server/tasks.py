"""`/tasks`, `/tasks/{id}`, `/tasks/{id}/history` and `/batch`."""

import re
from collections.abc import Mapping
from typing import Any

from aiohttp import web
from yarl import URL

from taskctl import fields
from taskctl.access import redacted
from taskctl.conditions import TERMS_MAX, And, Compare, Condition, Match, Not, Overdue
from taskctl.errors import Conflict, InvalidFilter, InvalidRequest, StaleTask, TaskctlError, TaskNotFound
from taskctl.filters import parse_filter, parse_words, when, zone_of
from taskctl.server import names, shapes
from taskctl.server.openapi import CURSOR, ID, IF_MATCH, IF_NONE_MATCH, MERGE_PATCH, answer, operation, parameter, prefer, whole
from taskctl.server.requests import (
    Parameters,
    Preferences,
    ask,
    idempotency_key,
    json_body,
    no_parameters,
    now,
    tasks_of,
    versions,
    where_from,
)
from taskctl.tasks import (
    PAGE_DEFAULT,
    Add,
    Changeset,
    GetTask,
    History,
    Operation,
    Page,
    Read,
    Ref,
    Remove,
    Task,
    TaskQuery,
    Written,
    require_version,
)
from taskctl.wire import changeset, edit, encode, encode_written, etag, new_task, parse_ref

PAGE_MAX = 200
_LIMIT = whole("limit", 1, PAGE_MAX, PAGE_DEFAULT, "How many at most.")
_TOGETHER = f"All parameters together, `status` apart, have at most {TERMS_MAX} terms and values."
_PICKING = ("status", "label", "project", "priority", "due_before", "due_after", "overdue", "q", "filter")
_NOT_CHANGED = answer("The client has this version.", None, "ETag")
_TASK = answer("The task.", "Task", "ETag")
_EDITED = {
    200: answer("The task as it is now; with `dry_run`, as it would be, and without an ETag.", "Task", "ETag", "Vary"),
    204: answer("The same with `Prefer: return=minimal`.", None, "ETag", "Vary"),
}


def routes() -> list[web.RouteDef]:
    """Return the routes of this module."""
    return [
        web.get("/api/v1/tasks/{id}", show),  # aiohttp tries them in this order
        web.put("/api/v1/tasks/{id}", put),
        web.patch("/api/v1/tasks/{id}", patch),
        web.delete("/api/v1/tasks/{id}", remove),
        web.get("/api/v1/tasks", list_tasks),
        web.post("/api/v1/tasks", add),
        web.get("/api/v1/tasks/{id}/history", history),
        web.post("/api/v1/batch", batch),
    ]


@operation(
    "listTasks",
    "tasks",
    *(parameter(name, schema, f"Any of these; may be repeated. {_TOGETHER}") for name, schema in shapes.MATCHES.items()),
    parameter("due_before", shapes.WHEN, "Due before this; as in a filter, it may also be `tomorrow`, `fri` or `+3d`."),
    parameter("due_after", shapes.WHEN, "Due after this."),
    parameter("overdue", {"type": "boolean"}, "Open and past its due, or not."),
    parameter("q", shapes.WORDS, "Words of the title or the description.", example="milk"),
    parameter("filter", shapes.FILTER, "The filter language.", example="status:todo due<+3d milk"),
    parameter("sort", shapes.SORT, "Names of fields, `-` before one for descending.", example="-priority,due"),
    _LIMIT,
    CURSOR,
    prefer("count", "timezone"),
    needs="tasks:read",
    answers={200: answer("A page.", "TaskPage", "Link", "Vary")},
    fails=[InvalidFilter],
)
async def list_tasks(request: web.Request) -> web.Response:
    """Return a page of the tasks that the parameters pick."""
    given = Parameters(request, *_PICKING, "sort", "limit", "cursor")
    preferences = Preferences(request)
    zone = preferences.zone
    sort = given.one("sort")
    query = TaskQuery(
        where=_condition(given, zone),
        sort=tuple(sort.split(",")) if sort is not None else TaskQuery.__struct_defaults__[1],
        limit=given.whole("limit", PAGE_DEFAULT, 1, PAGE_MAX),
        cursor=given.one("cursor"),
        zone=zone,
        count=preferences.wants("count", "exact"),
    )
    return _page(request, await ask(request, query), preferences.headers)


def _condition(given: Parameters, zone: str) -> Condition | None:
    """Return what the parameters ask for, all of it together."""
    if not given.any_of(_PICKING):
        return None
    terms: list[Condition] = []
    for name, allowed in (("status", fields.STATUSES), ("priority", fields.PRIORITIES), ("label", None), ("project", None)):
        values = given.many(name)
        if len(values) > TERMS_MAX:
            raise InvalidRequest(f"{name} was given more than {TERMS_MAX} times", parameter=name)
        for value in values:
            if allowed is not None and value not in allowed:
                several = "; repeat the parameter for any of several" if "," in value else ""
                raise InvalidRequest(f"{name} must be one of {', '.join(allowed)}{several}", parameter=name)
        if values:
            try:
                terms.append(Match(name, tuple(dict.fromkeys(values))))  # type: ignore[arg-type]  # one of the four above
            except InvalidRequest as e:
                raise InvalidRequest(e.detail, parameter=name) from None
    for name, op in (("due_before", "<"), ("due_after", ">")):
        if (text := given.one(name)) is not None:
            try:
                terms.append(Compare("due", op, when(text, now().astimezone(zone_of(zone)).date())))  # type: ignore[arg-type]
            except ValueError as e:
                raise InvalidRequest(f"{name}: {e}", parameter=name) from None
    if (overdue := given.flag("overdue")) is not None:
        terms.append(Overdue() if overdue else Not(Overdue()))
    if (words := given.one("q")) and (condition := parse_words(words)) is not None:
        terms.append(condition)
    if (text := given.one("filter")) and (condition := parse_filter(text, zone=zone, now=now())) is not None:
        terms.append(condition)
    if len(terms) < 2:
        return terms[0] if terms else None
    return And(tuple(terms))


@operation(
    "addTask",
    "tasks",
    prefer("return"),
    body="NewTask",
    writes=True,
    needs="tasks:write",
    answers={
        201: answer(
            "It is added; the body is left out with `Prefer: return=minimal`.",
            "Task",
            *("ETag", "Location", "Vary"),
            links=("getTask", "editTask", "replaceTask", "removeTask"),
        ),
        200: answer("With `dry_run`: the task as it would be.", "Task"),
    },
    fails=[Conflict],
)
async def add(request: web.Request) -> web.Response:
    """Add a task."""
    _no_condition(request)
    dry_run = _dry_run(request)
    task, headers = await _write(request, Add(new_task(await json_body(request))), dry_run)
    assert task is not None
    if dry_run:
        return _task(request, task, headers, dry_run=True)
    return _task(request, task, {**headers, names.LOCATION: f"{request.rel_url.raw_path}/{task.id}"}, status=201)


@operation(
    "getTask",
    "tasks",
    *(ID, IF_MATCH, IF_NONE_MATCH),
    head="headTask",
    needs="tasks:read",
    answers={200: _TASK, 304: _NOT_CHANGED},
    fails=[TaskNotFound, StaleTask],
)
async def show(request: web.Request) -> web.Response:
    """Return a task, or 304 if the client has this version."""
    no_parameters(request)
    read = await ask(request, GetTask(_ref(request)))
    headers = {names.ETAG: etag(read.version), **where_from(read)}
    if (wanted := _fitting(request)) is not None:
        try:
            require_version(read.value, wanted)
        except StaleTask as e:
            e.at = read.at
            raise
    seen = versions(request, names.IF_NONE_MATCH)
    if seen is not None and any(one == "*" or one.removeprefix("W/") == headers[names.ETAG] for one in seen):
        return web.Response(status=304, headers=headers)
    return web.Response(body=read.encoded, content_type="application/json", headers=headers)


@operation(
    "replaceTask",
    "tasks",
    *(ID, IF_MATCH, prefer("return")),
    body="TaskReplacement",
    writes=True,
    needs="tasks:write",
    answers=_EDITED,
    fails=[TaskNotFound, Conflict, StaleTask],
)
async def put(request: web.Request) -> web.Response:
    """Replace everything that a client may write."""
    return await _edit(request, await json_body(request), complete=True)


@operation(
    "editTask",
    "tasks",
    *(ID, IF_MATCH, prefer("return")),
    body="TaskPatch",
    media=[MERGE_PATCH],
    writes=True,
    needs="tasks:write",
    answers=_EDITED,
    fails=[TaskNotFound, Conflict, StaleTask],
)
async def patch(request: web.Request) -> web.Response:
    """Change what the merge patch names."""
    return await _edit(request, await json_body(request, MERGE_PATCH))


async def _edit(request: web.Request, body: object, *, complete: bool = False) -> web.Response:
    ref, dry_run = _ref(request), _dry_run(request)
    operation = edit(body, ref, _if_match(request), complete=complete)
    task, headers = await _write(request, operation, dry_run)
    assert task is not None
    return _task(request, task, headers, dry_run=dry_run)


@operation(
    "removeTask",
    "tasks",
    *(ID, IF_MATCH),
    writes=True,
    needs="tasks:write",
    answers={204: answer("It is removed.")},
    fails=[TaskNotFound, StaleTask],
)
async def remove(request: web.Request) -> web.Response:
    """Remove a task."""
    ref, dry_run = _ref(request), _dry_run(request)
    _, headers = await _write(request, Remove(ref, _if_match(request)), dry_run)
    return web.Response(status=204, headers=headers)


@operation(
    "taskHistory",
    "tasks",
    ID,
    _LIMIT,
    CURSOR,
    needs="tasks:read",
    answers={200: answer("A page, newest first.", "ChangePage", "Link")},
    fails=[TaskNotFound],
)
async def history(request: web.Request) -> web.Response:
    """Return a page of what happened to a task."""
    given = Parameters(request, "limit", "cursor")
    limit = given.whole("limit", PAGE_DEFAULT, 1, PAGE_MAX)
    query = History(id=_ref(request), limit=limit, cursor=given.one("cursor"))
    return _page(request, await ask(request, query), {})


@operation(
    "writeBatch",
    "tasks",
    body="Batch",
    writes=True,
    needs="tasks:write",
    answers={200: answer("What became of each operation.", "BatchAnswer")},
    of_many=True,
    fails=[TaskNotFound, Conflict, StaleTask],
)
async def batch(request: web.Request) -> web.Response:
    """Write many operations at once."""
    _no_condition(request)
    changes = changeset(await json_body(request), dry_run=_dry_run(request))
    written = await tasks_of(request).write(changes, key=idempotency_key(request))
    body = encode_written(written, changes.operations)
    return web.Response(body=body, content_type="application/json", headers=_written(written))


def _no_condition(request: web.Request) -> None:
    for name in (names.IF_MATCH, names.IF_NONE_MATCH):
        if name in request.headers:
            raise InvalidRequest(f"{name} means nothing here; in a batch, if_version is the condition of an edit or a removal")


def _ref(request: web.Request) -> Ref:
    try:
        return parse_ref(request.match_info["id"])
    except InvalidRequest as e:
        raise InvalidRequest(e.detail, parameter="id") from None


def _dry_run(request: web.Request) -> bool:
    return bool(Parameters(request, "dry_run").flag("dry_run"))


def _if_match(request: web.Request) -> tuple[int, ...] | None:
    """Return the versions that the task must be at for the write to happen, None if any will do. None may fit."""
    if names.IF_NONE_MATCH in request.headers:
        raise InvalidRequest("If-None-Match is for reading; If-Match is the condition of a write")
    return _fitting(request)


def _fitting(request: web.Request) -> tuple[int, ...] | None:
    tags = versions(request, names.IF_MATCH)
    if tags is None or tags == ["*"]:  # a task that is not there is a 404 anyway
        return None
    return tuple(int(tag[1:-1]) for tag in tags if re.fullmatch('"[1-9][0-9]{0,17}"', tag))


async def _write(request: web.Request, operation: Operation, dry_run: bool) -> tuple[Task | None, dict[str, str]]:
    """Write one operation, and return the task, None if it is removed, and what the headers say of the write."""
    changes = Changeset((operation,), atomic=False, dry_run=dry_run)
    written = await tasks_of(request).write(changes, key=idempotency_key(request))
    [result] = written.results
    if isinstance(result, TaskctlError):
        if isinstance(result, TaskNotFound | Conflict | StaleTask):  # they depend on what is there
            result.at = written.at
        raise result
    return result, _written(written)


def _written(written: Written) -> dict[str, str]:
    return {names.SEQ: written.at, **({"Idempotency-Replayed": "true"} if written.replayed else {})}


def _task(
    request: web.Request, task: Task, headers: Mapping[str, str], *, status: int = 200, dry_run: bool = False
) -> web.Response:
    """Return the answer to a write: the task, or nothing of it if the client has no use for it."""
    if dry_run:  # the task is all that it is for; and what there never was has no ETag
        return web.Response(body=encode(task), content_type="application/json", headers=headers)
    preferences = Preferences(request)
    minimal = preferences.wants("return", "minimal")
    if not minimal:
        preferences.wants("return", "representation")
    headers = {names.ETAG: etag(task.version), **headers, **preferences.headers}
    if minimal:
        return web.Response(status=204 if status == 200 else status, headers=headers)
    return web.Response(body=encode(task), status=status, content_type="application/json", headers=headers)


def _next(url: URL, cursor: str) -> str:
    """Return the address of the next page."""
    if "cursor=" in url.raw_query_string:
        return str(url.update_query(cursor=cursor))
    return f"{url.raw_path}?{url.raw_query_string}{'&' if url.raw_query_string else ''}cursor={cursor}"


def _page(request: web.Request, read: Read[Page[Any]], headers: Mapping[str, str]) -> web.Response:
    headers = {**where_from(read), **headers}
    if (cursor := read.next_cursor) is not None:
        link = f'<{_next(request.rel_url, cursor)}>; rel="next"'
        if redacted(link) == link:  # headers are what others keep; who asks with a token in the filter has the cursor
            headers[names.LINK] = link
    return web.Response(body=read.encoded, content_type="application/json", headers=headers)
