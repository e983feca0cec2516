"""What may be imported by which command: most of a short command's time is what it imports."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import SECONDS, Shell, serving

HEAVY = (
    *("asyncio", "aiohttp", "aiohttp_apispec", "alembic", "marshmallow", "sqlalchemy", "pydantic", "rich", "tomllib", "yaml"),
    *("hypothesis", "typing_inspection", "limits", "deprecated", "structlog", "csv", "opentelemetry"),
)
LOCAL = (*HEAVY, "taskctl.remote", "taskctl.server", "taskctl.seed", "tzlocal", "ssl", "email", "keyring", "taskctl.credentials")


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path, TASKCTL_DATABASE_URL=f"sqlite:///{tmp_path}/tasks.db")


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """Return a shell whose file is there already, with a task in it."""
    home = tmp_path_factory.mktemp("home")
    shell = Shell(home, TASKCTL_DATABASE_URL=f"sqlite:///{home}/tasks.db")
    shell("task", "add", "first")
    return shell


def imported(shell: Shell, *python: str) -> set[str]:
    """Return the modules that Python imports when it is run with these arguments."""
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", *python],
        capture_output=True,
        text=True,
        env=shell.environment,
        cwd=shell.home,
        timeout=SECONDS,
        check=False,
    )
    found = set(re.findall(r"^import time: +\d+ \| +\d+ \| +(\S+)$", ran.stderr, re.MULTILINE))
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert "sys" in found or "encodings" in found
    return found


def of(modules: set[str], *names: str) -> list[str]:
    """Return which of the names were imported, as a whole or in part."""
    return [name for name in names if any(f"{module}.".startswith(f"{name}.") for module in modules)]


def command(shell: Shell, *arguments: str) -> set[str]:
    return imported(shell, "-m", "taskctl", *arguments)


def test_the_package_itself_imports_nothing_of_weight(shell: Shell) -> None:
    modules = imported(shell, "-c", "import taskctl")
    assert "taskctl" in modules
    assert of(modules, "msgspec", "typer", "sqlite3", "taskctl.tasks", "taskctl.errors", *LOCAL) == []


def test_the_library_needs_no_command_line_and_no_server(shell: Shell) -> None:
    modules = imported(
        shell, "-c", "from taskctl import NewTask, TaskQuery, open_tasks, parse_filter; open_tasks; NewTask(title='x')"
    )
    assert "msgspec" in modules
    assert of(modules, "typer", "aiohttp", "alembic", "sqlalchemy", "pydantic", "rich", "taskctl.cli", "taskctl.server") == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["task", "add", "x", "-p", "a", "-l", "b", "--priority", "high", "-d", "text"],
        ["task", "list"],
        ["task", "list", "--limit", "5", "--all", "-o", "json"],
        ["task", "list", "-o", "ids"],
        ["task", "done", "1"],
        ["task", "edit", "1", "-l", "+y", "-p", "b"],
        ["project", "list"],
        ["version", "-o", "json"],
    ],
    ids=" ".join,
)
def test_a_local_command_is_light(used: Shell, arguments: list[str]) -> None:
    modules = command(used, *arguments)
    assert of(modules, "sqlite3")
    assert of(modules, *LOCAL) == []


def test_a_filter_and_a_spoken_due_cost_time_zones_and_no_more(used: Shell) -> None:
    for arguments in (["task", "list", "-f", "due<+7d milk"], ["task", "add", "x", "--due", "tomorrow"], ["stats"]):
        assert of(command(used, *arguments), *HEAVY) == []


def test_help_and_version_touch_no_database(shell: Shell) -> None:
    assert of(command(shell, "--help"), *LOCAL, "taskctl.storage") == []
    assert of(command(shell, "task", "add", "--help"), *LOCAL, "taskctl.storage") == []
    assert of(command(shell, "version"), *LOCAL, "taskctl.storage") == []
    assert list(shell.home.iterdir()) == []


def test_only_an_upgrade_needs_alembic_and_nothing_of_the_web(shell: Shell) -> None:
    modules = command(shell, "db", "upgrade")
    assert of(modules, "alembic", "sqlalchemy") == ["alembic", "sqlalchemy"]
    assert of(modules, "aiohttp", "pydantic") == []
    for arguments in (["db", "current"], ["db", "check"]):
        assert of(command(shell, *arguments), *HEAVY) == []
    assert of(command(shell, "db", "seed", "--count", "1", "--seed", "1"), "asyncio", "aiohttp", "alembic", "sqlalchemy") == []


def test_a_server_without_tracing_does_without_opentelemetry(shell: Shell) -> None:
    modules = imported(shell, "-c", "from taskctl import create_app; create_app()")
    assert of(modules, "aiohttp", "opentelemetry", "taskctl.tracing") == ["aiohttp"]


def test_a_remote_command_needs_no_database_and_no_migrations(shell: Shell) -> None:
    with serving(shell) as server:
        for arguments in (["task", "add", "x"], ["task", "list"]):
            modules = command(shell, *arguments, "--server", server.url)
            assert of(modules, "aiohttp") == ["aiohttp"]
            assert of(modules, "alembic", "sqlalchemy", "pydantic", "rich", "taskctl.server", "taskctl.storage") == []
            assert of(modules, "aiohttp_apispec", "marshmallow", "keyring") == []
