"""The command line on a file of one's own: what each command prints, in every form, and the code it ends with."""

import json
import os
import signal
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support import SECONDS, Shell


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path, TASKCTL_DATABASE_URL=f"sqlite:///{tmp_path}/tasks.db")


def titles(shell: Shell, *arguments: str) -> list[str]:
    return [task["title"] for task in shell("task", "list", "-o", "json", *arguments).json]


# ---------------------------------------------------------------------------------------------------------------- adding


def test_a_task_is_added_and_shown_with_all_that_was_said(shell: Shell) -> None:
    options = [
        "-d",
        "the *good* one",
        "-p",
        "home.kitchen",
        "-l",
        "errand",
        "-l",
        "quick",
        "--due",
        "2026-12-01",
        "--priority",
        "high",
    ]
    added = shell("task", "add", "Buy", "oat", "milk", *options, "-o", "json").json
    told = {
        "id": 1,
        "title": "Buy oat milk",
        "description": "the *good* one",
        "status": "todo",
        "priority": "high",
        "project": "home.kitchen",
        "labels": ["errand", "quick"],
        "due": "2026-12-01",
        "version": 1,
    }
    assert {name: added[name] for name in told} == told
    shown = shell("task", "show", "1")
    assert shown.code == 0
    lines = [line.split(maxsplit=1) for line in shown.out.splitlines() if line]
    for line in (["title", "Buy oat milk"], ["labels", "errand, quick"], ["due", "2026-12-01"], ["the", "*good* one"]):
        assert line in lines
    assert shell("task", "add", "Bread").out == "added 2  Bread\n"
    assert shell("task", "add", "-q", "Butter") == (0, "", "")


def test_a_title_is_taken_literally(shell: Shell) -> None:
    said = ["🧑‍🚀 café", "שלום עולם", "%s %d :name ? $1", 'it\'s "quoted" \\', "'; DROP TABLE tasks; --", "<b>[red]x"]
    for id, title in enumerate(said, start=1):
        assert shell("task", "add", title).out == f"added {id}  {title}\n"
    assert titles(shell) == said
    for line, title in zip(shell("task", "list").out.splitlines()[1:], said, strict=True):
        assert line.endswith(title)


def test_after_two_dashes_a_title_may_begin_with_a_dash(shell: Shell) -> None:
    assert shell("task", "add", "-p", "x", "--", "--title", "-p", "--", "1").code == 0
    assert titles(shell) == ["--title -p -- 1"]
    shell.fails(2, "task", "add", "--title")


def test_combining_characters_are_composed(shell: Shell) -> None:
    shell("task", "add", "cafe\u0301")
    assert titles(shell, "-f", "café") == ["caf\u00e9"]


def test_bytes_that_are_no_text_are_refused_in_words(shell: Shell) -> None:
    assert "title" in shell.fails(6, "task", "add", b"a\xff")
    assert "description" in shell.fails(6, "task", "add", "a", "-d", b"\xff")
    ran = shell("task", "list", "-f", b"\xff")
    assert (ran.code, "Traceback" in ran.err, ran.err.count("\n")) == (6, False, 1)
    assert shell("task", "list", "-o", "ids").out == ""


def test_limits_and_mistakes_of_fields_are_exit_6_and_all_named(shell: Shell) -> None:
    said = shell.fails(6, "task", "add", "two\nlines", "-p", "a..b", "--priority", "top", "-l", "")
    assert all(name in said for name in ("title", "project", "priority", "labels"))
    assert shell("task", "add", "x" * 500).code == 0
    assert "500" in shell.fails(6, "task", "add", "x" * 501)
    for due in ("someday", "2026-02-30", "2026-12-01T12:00:00"):
        assert "due" in shell.fails(6, "task", "add", "x", "--due", due)
    assert len(titles(shell)) == 1


def test_a_due_may_be_said_from_today(shell: Shell) -> None:
    for due, days in (("today", 0), ("tomorrow", 1), ("+2w", 14)):
        before = datetime.now(UTC).date()
        task = shell("task", "add", "x", "--due", due, "-o", "json").json
        assert task["due"] in {str(day + timedelta(days=days)) for day in (before, datetime.now(UTC).date())}


