"""What happens, as lines on stderr: one `match` over the events of `observe`. Python's own `logging` comes out the same way.

A line is rendered in one place, and there all that must not be in a log is taken out or escaped: secrets, line breaks, and
whatever a terminal would obey. docs/logging.md lists the lines.
"""

import logging
import os
import re
import time
import traceback
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, Literal, TypeAlias

import msgspec
import structlog
from structlog.stdlib import ProcessorFormatter

from taskctl.access import redacted, told_path
from taskctl.errors import TaskctlError
from taskctl.observe import (
    PROBES,
    TRACE,
    Audited,
    BatchCommitted,
    CertificateKept,
    CertificateRenewed,
    DatabaseAway,
    DatabaseBack,
    Event,
    FeedPolled,
    NobodyAdmitted,
    RedisAway,
    RedisBack,
    RedisDone,
    RedisRefuses,
    RequestDone,
    StatementDone,
)
from taskctl.wire import shown_json

Format: TypeAlias = Literal["console", "json"]
Level: TypeAlias = Literal["debug", "info", "warning", "error"]

HOST_MAX: Final = 200
"""Characters of a name that the server does not go by; whoever sends longer ones writes our log."""

_NUMBERS: Final[Mapping[Level, int]] = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_BARE: Final = re.compile(r"[^\s\"=\\]+")


class Logs:
    """The log of a process that serves. `observe` is its observer.

    level: the least that is told. fd: the descriptor that is written to. That it cannot be written to (nobody reads it, a disk
    is full) loses lines, and is no failure.
    """

    def __init__(self, format: Format, level: Level, fd: int = 2) -> None:
        self._format = format
        self._to = _Lines(fd)
        self._render = _as_json if format == "json" else _as_text
        self._debug = level == "debug"
        wrapper = structlog.make_filtering_bound_logger(_NUMBERS[level])
        self._log: Any = structlog.wrap_logger(self._to, processors=[self._render], wrapper_class=wrapper).bind()
        self._level = _NUMBERS[level]
        self._serving = False
        self._blind_since: float | None = None

    def take_over(self) -> None:
        """Let what Python's `logging` and `warnings` have to tell come out here, in this process, from now on.

        Of others than ourselves that begins at "warning": what they tell of their own doings is nobody's business here.
        """
        formatter = ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, structlog.processors.format_exc_info],
            processors=[ProcessorFormatter.remove_processors_meta, self._render],
        )
        handler = _Handler(self._to)
        handler.setFormatter(formatter)
        logging.basicConfig(handlers=[handler], level=max(self._level, logging.WARNING), force=True)
        logging.getLogger("taskctl").setLevel(self._level)
        logging.captureWarnings(capture=True)

    def say(self, sentence: str, event: str, level: Level = "info", **fields: object) -> None:
        """Tell something that people read as a sentence, and programs as an event with fields."""
        if self._format == "json":
            getattr(self._log, level)(event, **fields)
        elif _NUMBERS[level] >= self._level:
            self._to.write(redacted(_escaped(sentence)))

    def started(self, database: str, url: str) -> None:
        """Tell that the API is served."""
        self._serving = True
        self.say(f"taskctl serves {database} at {url}/api/v1; ctrl-C stops it", "started", database=database, url=url)

    def failed(self, failure: Exception) -> None:
        """Tell what ends the process."""
        if isinstance(failure, TaskctlError):
            self._log.error("failed", code=failure.code, why=failure.detail)
        else:
            self._log.error("failed", exception="".join(traceback.format_exception(failure)).rstrip())

    def observe(self, event: Event) -> None:
        """Write the line of an event, if it has one."""
        log = self._log
        match event:
            case RequestDone() if not self._debug and event.route.endswith(PROBES) and event.status < 400:
                pass
            case RequestDone():
                status = event.status
                about: dict[str, Any] = {"id": event.request_id, "method": event.method}
                if event.route:
                    about["route"] = event.route
                else:
                    about["path"] = told_path(event.path)
                about["status"] = status
                about["milliseconds"] = _milliseconds(event.seconds)
                if event.workspace:
                    about["workspace"] = event.workspace
                if event.token:
                    about["token"] = event.token
                if event.address:
                    about["address"] = event.address
                if event.host:
                    about["host"] = event.host[:HOST_MAX]
                if event.trace:
                    about["trace_id"] = event.trace
                quiet = event.route.endswith(PROBES) and status < 400
                tell = log.debug if quiet else log.info if status < 500 else log.error if status == 500 else log.warning
                tell("request", **about)
            case Audited(action):
                about = {name: value for name, value in event._asdict().items() if value and name != "action"}
                (log.warning if action == "refused" else log.info)(
                    action if action == "workspace created" else f"token {action}", **about
                )
            case NobodyAdmitted():
                how = "`taskctl token create NAME --scope admin` makes one, at this database"
                self.say(f"warning: there is no token yet that would let anybody in; {how}", "nobody admitted", "warning")
            case DatabaseAway(why) if self._serving:
                log.error("the database is away", why=why)
            case DatabaseBack(seconds) if self._serving:
                log.info("the database is back", seconds=round(seconds, 1))
            case RedisAway(why):
                log.warning("Redis cannot be used, and is tried again", why=why)
            case RedisRefuses(why):
                log.warning("Redis takes nothing new, and is tried again", why=why)
            case RedisBack(seconds) if self._serving:
                log.info("Redis is used again", seconds=round(seconds, 1))
            case CertificateRenewed():
                log.info("the certificate was read again")
            case CertificateKept(why):
                log.warning("the certificate stays as it was", why=why)
            case FeedPolled():
                self._polled(event)
            case StatementDone(sql, rows, seconds, _, failed) if self._debug:
                log.debug("statement", sql=sql, rows=rows, milliseconds=_milliseconds(seconds), failed=failed)
            case BatchCommitted(workspace, changesets, operations, waiting, seconds) if self._debug:
                numbers = {"changesets": changesets, "operations": operations, "waiting": waiting}
                log.debug("batch", workspace=workspace, **numbers, milliseconds=_milliseconds(seconds))
            case RedisDone(command, keys, seconds, failed) if self._debug:
                log.debug("Redis", command=command, keys=keys, milliseconds=_milliseconds(seconds), failed=failed)
            case _:
                pass

    def _polled(self, event: FeedPolled) -> None:
        """Tell when looking at the logs begins to fail, and when it succeeds again; not twice a second in between."""
        if event.failed and self._blind_since is None:
            self._blind_since = time.monotonic()
            self._log.warning("the feed is away", workspaces=event.workspaces)
        elif not event.failed and self._blind_since is not None:
            self._log.info("the feed is back", seconds=round(time.monotonic() - self._blind_since, 1))
            self._blind_since = None


