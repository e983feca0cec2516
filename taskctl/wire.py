"""The JSON that both ends of the API speak: bodies, problems, ETags and cursors.

The server reads requests and writes answers with it, `RemoteTasks` the other way round, and the command line prints with it.
The shapes are the types of `tasks.py`.
"""

import binascii
import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Annotated, Any, TypeAlias, TypeVar, cast
from uuid import UUID

import msgspec
from msgspec import Meta

from taskctl import fields
from taskctl.access import SCOPES, NewToken, redacted, workspace_name
from taskctl.errors import FieldError, InvalidBody, InvalidRequest, InvalidTask, TaskctlError, by_code
from taskctl.tasks import (
    BATCH_MAX,
    READ_ONLY,
    WRITABLE,
    Add,
    Changeset,
    Edit,
    NewTask,
    Operation,
    Ref,
    Refuse,
    Remove,
    Task,
    TaskPatch,
    TaskQuery,
    Written,
    no_such_cursor,
    require_ref,
)

DEPTH_MAX = 32
UNKNOWN_MAX = 50
"""So many unknown members of one object are told; a body of nothing else would have an answer many times its size."""
PROBLEM = "application/problem+json"
_TYPE = "urn:taskctl:problem:"

T = TypeVar("T")
Failure = TypeVar("Failure", InvalidTask, InvalidBody)

encode = msgspec.json.Encoder().encode


def decode(body: bytes | str, kind: type[T]) -> T:
    """Return the value of an answer that taskctl itself wrote. Raises msgspec.DecodeError if it is not one."""
    return msgspec.json.decode(body, type=kind, dec_hook=lambda _, value: fields.due(value))


# --------------------------------------------------------------------------------------------------------------- requests


def strict_json(body: bytes) -> Any:
    """Return the value of a JSON text (RFC 8259) from outside.

    Raises InvalidRequest for what is not JSON, and for what JSON's readers disagree about: duplicate names, NaN, other
    encodings than UTF-8, and depths over 32.
    """
    try:
        value = _strict.decode(body.decode())
    except UnicodeDecodeError as e:
        raise InvalidRequest(f"the body is not UTF-8 (at byte {e.start})") from None
    except json.JSONDecodeError as e:
        raise InvalidRequest(f"the body is not JSON: {e.msg} at line {e.lineno}, column {e.colno}") from None
    except RecursionError:
        raise InvalidRequest(f"the body is nested more than {DEPTH_MAX} deep") from None
    except ValueError as e:  # an integer of thousands of digits
        raise InvalidRequest(f"the body is not JSON that can be read: {e}") from None
    if b"\\ud" in body.lower():
        try:
            encode(value)
        except UnicodeEncodeError:
            raise InvalidRequest("the body is not JSON: half of a pair of surrogates stands alone in it") from None
    level = [value] if isinstance(value, dict | list) else []
    if not level:
        return value
    for _ in range(DEPTH_MAX):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return value
    raise InvalidRequest(f"the body is nested more than {DEPTH_MAX} deep")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        raise InvalidRequest(f"the body names {twice!r} twice in one object")
    return found


def _number(text: str) -> float | int:
    """Return a number; a whole one as such, however it is written: to JSON, 7.0 is 7."""
    number = float(text)
    return int(number) if abs(number) <= 2**53 and number.is_integer() else number


def _no_constant(name: str) -> None:
    raise InvalidRequest(f"the body is not JSON: {name} is not a number there")


_strict = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_number)

Checked = TypeVar("Checked", NewTask, TaskPatch)


def new_task(raw: object) -> NewTask:
    """Return the task that an object describes. Raises InvalidTask, which names every member at fault."""
    return _build(NewTask, raw, allowed=(*WRITABLE, "uid"), required=("title",))


def edit(raw: object, id: Ref, if_version: int | tuple[int, ...] | None, *, complete: bool = False) -> Edit:
    """Return the edit that a merge patch (RFC 7396) asks for; a complete one (PUT) must name every writable member.

    Read-only members may come along, as in a representation that is sent back; they are compared, not set.
    """
    expected: dict[str, Any] = {}
    if isinstance(raw, dict):
        expected = {name: value for name, value in raw.items() if name in READ_ONLY}
        raw = {name: value for name, value in raw.items() if name not in READ_ONLY}
    patch = _build(TaskPatch, raw, allowed=WRITABLE, required=WRITABLE if complete else ())
    return Edit(id, patch, if_version, expected)