def test_a_description_comes_from_a_file_from_stdin_or_from_an_editor(shell: Shell) -> None:
    (shell.home / "notes.md").write_text("from a file\n", "utf-8")
    editor = shell.home / "editor"
    editor.write_text('#!/bin/sh\ncat "$1" > "$HOME/seen"\nprintf "edited ü\\n\\n" > "$1"\n', "utf-8")
    editor.chmod(editor.stat().st_mode | stat.S_IXUSR)
    env = {"EDITOR": str(editor)}
    assert shell("task", "add", "a", "-F", "notes.md", "-o", "json").json["description"] == "from a file\n"
    assert shell("task", "add", "b", "-F", "-", "-o", "json", stdin="two\nlines").json["description"] == "two\nlines"
    assert shell("task", "add", "c", "-e", "-o", "json", env=env).json["description"] == "edited ü"
    assert shell("task", "edit", "1", "-e", "-o", "json", env=env).json["description"] == "edited ü"
    assert (shell.home / "seen").read_text("utf-8") == "from a file\n"
    assert "nothing was changed" in shell.fails(2, "task", "edit", "1", "-e", env={"EDITOR": "false"})
    assert "no-such" in shell.fails(2, "task", "edit", "1", "-e", env={"EDITOR": "no-such-editor"})
    assert "missing.md" in shell.fails(2, "task", "add", "x", "-F", "missing.md")
    shell.fails(2, "task", "add", "x", "-F", "notes.md", "-d", "both")


# -------------------------------------------------------------------------------------------------------------- changing


def test_a_task_goes_through_its_life(shell: Shell) -> None:
    shell("task", "add", "Buy milk")
    for verb, said, status in (
        ("start", "started", "in_progress"),
        ("done", "done", "done"),
        ("reopen", "reopened", "todo"),
        ("cancel", "cancelled", "cancelled"),
    ):
        assert shell("task", verb, "1").out == f"{said} 1  Buy milk\n"
        assert shell("task", "show", "1", "-o", "json").json["status"] == status
    assert shell("task", "rm", "1").out == "removed 1\n"
    history = shell("task", "history", "1", "-o", "json").json
    assert [(entry["op"], entry["source"]) for entry in history] == [("remove", "cli"), *[("edit", "cli")] * 4, ("add", "cli")]
    plain = shell("task", "history", "1", "--limit", "2").out.splitlines()
    assert [line.split()[0] for line in plain] == ["SEQ", "6", "5"]
    assert "cancelled" in plain[2]


def test_an_edit_changes_what_is_named_and_an_empty_value_clears(shell: Shell) -> None:
    shell("task", "add", "a", "-p", "work", "-d", "text", "--due", "2026-12-01", "-l", "x", "-l", "y")
    edited = shell("task", "edit", "1", "-l", "+new", "-l", "-y", "-l", "plain", "--priority", "low", "-o", "json").json
    assert (edited["labels"], edited["priority"], edited["project"], edited["version"]) == (
        ["new", "plain", "x"],
        "low",
        "work",
        2,
    )
    cleared = shell("task", "edit", "1", "--due", "", "--project", "", "-d", "", "-t", "b", "-o", "json").json
    assert [cleared[name] for name in ("due", "project", "description", "title")] == [None, None, None, "b"]
    assert shell("task", "edit", "1", "-t", "b", "-o", "json").json == cleared
    shell.fails(2, "task", "edit", "1")
    assert "title" in shell.fails(6, "task", "edit", "1", "--title", "")
    emptied = shell("task", "edit", "1", "--priority", "", "-l", "", "-l", "new", "-o", "json").json
    assert (emptied["priority"], emptied["labels"]) == ("none", ["new"])


