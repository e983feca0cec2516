"""The shapes of the API as JSON Schema (2020-12): the types of `tasks.py` and `wire.py`, with the rules of `fields.py`.

A type says which members there are and of what kind; what may stand in a member is said here once, in `_MEMBERS`, as strictly
as the server takes it. What a schema cannot say is told in words: that lengths count after NFC, that a description is limited
in bytes, and that labels are counted once each.
"""

import inspect
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from taskctl import fields
from taskctl.access import SCOPES, TOKEN_ID, TOKEN_NAME, WORKSPACE_NAME, Me, Minted, Token, Tokens, Workspaces, me
from taskctl.conditions import LENGTH_MAX, TERMS_MAX
from taskctl.errors import (
    Conflict,
    CursorExpired,
    ExpectationFailed,
    FieldError,
    Forbidden,
    HeadersTooLarge,
    IdempotencyMismatch,
    InvalidBody,
    InvalidFilter,
    InvalidRequest,
    InvalidTask,
    MethodNotAllowed,
    MethodUnknown,
    Misdirected,
    NotFound,
    OutcomeUnknown,
    Overloaded,
    PayloadTooLarge,
    RequestTimedOut,
    SchemaOutdated,
    StaleTask,
    StorageFull,
    TaskctlError,
    TaskNotFound,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
    UnsupportedMediaType,
    UriTooLong,
)
from taskctl.tasks import (
    BATCH_MAX,
    READ_ONLY,
    SORTS,
    WRITABLE,
    CacheStats,
    Change,
    Changes,
    Day,
    NewTask,
    Page,
    Stats,
    Tallies,
    Tally,
    Task,
)
from taskctl.wire import BatchAnswer, problem

Schema = dict[str, Any]

_REF: Final = "#/components/schemas/{name}"


def ref(name: str) -> Schema:
    """Return a reference to a shape."""
    return {"$ref": _REF.format(name=name)}


# --------------------------------------------------------------------------------------------------------------- members

# Lone surrogates need no mention: JSON in UTF-8 has none. These are understood by Python's, ECMA's and Rust's expressions alike.
_NOT_ON_A_LINE: Final = r"\u0000-\u001f\u007f-\u009f\u2028\u2029"
_NOT_IN_A_TEXT: Final = r"\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f"
_SPACE: Final = r"\u0020\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"


def _line(most: int, *, about: str, without: str = "", joined: str = "") -> Schema:
    """Return the shape of a line that is not blank; with `joined`, of a path of such lines."""
    one = f"[^{_NOT_ON_A_LINE}{without}]*[^{_NOT_ON_A_LINE}{_SPACE}{without}][^{_NOT_ON_A_LINE}{without}]*"
    pattern = f"^{one}(?:{joined}{one})*$" if joined else f"^{one}$"
    return {"type": "string", "minLength": 1, "maxLength": most, "pattern": pattern, "description": about}


_DATE: Final = r"(?!0000)[0-9]{4}-[0-9]{2}-[0-9]{2}"
_TIME: Final = r"[Tt][0-9]{2}:[0-9]{2}:[0-5][0-9](?:\.[0-9]{1,9})?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})"
# A day first: readers that take the first one that fits must not make an instant of it.
DAY: Final[Schema] = {"type": "string", "format": "date", "pattern": f"^{_DATE}$"}
INSTANT: Final[Schema] = {"type": "string", "format": "date-time", "pattern": f"^{_DATE}{_TIME}$"}
_STAMP: Final[Schema] = {"type": "string", "format": "date-time"}
_ID: Final[Schema] = {"type": "integer", "minimum": 1}
_UID: Final[Schema] = {"type": "string", "format": "uuid"}
REF: Final[Schema] = {"anyOf": [_ID, _UID]}
"""What names a task: its id, or its uid."""

_LABEL: Final = _line(fields.LABEL_MAX, about="One line.")
_PROJECT: Final = _line(
    fields.PROJECT_MAX, without=".", joined=r"\.", about="A path with dots: a filter on `work` takes in `work.api`."
)


