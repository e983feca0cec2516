"""What the command line prints of texts that others wrote: nothing that a terminal obeys, hides, or shows in another order."""

import contextlib
import io
import json
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskctl import Settings
from taskctl.access import Token, Workspace
from taskctl.cli import call, output
from taskctl.cli.terminal import plain, plain_lines
from taskctl.config import Output
from taskctl.errors import FieldError, InvalidTask, TaskctlError
from taskctl.observe import StatementDone
from taskctl.tasks import Change, Stats, Tally, Task

NOW = datetime(2026, 1, 2, tzinfo=UTC)
NEVER = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""What no terminal gets; lines end, and in a description there may be tabs."""
STYLE = re.compile(r"\x1b\[[0-9;]*m")

SEQUENCES = {
    "colour": ("\x1b[31mred\x1b[0m", "red"),
    "cursor": ("a\x1b[2J\x1b[1;1Hb", "ab"),
    "private": ("\x1b[?1049hx", "x"),
    "CSI of one byte": ("\x9b31mx", "x"),
    "title": ("\x1b]0;title\x07x", "x"),
    "link": ("\x1b]8;;http://x\x1b\\text\x1b]8;;\x1b\\", "text"),
    "clipboard": ("\x1b]52;c;aGk=\x9cx", "x"),
    "OSC of one byte": ("\x9d0;title\x9cx", "x"),
    "device control": ("\x1bP1$r0m\x1b\\x", "x"),
    "reset": ("\x1bcx", "x"),
    "character set": ("\x1b(0x", "x"),
    "a sequence in a sequence": ("\x1b\x1b[31m[31mx", " [31mx"),
    "one that does not end": ("\x1b]0;x", "0;x"),
    "half of one": ("x\x1b[", "x"),
    "override": ("abc\u202etxt.exe", "abctxt.exe"),
    "isolate": ("a\u2066b\u2069c", "abc"),
    "line separator": ("a\u2028b\u2029c", "a b c"),
    "line ends": ("a\r\nb\x85c", "a  b c"),
    "delete": ("a\x7fb", "a b"),
}


@pytest.mark.parametrize(("text", "shown"), SEQUENCES.values(), ids=SEQUENCES)
def test_sequences_are_taken_out_as_a_whole(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_what_people_write_stays_as_it_is() -> None:
    for text in ("שלום עולם", "👩‍👩‍👧‍👦 🇩🇪", "a\u00a0b", "naïve ﬁ", "[31m", "x\u0323\u0301"):
        assert plain(text) == plain_lines(text) == text


@pytest.mark.parametrize("char", ["\x1b", "\x9b", "\x9d", "\x1b]", "\x1b[", "\x90", "\x1b[0"])
def test_it_takes_no_time_whatever_is_sent(char: str) -> None:
    assert not NEVER.search(plain(char * 200_000))


class Terminal(io.StringIO):
    """What is printed, with or without somebody who looks on."""

    def __init__(self, *, watched: bool) -> None:
        super().__init__()
        self.raw = io.BytesIO()
        self._watched = watched

    @property
    def buffer(self) -> io.BytesIO:
        return self.raw

    def isatty(self) -> bool:
        return self._watched

    def seen(self) -> str:
        return self.raw.getvalue().decode() + self.getvalue()


@contextmanager
def printed(*, watched: bool) -> Iterator[tuple[Terminal, Terminal]]:
    out, err = Terminal(watched=watched), Terminal(watched=watched)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield out, err


_SEEDS = [*(text for text, _ in SEQUENCES.values()), "\r", "\n", "\t", "=", "\x85"]
_wild = st.sampled_from(_SEEDS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=15)
_texts = st.lists(_wild, min_size=1, max_size=4).map("".join)


def _task(title: str, description: str | None, project: str | None, labels: list[str], due: str) -> Task:
    return Task(
        id=1,
        uid=UUID(int=1),
        title=title,
        description=description,
        status="todo",
        priority="high",
        project=project,
        labels=tuple(labels),
        due=None if due else NOW,
        started_at=None,
        completed_at=None,
        created_at=NOW,
        updated_at=NOW,
        version=1,
    )


def _change(actor: str, title: str, old: str) -> Change:
    return Change(
        seq=1,
        at=NOW,
        changeset=UUID(int=1),
        actor=actor,
        source="api",
        entity="task",
        id=1,
        op="edit",
        version=2,
        before={"title": old},
        after={"title": title},
    )


def _tally(name: str) -> Tally:
    return Tally(name=name, counts={"todo": 1, "in_progress": 0, "done": 0, "cancelled": 0})


tasks = st.builds(_task, _texts, st.none() | _texts, st.none() | _texts, st.lists(_texts, max_size=2), _texts)
changes = st.builds(_change, _texts, _texts, _texts)
tallies = st.builds(_tally, _texts)


def _token(name: str, maker: str) -> Token:
    made: dict[str, Any] = {"created_at": NOW, "created_by": maker, "expires_at": NOW, "last_used_at": None, "revoked_at": None}
    made |= {"maker": None, "revoked_by": maker}
    return Token(id="5Kd0c2Qm1xYz", name=name, workspace=name, scopes=("admin",), **made)


tokens = st.builds(_token, _texts, _texts) | st.builds(Workspace, name=_texts)

FOR_PEOPLE: list[Output] = ["table", "wide"]
FOR_PROGRAMS: list[Output] = ["json", "ndjson", "yaml", "csv"]
JSON: list[Output] = ["json", "ndjson"]


def everything(found: Any, text: str, settings: Settings) -> Iterator[Callable[[], None]]:
    """Yield each way in which something gets to stdout."""
    yield lambda: output.show([found], settings)
    yield lambda: output.show([found] * 2, settings)
    if isinstance(found, Task):
        yield lambda: output.show_details([found], settings, one=True)
    yield lambda: output.show_stats(Stats(counts={text: 1}, overdue=0, done_per_day=()), settings)  # type: ignore[dict-item]
    yield lambda: output.show_object({text: text, "list": [text]}, settings)
    yield lambda: output.show_lines([text])


@given(tasks | changes | tallies | tokens, _texts, st.booleans(), st.sampled_from(FOR_PEOPLE))
def test_what_people_read_obeys_nobody(found: Any, text: str, watched: bool, form: Output) -> None:
    for act in everything(found, text, Settings(output=form)):
        with printed(watched=watched) as (out, _):
            act()
        seen = STYLE.sub("", out.seen()) if watched else out.seen()  # rich's own colours
        assert not NEVER.search(seen), seen


@given(tasks | changes | tallies, st.sampled_from(JSON))
def test_json_on_a_terminal_is_the_same_json_and_all_of_it_can_be_seen(found: Any, form: Output) -> None:
    values = []
    for watched in (True, False):
        with printed(watched=watched) as (out, _):
            output.show([found], Settings(output=form))
        if watched:
            assert all(c == "\n" or c.isprintable() for c in out.seen())
        values.append(json.loads(out.seen()))
    assert values[0] == values[1]


@given(tasks | changes | tallies | tokens, _texts, st.sampled_from(FOR_PROGRAMS))
def test_no_output_for_programs_does_harm_on_a_terminal(found: Any, text: str, form: Output) -> None:
    for act in everything(found, text, Settings(output=form)):
        with printed(watched=True) as (out, _):
            act()
        assert not NEVER.search(out.seen())


@given(tasks | tallies)
def test_ids_on_a_terminal_do_no_harm_and_in_a_pipe_are_what_they_are(found: Any) -> None:
    for watched in (True, False):
        with printed(watched=watched) as (out, _):
            output.show([found], Settings(output="ids"))
        if watched:
            assert not NEVER.search(out.seen())
        else:
            assert out.seen() == f"{found.name if isinstance(found, Tally) else found.id}\n"


@given(_texts, st.booleans(), st.sampled_from(["table", "json"]))
def test_what_is_told_on_stderr_obeys_nobody(text: str, watched: bool, form: Output) -> None:
    failures: list[TaskctlError] = [
        TaskctlError(text),
        InvalidTask(text, errors=[FieldError(f"/{text}", "x", text)], index=1),
    ]
    shown, call._shown_as_json = call._shown_as_json, form == "json"
    try:
        for failure in failures:
            with printed(watched=watched) as (_, err):
                call.report(failure)
            line = err.seen()
            assert line.endswith("\n")
            assert "\n" not in line[:-1]
            if watched or form == "table":
                assert not NEVER.search(line)
            if form == "json":
                assert json.loads(line)["detail"] == text
    finally:
        call._shown_as_json = shown
    one = call.Call({"output": form})
    with printed(watched=watched) as (_, err):
        one.say(text)
        call._tell(StatementDone(text, 1, 0.1))
        assert call.fail(RuntimeError(text)) == 1
    assert not NEVER.search(err.seen())
    assert "RuntimeError" in err.seen()


def test_this_looks_for_all_that_turns_text_round_or_controls() -> None:
    for point in range(sys.maxunicode + 1):
        char = chr(point)
        turns = unicodedata.bidirectional(char) in {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
        controls = unicodedata.category(char) in {"Cc", "Zl", "Zp"}
        if turns or controls:
            assert char in "\n\t" or NEVER.search(char), hex(point)
            assert plain(char) in {"", " "}