def test_a_write_may_ask_for_the_version_that_was_seen(shell: Shell) -> None:
    shell("task", "add", "a")
    assert shell("task", "done", "1", "--if-version", "1").code == 0
    for arguments in (["edit", "1", "-t", "b"], ["reopen", "1"], ["rm", "1"], ["edit", "1", "-l", "x"]):
        assert "version 2" in shell.fails(4, "task", *arguments, "--if-version", "1")
    assert shell("task", "show", "1", "-o", "json").json["version"] == 2


def test_a_dry_run_shows_what_would_be_and_writes_nothing(shell: Shell) -> None:
    shell("task", "add", "a")
    before = shell("task", "list", "-o", "json").out
    assert shell("task", "add", "b", "--dry-run").out == "would add 2  b\n"
    assert shell("task", "edit", "1", "-t", "c", "--dry-run").out == "would change 1  c\n"
    assert shell("task", "done", "1", "--dry-run", "-o", "json").json["status"] == "done"
    assert shell("task", "rm", "1", "--dry-run").out == "would remove 1\n"
    assert shell.fails(3, "task", "rm", "9", "--dry-run")
    assert shell("task", "list", "-o", "json").out == before
    assert len(shell("task", "history", "1", "-o", "ids").out.split()) == 1


def test_many_ids_are_done_in_one_changeset_and_what_fails_is_told(shell: Shell) -> None:
    for title in "ab":
        shell("task", "add", title)
    ran = shell("task", "edit", "1", "99", "2", "1", "-p", "all", "-o", "json")
    assert (ran.code, [task["id"] for task in json.loads(ran.out)]) == (8, [1, 2])
    assert [(problem["code"], problem["id"]) for problem in ran.problems] == [("task_not_found", 99)]
    logs = [shell("task", "history", id, "-o", "json").json[0] for id in ("1", "2")]
    assert logs[0]["changeset"] == logs[1]["changeset"]
    plain = shell("task", "show", "1", "98")
    assert (plain.code, plain.err) == (8, "taskctl: there is no task 98\n")
    assert shell("task", "show", "97", "98", "-o", "ids") == (
        8,
        "",
        "taskctl: there is no task 97\ntaskctl: there is no task 98\n",
    )


def test_ids_come_from_stdin(shell: Shell) -> None:
    for title in "abc":
        shell("task", "add", title)
    ids = shell("task", "list", "-o", "ids").out
    assert ids == "1\n2\n3\n"
    assert shell("task", "done", "-", "-o", "ids", stdin=ids).out == ids
    assert shell("task", "list") == (0, "", "")
    assert shell("task", "rm", "-", stdin="1 2").out == "removed 1\nremoved 2\n"
    ran = shell("task", "done", "-", stdin="")
    assert "Traceback" not in ran.err


# --------------------------------------------------------------------------------------------------------------- listing


@pytest.fixture
def filled(shell: Shell) -> Shell:
    shell("task", "add", "low", "--priority", "low", "--due", "2999-01-02", "-l", "home", "-p", "home")
    shell("task", "add", "urgent", "--priority", "urgent", "-l", "home")
    shell("task", "add", "late", "--priority", "low", "--due", "2020-01-02", "-p", "work.api")
    shell("task", "add", "plain milk")
    shell("task", "add", "finished", "-p", "work")
    shell("task", "done", "5")
    return shell


def test_a_list_shows_what_is_open_the_most_urgent_first(filled: Shell) -> None:
    assert titles(filled) == ["urgent", "late", "low", "plain milk"]
    assert titles(filled, "--all", "--sort", "id") == ["low", "urgent", "late", "plain milk", "finished"]
    assert titles(filled, "--limit", "2") == ["urgent", "late"]
    assert titles(filled, "-f", "status:done") == ["finished"]
    assert titles(filled, "-f", "not status:done label:home") == ["urgent", "low"]
    assert titles(filled, "-f", "project:work") == ["late"]
    assert titles(filled, "-f", "overdue or mil") == ["late", "plain milk"]
    assert titles(filled, "-f", "project:work", "-a", "--sort", "-title") == ["late", "finished"]