def _or_null(schema: Schema) -> Schema:
    return {**schema, "type": [schema["type"], "null"]}


_CHOICES: Final[Mapping[str, Schema]] = {
    "Status": {
        "type": "string",
        "enum": list(fields.STATUSES),
        "description": "`todo` and `in_progress` lead to each other, to `done` and to `cancelled`; those two lead to `todo`.",
    },
    "Priority": {"type": "string", "enum": list(fields.PRIORITIES), "description": "In ascending order."},
}
_MEMBERS: Final[Mapping[str, Schema]] = {
    "id": {**_ID, "description": "Given by the workspace, from 1, never used again."},
    "uid": {**_UID, "description": "The same everywhere, for ever; a UUID of version 7 unless the client brought another one."},
    "title": _line(fields.TITLE_MAX, about="One line, taken literally. Text is normalised to NFC, and lengths count after that."),
    "description": {
        "type": ["string", "null"],
        "maxLength": fields.DESCRIPTION_MAX,
        "pattern": f"^[^{_NOT_IN_A_TEXT}]*$",
        "description": f"Markdown of at most {fields.DESCRIPTION_MAX} bytes of UTF-8.",
    },
    "status": ref("Status"),
    "priority": ref("Priority"),
    "project": _or_null(_PROJECT),
    "labels": {
        "type": "array",
        "items": _LABEL,
        "maxItems": fields.LABELS_MAX,
        "description": "A set: answered sorted, each label once.",
    },
    "due": {
        "anyOf": [DAY, INSTANT, {"type": "null"}],
        "description": "A day, which is past once it has ended in the reader's time zone, or an instant.",
    },
    "started_at": {**_or_null(_STAMP), "description": "When it was first `in_progress`."},
    "completed_at": {**_or_null(_STAMP), "description": "Since when it has been `done`; null while it is not."},
    "created_at": _STAMP,
    "updated_at": _STAMP,
    "version": {"type": "integer", "minimum": 1, "description": 'One more with every change. The ETag is `"<version>"`.'},
}


def _member(name: str) -> Schema:
    return {**_MEMBERS[name], **({"readOnly": True} if name in READ_ONLY else {})}


# ----------------------------------------------------------------------------------------------------------------- shapes

_NAMES: Final = {"Page_Task_": "TaskPage", "Page_Change_": "ChangePage"}
TOKEN: Final[Schema] = {"type": "string", "pattern": f"^{TOKEN_ID.pattern}$"}
WORKSPACE: Final[Schema] = {"type": "string", "pattern": f"^{WORKSPACE_NAME.pattern}$"}
_OF_THEIR_OWN: Final = {
    "Change": {"at": _STAMP, "seq": _ID, "id": _ID},
    "Changes": {"next": {"type": "integer", "minimum": 0}},
    "OperationAnswer": {"task": ref("Task"), "problem": ref("Problem")},
}


def schemas() -> dict[str, Schema]:
    """Return every shape by its name."""
    found = {**_answers(), **_requests(), **_CHOICES, "Problem": _PROBLEM, "Version": _VERSION}
    return dict(sorted(found.items()))


def _answers() -> dict[str, Schema]:
    """Return the shapes of answers, as msgspec tells them, with what it does not know."""
    kinds = (Task, Page[Task], Page[Change], Changes, Tallies, Stats, BatchAnswer, CacheStats, Me, Tokens, Minted, Workspaces)
    _, told = msgspec.json.schema_components(kinds, schema_hook=_custom, ref_template=_REF)
    answers = {}
    for given, schema in told.items():
        name = _NAMES.get(given, given)
        for member, shape in schema["properties"].items():
            shape.pop("default", None)
            schema["properties"][member] = _OF_THEIR_OWN.get(name, {}).get(member, shape)
        schema.pop("title")
        if "description" in schema:
            schema["description"] = inspect.cleandoc(schema["description"])
        if name in ("TaskPage", "ChangePage"):
            schema["required"].append("next_cursor")
        answers[name] = schema
    assert answers["Task"]["properties"].keys() == _MEMBERS.keys()
    answers["Task"]["properties"] = {name: _member(name) for name in _MEMBERS}
    answers["Task"]["properties"]["labels"]["uniqueItems"] = True
    for name in ("Tally", "Stats"):
        counts = {status: {"type": "integer", "minimum": 0} for status in fields.STATUSES}
        answers[name]["properties"]["counts"] = {"type": "object", "properties": counts, "required": list(counts)}
    return answers


