"""The lists in docs/ in which somebody looks things up: what there is stands in them, and nothing else."""

import re
from pathlib import Path
from typing import Any

from typer.main import get_command

from taskctl import Settings, create_app
from taskctl.cli import app
from taskctl.errors import ConfigError, TaskctlError, UsageError

DOCS = Path(__file__).parent.parent / "docs"


def rows(page: str, header: str) -> list[list[str]]:
    """Return the rows of the table of a page with this header."""
    table = (DOCS / page).read_text("utf-8").partition(f"\n{header}\n")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[1:]]


def quoted(cell: str) -> list[str]:
    return re.findall("`([^`]+)`", cell)


def test_every_operation_of_the_api_is_in_the_table_of_resources() -> None:
    shown: set[tuple[str, str]] = set()
    resources: list[str] = []
    for resource, methods, _ in rows("api.md", "| resource | methods | notes |"):
        resources = quoted(resource) or resources
        shown |= {(method, path) for path in resources for method in methods.split(", ") if method != "HEAD"}
    routes = [(route.method, route.resource.canonical) for route in create_app(Settings()).router.routes() if route.resource]
    served = {(method, path.removeprefix("/api/v1")) for method, path in routes if path.startswith("/api/v1/")}
    assert shown == {(method, path) for method, path in served if method != "HEAD"}


def every(kind: type[TaskctlError]) -> list[type[TaskctlError]]:
    return [kind, *(found for below in kind.__subclasses__() for found in every(below))]


def test_every_problem_is_in_its_table_with_its_status_and_its_exit_code() -> None:
    shown: list[tuple[str, int, int]] = []
    for codes, statuses, exit_code in rows("api.md", "| code | status | exit code of the command line |"):
        names, numbers = quoted(codes), [int(status) for status in statuses.split(", ")]
        numbers = numbers * len(names) if len(numbers) == 1 else numbers
        shown += [(name, status, int(exit_code)) for name, status in zip(names, numbers, strict=True)]
    found = [(kind.code, kind.status, kind.exit_code) for kind in every(TaskctlError) if kind not in (ConfigError, UsageError)]
    assert sorted(shown) == sorted(set(found))  # storage has kinds of its own, that are told as these


def test_every_command_is_in_the_list() -> None:
    shown = (DOCS / "cli.md").read_text("utf-8").partition("`--help`")[0]
    listed = re.findall(r"taskctl (\w+)((?: \w+)(?: \| \w+)*)?(?=\s{2}|\n| METHOD| --)", shown)
    group: Any = get_command(app)
    found: dict[str, set[str]] = {}
    for noun in group.list_commands(None):
        found[noun] = set(getattr(group.get_command(None, noun), "commands", ()))  # those of one verb have none
    assert {noun: set(re.findall(r"\w+", verbs)) for noun, verbs in listed} == found
