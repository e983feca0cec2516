"""The filter language: what a text means, where a mistake is, what a condition holds for, and where days begin."""

import sys
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from taskctl.conditions import And, Compare, Condition, Match, Not, Op, Or, Overdue, Text, render
from taskctl.errors import InvalidFilter, InvalidRequest
from taskctl.fields import words
from taskctl.filters import (
    before,
    due_limits,
    end_of_day,
    matches,
    micros,
    overdue_limits,
    parse_filter,
    parse_words,
    search_text,
    when,
    zone_of,
)
from taskctl.tasks import NewTask, Task, create
from tests.strategies import conditions, days, dues, instants, new_tasks, titles, zones

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)  # a Wednesday
UTC_ZONE = ZoneInfo("UTC")


def word(text: str) -> Text:
    return Text((text,), prefix=True)


def task(**members: Any) -> Task:
    uid = UUID("01936f0c-7a3e-7c4b-9d2e-5b1f0a6c8e7d")
    return create(NewTask(**{"title": "t", **members}), id=7, uid=uid, now=NOW)


TODO = Match("status", ("todo",))
EXAMPLES: dict[str, Condition | None] = {
    "": None,
    " \t\n": None,
    "status:todo": TODO,
    "STATUS:ToDo": TODO,
    "status:todo,done": Match("status", ("todo", "done")),
    "priority:high": Match("priority", ("high",)),
    "priority>=high": Compare("priority", ">=", "high"),
    "priority:none": Match("priority", ("none",)),
    "project:work": Match("project", ("work",)),
    "project:none": Match("project", (None,)),
    'project:"none"': Match("project", ("none",)),
    'project:"two words"': Match("project", ("two words",)),
    "label:home,later": Match("label", ("home", "later")),
    'label:"a,b",c': Match("label", ("a,b", "c")),
    r'label:"say \"hi\" \\"': Match("label", ('say "hi" \\',)),
    "label:e\u0301": Match("label", ("é",)),
    "label:none,home": Match("label", (None, "home")),
    "-label:later": Not(Match("label", ("later",))),
    "id:1,22": Match("id", (1, 22)),
    "due:none": Match("due", (None,)),
    "due<2026-12-01": Compare("due", "<", date(2026, 12, 1)),
    "due<=2026-12-01T15:00:00+01:00": Compare("due", "<=", datetime(2026, 12, 1, 14, tzinfo=UTC)),
    "due<+3d": Compare("due", "<", date(2026, 11, 28)),
    "due>today": Compare("due", ">", date(2026, 11, 25)),
    "created_at>=-1w": Compare("created_at", ">=", date(2026, 11, 18)),
    "completed_at:none": Match("completed_at", (None,)),
    "due:2026-12-01": And((Compare("due", ">=", date(2026, 12, 1)), Compare("due", "<=", date(2026, 12, 1)))),
    "due:none,today": Or(
        (
            Match("due", (None,)),
            And((Compare("due", ">=", date(2026, 11, 25)), Compare("due", "<=", date(2026, 11, 25)))),
        )
    ),
    "overdue": Overdue(),
    "OVERDUE": Overdue(),
    "not overdue": Not(Overdue()),
    '"overdue"': Text(("overdue",), prefix=False),
    '"ready"': Text(("ready",), prefix=False),
    "overdues": word("overdues"),
    "milk": word("milk"),
    "Straße": word("strasse"),
    "user@example.com": Text(("user", "example", "com"), prefix=True),
    '"exact words"': Text(("exact", "words"), prefix=False),
    '"not (a filter)"': Text(("not", "a", "filter"), prefix=False),
    "a b": And((word("a"), word("b"))),
    "a and b": And((word("a"), word("b"))),
    "a AND b aNd c": And((word("a"), word("b"), word("c"))),
    "a or b": Or((word("a"), word("b"))),
    "a b or c d": Or((And((word("a"), word("b"))), And((word("c"), word("d"))))),
    "a (b or c)": And((word("a"), Or((word("b"), word("c"))))),
    "not a b": And((Not(word("a")), word("b"))),
    "not a or b": Or((Not(word("a")), word("b"))),
    "not (a b)": Not(And((word("a"), word("b")))),
    "not not a": Not(Not(word("a"))),
    "-(a or b)": Not(Or((word("a"), word("b")))),
    "not -a": Not(Not(word("a"))),
    "(((a)))": word("a"),
    "(a)(b)": And((word("a"), word("b"))),
    "(a)or(b)": Or((word("a"), word("b"))),
    'a"b"': word("a"),
    "android orbit nothing": And((word("android"), word("orbit"), word("nothing"))),
    'status:todo label:home -label:later project:work due<2026-12-01 due<+3d priority>=high overdue milk "exact words"': And(
        (
            TODO,
            Match("label", ("home",)),
            Not(Match("label", ("later",))),
            Match("project", ("work",)),
            Compare("due", "<", date(2026, 12, 1)),
            Compare("due", "<", date(2026, 11, 28)),
            Compare("priority", ">=", "high"),
            Overdue(),
            word("milk"),
            Text(("exact", "words"), prefix=False),
        )
    ),
}
del EXAMPLES['a"b"']  # whether a quote may follow a word directly is left open


