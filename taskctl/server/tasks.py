"""`/tasks`, `/tasks/{id}`, `/tasks/{id}/history` and `/batch`."""

import re

from aiohttp import web

from taskctl import fields
from taskctl.errors import InvalidRequest
from taskctl.filters import TERMS_MAX, parse_filter, parse_words, when, zone_of
from taskctl.server.requests import Parameters, json_body, now, tasks_of, versions, zone_name
from taskctl.tasks import PAGE_DEFAULT, And, Compare, Condition, Match, Not, Overdue, Ref, Task, TaskQuery
from taskctl.wire import changeset, edit, encode, encode_written, etag, new_task, parse_ref

PAGE_MAX = 200
_MERGE_PATCH = "application/merge-patch+json"


def routes() -> list[web.RouteDef]:
    """Return the routes of this module."""
    return [
        web.get("/api/v1/tasks", list_tasks),
        web.post("/api/v1/tasks", add),
        web.get("/api/v1/tasks/{id}", show, name="task"),
        web.put("/api/v1/tasks/{id}", put),
        web.patch("/api/v1/tasks/{id}", patch),
        web.delete("/api/v1/tasks/{id}", remove),
        web.get("/api/v1/tasks/{id}/history", history),
        web.post("/api/v1/batch", batch),
    ]


async def list_tasks(request: web.Request) -> web.Response:
    """Return a page of the tasks that the parameters pick."""
    given = Parameters(
        request,
        *("status", "label", "project", "priority", "due_before", "due_after", "overdue", "q", "filter"),
        *("sort", "limit", "cursor"),
    )
    zone = zone_name(request)
    sort = given.one("sort")
    query = TaskQuery(
        where=_condition(given, zone),
        sort=tuple(sort.split(",")) if sort is not None else TaskQuery.__struct_defaults__[1],
        limit=given.whole("limit", PAGE_DEFAULT, 1, PAGE_MAX),
        cursor=given.one("cursor"),
        zone=zone,
    )
    page = await tasks_of(request).list(query)
    return _page(request, encode(page), page.next_cursor)


def _condition(given: Parameters, zone: str) -> Condition | None:
    """Return what the parameters ask for, all of it together."""
    terms: list[Condition] = []
    for name, allowed in (("status", fields.STATUSES), ("priority", fields.PRIORITIES), ("label", None), ("project", None)):
        values = given.many(name)
        if len(values) > TERMS_MAX:
            raise InvalidRequest(f"{name} was given more than {TERMS_MAX} times", parameter=name)
        for value in values:
            if allowed is not None and value not in allowed:
                raise InvalidRequest(f"{name} must be one of {', '.join(allowed)}", parameter=name)
        if values:
            terms.append(Match(name, tuple(values)))  # type: ignore[arg-type]  # one of the four above
    for name, op in (("due_before", "<"), ("due_after", ">")):
        if (text := given.one(name)) is not None:
            try:
                terms.append(Compare("due", op, when(text, now().astimezone(zone_of(zone)).date())))  # type: ignore[arg-type]
            except ValueError as e:
                raise InvalidRequest(f"{name}: {e}", parameter=name) from None
    if (overdue := given.flag("overdue")) is not None:
        terms.append(Overdue() if overdue else Not(Overdue()))
    said = (parse_words(given.one("q") or ""), parse_filter(given.one("filter") or "", zone=zone, now=now()))
    terms += [condition for condition in said if condition is not None]
    if len(terms) < 2:
        return terms[0] if terms else None
    return And(tuple(terms))


async def add(request: web.Request) -> web.Response:
    """Add a task."""
    dry_run = _dry_run(request)
    task = await tasks_of(request).add(new_task(await json_body(request)), dry_run=dry_run)
    if dry_run:
        return _task(task)
    location = request.app.router["task"].url_for(id=str(task.id))
    return _task(task, status=201, headers={"Location": str(location)})


async def show(request: web.Request) -> web.Response:
    """Return a task, or 304 if the client has this version."""
    Parameters(request)
    task = await tasks_of(request).get(_ref(request))
    tag = etag(task.version)
    seen = versions(request, "If-None-Match")
    if seen is not None and any(one == "*" or one.removeprefix("W/") == tag for one in seen):
        return web.Response(status=304, headers={"ETag": tag})
    return _task(task)


async def put(request: web.Request) -> web.Response:
    """Replace everything that a client may write."""
    return await _edit(request, await json_body(request), complete=True)


async def patch(request: web.Request) -> web.Response:
    """Change what the merge patch names."""
    return await _edit(request, await json_body(request, _MERGE_PATCH))


async def _edit(request: web.Request, body: object, *, complete: bool = False) -> web.Response:
    ref, dry_run = _ref(request), _dry_run(request)
    operation = edit(body, ref, await _if_match(request, ref), complete=complete)
    task = await tasks_of(request).perform(operation, dry_run)
    assert task is not None
    return _task(task)


async def remove(request: web.Request) -> web.Response:
    """Remove a task."""
    ref, dry_run = _ref(request), _dry_run(request)
    await tasks_of(request).remove(ref, if_version=await _if_match(request, ref), dry_run=dry_run)
    return web.Response(status=204)


async def history(request: web.Request) -> web.Response:
    """Return a page of what happened to a task."""
    given = Parameters(request, "limit", "cursor")
    limit = given.whole("limit", PAGE_DEFAULT, 1, PAGE_MAX)
    page = await tasks_of(request).history(_ref(request), limit=limit, cursor=given.one("cursor"))
    return _page(request, encode(page), page.next_cursor)


async def batch(request: web.Request) -> web.Response:
    """Write many operations at once."""
    changes = changeset(await json_body(request), dry_run=_dry_run(request))
    written = await tasks_of(request).write(changes)
    return web.Response(body=encode_written(written, changes.operations), content_type="application/json")


def _ref(request: web.Request) -> Ref:
    return parse_ref(request.match_info["id"])


def _dry_run(request: web.Request) -> bool:
    return bool(Parameters(request, "dry_run").flag("dry_run"))


async def _if_match(request: web.Request, ref: Ref) -> int | None:
    """Return the version that the task must be at for the write to happen: 0, which none has, if no tag can fit."""
    tags = versions(request, "If-Match")
    if tags is None:
        return None
    if tags == ["*"]:  # any version will do; a task that is not there is a 404 anyway
        return None
    wanted = [int(tag[1:-1]) for tag in tags if re.fullmatch('"[1-9][0-9]{0,17}"', tag)]
    if len(wanted) < 2:
        return wanted[0] if wanted else 0
    current = (await tasks_of(request).get(ref)).version
    return current if current in wanted else 0


def _task(task: Task, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    headers = {"ETag": etag(task.version), **(headers or {})}
    return web.Response(body=encode(task), status=status, content_type="application/json", headers=headers)


def _page(request: web.Request, body: bytes, cursor: str | None) -> web.Response:
    headers = {}
    if cursor is not None:
        headers["Link"] = f'<{request.rel_url.update_query(cursor=cursor)}>; rel="next"'
    return web.Response(body=body, content_type="application/json", headers=headers)