def _custom(_: type) -> Schema:
    return {"type": "string"}  # a due: _MEMBERS has more of it


def _requests() -> dict[str, Schema]:
    """Return the shapes of bodies. In these, a member that is not known is refused."""
    names, defaults = NewTask.__struct_fields__, NewTask.__struct_defaults__
    required = names[: len(names) - len(defaults)]
    new = {name: dict(_MEMBERS[name]) for name in names}
    for name, default in zip(names[len(required) :], defaults, strict=True):
        new[name]["default"] = list(default) if isinstance(default, tuple) else default
    new["uid"] = {**_or_null(_UID), "default": None, "description": "For imports: refused if another task has it."}
    members = {name: _member(name) for name in (*WRITABLE, *READ_ONLY)}
    operations = {
        "AddOperation": _closed({"op": {"const": "add"}, "task": ref("NewTask")}, "op", "task"),
        "EditOperation": _closed(
            {"op": {"const": "edit"}, "id": REF, "patch": ref("TaskPatch"), "if_version": _IF_VERSION}, "op", "id", "patch"
        ),
        "RemoveOperation": _closed({"op": {"const": "remove"}, "id": REF, "if_version": _IF_VERSION}, "op", "id"),
    }
    batch = {
        "operations": {
            "type": "array",
            "minItems": 1,
            "maxItems": BATCH_MAX,
            "items": {
                "oneOf": [ref(name) for name in operations],
                "discriminator": {
                    "propertyName": "op",
                    "mapping": {
                        schema["properties"]["op"]["const"]: _REF.format(name=name) for name, schema in operations.items()
                    },
                },
            },
            "description": "Done in their order. An `id` may also be the `uid` of a task that is added earlier in the batch.",
        },
        "atomic": {
            "type": "boolean",
            "default": True,
            "description": "Whether the first failure undoes all. If not, they stand in their places and the rest is written.",
        },
        "message": {**_or_null(_line(fields.TITLE_MAX, about="Why: kept in the log.")), "default": None},
    }
    return {
        "NewTask": {**_closed(new, *required), "description": "A task to be added."},
        "TaskPatch": {
            **_closed(members),
            "description": "What is to change (a merge patch, RFC 7396). Read-only members must be as they are in the task.",
        },
        "TaskReplacement": {
            **_closed(members, *WRITABLE),
            "description": "All that can be written. Read-only members may come along if they are as they are in the task.",
        },
        "NewToken": {**_closed(_NEW_TOKEN, "name", "scopes"), "description": "A token to be made."},
        "NewWorkspace": {**_closed({"name": WORKSPACE}, "name"), "description": "A workspace to be made."},
        "Batch": {**_closed(batch, "operations"), "description": "Operations that are written together."},
        **operations,
    }


_NEW_TOKEN: Final[Schema] = {
    "name": {
        "type": "string",
        "pattern": f"^{TOKEN_NAME.pattern}$",
        "description": "What the log calls whoever uses it. Of the tokens in use, only one in a workspace may have it.",
    },
    "scopes": {
        "type": "array",
        "items": {"type": "string", "enum": list(SCOPES)},
        "minItems": 1,
        "description": "What it may do; each includes those before it.",
    },
    "workspace": {
        **_or_null(WORKSPACE),
        "default": None,
        "description": "The maker's own, unless an admin of `default` names one.",
    },
    "expires_at": {**_or_null(INSTANT), "default": None, "description": "From when on it is worth nothing."},
}
_IF_VERSION: Final[Schema] = {
    "type": ["integer", "array", "null"],
    "items": {"type": "integer"},
    "description": "The version that the task must be at, or several of which it must be at one, as with `If-Match`.",
}