@pytest.mark.parametrize(("text", "condition"), EXAMPLES.items(), ids=EXAMPLES)
def test_a_text_means(text: str, condition: Condition | None) -> None:
    assert parse_filter(text, now=NOW) == condition


MISTAKES: list[tuple[str, int, str]] = [
    ("colour:red", 0, "one of the fields status"),
    ("a colour:red", 2, "one of the fields status"),
    ("http://example.com", 0, "quote it"),
    ("status:", 7, "a value"),
    ("status: todo", 7, "a value"),
    ("status:open", 7, "one of todo, in_progress, done, cancelled"),
    ("status:todo,", 12, "a value"),
    ("status:todo,open", 12, "one of todo"),
    ("status:none", 7, "one of todo"),
    ("status<done", 0, '"status:"'),
    ("label>a", 0, '"label:"'),
    ("priority>=highest", 10, "one of none, low"),
    ("priority>low,high", 13, "one value"),
    ("id:x", 3, "a task's id"),
    ("id:-1", 3, "a task's id"),
    ("id:1,0x2", 5, "a task's id"),
    ("id:²", 3, "a task's id"),
    ("id:1234567890123456789", 3, "a task's id"),
    ("due<soon", 4, "a date (2026-12-01)"),
    ("a due<2026-02-30", 6, "a date"),
    ("due<2026-12-01T10:00:00", 4, "a date"),
    ("due<none", 4, "a date"),
    ("due<+99999y", 4, "a date"),
    ("due<", 4, "a value"),
    ("created_at:none", 11, "a date"),
    ("(", 1, "a term"),
    ("()", 1, "a term"),
    (")", 0, "a term"),
    ("(a", 2, '")"'),
    ("a)", 1, '"and", "or", a term or the end'),
    ("a or", 4, "a term"),
    ("or a", 0, "a term"),
    ("a and", 5, "a term"),
    ("a and or b", 6, "a term"),
    ("a or or b", 5, "a term"),
    ("and", 0, "a term"),
    ("not", 3, "a term"),
    ("a not", 5, "a term"),
    ("ready", 0, "reserved"),
    ("not READY", 4, "reserved"),
    ('"open', 5, 'a closing "'),
    ('a "', 3, 'a closing "'),
    ('""', 0, "something between the quotes"),
    ('"..."', 0, "a letter or a digit"),
    ("a !!", 2, "a letter or a digit"),
    ("-", 0, "a letter or a digit"),
    ("x" * 4097, 4096, "at most 4096 characters"),
    ("not " * 40 + "a", 132, "nested at most 32 deep"),
    ("(" * 40 + "a" + ")" * 40, 33, "nested at most 32 deep"),
    ("a " * 101, 200, "at most 100 terms"),
]