def _build(kind: type[Checked], raw: object, allowed: tuple[str, ...], required: tuple[str, ...]) -> Checked:
    if not isinstance(raw, dict):
        raise InvalidTask("a task must be an object", errors=[FieldError("", "type", "must be an object")])
    if raw.keys() <= set(allowed) and raw.keys() >= set(required):
        return kind(**raw)
    errors = [FieldError(f"/{name}", "required", f"{name} is missing") for name in required if name not in raw]
    read_only = raw.keys() & set(READ_ONLY) - set(allowed)
    errors += [FieldError(f"/{name}", "read_only", f"{name} cannot be set") for name in read_only]
    errors += _unknown(dict.fromkeys(raw.keys() - read_only), allowed)
    try:
        kind(**{"title": "there is one", **{name: value for name, value in raw.items() if name in allowed}})
    except InvalidTask as e:
        errors += e.errors
    raise _invalid(errors, InvalidTask)


def new_token(raw: object) -> NewToken:
    """Return the token that an object asks for. Raises InvalidBody, which names every member at fault."""
    allowed, required = NewToken.__struct_fields__, ("name", "scopes")
    members = _object(raw)
    errors = [FieldError(f"/{name}", "required", f"{name} is missing") for name in required if name not in members]
    errors += _unknown(members, allowed)
    known = {name: value for name, value in members.items() if name in allowed}
    try:
        token = NewToken(**{"name": "given", "scopes": SCOPES, **known})
    except InvalidBody as e:
        errors += e.errors
    else:
        if not errors:
            return token
    raise _invalid(errors, InvalidBody)


def new_workspace(raw: object) -> str:
    """Return the name of the workspace that an object asks for. Raises InvalidBody, which names every member at fault."""
    members = _object(raw)
    errors = [] if "name" in members else [FieldError("/name", "required", "name is missing")]
    errors += _unknown(members, ("name",))
    try:
        name = workspace_name(members.get("name", "given"))
    except InvalidBody as e:
        errors += e.errors
    if errors:
        raise _invalid(errors, InvalidBody)
    return name


def _object(raw: object) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise InvalidBody("an object was expected", errors=[FieldError("", "type", "must be an object")])
    return raw


def shown_json(text: str) -> str:
    """Return JSON that means the same, in which every character but the ends of lines is one that can be seen."""
    return _OTHER.sub(_escape, text)


_OTHER = re.compile("[^\n -~]")


def _escape(match: re.Match[str]) -> str:
    char = match[0]
    return char if char.isprintable() else json.dumps(char)[1:-1] if char != "\x7f" else "\\u007f"


def _printable(text: str) -> str:
    """Return a text from outside as it can be shown and encoded, whatever is in it."""
    return text.encode("utf-8", "backslashreplace").decode()


def changeset(raw: object, *, dry_run: bool = False) -> Changeset:
    """Return the changeset that the body of a batch describes.

    Raises InvalidTask, which names every member of the batch itself that is wrong. If they are all right, an operation that
    is wrong is raised if the batch is atomic, and keeps its place as one that fails if it is not.
    """
    if not isinstance(raw, dict):
        raise InvalidTask("a batch must be an object", errors=[FieldError("", "type", "must be an object")])
    operations = raw.get("operations", [])
    atomic = raw.get("atomic", True)
    message = raw.get("message")
    errors = list(_unknown(raw, ("operations", "atomic", "message")))
    if "operations" not in raw:
        errors.append(FieldError("/operations", "required", "operations is missing"))
    elif not isinstance(operations, list):
        errors.append(FieldError("/operations", "type", "operations must be a list"))
    elif not 1 <= len(operations) <= BATCH_MAX:
        errors.append(FieldError("/operations", "length", f"operations must be 1 to {BATCH_MAX}, and are {len(operations)}"))
    if not isinstance(atomic, bool):
        errors.append(FieldError("/atomic", "type", "atomic must be true or false"))
    if message is not None:
        try:
            fields.title(message)
        except fields.Refused as e:
            errors.append(FieldError("/message", e.code, f"message {e.detail}"))
    if errors:
        raise _invalid(errors, InvalidTask)
    read: list[Operation] = []
    for index, item in enumerate(operations):
        try:
            read.append(_operation(item, index if atomic else None))
        except InvalidTask as e:
            if atomic:
                raise
            read.append(Refuse(e))
    return Changeset(tuple(read), atomic=atomic, message=message, dry_run=dry_run)


