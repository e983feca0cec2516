"""Texts that have broken programs before, and Hypothesis's strategies for texts, tasks and conditions."""

import unicodedata
from datetime import UTC, date, datetime, timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from taskctl import fields
from taskctl.conditions import And, Compare, Condition, Match, Not, Or, Overdue, Text
from taskctl.fields import words
from taskctl.tasks import SORTS, NewTask, TaskPatch

NASTY_LINES = {
    "emoji": "🚀 launch 👩‍👩‍👧‍👦 🇩🇪",
    "right to left": "שלום עולם وقت",
    "right-to-left override": "abc\u202etxt.exe",
    "combining": "x\u0323\u0301 stacked",
    "percent": "%s %(name)s %n 100%",
    "parameter": ":name ? $1 @p {0} {x}",
    "quotes": "'; DROP TABLE tasks; -- \"`\\",
    "option": "--priority urgent",
    "markup": "<script>alert(1)</script> [bold] &amp;",
    "filter": "status:todo (or not) -x",
    "spaces": "  two  at each side  ",
    "wide spaces": "a\u00a0b\u3000c\u200bd",
    "null word": "null",
    "beyond the BMP": "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 \U0010fffd",
    "not a character": "\ufffe\uffff\ufdd0",
    "replacement": "\ufffd \ufeff",
    "json": '{"a": [1, "\\u0000"]}',
    "url": "https://user:pw@example.com/?q=a%00b#c",
    "path": "../../etc/passwd",
    "formula": "=1+1|cmd",
}

LINE_BREAKERS = ["\n", "\r", "\x0b", "\x0c", "\x85", "\u2028", "\u2029"]
CONTROLS = ["\x00", "\x01", "\x08", "\x1b", "\x1f", "\x7f", "\x80", "\x9b", "\x9f"]
SURROGATES = ["\ud800", "\udbff", "\udc00", "\udfff"]


def examples(share: float) -> settings:
    """Return the settings of a test that gets this share of the profile's examples, for what is slow."""
    profile = settings.default
    assert profile is not None
    return settings(profile, max_examples=max(1, round(profile.max_examples * share)))


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


_CHARS = st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"))
# A small alphabet makes equal words, prefixes and accents likely; the large one finds what nobody thought of.
_LETTERS = st.sampled_from("aabbAB cé.-_1ßİı\u0301ﬁ")


def lines(most: int) -> st.SearchStrategy[str]:
    """Texts of one line, as they come out again."""
    text = st.text(_LETTERS, min_size=1, max_size=min(most, 12)) | st.text(_CHARS, min_size=1, max_size=min(most, 12))
    chosen = text | st.sampled_from([line for line in NASTY_LINES.values() if len(line) <= most])
    return chosen.map(_nfc).filter(lambda line: not line.isspace() and len(line) <= most)


titles = lines(fields.TITLE_MAX)
labels = st.sampled_from(["home", "later", "a", "b"]) | lines(20)
projects = st.sampled_from(["work", "work.api", "work.api.v2", "works", "work-api", "work/", "work0", "home"])
descriptions = st.none() | lines(200) | st.tuples(titles, titles).map("\n\t".join)

# Far from now, on both sides, so that no due passes while a test runs; all near each other, so that they are often equal.
_PAST, _FUTURE = date(2021, 3, 27), date(2038, 10, 30)
days = st.builds(lambda start, n: start + timedelta(days=n), st.sampled_from([_PAST, _FUTURE]), st.integers(-2, 2))
instants = st.builds(
    lambda day, second, micro: datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(0, second, micro),
    days,
    st.sampled_from([0, 1, 3600, 43200, 79200, 82800, 86399]) | st.integers(0, 86399),
    st.sampled_from([0, 0, 1, 999_999]),
)
dues: st.SearchStrategy[Any] = st.none() | days | instants
zones = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Pacific/Kiritimati", "America/Havana"])

statuses: st.SearchStrategy[Any] = st.sampled_from(fields.STATUSES)
priorities: st.SearchStrategy[Any] = st.sampled_from(fields.PRIORITIES)

_OPTIONAL: dict[str, st.SearchStrategy[Any]] = {
    "description": descriptions,
    "status": statuses,
    "priority": priorities,
    "project": st.none() | projects,
    "labels": st.lists(labels, max_size=4),
    "due": dues,
}


def _new_task(members: dict[str, Any]) -> NewTask:
    return NewTask(**members)


new_tasks = st.fixed_dictionaries({"title": titles}, optional=_OPTIONAL).map(_new_task)
patches = st.fixed_dictionaries({}, optional={"title": titles, **_OPTIONAL}).map(lambda members: TaskPatch(**members))

# ------------------------------------------------------------------------------------------------------------- conditions

_ops: st.SearchStrategy[Any] = st.sampled_from(["<", "<=", ">", ">="])
_words = (st.sampled_from(["a", "b", "ab", "launch", "not", "ready"]) | titles).map(words).filter(bool).map(tuple)
_STAMPS = ("created_at", "updated_at", "started_at", "completed_at")


def _match(field: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[Condition]:
    return st.lists(values, min_size=1, max_size=3).map(lambda found: Match(field, tuple(found)))  # type: ignore[arg-type]


def conditions(ids: st.SearchStrategy[int]) -> st.SearchStrategy[Condition]:
    """Return conditions as the parser makes them."""
    leaves: list[st.SearchStrategy[Condition]] = [
        _match("id", ids),
        _match("status", statuses),
        _match("priority", priorities),
        _match("project", st.none() | projects),
        _match("label", st.none() | labels),
        st.builds(Match, st.sampled_from(["due", "started_at", "completed_at"]), st.just((None,))),
        st.builds(Compare, st.just("priority"), _ops, priorities),
        st.builds(Compare, st.just("due"), _ops, days | instants),
        st.builds(Compare, st.sampled_from(_STAMPS), _ops, days | instants),
        st.builds(Text, _words, st.booleans()),
        st.just(Overdue()),
    ]
    return st.recursive(
        st.one_of(leaves),
        lambda inner: (
            st.lists(inner, min_size=2, max_size=3).map(lambda terms: And(tuple(terms)))
            | st.lists(inner, min_size=2, max_size=3).map(lambda terms: Or(tuple(terms)))
            | inner.map(Not)
        ),
        max_leaves=6,
    )


sorts = st.lists(st.sampled_from(SORTS), min_size=1, max_size=3, unique=True).flatmap(
    lambda names: st.tuples(*[st.sampled_from([name, f"-{name}"]) for name in names])
)