def _closed(members: Mapping[str, Schema], *required: str) -> Schema:
    schema: Schema = {"type": "object", "properties": dict(members), "additionalProperties": False}
    return {**schema, "required": list(required)} if required else schema


_WORD: Final = f"-?(?:{'|'.join(SORTS)})"
SORT: Final[Schema] = {"type": "string", "pattern": rf"^(?!.*\b(\w+)\b.*\b\1\b){_WORD}(?:,{_WORD})*$"}
"""Names of fields, none of them twice."""

WHEN: Final[Schema] = {
    "anyOf": [
        DAY,
        INSTANT,
        {
            "type": "string",
            "pattern": "^(?:today|tomorrow|yesterday|(?:mon|tues|wednes|thurs|fri|satur|sun)day|mon|tue|wed|thu|fri|sat|sun"
            "|[+-](?:[0-9]{1,4}[dw]|[0-9]{1,3}[my]))$",
        },
    ]
}
WORDS: Final[Schema] = {"type": "string", "maxLength": LENGTH_MAX, "format": "taskctl-words"}
FILTER: Final[Schema] = {"type": "string", "maxLength": LENGTH_MAX, "format": "taskctl-filter"}
"""No pattern says what is a filter, or has a letter in it; the formats are ours, and only name it."""

MATCHES: Final[Mapping[str, Schema]] = {
    "status": {"type": "array", "items": ref("Status"), "maxItems": TERMS_MAX},
    "label": {"type": "array", "items": _LABEL, "maxItems": TERMS_MAX},
    "project": {"type": "array", "items": _PROJECT, "maxItems": TERMS_MAX},
    "priority": {"type": "array", "items": ref("Priority"), "maxItems": TERMS_MAX},
}
"""Query parameters that may be repeated."""

_VERSION: Final[Schema] = {
    "type": "object",
    "properties": {"version": {"type": "string"}, "python": {"type": "string"}},
    "required": ["version", "python"],
}


# --------------------------------------------------------------------------------------------------------------- problems

_PLACE: Final = [FieldError("/title", "empty", "title must not be empty")]
_FAILURES: Final[tuple[TaskctlError, ...]] = (
    InvalidTask("title must not be empty", errors=_PLACE),
    InvalidRequest("limit must be a whole number from 1 to 200", parameter="limit"),
    InvalidFilter("at position 7: a value was expected, but the filter ends", position=7, expected="a value"),
    PayloadTooLarge("the body is larger than 1048576 bytes"),
    UnsupportedMediaType(
        "a body of the type application/json was expected, and its Content-Type says 'text/plain'", accept=["application/json"]
    ),
    RequestTimedOut("the body did not arrive within 10 seconds"),
    UriTooLong("an address may have 65536 bytes"),
    ExpectationFailed("the only Expect that is understood is 100-continue"),
    HeadersTooLarge("a header may have 8192 bytes, and a request 100 headers"),
    MethodUnknown("there is no such method here; /docs shows what there is"),
    Misdirected("the server does not go by 'tasks.example.com'; the setting allowed_hosts adds names"),
    IdempotencyMismatch("the idempotency key was used for another request"),
    InvalidBody("name is missing", errors=[FieldError("/name", "required", "name is missing")]),
    Unauthenticated("the token has been revoked", reason="revoked"),
    Forbidden("this needs the scope tasks:write, and the token has tasks:read", scope="tasks:write"),
    NotFound("there is nothing at this address"),
    TaskNotFound("there is no task 7", id=7),
    MethodNotAllowed("PUT does not fit here; there are GET, HEAD, POST", allow=["GET", "HEAD", "POST"]),
    StaleTask("task 7 is at version 4, not 3", id=7, current_version=4),
    Conflict("task 7 is done, and from there it cannot become in_progress; reopen it first", id=7, current_status="done"),
    CursorExpired("this is not the log that the place came from; start again without it"),
    TooManyRequests(
        "this token may ask 6000 times in 60 seconds, and no more for another 12",
        retry_after=12,
        limit="token",
        quota=6000,
        window=60,
    ),
    Unavailable("the database does not answer", retry_after=1),
    Overloaded("more writes are waiting than can be done in time", retry_after=1),
    OutcomeUnknown("the connection broke while the write was on its way", retry_after=1),
    SchemaOutdated("the database has another schema than this version of taskctl; run taskctl db upgrade", retry_after=1),
    StorageFull("the disk is full", retry_after=1),
    TaskctlError("something went wrong that nobody foresaw; the server's log has more"),
)
_REQUEST_ID: Final = "01936f0c7a3e7c4b9d2e5b1f0a6c8e7d"


