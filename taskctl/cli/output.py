"""What the command line prints: data on stdout, as JSON, YAML, CSV or ids, or as columns for people.

On a terminal `rich` draws a table that fits; in a pipe there are plain columns, whole and without colours, because rich takes
longer to draw a thousand rows than the command to find them.
"""

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from typing import Any, Final

from taskctl.access import Login, Token, Workspace
from taskctl.cli.terminal import plain, plain_lines
from taskctl.config import Settings
from taskctl.errors import UsageError
from taskctl.tasks import Change, Stats, Tally, Task
from taskctl.wire import encode, shown_json

FOR_PEOPLE: Final = ("table", "wide")
"""The outputs that are not data."""


def show(items: Sequence[Any], settings: Settings, *, one: bool = False, kind: type = Task) -> None:
    """Print tasks, changes or tallies. `one` says that a single thing was asked for, so that JSON is an object.

    kind: what they are, even if there are none.
    """
    match settings.output:
        case "table" | "wide":
            _table(items, settings)
        case "ids":
            show_text("".join(f"{_id(item)}\n" for item in items))
        case _:
            show_records(items, settings, one=one, kind=kind)


def show_records(items: Sequence[Any], settings: Settings, *, one: bool, kind: type = dict) -> None:
    """Print things for programs, in an output that has members with names."""
    match settings.output:
        case "ndjson":
            show_json(b"".join(encode(item) + b"\n" for item in items))
        case "yaml":
            from taskctl.cli.formats import as_yaml

            show_text(as_yaml(items[0] if one else items))
        case "csv":
            from taskctl.cli.formats import as_csv

            show_text(as_csv(items, kind))
        case _:
            show_json(encode(items[0] if one else items) + b"\n")


def show_details(tasks: Sequence[Task], settings: Settings, *, one: bool) -> None:
    """Print tasks with everything that they hold."""
    if settings.output not in FOR_PEOPLE:
        show(tasks, settings, one=one)
        return
    blocks = []
    for task in tasks:
        cells = [(name.replace("_", " "), _cell(getattr(task, name))) for name in Task.__struct_fields__ if name != "description"]
        lines = [f"{name:<13} {cell}" for name, cell in cells if cell]
        if task.description:
            lines.append("\n" + "\n".join(plain(text) for text in task.description.splitlines()))
        blocks.append("\n".join(lines) + "\n")
    show_bytes("\n".join(blocks).encode())


def show_stats(stats: Stats, settings: Settings) -> None:
    """Print the workspace in numbers."""
    match settings.output:
        case "ids":
            raise UsageError("there are no ids in numbers; -o table or -o json was expected")
        case "csv":  # what fits into a row
            show_records([{**stats.counts, "overdue": stats.overdue}], settings, one=True)
        case "table" | "wide":
            lines = [f"{plain(name).replace('_', ' '):<12} {count:>7}" for name, count in stats.counts.items()]
            lines.append(f"{'overdue':<12} {stats.overdue:>7}")
            lines += ["", *(f"{day.date:%Y-%m-%d}   {day.count:>7} done" for day in stats.done_per_day if day.count)]
            show_bytes(("\n".join(lines).rstrip() + "\n").encode())
        case _:
            show_records([stats], settings, one=True)


def show_object(value: dict[str, Any], settings: Settings) -> None:
    """Print names and values."""
    match settings.output:
        case "ids":
            raise UsageError("there are no ids here; -o table or -o json was expected")
        case "table" | "wide":
            width = max(map(len, value))
            show_bytes("".join(f"{plain(name):<{width}}  {_cell(what)}\n" for name, what in value.items()).encode())
        case _:
            show_records([value], settings, one=True)


def show_lines(lines: Iterable[str]) -> None:
    """Print what a command did, a line for each."""
    show_bytes("".join(f"{plain(line)}\n" for line in lines).encode("utf-8", "backslashreplace"))


