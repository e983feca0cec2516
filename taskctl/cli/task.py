"""`taskctl task`: adding, finding and changing tasks."""

import os
import sys
from collections.abc import Callable, Coroutine, Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from taskctl import fields, wire
from taskctl.cli.call import Call, command, noun
from taskctl.cli.output import FOR_PEOPLE, show, show_details, show_lines, show_records
from taskctl.conditions import And, Condition, Match, Not, Or
from taskctl.errors import InvalidTask, TaskctlError, Unavailable, UsageError
from taskctl.tasks import (
    BATCH_MAX,
    Change,
    Changeset,
    Edit,
    NewTask,
    Operation,
    Ref,
    Remove,
    Task,
    TaskPatch,
    TaskQuery,
    TaskService,
)

R = TypeVar("R")

app = noun("Add, find and change tasks.")

Ids = Annotated[list[str], typer.Argument(help="Ids or uids of tasks; - reads them from stdin.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Work it all out, show it, and write nothing.")]
IfVersion = Annotated[int | None, typer.Option(help="Only if the task is at this version.")]
Description = Annotated[str | None, typer.Option("--description", "-d", help="Markdown.")]
File = Annotated[str | None, typer.Option("--file", "-F", help="Read the description from this file; - is stdin.")]
Editor = Annotated[bool, typer.Option("--edit", "-e", help="Write the description in $VISUAL or $EDITOR.")]
Project = Annotated[str | None, typer.Option("--project", "-p", help="A path with dots, such as work.api.")]
Priority = Annotated[str | None, typer.Option(help="none, low, medium, high or urgent.")]
Due = Annotated[str | None, typer.Option(help="2026-12-01, 2026-12-01T15:00:00Z, today, tomorrow, fri, +3d, +2w.")]