def problems() -> dict[str, Schema]:
    """Return an example of every problem that the API can answer with, by its code."""
    return {failure.code: {"summary": failure.title, "value": problem(failure, request_id=_REQUEST_ID)} for failure in _FAILURES}


_POINTER: Final = (
    "Where it stands in the body. In a result of a batch: where in that operation's task or patch, or in the operation itself."
)
_PROBLEM: Final[Schema] = {
    "type": "object",
    "description": "What went wrong (RFC 9457). Its other members depend on the code.",
    "properties": {
        "type": {"type": "string", "format": "uri", "description": "`urn:taskctl:problem:<code>`"},
        "title": {"type": "string", "description": "The same for every problem of this code."},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string", "description": "One sentence for people."},
        "code": {"type": "string", "enum": sorted({failure.code for failure in _FAILURES}), "description": "For programs."},
        "retryable": {"type": "boolean", "description": "Whether the same request may succeed a little later."},
        "request_id": {"type": "string", "description": "The one of `X-Request-Id`; the server's log has it, too."},
        "errors": {
            "type": "array",
            "description": "Every member at fault.",
            "items": {
                "type": "object",
                "properties": {
                    "pointer": {"type": "string", "format": "json-pointer", "description": _POINTER},
                    "code": {"type": "string"},
                    "detail": {"type": "string"},
                },
                "required": ["pointer", "code", "detail"],
            },
        },
        "parameter": {"type": "string", "description": "`invalid_request`: the parameter at fault."},
        "position": {"type": "integer", "minimum": 0, "description": "`invalid_filter`: where, in characters from 0."},
        "expected": {"type": "string", "description": "`invalid_filter`: what would have fitted there."},
        "id": {"type": ["integer", "string"], "description": "`task_not_found`, `stale_task`, `conflict`: the task's id or uid."},
        "epoch": {"type": "string", "description": "`cursor_expired`: the log that there is."},
        "accept": {
            "type": "array",
            "items": {"type": "string"},
            "description": "`unsupported_media_type`: the types that are read.",
        },
        "index": {"type": "integer", "minimum": 0, "description": "The operation of the batch that failed."},
        "current_version": {**_ID, "description": "`stale_task`: the version of now."},
        "reason": {
            "type": "string",
            "enum": ["malformed", "unknown", "expired", "revoked"],
            "description": "`unauthenticated`: what is wrong with the token that was shown.",
        },
        "scope": {"type": "string", "description": "`forbidden`: the scope that is missing."},
        "name": {"type": "string", "description": "`conflict`: the name that is taken."},
        "current_status": {"type": "string", "description": "`conflict`: the status of now."},
        "retry_after": {"type": "integer", "minimum": 0, "description": "A sensible number of seconds to wait."},
        "limit": {
            "type": "string",
            "enum": ["token", "address", "failures"],
            "description": "`too_many_requests`: requests with the token, from the address, or with worthless tokens.",
        },
        "quota": {"type": "integer", "minimum": 1, "description": "`too_many_requests`: how many there may be in the window."},
        "window": {"type": "integer", "minimum": 1, "description": "`too_many_requests`: so many seconds."},
        "allow": {"type": "array", "items": {"type": "string"}, "description": "`method_not_allowed`: the methods that fit."},
    },
    "required": ["type", "title", "status", "detail", "code", "retryable"],
}


