"""The filter language: text in, a `Condition` out. `tasks.render` is the way back.

`docs/filters.md` describes the language. What depends on the clock (`tomorrow`, `+3d`) is made absolute when the text is
read; what depends on the reader's zone (where a day begins) is said here once, as limits in microseconds, and used alike
by `matches` and by the SQL that a database runs.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple, cast
from zoneinfo import ZoneInfo

from taskctl import fields
from taskctl.conditions import DEPTH_MAX, LENGTH_MAX, TERMS_MAX, And, Compare, Condition, Match, Not, Op, Or, Overdue, Text
from taskctl.errors import InvalidFilter
from taskctl.fields import words
from taskctl.tasks import Task, no_zone

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY = 86_400_000_000
_INSTANTS = ("created_at", "updated_at", "started_at", "completed_at")
_NULLABLE = ("project", "label", "due", "started_at", "completed_at")
_FIELDS = ("status", "priority", "project", "label", "due", *_INSTANTS, "id")


# ------------------------------------------------------------------------------------------------------------------ words


def search_text(title: str, description: str | None) -> str:
    """Return what is indexed for a task: the words of its title, a bar that no phrase crosses, those of its description."""
    return " ".join([*words(title), "|", *words(description)])


# ------------------------------------------------------------------------------------------------------------------ dates


def micros(instant: datetime) -> int:
    """Return an instant as whole microseconds since 1970-01-01T00:00:00Z, exactly."""
    return (instant - _EPOCH) // timedelta(microseconds=1)


def end_of_day(day: date) -> int:
    """Return the end of a day in UTC, in microseconds: how a due that is a day sorts. 9999-12-31 has one, too."""
    return (day.toordinal() - _EPOCH.toordinal() + 1) * _DAY


def zone_of(name: str) -> ZoneInfo:
    """Return the time zone with this IANA name. Raises InvalidRequest."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise no_zone(name) from None


def _start(day: date, zone: ZoneInfo, later: int = 0) -> int:
    """Return the start of the day that is `later` days after, in the zone; in UTC where the calendar ends."""
    try:
        shifted = day + timedelta(days=later)
        return micros(datetime(shifted.year, shifted.month, shifted.day, tzinfo=zone))
    except OverflowError:
        return end_of_day(day) + (later - 1) * _DAY


def _local(instant: datetime, zone: ZoneInfo) -> date:
    """Return the day of an instant in the zone; in UTC where the calendar ends."""
    try:
        return instant.astimezone(zone).date()
    except OverflowError:
        return instant.date()


class DueLimits(NamedTuple):
    """What a due lies before: a day, if its end in UTC is <= `day`; an instant, if it is < `instant`."""

    day: int
    instant: int


def due_limits(op: Op, value: date | datetime, zone: ZoneInfo) -> DueLimits:
    """Return the limits of "due < value" or, for <= and >, of "due <= value". Those of > and >= are to be negated."""
    inclusive = op in ("<=", ">")
    if not isinstance(value, datetime):
        return DueLimits(end_of_day(value) - (0 if inclusive else _DAY), _start(value, zone, 1 if inclusive else 0))
    local = _local(value, zone)
    ended = inclusive or _start(local, zone) < micros(value)
    return DueLimits(end_of_day(local) - (_DAY if ended else 2 * _DAY), micros(value) + inclusive)


def overdue_limits(now: datetime, zone: ZoneInfo) -> DueLimits:
    """Return the limits of "past its due": the day has ended in the zone, the instant has passed."""
    return DueLimits(end_of_day(_local(now, zone)) - _DAY, micros(now))


def before(op: Op, value: date | datetime, zone: ZoneInfo) -> int:
    """Return the limit of "instant < value" or, for <= and >, of "instant <= value": those that are < it. > and >= negate."""
    return due_limits(op, value, zone).instant


_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_RELATIVE = re.compile(r"([+-]\d{1,5})([dwmy])")
WHEN = "a date (2026-12-01), an instant (2026-12-01T15:00:00Z), today, tomorrow, a weekday (fri) or a distance (+3d, +2w, +1m)"