@command(app)
def add(
    call: Call,
    title: Annotated[list[str], typer.Argument(help="One argument or many words. After -- it may begin with a dash.")],
    description: Description = None,
    file: File = None,
    edit: Editor = False,
    project: Project = None,
    label: Annotated[list[str] | None, typer.Option("--label", "-l", help="May be repeated.")] = None,
    due: Due = None,
    priority: Priority = None,
    dry_run: DryRun = False,
) -> None:
    """Add a task. The title is taken as it stands."""
    text = _description(description, file, edit, lambda: "")
    given = {"description": text, "project": project, "priority": priority, "labels": label, "due": _when(due)}
    new = NewTask(title=" ".join(title), **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    task = call.tasks(lambda tasks: tasks.add(new, dry_run=dry_run))
    _report(call, "would add" if dry_run else "added", [task], one=True)


@command(app, "list")
def list_(
    call: Call,
    filter: Annotated[str | None, typer.Option("--filter", "-f", help="Such as 'label:home due<+7d milk'.")] = None,
    sort: Annotated[str, typer.Option(help="Fields, separated by commas, - before one for descending.")] = "-priority,due,id",
    limit: Annotated[int | None, typer.Option(help="How many at most.")] = None,
    all: Annotated[bool, typer.Option("--all", "-a", help="Done and cancelled tasks, too.")] = False,
) -> None:
    """List the open tasks, the most urgent first; or those that a filter picks."""
    where, zone = None, "UTC"
    if filter is not None:
        from taskctl.filters import parse_filter

        zone = _zone()
        where = parse_filter(filter, zone=zone)
    if not all and not _names_status(where):
        opened = Match("status", fields.OPEN)
        where = opened if where is None else And((opened, where))
    query = TaskQuery(where=where, sort=tuple(sort.split(",")), limit=limit, zone=zone)
    found = call.tasks(lambda tasks: tasks.list(query)).items
    if not found and sys.stdout.isatty():
        call.say("no tasks")
    show(found, call.settings)


@command(app, "show")
def show_(call: Call, ids: Ids) -> None:
    """Show tasks with everything that they hold."""
    refs = list(_refs(ids))

    async def get(tasks: TaskService) -> list[Task]:
        return [task for ref in refs if (task := await _each(call, len(refs), tasks.get(ref))) is not None]

    found = call.tasks(get)
    if found or len(refs) > 1:
        show_details(found, call.settings, one=len(refs) == 1)


@command(app)
def edit(
    call: Call,
    ids: Ids,
    title: Annotated[str | None, typer.Option("--title", "-t", help="The new title.")] = None,
    description: Description = None,
    file: File = None,
    edit: Editor = False,
    project: Project = None,
    label: Annotated[list[str] | None, typer.Option("--label", "-l", help="+x adds, -y takes away, '' all.")] = None,
    due: Due = None,
    priority: Priority = None,
    if_version: IfVersion = None,
    dry_run: DryRun = False,
) -> None:
    """Change what is named, and nothing else. An empty value clears: --due ''."""
    refs = list(_refs(ids))
    if edit and len(refs) > 1:
        raise UsageError("an editor can only be opened for one task")
    plus, minus = _label_changes(label or [])

    def before() -> str:
        nonlocal if_version
        task = call.tasks(lambda tasks: tasks.get(refs[0]))
        if_version = if_version or task.version  # what others write while the editor is open is not written over
        return task.description or ""

    changes: dict[str, Any] = {"title": title, "priority": "none" if priority == "" else priority}
    text = _description(description, file, edit, before)
    for name, value in (("description", text), ("project", project), ("due", due)):
        if value is not None:
            changes[name] = (_when(value) if name == "due" else value) if value != "" else None
    changes = {name: value for name, value in changes.items() if value is not None or name in ("description", "project", "due")}
    if not changes and not label:
        raise UsageError("there is nothing to change; see taskctl task edit --help")
    patch = TaskPatch(**changes)

    async def operation(tasks: TaskService, ref: Ref) -> Operation:
        if not label:
            return Edit(ref, patch, if_version)
        # Adding to a set needs the set; the version holds it still until it is written.
        task = await tasks.get(ref)
        labels = tuple(((set() if "" in label else set(task.labels)) | plus) - minus)
        return Edit(ref, TaskPatch(**changes, labels=labels), task.version if if_version is None else if_version)

    _write(call, refs, operation, "would change" if dry_run else "changed", dry_run)


def _setter(name: str, status: str, past: str, doc: str) -> None:
    def change(call: Call, ids: Ids, if_version: IfVersion = None, dry_run: DryRun = False) -> None:
        patch = TaskPatch(status=status)  # type: ignore[arg-type]  # one of the four below

        async def operation(_: TaskService, ref: Ref) -> Operation:
            return Edit(ref, patch, if_version)

        _write(call, list(_refs(ids)), operation, f"would be {past}" if dry_run else past, dry_run)

    change.__name__, change.__doc__ = name, doc
    command(app)(change)


_setter("start", "in_progress", "started", "Say that tasks are being worked on.")
_setter("done", "done", "done", "Say that tasks are done.")
_setter("cancel", "cancelled", "cancelled", "Say that tasks will not be done.")
_setter("reopen", "todo", "reopened", "Make done or cancelled tasks open again.")


@command(app)
def rm(call: Call, ids: Ids, if_version: IfVersion = None, dry_run: DryRun = False) -> None:
    """Remove tasks. Their history stays."""

    async def operation(_: TaskService, ref: Ref) -> Operation:
        return Remove(ref, if_version)

    _write(call, list(_refs(ids)), operation, "would remove" if dry_run else "removed", dry_run)


@command(app)
def history(
    call: Call,
    id: Annotated[str, typer.Argument(help="The id or uid of a task, even of a removed one.")],
    limit: Annotated[int | None, typer.Option(help="How many entries at most.")] = None,
) -> None:
    """Show what happened to a task, newest first."""
    [ref] = _refs([id])
    show(call.tasks(lambda tasks: tasks.history(ref, limit=limit)).items, call.settings, kind=Change)


def _write(
    call: Call,
    refs: list[Ref],
    operation: Callable[[TaskService, Ref], Coroutine[Any, Any, Operation]],
    past: str,
    dry_run: bool,
) -> None:
    """Write an operation for each task, in as few changesets as there can be, and report what became of each."""

    async def write(tasks: TaskService) -> list[Task | None]:
        results: list[Task | None] = []
        for start in range(0, len(refs), BATCH_MAX):
            part, operations = [], []
            for ref in refs[start : start + BATCH_MAX]:
                made = await _each(call, len(refs), operation(tasks, ref))
                if made is not None:
                    part.append(ref)
                    operations.append(made)
            if not operations:
                continue
            written = await tasks.write(Changeset(tuple(operations), atomic=False, dry_run=dry_run))
            for ref, result in zip(part, written.results, strict=True):
                if not isinstance(result, TaskctlError):
                    results.append(result)
                    if result is None:
                        removed.append(ref)
                elif len(refs) == 1:
                    raise result
                else:
                    call.problem(result)
        return results

    removed: list[Ref] = []
    results = call.tasks(write)
    if removed:
        _report_removed(call, past, removed, one=len(refs) == 1, dry_run=dry_run)
    else:
        _report(call, past, [task for task in results if task is not None], one=len(refs) == 1)


async def _each(call: Call, count: int, result: Coroutine[Any, Any, R]) -> R | None:
    """Return the result for one task. If it is one of several, its failure is reported and the others go on."""
    try:
        return await result
    except Unavailable:
        raise
    except TaskctlError as e:
        if count == 1:
            raise
        call.problem(e)
        return None


def _report(call: Call, past: str, tasks: list[Task], *, one: bool) -> None:
    if call.settings.output not in FOR_PEOPLE:
        show(tasks, call.settings, one=one)
    elif not call.quiet:
        show_lines(f"{past} {task.id}  {task.title}" for task in tasks)


def _report_removed(call: Call, past: str, refs: list[Ref], *, one: bool, dry_run: bool) -> None:
    match call.settings.output:
        case "table" | "wide":
            if not call.quiet:
                show_lines(f"{past} {ref}" for ref in refs)
        case "ids":
            show_lines(map(str, refs))
        case _:
            show_records([{"id": ref, "removed": not dry_run} for ref in refs], call.settings, one=one)


def _refs(ids: list[str]) -> Iterator[Ref]:
    """Yield what the arguments name; each task once, in their order."""
    seen = set()
    for text in ids:
        for word in sys.stdin.read().split() if text == "-" else [text]:
            ref = wire.parse_ref(word)
            if ref not in seen:
                seen.add(ref)
                yield ref


def _label_changes(words: list[str]) -> tuple[set[str], set[str]]:
    """Return the labels to add and to take away. One without a sign is to be added."""
    plus = [word.removeprefix("+") for word in words if word and not word.startswith("-")]
    minus = [word.removeprefix("-") for word in words if word.startswith("-")]
    try:
        return set(fields.labels(plus)), set(fields.labels(minus))
    except fields.Refused as e:
        raise InvalidTask(f"labels {e.detail}") from None


def _names_status(where: Condition | None) -> bool:
    match where:
        case Match("status"):
            return True
        case And(terms) | Or(terms):
            return any(map(_names_status, terms))
        case Not(term):
            return _names_status(term)
        case _:
            return False


def _zone() -> str:
    """Return the name of this machine's time zone."""
    from tzlocal import get_localzone_name

    return get_localzone_name() or "UTC"


def _when(text: str | None) -> date | datetime | None:
    """Return the due that an option names."""
    if text is None or text == "":
        return None
    from taskctl.filters import when

    try:
        return when(text, datetime.now().astimezone().date())
    except ValueError as e:
        raise InvalidTask(f"due: {e}") from None


def _description(text: str | None, file: str | None, edit: bool, before: Callable[[], str]) -> str | None:
    """Return the description that one of the three ways gives, None if none was taken."""
    if sum((text is not None, file is not None, edit)) > 1:
        raise UsageError("a description comes from one of --description, --file and --edit")
    if file is not None:
        try:
            raw = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
            return raw.decode()
        except OSError as e:
            raise UsageError(f"{file} cannot be read: {e.strerror}") from None
        except UnicodeDecodeError as e:
            raise InvalidTask(f"{file} is not UTF-8 (at byte {e.start})") from None
    return _edited(before()) if edit else text


def _edited(text: str) -> str:
    """Return the text as somebody left it in their editor."""
    import shlex
    import subprocess  # nosec B404  # for the editor
    import tempfile

    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    with tempfile.TemporaryDirectory(prefix="taskctl-") as folder:
        path = Path(folder, "description.md")
        path.write_text(text, "utf-8")
        command = [*shlex.split(editor), str(path)]
        try:
            ended = subprocess.run(command, check=False)  # noqa: S603  # nosec B603  # it is their own editor
        except OSError as e:
            raise UsageError(f"the editor {editor} cannot be started: {e.strerror}") from None
        if ended.returncode != 0:
            raise UsageError(f"the editor {editor} ended with code {ended.returncode}; nothing was changed")
        return path.read_text("utf-8").rstrip("\n")
