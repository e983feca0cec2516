"""CSV that no spreadsheet runs, YAML in which text stays text, tables with everything: of any task, and of a real command."""

import csv
import io
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from taskctl.cli.formats import as_csv, as_yaml
from taskctl.tasks import Change, Tally, Task
from taskctl.wire import encode
from tests.support import Shell
from tests.test_cli_output import changes, tallies, tasks

FORMULAS = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\tx",
    "\r=1",
    "\n=1",
    "=cmd|' /C calc'!A0",
    '=HYPERLINK("http://x")',
    *("＝1+1", "＋1", "－1", "＠SUM(A1)"),
]
AMBIGUOUS = [
    *(
        "no",
        "yes",
        "y",
        "on",
        "null",
        "~",
        "1e3",
        "1_000",
        "0x1f",
        "0o7",
        "12:30:45",
        "2026-01-02",
        "",
        " ",
        ".inf",
        "<<",
        "=",
        "- a",
    ),
    *(
        "a: b",
        "#",
        "&a",
        "*a",
        "!!str x",
        "|",
        ">",
        "%",
        "@",
        "`",
        "'",
        '"',
        "{}",
        "[]",
        "?",
        "---",
        "...",
        "\ufeff",
        "a\nb",
        "a\n",
    ),
]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path, TASKCTL_DATABASE_URL=f"sqlite:///{tmp_path}/tasks.db")


def rows(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline="")))


# ----------------------------------------------------------------------------------------------------------------- CSV


@pytest.mark.parametrize("text", FORMULAS)
def test_what_a_spreadsheet_would_run_gets_an_apostrophe(text: str) -> None:
    [_, [name, *counts]] = rows(as_csv([Tally(name=text, counts={"todo": 1})], Tally))
    assert (name, counts) == (f"'{text}", ["1"])


@given(st.lists(tasks, min_size=1, max_size=3) | st.lists(changes, min_size=1, max_size=3) | st.lists(tallies, min_size=1))
def test_every_text_is_there_and_none_is_a_formula(found: list[Any]) -> None:
    written = as_csv(found, Task)
    assert written.endswith("\r\n")
    header, *lines = rows(written)
    assert len(lines) == len(found)
    for line, item in zip(lines, found, strict=True):
        cells = dict(zip(header, line, strict=True))
        assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")) for cell in line)
        for name in ("title", "description", "project", "actor", "name"):
            text = getattr(item, name, None) or ""
            assert cells.get(name, text).removeprefix("'") == text.removeprefix("'")


@given(st.lists(tasks, min_size=1, max_size=3) | st.lists(changes, min_size=1, max_size=3) | st.lists(tallies, min_size=1))
def test_whatever_separates_cells_no_text_makes_two_of_one(found: list[Any]) -> None:
    written = as_csv(found, Task)
    unquoted = "".join(written.split('"')[::2])  # a quote inside quotes is two, with nothing between them
    assert set(unquoted) <= set("0123456789,\r\n")


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_a_formula_behind_a_separator_is_in_no_cell_of_its_own(separator: str) -> None:
    written = as_csv([Tally(name=f"a{separator}=1+1", counts={"todo": 1})], Tally)
    cells = [cell for line in csv.reader(io.StringIO(written, newline=""), delimiter=separator) for cell in line]
    assert not any(cell.startswith("=") for cell in cells)


def test_numbers_of_ours_are_numbers() -> None:
    written = as_csv([{"added": -3, "removed": True, "nothing": None, "share": -0.5}], dict)
    assert written == '"added","removed","nothing","share"\r\n-3,"true","",-0.5\r\n'