def test_the_forms_of_each_answer(filled: Shell) -> None:
    def forms(*command: str) -> tuple[Any, list[Any], list[str]]:
        lines = filled(*command, "-o", "ndjson").out.splitlines()
        return (
            filled(*command, "-o", "json").json,
            [json.loads(line) for line in lines],
            filled(*command, "-o", "ids").out.splitlines(),
        )

    tasks, lines, ids = forms("task", "list")
    assert tasks == lines
    assert ids == [str(task["id"]) for task in tasks] == ["2", "3", "1", "4"]
    one, lines, ids = forms("task", "show", "1")
    assert ([one], ids) == (lines, ["1"])
    several, lines, ids = forms("task", "show", "4", "1")
    assert (several, ids) == (lines, ["4", "1"])
    history, lines, ids = forms("task", "history", "5")
    assert (history, ids) == (lines, ["6", "5"])
    projects, lines, names = forms("project", "list")
    assert (projects, names) == (lines, ["home", "work", "work.api"])
    assert projects[1] == {"name": "work", "counts": {"todo": 0, "in_progress": 0, "done": 1, "cancelled": 0}}
    labels, lines, names = forms("label", "list")
    assert ([label["counts"]["todo"] for label in labels], labels, names) == ([2], lines, ["home"])
    stats = filled("stats", "-o", "json").json
    assert (stats["counts"]["todo"], stats["overdue"], len(stats["done_per_day"])) == (4, 1, 30)
    assert json.loads(filled("stats", "-o", "ndjson").out)["overdue"] == 1
    assert filled("version", "-o", "json").json["version"] in filled("version").out
    assert filled("db", "current", "-o", "json").json == {"current": "0005", "needed": "0005"}
    assert set(filled("db", "check", "-o", "json").json.values()) == {"ok"}
    assert filled("db", "upgrade", "-o", "json").json == {"before": "0005", "after": "0005"}


def test_the_forms_of_each_write(shell: Shell) -> None:
    assert shell("task", "add", "a", "-o", "ids").out == "1\n"
    assert json.loads(shell("task", "add", "b", "-o", "ndjson").out)["id"] == 2
    assert shell("task", "start", "1", "-o", "json").json["id"] == 1
    assert [task["id"] for task in shell("task", "start", "1", "2", "-o", "json").json] == [1, 2]
    assert shell("task", "edit", "1", "2", "-p", "x", "-o", "ids").out == "1\n2\n"
    lines = shell("task", "done", "1", "2", "-o", "ndjson").out.splitlines()
    assert [json.loads(line)["status"] for line in lines] == ["done", "done"]
    assert shell("task", "rm", "1", "-o", "json").json == {"id": 1, "removed": True}
    shell("task", "add", "c")
    assert shell("task", "rm", "2", "3", "-o", "json").json == [{"id": 2, "removed": True}, {"id": 3, "removed": True}]
    assert shell("db", "seed", "--count", "3", "--seed", "1", "-o", "json").json == {"added": 3}


def test_plain_columns_are_whole_and_without_colours(filled: Shell) -> None:
    filled("task", "add", "x" * 300, "-l", "b", "-l", "a")
    listed = filled("task", "list")
    assert "\x1b" not in listed.out
    heading, *rows = listed.out.splitlines()
    assert heading.split() == ["ID", "STATUS", "PRIORITY", "DUE", "PROJECT", "LABELS", "TITLE"]
    column = heading.index("TITLE")
    assert [row[column:] for row in rows] == ["urgent", "late", "low", "plain milk", "x" * 300]
    assert all(row == row.rstrip() for row in rows)
    assert filled("project", "list").out.splitlines()[0].split() == ["NAME", "TODO", "IN", "PROGRESS", "DONE", "CANCELLED"]


def test_what_a_terminal_would_obey_is_not_printed(shell: Shell) -> None:
    shell("task", "add", "x", "-d", "tab\tand\nline")
    assert "\t" not in shell("task", "show", "1").out


# ------------------------------------------------------------------------------------------------------ options and codes


