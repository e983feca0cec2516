"""The command line on a terminal of 80 columns: tables that fit, colours and none, progress that is not for pipes."""

import re
from pathlib import Path

import pexpect
import pytest

from tests.support import SECONDS, Shell

STYLE = re.compile(r"\x1b\[[0-9;]*m")
WIDTH = 80


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    home: Path = tmp_path_factory.mktemp("home")
    shell = Shell(home, TASKCTL_DATABASE_URL=f"sqlite:///{home}/tasks.db", TERM="xterm-256color")
    shell("task", "add", "urgent one", "--priority", "urgent", "-l", "errand")
    shell("task", "add", "late one", "--due", "2020-01-02", "-p", "work.api")
    shell("task", "add", "word " * 60 + "end", "-p", "home.kitchen", "--due", "2999-01-02T12:00:00Z")
    return shell


def on_terminal(shell: Shell, *arguments: str, **environment: str) -> str:
    """Return all that a command writes to a terminal."""
    command, *rest = [str(word) for word in shell.argv(*arguments)]
    process: pexpect.spawn[str] = pexpect.spawn(
        command,
        rest,
        dimensions=(24, WIDTH),
        env={**shell.environment, **environment},
        cwd=str(shell.home),
        timeout=SECONDS,
        encoding="utf-8",
    )
    process.expect(pexpect.EOF)
    process.close()
    assert process.exitstatus == 0, process.before
    assert process.before is not None
    return process.before


def test_a_table_fits_the_terminal_and_loses_no_word_of_a_title(shell: Shell) -> None:
    drawn = STYLE.sub("", on_terminal(shell, "task", "list"))
    lines = drawn.splitlines()
    assert lines[0].split() == ["ID", "STATUS", "PRIORITY", "DUE", "PROJECT", "LABELS", "TITLE"]
    assert max(len(line.rstrip()) for line in lines) <= WIDTH
    assert drawn.count("word") == 60
    assert drawn.split()[-1] == "end"


def test_colours_are_for_terminals_and_can_be_left_out(shell: Shell) -> None:
    assert "\x1b[31m" in on_terminal(shell, "task", "list")
    for drawn in (
        on_terminal(shell, "task", "list", "--no-color"),
        on_terminal(shell, "task", "list", NO_COLOR="1"),
        on_terminal(shell, "task", "list", TASKCTL_COLOR="false"),
    ):
        assert not re.search(r"\x1b\[(\d+;)*(3[0-7]|9[0-7]|38;|4[0-7])", drawn)
    assert "\x1b[31m" in on_terminal(shell, "task", "list", "--color", NO_COLOR="1")
    assert "\x1b" not in shell("task", "list", "--color").out


def test_json_on_a_terminal_is_the_same_as_in_a_pipe(shell: Shell) -> None:
    assert on_terminal(shell, "task", "list", "-o", "json").replace("\r\n", "\n") == shell("task", "list", "-o", "json").out


def test_history_and_counts_are_tables_too(shell: Shell) -> None:
    for command in (["task", "history", "1"], ["project", "list"]):
        drawn = STYLE.sub("", on_terminal(shell, *command))
        assert max(len(line.rstrip()) for line in drawn.splitlines()) <= WIDTH


def test_seeding_shows_its_progress_on_a_terminal_alone(shell: Shell) -> None:
    url = f"sqlite:///{shell.home}/seeded.db"
    seed = ["db", "seed", "--count", "1500", "--seed", "1", "--database-url", url]
    drawn = on_terminal(shell, *seed)
    assert "seeding" in drawn
    assert "1500/1500" in drawn
    assert "added 1500 tasks" in drawn
    assert on_terminal(shell, *seed, "--quiet") == ""
    assert shell(*seed) == (0, "added 1500 tasks\n", "")


def test_long_labels_and_projects_give_way_to_ids_and_titles(tmp_path: Path) -> None:
    shell = Shell(tmp_path, TASKCTL_DATABASE_URL=f"sqlite:///{tmp_path}/tasks.db", TERM="xterm-256color")
    labels = [part for name in ("frontend", "review", "waiting", "customer") for part in ("-l", name)]
    shell("task", "add", "Pay", "-p", "website.redesign.frontend", *labels, "--due", "2999-12-01")
    heading, row = STYLE.sub("", on_terminal(shell, "task", "list")).splitlines()[:2]
    assert heading.split() == ["ID", "STATUS", "PRIORITY", "DUE", "PROJECT", "LABELS", "TITLE"]
    assert (row.split()[0], row.split()[-1]) == ("1", "Pay")
    assert "2999-12-01" in row