class _Lines:
    """Writes lines to a descriptor, each in one piece. Nothing waits in between, so a write that fails spoils no other one."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, line: str) -> None:
        rest = f"{line}\n".encode()
        with suppress(OSError):
            while rest:
                rest = rest[os.write(self._fd, rest) :]

    debug = info = warning = error = critical = write


class _Handler(logging.Handler):
    """Hands on what `logging` has to tell."""

    def __init__(self, to: _Lines) -> None:
        super().__init__()
        self._to = to

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._to.write(self.format(record))
        except Exception:
            self.handleError(record)


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)


# ---------------------------------------------------------------------------------------------------------- the one place

_encode: Final = msgspec.json.Encoder(enc_hook=str).encode


def _now() -> str:
    """Return what the time is, as RFC 3339 in UTC. Of a line of the log this would be a third of the time."""
    seconds, rest = divmod(time.time_ns(), 1_000_000_000)
    return f"{_second(seconds)}.{rest // 1_000_000:03}Z"


@lru_cache(maxsize=1)
def _second(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def _as_json(_: Any, level: str, event: MutableMapping[str, Any]) -> str:
    """Return an event as a JSON object. The members that all lines have come first."""
    line = {"time": _now(), "level": level, "event": event.pop("event"), **event, **_trace(event)}
    try:
        raw = _encode(line)
    except UnicodeEncodeError:  # what was not UTF-8 when it came
        raw = _encode({name: _escaped(value) if isinstance(value, str) else value for name, value in line.items()})
    told = raw.decode()
    return redacted(told if raw.isascii() and "\x7f" not in told else shown_json(told))


def _as_text(_: Any, level: str, event: MutableMapping[str, Any]) -> str:
    """Return an event as a line for people; the lines of a traceback are indented, so that none of them can be taken for one."""
    words = [_now(), f"{level:<7}", _escaped(str(event.pop("event")))]
    event.update(_trace(event))
    exception = event.pop("exception", "")
    if "method" in event:
        where = event.pop("route", None) or event.pop("path")
        words += [f"{event.pop('method')} {_quoted(where)} {event.pop('status')} {event.pop('milliseconds')} ms"]
    words += [f"{name}={_quoted(value)}" for name, value in event.items()]
    lines = [" ".join(words), *(f"    {_escaped(line)}" for line in exception.splitlines())]
    return redacted("\n".join(lines))


def _trace(event: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the trace that an event belongs to, unless it tells that itself, or there is none."""
    trace = TRACE.get()
    return {"trace_id": trace} if trace and "trace_id" not in event else {}


def _quoted(value: object) -> str:
    """Return a value as one word."""
    text = str(value)
    return text if _BARE.fullmatch(text) and text.isprintable() else f'"{_escaped(text, quote=True)}"'


def _escaped(text: str, *, quote: bool = False) -> str:
    """Return a text in which everything is to be seen: nothing that breaks lines, turns them round, or is obeyed."""
    if quote:
        text = text.replace("\\", "\\\\").replace('"', '\\"')
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