def test_global_options_stand_before_the_noun_and_after_the_verb_alike(shell: Shell) -> None:
    other = f"sqlite:///{shell.home}/other.db"
    shell("--database-url", other, "task", "add", "elsewhere")
    assert shell("-o", "ids", "task", "list", "--database-url", other).out == "1\n"
    assert shell("task", "list", "-o", "ids", "--database-url", other).out == "1\n"
    assert shell("-o", "json", "task", "list", "-o", "ids", "--database-url", other).out == "1\n"
    assert shell("task", "list", "-o", "ids") == (0, "", "")
    assert "SELECT" in shell("-v", "task", "list").err
    assert "SELECT" in shell("task", "list", "-v").err


@pytest.fixture(scope="module")
def settled(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """Return a shell with a done task, for commands that change nothing."""
    home = tmp_path_factory.mktemp("home")
    shell = Shell(home, TASKCTL_DATABASE_URL=f"sqlite:///{home}/tasks.db")
    shell("task", "add", "done one")
    shell("task", "done", "1")
    return shell


@pytest.mark.parametrize(
    ("code", "arguments", "problem"),
    [
        (2, ["task", "ad"], "usage"),
        (2, ["task", "add"], "usage"),
        (2, ["nope"], "usage"),
        (2, ["task", "list", "--nope"], "usage"),
        (2, ["task", "list", "--limit", "x"], "usage"),
        (2, ["task", "list", "--server", "ftp://x"], "invalid_setting"),
        (3, ["task", "show", "7"], "task_not_found"),
        (3, ["task", "rm", "01936f0c-7a3e-7c4b-9d2e-5b1f0a6c8e7d"], "task_not_found"),
        (3, ["task", "history", "7"], "task_not_found"),
        (4, ["task", "start", "1"], "conflict"),
        (4, ["task", "rm", "1", "--if-version", "9"], "stale_task"),
        (6, ["task", "show", "abc"], "invalid_request"),
        (6, ["task", "add", ""], "invalid_task"),
        (6, ["task", "list", "--filter", "due<"], "invalid_filter"),
        (6, ["task", "list", "--sort", "colour"], "invalid_request"),
        (6, ["task", "list", "--limit", "0"], "invalid_request"),
        (7, ["task", "list", "--server", "http://127.0.0.1:1"], "unavailable"),
        (2, ["task", "list", "--database-url", "sqlite:////"], "invalid_setting"),
    ],
)
def test_problems_end_with_their_code_and_are_documents_where_the_output_is_json(
    settled: Shell, code: int, arguments: list[str], problem: str
) -> None:
    ran = settled(*arguments, "-o", "json")
    assert (ran.code, ran.out) == (code, "")
    [document] = ran.problems
    assert (document["code"], document["type"]) == (problem, f"urn:taskctl:problem:{problem}")
    assert document["title"]
    assert document["detail"]
    assert isinstance(document["retryable"], bool)
    assert isinstance(document.get("status", 400), int)


def test_however_json_is_asked_for_usage_problems_are_documents(settled: Shell) -> None:
    for arguments in (["task", "ad", "--output=json"], ["-ojson", "task", "ad"], ["task", "ad", "-o=ndjson"]):
        assert [problem["code"] for problem in settled(*arguments).problems] == ["usage"]
    ran = settled("task", "ad", env={"TASKCTL_OUTPUT": "json"})
    assert (ran.code, ran.problems[0]["code"]) == (2, "usage")


def test_a_mistake_in_a_filter_is_told_with_its_position(shell: Shell) -> None:
    assert "position 8" in shell.fails(6, "task", "list", "-f", "milk or ")
    document = shell("task", "list", "-f", "status:open", "-o", "json").problems[0]
    assert (document["position"], "todo" in document["expected"]) == (7, True)


def test_a_command_that_is_interrupted_ends_with_130(shell: Shell) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background has it ignored, and its children, too
    process = subprocess.Popen(
        shell.argv("task", "add", "x", "-e"),
        env={**shell.environment, "EDITOR": "sh -c 'kill -INT $PPID'"},
        stderr=subprocess.PIPE,
        cwd=shell.home,
    )
    _, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, b"Traceback" in err) == (130, False)
    assert titles(shell) == []