@pytest.mark.parametrize(("text", "position", "expected"), MISTAKES, ids=[text[:30] for text, *_ in MISTAKES])
def test_a_mistake_is_told_with_its_place_and_what_was_expected(text: str, position: int, expected: str) -> None:
    with pytest.raises(InvalidFilter) as caught:
        parse_filter(text, now=NOW)
    assert caught.value.extra["position"] == position
    assert expected in caught.value.extra["expected"]
    assert str(position) in caught.value.detail


@pytest.mark.parametrize("char", ["\udcff", "\x00"], ids=ascii)
@pytest.mark.parametrize("text", ["label:a{}", "project:{}", 'label:"x y{}"'])
def test_what_no_label_and_no_project_can_hold_is_a_mistake(text: str, char: str) -> None:
    # A database cannot even be asked for it: it is not text there.
    with pytest.raises(InvalidFilter) as caught:
        parse_filter(text.format(char), now=NOW)
    assert isinstance(caught.value.extra["position"], int)


def test_a_filter_of_the_greatest_size_is_read() -> None:
    assert parse_filter("x" * 4096) == word("x" * 4096)
    assert parse_filter("not " * 32 + "a") is not None
    assert parse_filter("(" * 32 + "a" + ")" * 32) == word("a")
    assert parse_filter("a " * 100) == And((word("a"),) * 100)


def test_relative_dates_are_seen_from_the_readers_zone() -> None:
    evening = datetime(2026, 11, 25, 23, 30, tzinfo=UTC)
    assert parse_filter("due:tomorrow", zone="Asia/Tokyo", now=evening) == parse_filter("due:2026-11-27")
    assert parse_filter("due:tomorrow", zone="America/New_York", now=evening) == parse_filter("due:2026-11-26")


@given(st.text() | st.text(st.sampled_from('()"\\:<>=, \n-+ao09ntrdue|é\u0301')))
@example('"\\\n"')
@example("due<+99999d")
def test_any_text_is_read_or_refused_with_a_place_in_it(text: str) -> None:
    try:
        condition = parse_filter(text, now=NOW)
    except InvalidFilter as e:
        assert 0 <= e.extra["position"] <= len(text)
        assert e.extra["expected"]
        return
    if condition is not None:
        assert parse_filter(render(condition), now=NOW) == condition
        matches(task(), condition, zone=UTC_ZONE, now=NOW)


_TOKENS = st.sampled_from(
    [
        *("a", "b", '"a b"', "and", "or", "not", "overdue", "(", ")", "-", "status:todo", "label:x,none", "id:1", "due<+3d"),
        *("due:none", "priority>low", "project:a.b", "due>=2026-12-01T00:00:00Z", "ready", "due", ":", "<", ",", '"'),
    ]
)


@given(st.lists(_TOKENS, max_size=12).map(" ".join))
def test_any_row_of_terms_is_read_or_refused(text: str) -> None:
    test_any_text_is_read_or_refused_with_a_place_in_it.hypothesis.inner_test(text)  # type: ignore[attr-defined]


@given(conditions(st.integers(0, 10**18 - 1)))
@example(And((Compare("priority", ">=", "none"), Compare("priority", "<=", "none"))))
def test_a_condition_written_and_read_again_is_the_same(condition: Condition) -> None:
    assert parse_filter(render(condition), now=NOW) == condition


@given(st.text() | titles)
def test_a_text_of_words_is_never_a_filter(text: str) -> None:
    try:
        condition = parse_words(text)
    except InvalidFilter as e:
        assert 0 <= e.extra["position"] <= len(text)
        return
    terms = condition.terms if isinstance(condition, And) else () if condition is None else (condition,)
    assert all(isinstance(term, Text) for term in terms)


def test_a_search_takes_words_and_quotes_and_nothing_else() -> None:
    assert parse_words('status:todo (or) "exact words" due<x') == And(
        (
            Text(("status", "todo"), prefix=True),
            word("or"),
            Text(("exact", "words"), prefix=False),
            Text(("due", "x"), prefix=True),
        )
    )
    assert parse_words(" ") is None