def test_csv_of_commands(shell: Shell) -> None:
    empty = shell("task", "list", "-o", "csv").out
    assert empty == ",".join(f'"{name}"' for name in Task.__struct_fields__) + "\r\n"
    assert shell("project", "list", "-o", "csv").out == '"name","todo","in_progress","done","cancelled"\r\n'
    shell("task", "add", "=1+1", "-d", "two\nlines, and 'quotes' \"too\"", "-l", "b", "-l", "@a", "--due", "2026-12-01T15:00:00Z")
    [header, line] = rows(shell("task", "list", "-o", "csv").out)
    cells = dict(zip(header, line, strict=True))
    assert cells | {"uid": "", "created_at": "", "updated_at": ""} == {
        "id": "1",
        "uid": "",
        "title": "'=1+1",
        "description": "two\nlines, and 'quotes' \"too\"",
        "status": "todo",
        "priority": "none",
        "project": "",
        "labels": "'@a, b",
        "due": "2026-12-01T15:00:00Z",
        "started_at": "",
        "completed_at": "",
        "created_at": "",
        "updated_at": "",
        "version": "1",
    }
    assert cells["created_at"] == shell("task", "show", "1", "-o", "json").json["created_at"]
    shell("task", "edit", "1", "--due", "")
    header, line, _ = rows(shell("task", "history", "1", "-o", "csv").out)
    assert header == [*Change.__struct_fields__]
    assert dict(zip(header, line, strict=True))["before"] == '{"due":"2026-12-01T15:00:00Z"}'
    assert rows(shell("stats", "-o", "csv").out) == [
        ["todo", "in_progress", "done", "cancelled", "overdue"],
        ["1", "0", "0", "0", "0"],
    ]
    assert shell("task", "rm", "1", "-o", "csv").out == '"id","removed"\r\n1,"true"\r\n'


# ---------------------------------------------------------------------------------------------------------------- YAML


@pytest.mark.parametrize("text", [*AMBIGUOUS, *FORMULAS], ids=repr)
def test_text_stays_text(text: str) -> None:
    written = as_yaml({"title": text})
    assert yaml.safe_load(written) == {"title": text}
    document = yaml.compose(written)
    assert document is not None
    [(name, value)] = document.value
    assert name.style is None
    assert value.style in ('"', "|")


@given(tasks | changes | tallies)
def test_yaml_is_what_json_is(found: Any) -> None:
    written = as_yaml(found)
    assert yaml.safe_load(written) == msgspec.json.decode(encode(found))
    assert all(char == "\n" or char.isprintable() for char in written)


def test_yaml_of_commands(shell: Shell) -> None:
    assert shell("task", "list", "-o", "yaml").out == "[]\n"
    shell("task", "add", "no", "-d", "first\nsecond")
    out = shell("task", "show", "1", "-o", "yaml").out
    assert 'title: "no"\ndescription: |-\n  first\n  second\n' in out
    assert yaml.safe_load(out) == shell("task", "show", "1", "-o", "json").json
    for command in (["task", "list"], ["task", "history", "1"], ["project", "list"], ["stats"], ["version"], ["db", "current"]):
        assert yaml.safe_load(shell(*command, "-o", "yaml").out) == shell(*command, "-o", "json").json
    assert yaml.safe_load(shell("task", "rm", "1", "-o", "yaml").out) == {"id": 1, "removed": True}


# ---------------------------------------------------------------------------------------------------------------- wide


def test_a_wide_table_has_more_and_all_of_it(shell: Shell) -> None:
    long = "word " * 40 + "end"
    shell("task", "add", long, "-d", f"{long}\nnot this")
    shell("task", "edit", "1", "-t", f"new {long}")
    shell("task", "done", "1")
    task = shell("task", "show", "1", "-o", "json").json
    heading, row = shell("task", "list", "--all", "-o", "wide").out.splitlines()
    assert (
        heading.split()[-9:]
        == ["TITLE", "VERSION", "CREATED", "AT", "UPDATED", "AT", "COMPLETED", "AT", "UID", "DESCRIPTION"][-9:]
    )
    assert row.count(long) == 2
    assert task["uid"] in row
    assert "not this" not in row
    history = shell("task", "history", "1", "-o", "wide").out
    assert f"title: {long} -> new {long}" in history
    assert "…" in shell("task", "history", "1").out


def test_what_is_for_people_is_so_in_a_wide_table_too(shell: Shell) -> None:
    assert shell("task", "add", "x", "-o", "wide").out == "added 1  x\n"
    for command in (["task", "show", "1"], ["stats"], ["version"], ["db", "current"], ["project", "list"]):
        assert shell(*command, "-o", "wide").out == shell(*command).out
    assert shell("task", "rm", "1", "-o", "wide").out == "removed 1\n"
