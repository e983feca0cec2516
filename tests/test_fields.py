"""What may stand in each field: at its limits, just over and under them, and whatever a text can hold."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskctl import fields
from taskctl.errors import InvalidTask
from taskctl.tasks import NewTask, TaskPatch
from tests.strategies import CONTROLS, LINE_BREAKERS, NASTY_LINES, SURROGATES

MAKERS: dict[str, Callable[..., Any]] = {
    "NewTask": lambda **members: NewTask(**{"title": "t", **members}),
    "TaskPatch": TaskPatch,
}
makers = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def refusal(make: Callable[..., Any], **members: Any) -> list[tuple[str, str]]:
    """Return pointer and code of each error that the members are refused with."""
    with pytest.raises(InvalidTask) as caught:
        make(**members)
    assert caught.value.detail == "; ".join(e.detail for e in caught.value.errors)
    return [(e.pointer, e.code) for e in caught.value.errors]


ACCEPTED: list[tuple[str, Any, Any]] = [
    ("title", "t", "t"),
    ("title", "x" * 500, "x" * 500),
    ("title", "🚀" * 500, "🚀" * 500),
    ("title", "--help", "--help"),
    ("title", " a ", " a "),
    ("title", "e\u0301" * 500, "é" * 500),
    ("description", None, None),
    ("description", "", ""),
    ("description", "a\n\tb\r\n", "a\n\tb\r\n"),
    ("description", "line\u2028separator", "line\u2028separator"),
    ("description", "x" * 65536, "x" * 65536),
    ("description", "é" * 32768, "é" * 32768),
    ("status", "in_progress", "in_progress"),
    ("priority", "urgent", "urgent"),
    ("project", None, None),
    ("project", "p", "p"),
    ("project", "work.api.v2", "work.api.v2"),
    ("project", "Größe 2.ü", "Größe 2.ü"),
    ("project", "p" * 100, "p" * 100),
    ("labels", [], ()),
    ("labels", ["b", "a", "b"], ("a", "b")),
    ("labels", {"b", "a"}, ("a", "b")),
    ("labels", ("e\u0301", "é"), ("é",)),
    ("labels", ["é", "z", "Z", "😀", "\uffee"], ("Z", "z", "é", "\uffee", "😀")),
    ("labels", ["l" * 60], ("l" * 60,)),
    ("labels", [f"{n:02}" for n in range(50)], tuple(f"{n:02}" for n in range(50))),
    ("labels", ["same"] * 60, ("same",)),
    ("due", None, None),
    ("due", "2026-12-01", date(2026, 12, 1)),
    ("due", date(2026, 12, 1), date(2026, 12, 1)),
    ("due", "0001-01-01", date.min),
    ("due", "9999-12-31", date.max),
    ("due", "2028-02-29", date(2028, 2, 29)),
    ("due", "2026-12-01T15:00:00Z", datetime(2026, 12, 1, 15, tzinfo=UTC)),
    ("due", "2026-12-01t15:00:00z", datetime(2026, 12, 1, 15, tzinfo=UTC)),
    ("due", "2026-12-01T15:00:00+02:00", datetime(2026, 12, 1, 13, tzinfo=UTC)),
    ("due", "2026-12-01T15:00:00-00:00", datetime(2026, 12, 1, 15, tzinfo=UTC)),
    ("due", "2026-12-01T15:00:00.123456Z", datetime(2026, 12, 1, 15, 0, 0, 123456, tzinfo=UTC)),
    ("due", "2026-12-01T15:00:00.1Z", datetime(2026, 12, 1, 15, 0, 0, 100000, tzinfo=UTC)),
    ("due", "9999-12-31T23:59:59.999999Z", datetime.max.replace(tzinfo=UTC)),
    (
        "due",
        datetime(2026, 12, 1, 15, tzinfo=timezone(timedelta(hours=5, minutes=45))),
        datetime(2026, 12, 1, 9, 15, tzinfo=UTC),
    ),
]


@makers
@pytest.mark.parametrize(("field", "value", "canonical"), ACCEPTED)
def test_a_value_within_its_limits_becomes_canonical(make: Callable[..., Any], field: str, value: Any, canonical: Any) -> None:
    found = getattr(make(**{field: value}), field)
    assert found == canonical
    assert type(found) is type(canonical)


REFUSED: list[tuple[str, Any, str, str]] = [
    ("title", "", "/title", "empty"),
    ("title", " \u3000\u00a0", "/title", "empty"),
    ("title", "x" * 501, "/title", "length"),
    ("title", "\u0958" * 251, "/title", "length"),  # NFC makes two characters of each
    ("title", None, "/title", "type"),
    ("title", 7, "/title", "type"),
    ("title", b"t", "/title", "type"),
    ("title", ["t"], "/title", "type"),
    ("description", "x" * 65537, "/description", "length"),
    ("description", "é" * 32768 + "x", "/description", "length"),
    ("description", False, "/description", "type"),
    ("status", "DONE", "/status", "choice"),
    ("status", "", "/status", "choice"),
    ("status", None, "/status", "type"),
    ("status", ["done"], "/status", "type"),
    ("priority", "urgent ", "/priority", "choice"),
    ("priority", 1, "/priority", "type"),
    ("priority", None, "/priority", "type"),
    ("project", "", "/project", "empty"),
    ("project", " ", "/project", "empty"),
    ("project", "p" * 101, "/project", "length"),
    ("project", ".work", "/project", "path"),
    ("project", "work.", "/project", "path"),
    ("project", "work..api", "/project", "path"),
    ("project", "work. .api", "/project", "path"),
    ("project", ".", "/project", "path"),
    ("project", 3, "/project", "type"),
    ("labels", "home", "/labels", "type"),
    ("labels", b"home", "/labels", "type"),
    ("labels", None, "/labels", "type"),
    ("labels", 5, "/labels", "type"),
    ("labels", {"home": True}, "/labels", "type"),
    ("labels", ["a", ""], "/labels/1", "empty"),
    ("labels", ["l" * 61], "/labels/0", "length"),
    ("labels", ["a", "b", None], "/labels/2", "type"),
    ("labels", ["a", ["b"]], "/labels/1", "type"),
    ("labels", [f"{n}" for n in range(51)], "/labels", "length"),
    ("due", "", "/due", "format"),
    ("due", "tomorrow", "/due", "format"),
    ("due", "2026-12-1", "/due", "format"),
    ("due", "20261201", "/due", "format"),
    ("due", "2026-W49-2", "/due", "format"),
    ("due", "2026-12-01 15:00:00Z", "/due", "format"),
    ("due", "2026-12-01T15:00Z", "/due", "format"),
    ("due", "2026-12-01T15:00:00", "/due", "format"),
    ("due", "2026-12-01T15:00:00.Z", "/due", "format"),
    ("due", " 2026-12-01", "/due", "format"),
    ("due", "2026-12-01\n", "/due", "format"),
    ("due", "２０２６-12-01", "/due", "format"),
    ("due", "2026-02-29", "/due", "date"),
    ("due", "2026-13-01", "/due", "date"),
    ("due", "0000-01-01", "/due", "date"),
    ("due", "2026-12-01T24:00:01Z", "/due", "date"),
    ("due", "2026-12-01T23:59:60Z", "/due", "date"),
    ("due", "2026-12-01T15:00:00+24:00", "/due", "date"),
    ("due", "0001-01-01T00:00:00+01:00", "/due", "date"),
    ("due", "9999-12-31T23:59:59-01:00", "/due", "date"),
    ("due", datetime(2026, 12, 1), "/due", "zone"),
    ("due", 1764547200, "/due", "type"),
    ("due", True, "/due", "type"),
]


@makers
@pytest.mark.parametrize(("field", "value", "pointer", "code"), REFUSED)
def test_a_value_beyond_its_limits_is_refused_where_it_stands(
    make: Callable[..., Any], field: str, value: Any, pointer: str, code: str
) -> None:
    assert refusal(make, **{field: value}) == [(pointer, code)]


@makers
@pytest.mark.parametrize("text", NASTY_LINES.values(), ids=NASTY_LINES)
def test_a_line_of_any_characters_is_taken_literally(make: Callable[..., Any], text: str) -> None:
    made = make(title=text, description=text, labels=[text], project=text.replace(".", "·"))
    assert (made.title, made.description, made.labels) == (text, text, (text,))
    assert made.project == text.replace(".", "·")


@makers
@pytest.mark.parametrize("char", [*CONTROLS, *LINE_BREAKERS, *SURROGATES], ids=ascii)
def test_a_character_that_no_line_has_is_refused_in_every_line(make: Callable[..., Any], char: str) -> None:
    text = f"ab{char}c"
    assert refusal(make, title=text) == [("/title", "character")]
    assert refusal(make, project=text) == [("/project", "character")]
    assert refusal(make, labels=["a", text]) == [("/labels/1", "character")]


@makers
@pytest.mark.parametrize("char", [*CONTROLS, *SURROGATES, "\x0b", "\x0c", "\x85"], ids=ascii)
def test_a_character_that_no_text_has_is_refused_in_a_description(make: Callable[..., Any], char: str) -> None:
    assert refusal(make, description=f"a\n{char}") == [("/description", "character")]


def test_a_refused_character_is_named_with_its_place_and_never_printed() -> None:
    with pytest.raises(InvalidTask) as caught:
        NewTask(title="ab\x1b[2J")
    assert caught.value.detail == "title must not contain a control character (U+001B at position 2)"
    with pytest.raises(InvalidTask, match=r"a lone surrogate \(U\+D800 at position 0\)"):
        NewTask(title="\ud800")
    with pytest.raises(InvalidTask, match=r"a line break \(U\+2028 at position 1\)"):
        NewTask(title="a\u2028")


@makers
def test_every_field_at_fault_is_named_at_once(make: Callable[..., Any]) -> None:
    assert refusal(make, title="", status="x", labels=["ok", ""], due="soon") == [
        ("/title", "empty"),
        ("/status", "choice"),
        ("/labels/1", "empty"),
        ("/due", "format"),
    ]


def test_labels_may_come_from_an_iterator() -> None:
    assert NewTask(title="t", labels=(label for label in "ba")).labels == ("a", "b")


@pytest.mark.parametrize("value", [UUID("01936f0c-7a3e-7c4b-9d2e-5b1f0a6c8e7d"), "01936F0C-7A3E-7C4B-9D2E-5B1F0A6C8E7D"])
def test_a_uid_is_a_uuid_or_its_text(value: Any) -> None:
    assert NewTask(title="t", uid=value).uid == UUID("01936f0c-7a3e-7c4b-9d2e-5b1f0a6c8e7d")


@pytest.mark.parametrize(
    "value",
    [
        "",
        7,
        "01936f0c7a3e7c4b9d2e5b1f0a6c8e7d",
        "{01936f0c-7a3e-7c4b-9d2e-5b1f0a6c8e7d}",
        "01936f0c-7a3e-7c4b-9d2e-5b1f0a6c8e7g",
        "0193-6f0c7a3e-7c4b-9d2e-5b1f0a6c8e7d",
    ],
)
def test_what_is_not_a_uuid_is_no_uid(value: Any) -> None:
    assert refusal(NewTask, title="t", uid=value) == [("/uid", "uid")]


@given(st.text())
def test_any_text_is_refused_or_kept_in_a_form_that_stays(text: str) -> None:
    try:
        once = NewTask(title=text, description=text, labels=[text], project=text)
    except InvalidTask:
        return
    again = NewTask(title=once.title, description=once.description, labels=once.labels, project=once.project)
    assert again == once
    assert once.title.encode()


@given(st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.lists(st.integers()))
def test_a_value_of_any_kind_is_accepted_or_refused_in_words(value: Any) -> None:
    for check in (fields.title, fields.description, fields.status, fields.project, fields.labels, fields.due, fields.uid):
        try:
            check(value)
        except fields.Refused as e:
            assert e.detail.startswith(("must ", "is not ", "item "))