# ------------------------------------------------------------------------------------------------------------------ words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (None, []),
        ("", []),
        ("Buy milk, 2 l!", ["buy", "milk", "2", "l"]),
        ("user@example.com 3.14", ["user", "example", "com", "3", "14"]),
        ("snake_case don't", ["snake", "case", "don", "t"]),
        ("STRASSE Straße", ["strasse", "strasse"]),
        ("ﬁne ＦＵＬＬ ①", ["fine", "full", "1"]),
        ("café cafe\u0301 cafe", ["café", "café", "cafe"]),
        ("שלום, עולם", ["שלום", "עולם"]),
        ("買牛奶", ["買牛奶"]),
        ("🚀a🚀", ["a"]),
        ("हिन्दी", ["हिन्दी"]),
    ],
)
def test_the_words_of_a_text(text: str | None, found: list[str]) -> None:
    assert words(text) == found


@given(st.text())
def test_the_words_of_words_are_themselves(text: str) -> None:
    found = words(text)
    assert words(" ".join(found)) == found
    assert [words(one) for one in found] == [[one] for one in found]


def test_the_words_of_the_words_of_every_character_are_themselves() -> None:
    unstable = []
    for code in range(sys.maxunicode + 1):
        found = words(chr(code))
        if found and words(" ".join(found)) != found:
            unstable.append(f"U+{code:04X}")
    assert unstable == []


def test_no_phrase_crosses_from_the_title_into_the_description() -> None:
    assert search_text("Buy milk", "and bread") == "buy milk | and bread"
    assert search_text("|", None) == "|"
    both = task(title="Buy milk", description="and bread")
    assert not matches(both, Text(("milk", "and"), prefix=False), zone=UTC_ZONE, now=NOW)


# --------------------------------------------------------------------------------------------------------------- checking

BIG = task(
    title="Buy oat milk",
    description="At the corner shop",
    priority="medium",
    project="work.api",
    labels=["home", "later"],
    due="2026-11-27",
)
HOLDS = {
    "oat": True,
    "mil": True,
    '"mil"': False,
    '"oat milk"': True,
    '"milk oat"': False,
    "corner-sho": True,
    "milk corner": True,
    '"milk at"': False,
    "project:work": True,
    "project:work.api": True,
    "project:wor": False,
    "project:api": False,
    "project:work.api.v2": False,
    "label:home": True,
    "label:hom": False,
    "label:HOME": False,
    "label:none": False,
    "label:none,later": True,
    "-label:later": False,
    "priority>low": True,
    "priority>medium": False,
    "priority<=medium": True,
    "priority:none,medium": True,
    "status:todo,done": True,
    "id:7": True,
    "id:70,8": False,
    "due<2026-11-27": False,
    "due<=2026-11-27": True,
    "due>=2026-11-27": True,
    "due>2026-11-27": False,
    "due:2026-11-27": True,
    "due:none": False,
    "completed_at:none": True,
    "completed_at<2030-01-01": False,
    "not completed_at<2030-01-01": True,
    "created_at:today": True,
    "created_at<2026-11-25T12:00:00Z": False,
    "created_at<=2026-11-25T12:00:00Z": True,
    "overdue": False,
    "not (oat or status:done)": False,
}


@pytest.mark.parametrize(("text", "holds"), HOLDS.items(), ids=HOLDS)
def test_a_filter_holds_for_a_task(text: str, holds: bool) -> None:
    assert matches(BIG, parse_filter(text, now=NOW), zone=UTC_ZONE, now=NOW) == holds


def test_no_condition_holds_for_every_task() -> None:
    assert matches(BIG, None, zone=UTC_ZONE, now=NOW)


