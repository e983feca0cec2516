"""What the command line prints: data on stdout, as JSON, as ids, or as columns for people.

On a terminal `rich` draws a table that fits; in a pipe there are plain columns, whole and without colours, because rich takes
longer to draw a thousand rows than the command to find them.
"""

import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from typing import Any

from taskctl.access import Login, Token, Workspace
from taskctl.config import Settings
from taskctl.errors import UsageError
from taskctl.tasks import Change, Stats, Tally, Task
from taskctl.wire import encode

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def show(items: Sequence[Any], settings: Settings, *, one: bool = False) -> None:
    """Print tasks, changes or tallies. `one` says that a single thing was asked for, so that JSON is an object."""
    match settings.output:
        case "json":
            show_bytes(encode(items[0] if one else items) + b"\n")
        case "ndjson":
            show_bytes(b"".join(encode(item) + b"\n" for item in items))
        case "ids":
            show_bytes("".join(f"{_id(item)}\n" for item in items).encode())
        case "table":
            _table(items, settings)


def show_details(tasks: Sequence[Task], settings: Settings, *, one: bool) -> None:
    """Print tasks with everything that they hold."""
    if settings.output != "table":
        show(tasks, settings, one=one)
        return
    blocks = []
    for task in tasks:
        cells = [(name.replace("_", " "), _cell(getattr(task, name))) for name in Task.__struct_fields__ if name != "description"]
        lines = [f"{name:<13} {cell}" for name, cell in cells if cell]
        if task.description:
            lines.append("\n" + "\n".join(_CONTROL.sub(" ", text) for text in task.description.splitlines()))
        blocks.append("\n".join(lines) + "\n")
    show_bytes("\n".join(blocks).encode())


def show_stats(stats: Stats, settings: Settings) -> None:
    """Print the workspace in numbers."""
    match settings.output:
        case "json" | "ndjson":
            show_bytes(encode(stats) + b"\n")
        case "ids":
            raise UsageError("there are no ids in numbers; -o table or -o json was expected")
        case "table":
            lines = [f"{name.replace('_', ' '):<12} {count:>7}" for name, count in stats.counts.items()]
            lines.append(f"{'overdue':<12} {stats.overdue:>7}")
            lines += ["", *(f"{day.date:%Y-%m-%d}   {day.count:>7} done" for day in stats.done_per_day if day.count)]
            show_bytes(("\n".join(lines).rstrip() + "\n").encode())


def show_object(value: dict[str, Any], settings: Settings) -> None:
    """Print names and values."""
    match settings.output:
        case "json" | "ndjson":
            show_bytes(encode(value) + b"\n")
        case "ids":
            raise UsageError("there are no ids here; -o table or -o json was expected")
        case "table":
            width = max(map(len, value))
            show_bytes("".join(f"{name:<{width}}  {_cell(what)}\n" for name, what in value.items()).encode())


def show_lines(lines: Iterable[str]) -> None:
    """Print what a command did, a line for each."""
    show_bytes("".join(f"{_CONTROL.sub(' ', line)}\n" for line in lines).encode("utf-8", "backslashreplace"))