def show_json(data: bytes) -> None:
    """Print JSON; on a terminal with everything in it to be seen, which is the same JSON."""
    if sys.stdout.isatty():
        data = shown_json(data.decode("utf-8", "backslashreplace")).encode()
    show_bytes(data)


def show_text(text: str) -> None:
    """Print text for programs: as it is, and on a terminal with nothing in it that this would obey."""
    show_bytes((plain_lines(text) if sys.stdout.isatty() else text).encode("utf-8", "surrogateescape"))


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
            return plain(str(value))


_TASK = ("id", "status", "priority", "due", "project", "labels", "title")
_TASK_WIDE = (*_TASK, "version", "created_at", "updated_at", "completed_at", "uid", "description")
_CHANGE = ("seq", "at", "who", "op", "task", "change")
_CHANGE_WIDE = (*_CHANGE, "version", "changeset")
_TALLY = ("name", "todo", "in_progress", "done", "cancelled")
_TOKEN = ("id", "name", "state", "scopes", "created_at", "created_by", "expires_at", "last_used_at", "revoked_at")
_TOKEN_WIDE = (*_TOKEN, "revoked_by", "maker", "workspace")
_LOGIN = ("server", "state", "token", "name", "workspace", "scopes", "expires_at", "source")
_SHRINK = ("project", "labels")
_LAST_LEAST = 20
"""On a narrow terminal these columns give way first, so that the last one, a title, keeps this many characters."""
_RIGHT = ("id", "seq", "task", "version", *_TALLY[1:])


def _table(items: Sequence[Any], settings: Settings) -> None:
    if not items:
        return
    names: tuple[str, ...]
    wide = settings.output == "wide"
    match items[0]:
        case Task():
            names = _TASK_WIDE if wide else _TASK
            rows = [
                [_cell(_first_line(task) if name == "description" else getattr(task, name)) for name in names] for task in items
            ]
            for row in rows:
                row[2] = "" if row[2] == "none" else row[2]
        case Change():
            names, rows = (_CHANGE_WIDE if wide else _CHANGE), [_change(change, wide=wide) for change in items]
        case Tally():
            names, rows = _TALLY, [[_cell(t.name), *(str(n) for n in t.counts.values())] for t in items]
        case Token():
            names = _TOKEN_WIDE if wide else _TOKEN
            rows = [[_state(token) if name == "state" else _cell(getattr(token, name)) for name in names] for token in items]
        case Login():
            names, rows = _LOGIN, [[_cell(getattr(login, name)) for name in _LOGIN] for login in items]
        case Workspace():
            names, rows = ("name",), [[_cell(workspace.name)] for workspace in items]
        case _:
            raise TypeError(items[0])
    headings = [name.replace("_", " ").upper() for name in names]
    if sys.stdout.isatty() and not wide:
        _draw(names, headings, rows, items, settings)
    else:
        show_bytes(_columns(names, headings, rows).encode())


def _state(token: Token) -> str:
    """Return what a token is worth, by this machine's clock."""
    fault = token.fault(datetime.now(UTC))
    return fault[0] if fault else "good"


def _first_line(task: Task) -> str:
    return (task.description or "").lstrip().partition("\n")[0]


def _change(change: Change, *, wide: bool) -> list[str]:
    if change.op == "edit" and change.before is not None and change.after is not None:
        pairs = [(name, _cell(old) or "-", _cell(change.after[name]) or "-") for name, old in change.before.items()]
        said = "; ".join(f"{name}: {old if wide else _short(old)} -> {new if wide else _short(new)}" for name, old, new in pairs)
    else:
        title = _cell(((change.after or change.before) or {}).get("title")) or "-"
        said = title if wide else _short(title)
    who = f"{change.actor or '-'} ({change.source})"
    more = [str(change.version), str(change.changeset)] if wide else []
    return [str(change.seq), _cell(change.at), _cell(who), change.op, str(change.id), said, *more]


def _short(text: str) -> str:
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