@pytest.mark.parametrize("op", ["<", "<=", ">", ">="])
def test_nothing_stands_before_or_after_no_due(op: Op) -> None:
    compared = Compare("due", op, date(2026, 12, 1))
    assert not matches(task(), compared, zone=UTC_ZONE, now=NOW)
    assert matches(task(), Not(compared), zone=UTC_ZONE, now=NOW)


@given(new_tasks, days | instants, zones)
def test_after_is_the_complement_of_not_after_among_tasks_with_a_due(new: NewTask, value: Any, zone: str) -> None:
    found = create(new, id=1, uid=UUID(int=1), now=NOW)

    def holds(op: Op) -> bool:
        return matches(found, Compare("due", op, value), zone=ZoneInfo(zone), now=NOW)

    assert (holds("<"), holds(">=")) == ((False, False) if found.due is None else (holds("<"), not holds("<")))
    assert (holds("<="), holds(">")) == ((False, False) if found.due is None else (holds("<="), not holds("<=")))
    assert holds("<=") or not holds("<")


# ------------------------------------------------------------------------------------------------------------------ zones


def start_of(day: date, zone: ZoneInfo) -> datetime:
    """Return the first moment that is that day in the zone, found by looking at the clock there."""
    low = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(days=2)
    high = low + timedelta(days=4)
    while high - low > timedelta(seconds=1):
        middle = low + timedelta(seconds=(high - low) // timedelta(seconds=2))
        low, high = (low, middle) if middle.astimezone(zone).date() >= day else (middle, high)
    return high


def said(due: date | datetime, op: Op, value: date | datetime, zone: ZoneInfo) -> bool:
    """Return what docs/filters.md says of "due op value", word for word."""
    if op in (">", ">="):
        return not said(due, "<=" if op == ">" else "<", value, zone)
    if not isinstance(value, datetime):
        if not isinstance(due, datetime):
            return due < value if op == "<" else due <= value
        return due < start_of(value + timedelta(days=op == "<="), zone)
    moment = due if isinstance(due, datetime) else start_of(due + timedelta(days=1), zone)
    return moment < value if op == "<" else moment <= value


# Days on which the clock is moved: at 1 h UTC, at 2 h, from midnight on (there is no 0:00) and back to midnight (twice 0:00).
MOVED = {
    "Europe/Berlin": [date(2026, 3, 29), date(2026, 10, 25)],
    "America/New_York": [date(2026, 3, 8), date(2026, 11, 1)],
    "Africa/Cairo": [date(2026, 4, 24), date(2026, 10, 30)],
    "America/Havana": [date(2026, 3, 8), date(2026, 11, 1)],
    "Atlantic/Azores": [date(2026, 3, 29), date(2026, 10, 25)],
    "Australia/Lord_Howe": [date(2026, 4, 5), date(2026, 10, 4)],
    "Asia/Kathmandu": [date(2026, 1, 1)],
    "Pacific/Kiritimati": [date(2026, 1, 1)],
    "UTC": [date(2026, 1, 1)],
}


def _around(day: date, zone: ZoneInfo) -> st.SearchStrategy[Any]:
    near = st.integers(-1, 1).map(lambda n: day + timedelta(days=n))
    edge = st.builds(
        lambda d, hours, micro: start_of(d, zone) + timedelta(hours=hours, microseconds=micro),
        near,
        st.sampled_from([0, 0, 0, 1, 2, 12, 23]),
        st.sampled_from([0, 0, -1, 1]),
    )
    return near | edge


@given(st.data(), st.sampled_from([(zone, day) for zone, moved in MOVED.items() for day in moved]))
def test_dues_are_compared_as_documented_also_where_the_clock_is_moved(data: st.DataObject, where: Any) -> None:
    zone, day = ZoneInfo(where[0]), where[1]
    due, value = data.draw(_around(day, zone), "due"), data.draw(_around(day, zone), "value")
    op: Op = data.draw(st.sampled_from(["<", "<=", ">", ">="]), "op")
    found = task(due=due)
    assert matches(found, Compare("due", op, value), zone=zone, now=NOW) == said(due, op, value, zone)


@given(st.data(), st.sampled_from([(zone, day) for zone, moved in MOVED.items() for day in moved]))
def test_a_day_is_overdue_once_it_has_ended_in_the_readers_zone(data: st.DataObject, where: Any) -> None:
    zone, day = ZoneInfo(where[0]), where[1]
    due, now = data.draw(_around(day, zone), "due"), data.draw(_around(day, zone), "now")
    if not isinstance(now, datetime):
        now = start_of(now, zone)
    late = due < now if isinstance(due, datetime) else due < now.astimezone(zone).date()
    assert matches(task(due=due), Overdue(), zone=zone, now=now) == late
    assert not matches(task(due=due, status="done"), Overdue(), zone=zone, now=now)
    assert matches(task(due=due, status="in_progress"), Overdue(), zone=zone, now=now) == late


def test_against_an_instant_a_day_is_its_end_in_the_readers_zone() -> None:
    zone = ZoneInfo("America/New_York")
    end = datetime(2026, 12, 2, 5, tzinfo=UTC)
    one = timedelta(microseconds=1)
    due = task(due="2026-12-01")
    for op, value, holds in (
        ("<", end, False),
        ("<=", end, True),
        (">", end, False),
        (">=", end, True),
        ("<", end + one, True),
        ("<=", end - one, False),
        (">", end - one, True),
        (">=", end + one, False),
    ):
        compared = Compare("due", op, value)  # type: ignore[arg-type]
        assert matches(due, compared, zone=zone, now=NOW) == holds, (op, value)


def test_the_same_task_is_overdue_in_one_zone_and_not_in_another() -> None:
    due = task(due="2026-11-25")
    now = datetime(2026, 11, 25, 12, tzinfo=UTC)
    assert matches(due, Overdue(), zone=ZoneInfo("Pacific/Kiritimati"), now=now)
    assert not matches(due, Overdue(), zone=ZoneInfo("UTC"), now=now)


ENDS: list[date | datetime] = [
    date.min,
    date.min + timedelta(1),
    date.max - timedelta(1),
    date.max,
    datetime.min.replace(tzinfo=UTC),
    datetime.max.replace(tzinfo=UTC),
]


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "Etc/GMT+12", "Asia/Tokyo", "America/New_York"])
@pytest.mark.parametrize("op", ["<", "<=", ">", ">="])
@pytest.mark.parametrize("value", ENDS, ids=str)
def test_at_the_ends_of_the_calendar_dues_still_compare(value: date | datetime, op: Op, zone: str) -> None:
    there = ZoneInfo(zone)
    limits = due_limits(op, value, there)
    assert before(op, value, there) == limits.instant
    compared = Compare("due", op, value)
    for due in ENDS:
        year = due.year
        if year != value.year:
            holds = (year < value.year) == op.startswith("<")
            assert matches(task(due=due), compared, zone=there, now=NOW) == holds
        elif due == value and isinstance(due, datetime) == isinstance(value, datetime):
            assert matches(task(due=due), compared, zone=there, now=NOW) == op.endswith("=")
        else:
            matches(task(due=due), compared, zone=there, now=NOW)