def show_bytes(data: bytes) -> None:
    """Print what is to be printed as it is."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)


def _id(item: Task | Change | Tally | Token | Workspace | Login) -> int | str:
    if isinstance(item, Login):
        return item.token or "-"
    return item.name if isinstance(item, Tally | Workspace) else item.seq if isinstance(item, Change) else item.id


def _cell(value: object) -> str:
    """Return a value as people read it, on one line, with nothing in it that a terminal obeys."""
    match value:
        case None:
            return ""
        case datetime():
            return f"{value.astimezone():%Y-%m-%d %H:%M}"
        case date():
            return value.isoformat()
        case tuple() | list():
            return ", ".join(map(_cell, value))
        case _:
            return _CONTROL.sub(" ", str(value))


_TASK = ("id", "status", "priority", "due", "project", "labels", "title")
_CHANGE = ("seq", "at", "who", "op", "task", "change")
_TALLY = ("name", "todo", "in_progress", "done", "cancelled")
_TOKEN = ("id", "name", "scopes", "created_at", "created_by", "expires_at", "last_used_at", "revoked_at")
_LOGIN = ("server", "state", "token", "name", "workspace", "scopes", "expires_at", "source")
_SHRINK = ("project", "labels")
_LAST_LEAST = 20
"""On a narrow terminal these columns give way first, so that the last one, a title, keeps this many characters."""
_RIGHT = ("id", "seq", "task", *_TALLY[1:])


def _table(items: Sequence[Any], settings: Settings) -> None:
    if not items:
        return
    names: tuple[str, ...]
    match items[0]:
        case Task():
            names = _TASK
            rows = [[_cell(getattr(task, name)) for name in names] for task in items]
            for row in rows:
                row[2] = "" if row[2] == "none" else row[2]
        case Change():
            names, rows = _CHANGE, [_change(change) for change in items]
        case Tally():
            names, rows = _TALLY, [[_cell(t.name), *(str(n) for n in t.counts.values())] for t in items]
        case Token():
            names, rows = _TOKEN, [[_cell(getattr(token, name)) for name in _TOKEN] for token in items]
        case Login():
            names, rows = _LOGIN, [[_cell(getattr(login, name)) for name in _LOGIN] for login in items]
        case Workspace():
            names, rows = ("name",), [[_cell(workspace.name)] for workspace in items]
        case _:
            raise TypeError(items[0])
    headings = [name.replace("_", " ").upper() for name in names]
    if sys.stdout.isatty():
        _draw(names, headings, rows, items, settings)
    else:
        show_bytes(_columns(names, headings, rows).encode())


def _change(change: Change) -> list[str]:
    if change.op == "edit" and change.before is not None and change.after is not None:
        said = "; ".join(f"{name}: {_shown(old)} -> {_shown(change.after[name])}" for name, old in change.before.items())
    else:
        said = _shown(((change.after or change.before) or {}).get("title"))
    who = f"{change.actor or '-'} ({change.source})"
    return [str(change.seq), _cell(change.at), _cell(who), change.op, str(change.id), said]


def _shown(value: object) -> str:
    text = _cell(value) or "-"
    return text if len(text) <= 60 else text[:59] + "…"


def _columns(names: Sequence[str], headings: list[str], rows: list[list[str]]) -> str:
    """Return plain columns, as wide as their widest cell."""
    table = [headings, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    form = "  ".join(f"%{'' if name in _RIGHT else '-'}{width}s" for name, width in zip(names, widths, strict=True))
    return "".join((form % tuple(row)).rstrip() + "\n" for row in table)


def _draw(names: Sequence[str], headings: list[str], rows: list[list[str]], items: Sequence[Any], settings: Settings) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(no_color=not settings.color, highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    widest = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    kept = {name: width for name, width in zip(names, widest, strict=True) if name not in (*_SHRINK, names[-1])}
    spare = console.width - sum(kept.values()) - 2 * len(names) - min(widest[-1], _LAST_LEAST)
    for name, heading, width in zip(names, headings, widest, strict=True):
        if name in _SHRINK:
            # What the columns after it may need at least is left to them.
            others = len(_SHRINK) - _SHRINK.index(name)
            width = min(width, max(spare // others, len(heading)))  # noqa: PLW2901  # it is the width from here on
            spare -= width
        last = name == names[-1]
        table.add_column(
            heading,
            justify="right" if name in _RIGHT else "left",
            no_wrap=not last,
            overflow="fold" if last else "ellipsis",
            min_width=min(width, _LAST_LEAST) if last else width,
            max_width=None if last else width,
        )
    for item, row in zip(items, rows, strict=True):
        table.add_row(*map(Text, row), style=_style(item))
    console.print(table)


def _style(item: object) -> str:
    if not isinstance(item, Task):
        return ""
    if not item.is_open:
        return "dim"
    if item.due is not None and _is_past(item.due):
        return "red"
    return "bold" if item.priority == "urgent" else ""


def _is_past(due: date | datetime) -> bool:
    """Return whether a due is over, for somebody in this machine's zone."""
    if isinstance(due, datetime):
        return due < datetime.now(UTC)
    return due < datetime.now().astimezone().date()