_MEMBERS = {"add": ("op", "task"), "edit": ("op", "id", "patch", "if_version"), "remove": ("op", "id", "if_version")}


def _operation(raw: object, index: int | None) -> Operation:
    """Return an operation of a batch. Raises InvalidTask, told as that of operation `index` if there is one."""
    inner = ""
    try:
        if wrong := _wrong_members(raw):
            raise _invalid(wrong, InvalidTask)
        assert isinstance(raw, dict)
        match raw["op"]:
            case "add":
                inner = "/task"
                return Add(new_task(raw["task"]))
            case "edit":
                inner = "/patch"
                return edit(raw["patch"], _ref(raw["id"]), _version(raw.get("if_version")))
            case _:
                return Remove(_ref(raw["id"]), _version(raw.get("if_version")))
    except InvalidTask as e:
        raise (e if index is None else e.within(index, f"/operations/{index}{inner}")) from None


def _wrong_members(raw: object) -> list[FieldError]:
    """Return what is wrong with an operation itself, leaving aside the task or the patch in it."""
    if not isinstance(raw, dict):
        return [FieldError("", "type", "an operation must be an object")]
    op = raw.get("op")
    if not isinstance(op, str) or op not in _MEMBERS:
        code = "required" if "op" not in raw else "choice" if isinstance(op, str) else "type"
        return [FieldError("/op", code, f"op must be one of {', '.join(_MEMBERS)}")]
    errors = list(_unknown(raw, _MEMBERS[op]))
    errors += [
        FieldError(f"/{name}", "required", f"{name} is missing")
        for name in _MEMBERS[op]
        if name not in raw and name != "if_version"
    ]
    for name, read in (("id", _ref), ("if_version", _version)):
        if name in raw and name in _MEMBERS[op]:
            try:
                read(raw[name])
            except InvalidRequest as e:
                errors.append(FieldError(f"/{name}", "type" if not isinstance(raw[name], str) else "format", e.detail))
    return errors


def _unknown(raw: Mapping[str, object], allowed: tuple[str, ...]) -> Iterator[FieldError]:
    """Yield the members of an object that are not known."""
    for name in map(_printable, islice(raw.keys() - set(allowed), UNKNOWN_MAX)):
        pointer = "/" + name.replace("~", "~0").replace("/", "~1")
        yield FieldError(pointer, "unknown_field", f"{name} is unknown; there are {', '.join(allowed)}")


def _invalid(errors: list[FieldError], kind: type[Failure]) -> Failure:
    errors.sort()
    return kind("; ".join(e.detail for e in errors), errors=errors)


def _version(raw: object) -> int | tuple[int, ...] | None:
    if raw is None or _is_whole(raw):
        return raw  # type: ignore[return-value]
    if isinstance(raw, list) and all(map(_is_whole, raw)):
        return tuple(raw)
    raise InvalidRequest("if_version must be a whole number, or a list of them")


def _is_whole(raw: object) -> bool:
    return isinstance(raw, int) and not isinstance(raw, bool)


def _ref(raw: object) -> Ref:
    if isinstance(raw, int) and not isinstance(raw, bool):
        require_ref(raw)
        return raw
    if isinstance(raw, str):
        return parse_ref(raw)
    raise InvalidRequest("an id must be a number or a uid")


_NUMBER = re.compile("-?[0-9]{1,40}")