def test_a_reader_that_goes_away_causes_no_traceback(shell: Shell) -> None:
    shell("db", "seed", "--count", "2000", "--seed", "1")
    reader, writer = os.pipe()
    os.close(reader)
    for arguments in (["task", "list", "--all", "-o", "json"], ["task", "list"], ["task", "list", "-o", "ids", "--limit", "1"]):
        ran = subprocess.run(
            shell.argv(*arguments), stdout=writer, stderr=subprocess.PIPE, env=shell.environment, timeout=SECONDS, check=False
        )
        assert (ran.stderr, ran.returncode) == (b"", 141)
    os.close(writer)


def test_help_is_there_for_everything(shell: Shell) -> None:
    for arguments, said in (
        ([], "Commands:"),
        (["task"], "history"),
        (["task", "add"], "--priority"),
        (["db", "seed"], "--count"),
    ):
        ran = shell(*arguments, "--help")
        assert (ran.code, ran.err, said in ran.out) == (0, "", True)
    bare = shell()
    assert (bare.code, "Usage: taskctl" in bare.err + bare.out) == (2, True)


# ---------------------------------------------------------------------------------------------------------------- samples


def test_samples_have_defaults(shell: Shell) -> None:
    ran = shell("db", "seed")
    assert (ran.code, ran.out, ran.err) == (0, "added 1000 tasks\n", "")
    assert "count" in shell.fails(2, "db", "seed", "--count", "0")


def test_the_same_seed_gives_the_same_tasks_and_another_gives_others(shell: Shell) -> None:
    def seeded(name: str, seed: str) -> list[dict[str, Any]]:
        url = f"sqlite:///{shell.home}/{name}.db"
        assert shell("db", "seed", "--count", "2000", "--seed", seed, "--database-url", url).code == 0
        tasks = shell("task", "list", "--all", "--sort", "id", "-o", "json", "--database-url", url).json
        changing = ("uid", "created_at", "updated_at", "started_at", "completed_at")
        return [{name: value for name, value in task.items() if name not in changing} for task in tasks]

    day = datetime.now(UTC).date()
    one, again, other = seeded("one", "7"), seeded("again", "7"), seeded("other", "8")
    if day == datetime.now(UTC).date():  # dues lie around the day
        assert one == again
    assert len(one) == 2000
    assert one != other
    assert {task["status"] for task in one} == {"todo", "in_progress", "done", "cancelled"}


def test_a_filtered_list_is_what_straight_python_picks_from_the_whole(shell: Shell) -> None:
    shell("db", "seed", "--count", "2000", "--seed", "7")
    everything = shell("task", "list", "--all", "-o", "json").json
    before = datetime.now(UTC).date()
    found = shell("task", "list", "--filter", "due<+7d priority>=high", "-o", "json").json
    if before != datetime.now(UTC).date():
        pytest.skip("midnight passed in between")
    limit = str(before + timedelta(days=7))  # both forms of a due begin with the day, in UTC as the shell's zone is
    expected = [
        task["id"]
        for task in everything
        if task["due"] is not None
        and task["due"][:10] < limit
        and task["priority"] in ("high", "urgent")
        and task["status"] in ("todo", "in_progress")
    ]
    assert sorted(task["id"] for task in found) == sorted(expected)
    assert 10 < len(found) < 500
    ranks = ["none", "low", "medium", "high", "urgent"]
    order = [(-ranks.index(task["priority"]), end_of(task["due"]), task["id"]) for task in found]
    assert order == sorted(order)


def end_of(due: str) -> datetime:
    """Return where a due sorts: a day at its end."""
    if len(due) == 10:
        return datetime.fromisoformat(due).replace(tzinfo=UTC) + timedelta(days=1)
    return datetime.fromisoformat(due)


def test_the_version_is_told_without_a_database(shell: Shell) -> None:
    assert shell("--version").out == shell("version").out