@pytest.mark.parametrize("due", ENDS, ids=str)
def test_at_the_ends_of_the_calendar_a_due_is_long_past_or_far(due: date | datetime) -> None:
    for zone in ("UTC", "Pacific/Kiritimati", "Etc/GMT+12"):
        assert matches(task(due=due), Overdue(), zone=ZoneInfo(zone), now=NOW) == (due.year == 1)


@given(instants, zones)
def test_the_limits_of_overdue_are_those_of_the_day_of_now(now: datetime, zone: str) -> None:
    limits = overdue_limits(now, ZoneInfo(zone))
    assert limits.instant == micros(now)
    assert limits.day == end_of_day(now.astimezone(ZoneInfo(zone)).date() - timedelta(days=1))


@given(dues, dues)
def test_ends_of_days_sort_as_days_do(one: Any, other: Any) -> None:
    if type(one) is type(other) is date:
        assert (end_of_day(one) < end_of_day(other)) == (one < other)


@pytest.mark.parametrize("name", ["", "Mars/Olympus", "../../etc/passwd", "/etc/passwd", "Europe", "a\0b", "\ud800", "x" * 5000])
def test_what_is_no_zone_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="there is no time zone"):
        zone_of(name)
    with pytest.raises(InvalidRequest):
        parse_filter("due:today", zone=name)