def when(text: str, today: date) -> date | datetime:
    """Return the day or the instant that a word names, seen from `today`.

    A weekday is the next one after today; a distance is in days, weeks, months or years. Raises ValueError, with a
    sentence that says what is understood.
    """
    word = text.lower()
    if word in ("today", "tomorrow", "yesterday"):
        return today + timedelta(days={"today": 0, "tomorrow": 1, "yesterday": -1}[word])
    for number, name in enumerate(_WEEKDAYS):
        if word in (name, name[:3]):
            return today + timedelta(days=(number - today.weekday() - 1) % 7 + 1)
    if found := _RELATIVE.fullmatch(word):
        count, unit = int(found[1]), found[2]
        try:
            if unit in "dw":
                return today + timedelta(days=count * (7 if unit == "w" else 1))
            months = today.year * 12 + today.month - 1 + count * (12 if unit == "y" else 1)
            return _last_valid(months // 12, months % 12 + 1, today.day)
        except (ValueError, OverflowError):
            raise ValueError(f"{text} leads out of the calendar") from None
    try:
        value = fields.due(text)
    except fields.Refused as e:
        raise ValueError(f"{text} {e.detail}" if e.code != "format" else f"{WHEN} was expected, not {text!r}") from None
    assert value is not None
    return value


def _last_valid(year: int, month: int, day: int) -> date:
    """Return that day, or the month's last if it has fewer."""
    for last in range(day, day - 4, -1):
        try:
            return date(year, month, last)
        except ValueError:
            if last == day - 3:
                raise
    raise AssertionError


# ---------------------------------------------------------------------------------------------------------------- reading


def parse_filter(text: str, *, zone: str = "UTC", now: datetime | None = None) -> Condition | None:
    """Return the condition that a filter says, None for an empty one.

    zone, now: what relative dates are seen from. Raises InvalidFilter, with the `position` of the mistake (in characters,
    from 0) and what was `expected` there.
    """
    today = (now or datetime.now(UTC)).astimezone(zone_of(zone)).date()
    return _Parser(text, today).parse()


def parse_words(text: str) -> Condition | None:
    """Return the condition that all words of a text are there: the bare and quoted words of a filter, and nothing else."""
    parser = _Parser(text, date.min)
    terms: list[Condition] = []
    while parser.skip_space():
        parser.count()
        terms.append(parser.text_term(until=r'[^\s"]+'))
    return _join(And, terms)


def _join(kind: type[And] | type[Or], terms: Sequence[Condition]) -> Condition | None:
    if len(terms) < 2:
        return terms[0] if terms else None
    return kind(tuple(terms))


class _Parser:
    """A parser by recursive descent over `text`, at `at`."""

    def __init__(self, text: str, today: date) -> None:
        if len(text) > LENGTH_MAX:
            raise InvalidFilter(
                f"the filter is longer than {LENGTH_MAX} characters",
                position=LENGTH_MAX,
                expected=f"at most {LENGTH_MAX} characters",
            )
        self.text = text
        self.today = today
        self.at = 0
        self.terms = 0

    def parse(self) -> Condition | None:
        if not self.skip_space():
            return None
        condition = self.either(0)
        if self.at < len(self.text):
            self.fail('"and", "or", a term or the end')
        return condition

    def fail(self, expected: str, at: int | None = None) -> None:
        position = self.at if at is None else at
        found = self.text[position : position + 20]
        seen = f"{found!r} was found" if found else "the filter ends"
        detail = f"at position {position}: {expected} was expected, but {seen}"
        raise InvalidFilter(detail, position=position, expected=expected)

    def count(self) -> None:
        """Count a term or a value; databases put an end to how long a condition can be."""
        self.terms += 1
        if self.terms > TERMS_MAX:
            self.fail(f"a filter of at most {TERMS_MAX} terms and values")

    def skip_space(self) -> bool:
        """Go on to the next character that is not white space, and say whether there is one."""
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1
        return self.at < len(self.text)

    def take(self, pattern: str) -> str | None:
        if found := re.compile(pattern).match(self.text, self.at):
            self.at = found.end()
            return found[0]
        return None

    def keyword(self, word: str) -> bool:
        found = re.compile(rf'{word}(?=[\s()"]|$)', re.IGNORECASE).match(self.text, self.at)
        if found:
            self.at = found.end()
        return bool(found)

    def either(self, depth: int) -> Condition:
        terms = [self.all(depth)]
        while self.skip_space() and self.keyword("or"):
            terms.append(self.all(depth))
        joined = _join(Or, terms)
        assert joined is not None
        return joined

    def all(self, depth: int) -> Condition:
        terms = [self.negated(depth)]
        while self.skip_space() and self.text[self.at] != ")":
            here = self.at
            if self.keyword("or"):
                self.at = here
                break
            self.keyword("and")
            terms.append(self.negated(depth))
        joined = _join(And, terms)
        assert joined is not None
        return joined

    def negated(self, depth: int) -> Condition:
        self.skip_space()
        if depth > DEPTH_MAX:
            self.fail(f"a filter nested at most {DEPTH_MAX} deep")
        if self.keyword("not"):
            return Not(self.negated(depth + 1))
        if self.take(r"-(?=[^\s-])"):
            return Not(self.primary(depth + 1))
        return self.primary(depth)

    def primary(self, depth: int) -> Condition:
        if self.take(r"\("):
            inner = self.either(depth + 1)
            if not self.take(r"\)"):
                self.fail('")"')
            return inner
        self.count()
        if self.keyword("overdue"):
            return Overdue()
        start = self.at
        if self.keyword("ready"):
            self.fail('another word ("ready" is reserved; quote it to search for it)', start)
        for word in ("and", "or"):
            if self.keyword(word):
                self.fail("a term", start)
        slip = re.compile(r"([a-z_]+)==?").match(self.text, self.at)
        if slip and slip[1] in _FIELDS:
            self.fail(f'"{slip[1]}:"', start)
        name = self.take(r'[^\s()":<>]*(?=[:<>])')
        if name is None:
            return self.text_term(until=r'[^\s()"]+')
        if name.lower() not in _FIELDS:
            self.fail(f"one of the fields {', '.join(_FIELDS)} (or quote it to search for it)", start)
        op = self.take(":|[<>]=?")
        assert op is not None
        return self.field_term(name.lower(), op, start)

    def text_term(self, until: str) -> Condition:
        start = self.at
        quoted = self.quoted()
        text = quoted if quoted is not None else self.take(until)
        if not text:
            self.fail("a term", start)
        found = words(text)
        if not found:
            self.fail("a letter or a digit to search for", start)
        return Text(tuple(found), prefix=quoted is None)

    def quoted(self) -> str | None:
        start = self.at
        if not self.take('"'):
            return None
        body = self.take(r'(?s:[^"\\]|\\.)*')
        if not self.take('"'):
            self.fail('a closing "', len(self.text))
        if not body:
            self.fail("something between the quotes", start)
        return re.sub(r"\\(.)", r"\1", body or "", flags=re.DOTALL)

    def values(self) -> Iterable[tuple[str, bool, int]]:
        """Yield the values after an operator: the text, whether it was quoted, and where it stands."""
        while True:
            start = self.at
            text = self.quoted()
            if text is not None:
                yield text, True, start
            elif text := self.take(r'[^\s,()"]+'):
                yield text, False, start
            else:
                self.fail("a value")
            if not self.take(","):
                return
            self.count()

    def field_term(self, name: str, op: str, start: int) -> Condition:
        if op == ":":
            return self.equal(name)
        if name not in ("priority", "due", *_INSTANTS):
            self.fail(f'"{name}:" and a value ({name} has no order)', start)
        [*found] = self.values()
        text, _, at = found[0]
        if len(found) > 1:
            self.fail("one value after a comparison", found[1][2])
        value: Any = self.choice(text, fields.PRIORITIES, at) if name == "priority" else self.date(text, at)
        return Compare(name, op, value)  # type: ignore[arg-type]

    def equal(self, name: str) -> Condition:
        plain: list[str | int | None] = []
        ranges: list[Condition] = []
        for text, quoted, at in self.values():
            if text.lower() == "none" and not quoted and name in _NULLABLE:
                plain.append(None)
            elif name == "status":
                plain.append(self.choice(text, fields.STATUSES, at))
            elif name == "priority":
                plain.append(self.choice(text, fields.PRIORITIES, at))
            elif name == "id":
                if not (text.isascii() and text.isdigit() and len(text) < 19):
                    self.fail("a task's id", at)
                plain.append(int(text))
            elif name in ("project", "label"):
                plain.append(self.name(name, text, at))
            else:
                value = self.date(text, at)
                ranges.append(And((Compare(name, ">=", value), Compare(name, "<=", value))))  # type: ignore[arg-type]
        terms = [*([Match(name, tuple(plain))] if plain else []), *ranges]  # type: ignore[arg-type]
        joined = _join(Or, terms)
        assert joined is not None
        return joined

    def name(self, field: str, text: str, at: int) -> str | None:
        try:
            return fields.project(text) if field == "project" else fields.label(text)
        except fields.Refused as e:
            raise InvalidFilter(f"at position {at}: {field} {e.detail}", position=at, expected=f"a {field}") from None

    def choice(self, text: str, allowed: Sequence[str], at: int) -> str:
        if text.lower() not in allowed:
            self.fail(f"one of {', '.join(allowed)}", at)
        return text.lower()

    def date(self, text: str, at: int) -> date | datetime:
        try:
            return when(text, self.today)
        except ValueError as e:
            raise InvalidFilter(f"at position {at}: {e}", position=at, expected=WHEN) from None


# --------------------------------------------------------------------------------------------------------------- checking


def matches(task: Task, condition: Condition | None, *, zone: ZoneInfo, now: datetime) -> bool:
    """Return whether the condition holds for the task: the meaning that every database's SQL must have."""
    match condition:
        case None:
            return True
        case And(terms):
            return all(matches(task, term, zone=zone, now=now) for term in terms)
        case Or(terms):
            return any(matches(task, term, zone=zone, now=now) for term in terms)
        case Not(term):
            return not matches(task, term, zone=zone, now=now)
        case Overdue():
            return task.is_open and _is_before(task.due, overdue_limits(now, zone))
        case Text(found, prefix):
            return any(_has_phrase(words(text), found, prefix) for text in (task.title, task.description))
        case Match("label", values):
            return any(label in values for label in task.labels) or (None in values and not task.labels)
        case Match("project", values):
            path = task.project
            return any(path == v or (path is not None and v is not None and path.startswith(f"{v}.")) for v in values)
        case Match(name, values):
            return getattr(task, name) in values
        case Compare("priority", op, value):
            ranks = fields.PRIORITIES.index
            return _ORDER[op](ranks(task.priority), ranks(str(value)))
        case Compare("due", op, value):
            assert isinstance(value, date)
            return task.due is not None and _is_before(task.due, due_limits(op, value, zone)) == op.startswith("<")
        case Compare(name, op, value):
            instant = getattr(task, name)
            assert isinstance(value, date)
            return instant is not None and (micros(instant) < before(op, value, zone)) == op.startswith("<")


# ----------------------------------------------------------------------------------------------------------------- orders

FIRST, LAST = -(2**63) + 1, 2**63 - 1
"""Where a task without a due stands. One more than the least: PostgreSQL reads -(2**63) as something larger than a BIGINT."""


def whole_order(sort: Sequence[str]) -> list[tuple[str, bool]]:
    """Return the fields that an order goes by, each with whether it descends; the last one is the id, which breaks ties.

    It goes the way of the field before it, so that one index serves an order and its reverse.
    """
    order: list[tuple[str, bool]] = []
    for word in [*sort, "-id" if sort and sort[-1].startswith("-") else "id"]:
        order.append((word.lstrip("-"), word.startswith("-")))
        if order[-1][0] == "id":
            break
    return order


def place(task: Task, sort: Sequence[str]) -> list[int | str]:
    """Return where a task stands in an order: a value for each of its fields, compared as they are."""
    values: list[int | str] = []
    for name, descending in whole_order(sort):
        match name:
            case "due" if task.due is None:  # comes last either way
                values.append(FIRST if descending else LAST)
            case "due":
                values.append(micros(task.due) if isinstance(task.due, datetime) else end_of_day(cast(date, task.due)))
            case "status":
                values.append(fields.STATUSES.index(task.status))
            case "priority":
                values.append(fields.PRIORITIES.index(task.priority))
            case "created_at" | "updated_at":
                values.append(micros(getattr(task, name)))
            case _:
                values.append(getattr(task, name))
    return values


def is_after(one: Sequence[int | str], other: Sequence[int | str], sort: Sequence[str]) -> bool:
    """Return whether a place comes after another one in the order."""
    for mine, theirs, (_, descending) in zip(one, other, whole_order(sort), strict=True):
        if mine != theirs:
            return bool(mine < theirs) if descending else bool(mine > theirs)  # type: ignore[operator]  # both are of the field
    return False


_ORDER: dict[Op, Callable[[int, int], bool]] = {
    "<": int.__lt__,
    "<=": int.__le__,
    ">": int.__gt__,
    ">=": int.__ge__,
}


def _is_before(due: date | datetime | None, limits: DueLimits) -> bool:
    if due is None:
        return False
    return micros(due) < limits.instant if isinstance(due, datetime) else end_of_day(due) <= limits.day


def _has_phrase(text: list[str], phrase: tuple[str, ...], prefix: bool) -> bool:
    size = len(phrase)
    for start in range(len(text) - size + 1):
        *head, last = text[start : start + size]
        if tuple(head) == phrase[:-1] and (last.startswith(phrase[-1]) if prefix else last == phrase[-1]):
            return True
    return False