# --------------------------------------------------------------------------------------------------------------- examples


def examples() -> dict[str, Any]:
    """Return an example of each shape that stands as a whole body, by the shape's name."""
    at = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)
    task = Task(
        id=7,
        uid=UUID("01936f0c-7a3e-7c4b-9d2e-5b1f0a6c8e7d"),
        title="Buy oat milk",
        description="the *good* one",
        status="todo",
        priority="high",
        project="home.kitchen",
        labels=("errand", "quick"),
        due=date(2026, 12, 1),
        started_at=None,
        completed_at=None,
        created_at=at,
        updated_at=at,
        version=1,
    )
    shown: dict[str, Any] = msgspec.to_builtins(task)
    change = Change(
        seq=41,
        at=at,
        changeset=UUID("01936f0c-7a3e-7c4b-9d2e-5b1f0a6c8e7e"),
        actor=None,
        source="api",
        entity="task",
        id=7,
        op="edit",
        version=2,
        before={"status": "todo"},
        after={"status": "in_progress"},
    )
    token = Token(
        id="0fBnKq3xYv7A",
        name="ci",
        workspace="default",
        scopes=("tasks:read",),
        created_at=at,
        created_by="ada",
        maker=None,
        expires_at=None,
        last_used_at=None,
        revoked_at=None,
        revoked_by=None,
    )
    counts = dict(zip(fields.STATUSES, (3, 1, 12, 0), strict=True))
    tally = Tally("home.kitchen", counts)  # type: ignore[arg-type]  # the keys are statuses
    stats = Stats(counts=tally.counts, overdue=1, done_per_day=(Day(at.date(), 2),))
    return {
        "Task": shown,
        "TaskPage": msgspec.to_builtins(Page((task,), None)),
        "ChangePage": msgspec.to_builtins(Page((change,), None)),
        "Changes": msgspec.to_builtins(Changes((change,), 41, more=False, epoch="01936f0c")),
        "Tallies": msgspec.to_builtins(Tallies((tally,))),
        "Stats": msgspec.to_builtins(stats),
        "CacheStats": {"entries": 812, "bytes": 960_164, "asked": {"memory": 40_512, "miss": 1_204}},
        "Me": msgspec.to_builtins(me(token.caller())),
        "Tokens": msgspec.to_builtins(Tokens((token,))),
        "Minted": {"token": msgspec.to_builtins(token), "secret": f"tc_api_{token.id}_{'0' * 43}_000000"},
        "NewToken": {"name": "ci", "scopes": ["tasks:read"], "expires_at": "2027-12-01T00:00:00Z"},
        "Workspace": {"name": "garden"},
        "Workspaces": {"items": [{"name": "default"}, {"name": "garden"}]},
        "NewWorkspace": {"name": "garden"},
        "NewTask": {"title": "Buy oat milk", "project": "home.kitchen", "labels": ["errand"], "due": "2026-12-01"},
        "TaskPatch": {"status": "in_progress", "due": None},
        "TaskReplacement": {name: shown[name] for name in WRITABLE},
        "Batch": {
            "operations": [
                {"op": "add", "task": {"title": "Buy bread"}},
                {"op": "edit", "id": 7, "patch": {"status": "done"}, "if_version": 1},
                {"op": "remove", "id": 9},
            ],
            "message": "after the weekly shopping",
        },
        "BatchAnswer": {
            "changeset": str(change.changeset),
            "seq": 41,
            "results": [{"status": 201, "task": shown}, {"status": 200, "task": shown}, {"status": 204}],
        },
        "Version": {"version": "0.1.0", "python": "3.11.2"},
    }
