"""Every failure that taskctl can report, in one tree.

The code, the HTTP status and the exit code of a failure stand side by side here and nowhere else. A failure looks the same
whichever way it travels: raised by the library, answered as a problem document (RFC 9457), or printed by the command line.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple


class FieldError(NamedTuple):
    """What is wrong with one member of a document.

    pointer: where it stands in the document, as a JSON Pointer (RFC 6901); code: for programs; detail: for people.
    """

    pointer: str
    code: str
    detail: str


class TaskctlError(Exception):
    """The root of the tree, and the answer to a failure that nobody foresaw.

    detail: one sentence in the user's words. errors: the members at fault, if a document was. extra: what else a program
    can use, such as the `current_version` of a stale task or the `position` of a mistake in a filter.
    """

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1
    title: ClassVar[str] = "Internal error"
    retryable: ClassVar[bool] = False
    at: str = ""
    """How new the log was in which it failed, as in `taskctl.tasks.Read`; nothing if that is not known."""
    origin: tuple[str, str, int] | None = None
    """From which memory that is known, as there."""
    request_id: str = ""
    """Of the request that a server has failed, as its log tells of it; nothing if it is no server's failure."""

    def __init__(self, detail: str, *, errors: Sequence[FieldError] = (), **extra: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = tuple(errors)
        self.extra: Mapping[str, Any] = extra

    def told(self, detail: str) -> "TaskctlError":
        """Return the same failure in other words."""
        failure = type(self)(detail, errors=self.errors, **self.extra)
        failure.request_id = self.request_id
        return failure

    def within(self, index: int, pointer: str) -> "TaskctlError":
        """Return the same failure, told as that of operation `index` of a batch whose document stands at `pointer`."""
        errors = [FieldError(pointer + e.pointer, e.code, e.detail) for e in self.errors]
        return type(self)(self.detail, errors=errors, **{**self.extra, "index": index})


class UsageError(TaskctlError):
    """A command line that cannot be understood."""

    code = "usage"
    status = 400
    exit_code = 2
    title = "The command cannot be understood"


class ConfigError(TaskctlError):
    """A setting that cannot be used. It is found before anything runs, so it counts as wrong usage.

    setting: which one it is, and where it was set, if that is known; then the detail begins with it.
    """

    code = "invalid_setting"
    status = 400
    exit_code = 2
    title = "A setting cannot be used"

    def __init__(self, detail: str, *, setting: str = "", **extra: Any) -> None:
        super().__init__(f"{setting}: {detail}" if setting else detail, **extra)
        self.setting = setting
        self._bare = detail

    def of(self, setting: str) -> "ConfigError":
        """Return the same failure, told as that of this setting."""
        return ConfigError(self._bare, setting=setting)


class InvalidTask(TaskctlError):
    """The members of a task break its rules; `errors` names each of them."""

    code = "invalid_task"
    status = 422
    exit_code = 6
    title = "The task is not valid"


class InvalidRequest(TaskctlError):
    """The request as such cannot be understood: its syntax, a parameter, a cursor."""

    code = "invalid_request"
    status = 400
    exit_code = 6
    title = "The request cannot be understood"


class InvalidFilter(InvalidRequest):
    """A mistake in a filter. `position` counts characters from 0; `expected` says what would have fitted there."""

    code = "invalid_filter"
    title = "The filter has a mistake"


class PayloadTooLarge(InvalidRequest):
    """The body is larger than the server reads."""

    code = "payload_too_large"
    status = 413
    title = "The body is too large"


class UnsupportedMediaType(InvalidRequest):
    """The body is not JSON, or is not said to be. `accept` lists the types that would be, if it is the type that is wrong."""

    code = "unsupported_media_type"
    status = 415
    title = "Only JSON is understood here"


class RequestTimedOut(InvalidRequest):
    """The request has not arrived in time."""

    code = "request_timeout"
    status = 408
    title = "The request took too long to arrive"
    retryable = True


class UriTooLong(InvalidRequest):
    """The address of the request is longer than the server reads."""

    code = "uri_too_long"
    status = 414
    title = "The address is too long"


class ExpectationFailed(InvalidRequest):
    """The request expects something of the server that it cannot do."""

    code = "expectation_failed"
    status = 417
    title = "This cannot be expected here"


class HeadersTooLarge(InvalidRequest):
    """A header of the request is longer than the server reads, or there are too many."""

    code = "headers_too_large"
    status = 431
    title = "A header is too long"


class MethodUnknown(InvalidRequest):
    """The method is none that the server has heard of."""

    code = "not_implemented"
    status = 501
    title = "There is no such method"


class InvalidBody(TaskctlError):
    """The members of a body that is no task break its rules; `errors` names each of them."""

    code = "invalid_body"
    status = 422
    exit_code = 6
    title = "The body is not valid"


class Misdirected(InvalidRequest):
    """The request is for a host that this server does not go by."""

    code = "misdirected_request"
    status = 421
    title = "This is not the host that was asked for"


class Unauthenticated(TaskctlError):
    """Who asks is not known: there is no token, or it is worth nothing, or nothing any more."""

    code = "unauthenticated"
    status = 401
    exit_code = 5
    title = "A token is needed"


class Forbidden(TaskctlError):
    """It is known who asks, and they may not. `scope`: what they would need, if that is what is missing."""

    code = "forbidden"
    status = 403
    exit_code = 5
    title = "This is not allowed"


class IdempotencyMismatch(TaskctlError):
    """The idempotency key was another request's."""

    code = "idempotency_mismatch"
    status = 422
    exit_code = 4
    title = "The idempotency key belongs to another request"


class NotFound(TaskctlError):
    """There is nothing at this address."""

    code = "not_found"
    status = 404
    exit_code = 3
    title = "There is nothing here"


class TaskNotFound(NotFound):
    """No such task, or no longer."""

    code = "task_not_found"
    title = "There is no such task"


class MethodNotAllowed(TaskctlError):
    """The address exists; the method does not fit it. `allow` lists those that do."""

    code = "method_not_allowed"
    status = 405
    exit_code = 6
    title = "The method does not fit this address"


class StaleTask(TaskctlError):
    """The task has changed since the version that the writer had seen; `current_version` is the one of now."""

    code = "stale_task"
    status = 412
    exit_code = 4
    title = "The task has changed meanwhile"


class Conflict(TaskctlError):
    """The state of now does not allow it: an impossible transition, a uid that is taken."""

    code = "conflict"
    status = 409
    exit_code = 4
    title = "This does not fit the present state"


class CursorExpired(TaskctlError):
    """The place in the log from which the reader wants to go on is not, or no longer, in this log."""

    code = "cursor_expired"
    status = 410
    exit_code = 4
    title = "The log no longer has this place"


class Unavailable(TaskctlError):
    """The database or the server cannot answer now. `retry_after`: a sensible number of seconds to wait."""

    code = "unavailable"
    status = 503
    exit_code = 7
    title = "Not available now"
    retryable = True

    def __init__(self, detail: str, *, retry_after: int = 1, **extra: Any) -> None:
        super().__init__(detail, retry_after=retry_after, **extra)


class TooManyRequests(TaskctlError):
    """More was asked for than the server allows in that time. `retry_after`: seconds until it is worth trying again.

    `limit`, `quota`, `window`: which limit it was, and that it is so many in so many seconds.
    """

    code = "too_many_requests"
    status = 429
    exit_code = 7
    title = "Too many requests"
    retryable = True

    def __init__(self, detail: str, *, retry_after: int = 1, **extra: Any) -> None:
        super().__init__(detail, retry_after=retry_after, **extra)


class Overloaded(Unavailable):
    """More is waiting already than can be done in time."""

    code = "overloaded"
    title = "Too much is waiting already"


class OutcomeUnknown(Unavailable):
    """The connection broke while the write was on its way: it may or may not have happened."""

    code = "outcome_unknown"
    title = "It is not known whether the write happened"
    retryable = False


class SchemaOutdated(Unavailable):
    """The database's schema is not the one that this version of taskctl works with."""

    code = "schema_outdated"
    title = "The database has another schema"
    retryable = False


class StorageFull(Unavailable):
    """The disk under the database is full."""

    code = "storage_full"
    status = 507
    title = "The storage is full"
    retryable = False


def by_code(code: str) -> type[TaskctlError]:
    """Return the class with this code: how a client turns a problem document back into the failure that it tells of."""
    return next((cls for cls in _all() if cls.code == code), TaskctlError)


def by_status(status: int) -> type[TaskctlError]:
    """Return the most general class with this status: what is known of a failure whose words have not come along."""
    local = (UsageError, ConfigError)  # no answer of a server
    return next((cls for cls in _all() if cls.status == status and cls not in local), TaskctlError)


def _all() -> list[type[TaskctlError]]:
    found = [TaskctlError]
    for cls in found:
        found += cls.__subclasses__()
    return found
