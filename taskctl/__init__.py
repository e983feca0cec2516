"""taskctl: a task manager that is a command line, a REST server and a Python library over one core.

    from taskctl import NewTask, open_tasks

    async with open_tasks("sqlite:///tasks.db") as tasks:
        task = await tasks.add(NewTask(title="Buy milk"))

Names are imported when they are first used: the command line imports this package, too, and starts quickly.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from taskctl.config import Settings as Settings
    from taskctl.errors import Conflict as Conflict
    from taskctl.errors import CursorExpired as CursorExpired
    from taskctl.errors import IdempotencyMismatch as IdempotencyMismatch
    from taskctl.errors import InvalidFilter as InvalidFilter
    from taskctl.errors import InvalidRequest as InvalidRequest
    from taskctl.errors import InvalidTask as InvalidTask
    from taskctl.errors import SchemaOutdated as SchemaOutdated
    from taskctl.errors import StaleTask as StaleTask
    from taskctl.errors import StorageFull as StorageFull
    from taskctl.errors import TaskctlError as TaskctlError
    from taskctl.errors import TaskNotFound as TaskNotFound
    from taskctl.errors import Unavailable as Unavailable
    from taskctl.filters import parse_filter as parse_filter
    from taskctl.tasks import Add as Add
    from taskctl.tasks import Change as Change
    from taskctl.tasks import Changeset as Changeset
    from taskctl.tasks import ChangesSince as ChangesSince
    from taskctl.tasks import Edit as Edit
    from taskctl.tasks import GetStats as GetStats
    from taskctl.tasks import GetTask as GetTask
    from taskctl.tasks import History as History
    from taskctl.tasks import IdempotencyKey as IdempotencyKey
    from taskctl.tasks import Labels as Labels
    from taskctl.tasks import NewTask as NewTask
    from taskctl.tasks import Origin as Origin
    from taskctl.tasks import Page as Page
    from taskctl.tasks import Projects as Projects
    from taskctl.tasks import Read as Read
    from taskctl.tasks import Remove as Remove
    from taskctl.tasks import Stats as Stats
    from taskctl.tasks import Task as Task
    from taskctl.tasks import TaskPatch as TaskPatch
    from taskctl.tasks import TaskQuery as TaskQuery
    from taskctl.tasks import TaskService as TaskService
    from taskctl.wiring import create_app as create_app
    from taskctl.wiring import open_tasks as open_tasks

_HOMES = {
    "taskctl.config": ("Settings",),
    "taskctl.errors": (
        *("Conflict", "CursorExpired", "IdempotencyMismatch", "InvalidFilter", "InvalidRequest", "InvalidTask", "SchemaOutdated"),
        *("StaleTask", "StorageFull", "TaskctlError", "TaskNotFound", "Unavailable"),
    ),
    "taskctl.filters": ("parse_filter",),
    "taskctl.tasks": (
        *("Add", "Change", "Changeset", "Edit", "IdempotencyKey", "NewTask", "Page", "Remove", "Stats"),
        *("Task", "TaskPatch", "TaskQuery", "TaskService"),
        *("ChangesSince", "GetStats", "GetTask", "History", "Labels", "Origin", "Projects", "Read"),
    ),
    "taskctl.wiring": ("create_app", "open_tasks"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME)]  # noqa: PLE0604  # they are texts


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'taskctl' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