def parse_ref(text: str) -> Ref:
    """Return the id or the uid that a text names. Raises InvalidRequest."""
    if _NUMBER.fullmatch(text):
        return int(text)
    try:
        ref = fields.uid(text)
        assert ref is not None
        return ref
    except fields.Refused:
        raise InvalidRequest(f"{text!r} is not a task's id: a number or a uid was expected") from None


def encode_changeset(changes: Changeset) -> bytes:
    """Return the body of a batch that asks for the changeset."""
    operations: list[dict[str, Any]] = []
    for operation in changes.operations:
        match operation:
            case Add(task):
                operations.append({"op": "add", "task": task})
            case Edit(id, patch, version, expected):
                both = {**msgspec.to_builtins(patch), **expected}
                operations.append({"op": "edit", "id": id, "patch": both, "if_version": version})
            case Remove(id, version):
                operations.append({"op": "remove", "id": id, "if_version": version})
            case Refuse():
                raise TypeError("only what was read from a body can be refused, and that is not sent on")
    return encode({"operations": operations, "atomic": changes.atomic, "message": changes.message})


# ---------------------------------------------------------------------------------------------------------------- answers


class OperationAnswer(msgspec.Struct, omit_defaults=True):
    """What became of an operation of a batch: the task, if there is one now, or the problem."""

    status: int
    task: Task | None = None
    problem: dict[str, Any] | None = None


class BatchAnswer(msgspec.Struct):
    """What became of a batch: a result for each operation, in their order. `seq` is the log's head after it."""

    changeset: UUID
    seq: int
    results: list[OperationAnswer]


def encode_written(written: Written, operations: tuple[Operation, ...]) -> bytes:
    """Return the answer to a batch: a result for each operation, in their order."""
    results = []
    for operation, result in zip(operations, written.results, strict=True):
        match result:
            case TaskctlError():
                results.append(OperationAnswer(result.status, problem=problem(result)))
            case None:
                results.append(OperationAnswer(204))
            case Task():
                results.append(OperationAnswer(201 if isinstance(operation, Add) else 200, task=result))
    return encode(BatchAnswer(written.changeset, written.seq, results))


def decode_written(body: bytes) -> Written:
    """Return what an answer to a batch says."""
    raw = decode(body, BatchAnswer)
    results = tuple(error(r.problem) if r.problem is not None else r.task for r in raw.results)
    return Written(raw.changeset, raw.seq, results)


def problem(failure: TaskctlError, **more: Any) -> dict[str, Any]:
    """Return the problem document (RFC 9457) that tells of a failure. No secret that it might repeat is in it."""
    document = {
        "type": _TYPE + failure.code,
        "title": failure.title,
        "status": failure.status,
        "detail": _printable(failure.detail),
        "code": failure.code,
        "retryable": failure.retryable,
        **more,
    }
    assert not document.keys() & failure.extra.keys(), "a member of every problem cannot mean something else"
    document |= failure.extra
    if failure.errors:
        document["errors"] = [e._asdict() for e in failure.errors]
    told = encode(document).decode()
    safe = redacted(told)
    return document if safe == told else cast(dict[str, Any], msgspec.json.decode(safe))


def error(document: Mapping[str, Any]) -> TaskctlError:
    """Return the failure that a problem document tells of: same class, same words, same details."""
    about = dict(document)
    if "code" not in about:
        raise KeyError("code")
    for name in ("type", "title", "status", "retryable", "request_id"):
        about.pop(name, None)
    cls = by_code(str(about.pop("code", "internal")))
    errors = [FieldError(e["pointer"], e["code"], e["detail"]) for e in about.pop("errors", ())]
    failure = cls(str(about.pop("detail", cls.title)), errors=errors, **about)
    failure.request_id = str(document.get("request_id", ""))
    return failure


def place_in_log(epoch: str, seq: int) -> str:
    """Return how new something is, as `X-Taskctl-Seq` and `Read.at` say it."""
    return f"{epoch}.{seq}"


def seq_in(at: str, epoch: str) -> int:
    """Return how far a log had got at a place in it; -1 if that is in another log, or none at all."""
    own, _, seq = at.rpartition(".")
    return int(seq) if own == epoch and seq.isascii() and seq.isdecimal() and len(seq) < 20 else -1