# ------------------------------------------------------------------------------------------------------------------- when


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("today", date(2026, 11, 25)),
        ("Tomorrow", date(2026, 11, 26)),
        ("yesterday", date(2026, 11, 24)),
        ("thu", date(2026, 11, 26)),
        ("Friday", date(2026, 11, 27)),
        ("wed", date(2026, 12, 2)),
        ("TUE", date(2026, 12, 1)),
        ("+0d", date(2026, 11, 25)),
        ("+3d", date(2026, 11, 28)),
        ("-3d", date(2026, 11, 22)),
        ("+2w", date(2026, 12, 9)),
        ("+1m", date(2026, 12, 25)),
        ("+2M", date(2027, 1, 25)),
        ("-11m", date(2025, 12, 25)),
        ("+1y", date(2027, 11, 25)),
        ("2026-12-01", date(2026, 12, 1)),
        ("2026-12-01T15:00:00Z", datetime(2026, 12, 1, 15, tzinfo=UTC)),
    ],
)
def test_a_word_names_a_day(text: str, named: date | datetime) -> None:
    found = when(text, NOW.date())
    assert (found, type(found)) == (named, type(named))


@pytest.mark.parametrize(
    ("today", "text", "named"),
    [
        (date(2026, 1, 31), "+1m", date(2026, 2, 28)),
        (date(2028, 1, 31), "+1m", date(2028, 2, 29)),
        (date(2028, 2, 29), "+1y", date(2029, 2, 28)),
        (date(2026, 3, 31), "-1m", date(2026, 2, 28)),
        (date(2026, 12, 31), "+2m", date(2027, 2, 28)),
    ],
)
def test_a_month_without_that_day_ends_earlier(today: date, text: str, named: date) -> None:
    assert when(text, today) == named


@pytest.mark.parametrize(
    ("text", "words_said"),
    [
        ("soon", "was expected, not 'soon'"),
        ("", "was expected"),
        ("3d", "was expected"),
        ("+3", "was expected"),
        ("+3h", "was expected"),
        ("mo", "was expected"),
        ("2026-02-30", "is not in the calendar"),
        ("2026-12-01T10:00:00", "was expected"),
        ("+99999y", "leads out of the calendar"),
        ("-9999y", "leads out of the calendar"),
        ("-99999m", "leads out of the calendar"),
    ],
)
def test_what_names_no_day_is_refused_with_what_would(text: str, words_said: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        when(text, NOW.date())
    assert words_said in str(caught.value)


@given(st.text(), st.dates(date(2, 1, 1), date(9998, 12, 31)))
def test_any_word_names_a_day_or_is_refused(text: str, today: date) -> None:
    try:
        assert isinstance(when(text, today), date)
    except ValueError as e:
        assert str(e)


@pytest.mark.parametrize("text", ["project:" + ",".join("a" * 101), " ".join("a" * 101), "id:" + ",".join("1" * 101)])
def test_terms_and_values_are_bounded(text: str) -> None:
    with pytest.raises(InvalidFilter, match="at most 100"):
        parse_filter(text)


def test_words_alone_are_bounded_too() -> None:
    with pytest.raises(InvalidFilter, match="at most 100"):
        parse_words(" ".join("a" * 101))


def test_an_equals_sign_is_told_to_be_a_colon() -> None:
    with pytest.raises(InvalidFilter) as caught:
        parse_filter("status=todo")
    assert (caught.value.extra["position"], caught.value.extra["expected"]) == (0, '"status:"')