def newer(one: str, other: str) -> str:
    """Return the newer one of two places in the log; the second one, if they are not of the same log."""
    epoch, _, seq = one.rpartition(".")
    other_epoch, _, other_seq = other.rpartition(".")
    comparable = epoch == other_epoch and seq.isdecimal() and other_seq.isdecimal()
    return one if comparable and int(seq) > int(other_seq) else other


def error_of(body: bytes) -> TaskctlError:
    """Return the failure that the body of a problem tells of; the root of all failures if it is none of ours."""
    try:
        return error(msgspec.json.decode(body))
    except (msgspec.DecodeError, KeyError, TypeError, ValueError):
        return TaskctlError("the answer is a problem, but not one of taskctl's")


def etag(version: int) -> str:
    """Return the strong ETag (RFC 9110) of a version of a task."""
    return f'"{version}"'


# ---------------------------------------------------------------------------------------------------------------- cursors


def encode_cursor(query: object, place: object) -> str:
    """Return an opaque cursor: a place in the answer to this query, and to no other."""
    return urlsafe_b64encode(encode([_fingerprint(query), place])).rstrip(b"=").decode()


def decode_cursor(query: object, cursor: str, kind: type[T]) -> T:
    """Return the place that a cursor stands for. Raises InvalidRequest if it is not one of this query."""
    fingerprint, place = _in_cursor(cursor, kind)
    if fingerprint != _fingerprint(query):
        raise no_such_cursor()
    return place


def _in_cursor(cursor: str, kind: type[T]) -> tuple[str, T]:
    """Return what stands for the query in a cursor, and the place. Raises InvalidRequest if it is none."""
    try:
        bare = cursor.rstrip("=").encode("ascii")
        raw = urlsafe_b64decode(bare + b"=" * (-len(bare) % 4))
        fingerprint, place = msgspec.json.decode(raw, type=tuple[str, msgspec.Raw])
        if urlsafe_b64encode(raw).rstrip(b"=") == bare:  # what the decoder passes over is not in its own writing
            return fingerprint, msgspec.json.decode(place, type=kind)
    except (UnicodeError, binascii.Error, msgspec.DecodeError, RecursionError):
        pass
    raise no_such_cursor()


# What stands in a cursor comes from outside: as large as a column, no NUL, and a moment of which every zone has a date.
_Moment: TypeAlias = Annotated[int, Meta(ge=0, le=253_370_764_800_000_000)]
_Key: TypeAlias = Annotated[int, Meta(ge=-(2**63) + 1, le=2**63 - 1)] | Annotated[str, Meta(pattern="^[^\\0]*$")]


def encode_task_cursor(workspace: str, query: TaskQuery, now: int, place: Sequence[int | str]) -> str:
    """Return a cursor of a workspace's list of tasks: what comes after this place, as it was judged at this moment."""
    return encode_cursor(_same(workspace, query), [now, place])


def task_cursor(workspace: str, query: TaskQuery) -> tuple[int, list[int | str]] | None:
    """Return the moment and the place that the query's cursor stands for, None if it has none.

    A later page is judged at the moment of the first one: what is overdue stays so. Raises InvalidRequest.
    """
    if query.cursor is None:
        return None
    moment, place = decode_cursor(_same(workspace, query), query.cursor, tuple[_Moment, list[_Key]])
    return moment, place


def start_of(query: TaskQuery) -> list[int | str] | None:
    """Return the place in the query's cursor, None if it has none. Whether it is one of this query has been seen before."""
    return None if query.cursor is None else _in_cursor(query.cursor, tuple[_Moment, list[_Key]])[1][1]


def _same(workspace: str, query: TaskQuery) -> object:
    return ["tasks", workspace, query.where, query.sort, query.zone]


def _fingerprint(query: object) -> str:
    return digest(encode(query))[:18]


def digest(data: bytes) -> str:
    """Return a text that stands for the data, and for no other."""
    from hashlib import blake2b  # few need it

    return blake2b(data, digest_size=18).hexdigest()
