"""What a list of tasks picks: conditions, each checked when it is made, and how they are written as a filter."""

import re
from datetime import UTC, date, datetime
from typing import Literal, TypeAlias

import msgspec

from taskctl import fields
from taskctl.errors import InvalidRequest

LENGTH_MAX = 4096
"""The longest filter, in characters, however it is given: as a text, or as a condition that would be written so."""
TERMS_MAX = 100
"""Terms and values of a filter; databases put an end to how long a condition can be."""
DEPTH_MAX = 32

Op: TypeAlias = Literal["<", "<=", ">", ">="]


def _some(parts: tuple[object, ...]) -> None:
    if not parts:
        raise InvalidRequest("a condition needs at least one part")


_INSTANTS = ("started_at", "completed_at", "created_at", "updated_at")
_NULLABLE = ("project", "label", "due", "started_at", "completed_at")


class Match(msgspec.Struct, frozen=True, tag=True):
    """The field has one of the values; None stands for no value. A project takes in those below it.

    Raises InvalidRequest for what cannot be in the field, as the filter language does.
    """

    field: Literal["id", "status", "priority", "project", "label", "due", "started_at", "completed_at"]
    values: tuple[str | int | None, ...]

    def __post_init__(self) -> None:
        _some(self.values)
        if len(self.values) > TERMS_MAX:
            raise InvalidRequest(f"{self.field} has more than {TERMS_MAX} values")
        values = tuple(self._canonical(value) for value in self.values)
        if values != self.values:
            msgspec.structs.force_setattr(self, "values", values)

    def _canonical(self, value: object) -> str | int | None:
        if value is None and self.field in _NULLABLE:
            return None
        if isinstance(value, str) and "\0" in value:
            raise InvalidRequest(f"no {self.field} has a NUL in it")
        try:
            match self.field:
                case "id" if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**18:
                    return value
                case "status":
                    return fields.status(value)
                case "priority":
                    return fields.priority(value)
                case "project":
                    return fields.project(value)
                case "label":
                    return fields.label(value)
        except fields.Refused as e:
            raise InvalidRequest(f"{self.field} {e.detail}") from None
        raise InvalidRequest(f"{self.field} cannot be matched with {value!r:.100}")


class Compare(msgspec.Struct, frozen=True, tag=True):
    """The field stands so to the value. A field without a value never does. Days are those of the query's zone.

    Raises InvalidRequest for what the field cannot be compared with.
    """

    field: Literal["priority", "due", "created_at", "updated_at", "started_at", "completed_at"]
    op: Op
    value: date | datetime | str

    def __post_init__(self) -> None:
        if self.op not in ("<", "<=", ">", ">="):
            raise InvalidRequest(f"a comparison is one of < <= > >=, not {self.op!r:.100}")
        try:
            if self.field == "priority":
                fields.priority(self.value)
                return
            if self.field in ("due", *_INSTANTS):
                value = None if isinstance(self.value, str) else fields.due(self.value)
                if value is not None:
                    msgspec.structs.force_setattr(self, "value", value)
                    return
        except fields.Refused as e:
            raise InvalidRequest(f"{self.field} {e.detail}") from None
        raise InvalidRequest(f"{self.field:.100} cannot be compared with {self.value!r:.100}")


class Text(msgspec.Struct, frozen=True, tag=True):
    """The words stand one after another in the title or in the description; with `prefix` the last one may go on.

    Raises InvalidRequest for what has no word in it.
    """

    words: tuple[str, ...]
    prefix: bool

    def __post_init__(self) -> None:
        if not all(isinstance(word, str) and fields.words(word) for word in self.words) or not self.words:
            raise InvalidRequest("a word to search for needs a letter or a digit")
        found = tuple(fields.words(" ".join(self.words)))
        if found != self.words:
            msgspec.structs.force_setattr(self, "words", found)


class Overdue(msgspec.Struct, frozen=True, tag=True):
    """The task is open and past its due: a day, once it has ended in the query's zone; an instant, once it has passed."""


class And(msgspec.Struct, frozen=True, tag=True):
    """All of them hold."""

    terms: tuple["Condition", ...]

    def __post_init__(self) -> None:
        _some(self.terms)


class Or(msgspec.Struct, frozen=True, tag=True):
    """At least one of them holds."""

    terms: tuple["Condition", ...]

    def __post_init__(self) -> None:
        _some(self.terms)


class Not(msgspec.Struct, frozen=True, tag=True):
    """It does not hold."""

    term: "Condition"


Condition: TypeAlias = Match | Compare | Text | Overdue | And | Or | Not

_KEYWORDS = ("and", "or", "not", "overdue", "ready")


def render(condition: Condition) -> str:
    """Return a filter that says the condition; `filters.parse_filter` turns it into an equal one."""
    match condition:
        case And((Compare(name, _, value), *_)) if _is_one_term(condition):
            return f"{name}:{_value(value)}"
        case And(terms):
            return " ".join(_group(term) if _is_group(term) else render(term) for term in terms)
        case Or(terms):
            return " or ".join(_group(term) if isinstance(term, Or) else render(term) for term in terms)
        case Not(term):
            return f"not {_group(term) if _is_group(term) else render(term)}"
        case Overdue():
            return "overdue"
        case Text(found, prefix):
            if not prefix:
                return '"' + " ".join(found) + '"'
            joined = "-".join(found)
            return joined + "-" if joined in _KEYWORDS else joined
        case Compare(name, op, value):
            return f"{name}{op}{_value(value)}"
        case Match(name, values):
            return f"{name}:{','.join(map(_value, values))}"


def _is_one_term(condition: Condition) -> bool:
    """Return whether two comparisons are written as one term: on that day, at that instant."""
    match condition:
        case And((Compare(name, ">=", value), Compare(other, "<=", last))):
            return name == other != "priority" and value == last
    return False


def _is_group(condition: Condition) -> bool:
    return isinstance(condition, And | Or) and not _is_one_term(condition)


def _group(condition: Condition) -> str:
    return f"({render(condition)})"


def _value(value: str | int | date | datetime | None) -> str:
    match value:
        case None:
            return "none"
        case datetime():
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case date():
            return value.isoformat()
        case str() if value.lower() == "none" or not re.fullmatch(r"[\w.]+", value):
            escaped = value.replace("\\", "\\\\").replace('"', '\\"')
            return f'"{escaped}"'
        case _:
            return str(value)


def terms_in(condition: object, depth: int = 0) -> int:
    """Return how many terms and values a condition has. Raises InvalidRequest for what is too deep, or no condition.

    Depth is counted as the filter is written: an And within an Or needs no parentheses.
    """
    if depth > DEPTH_MAX:
        raise InvalidRequest(f"a condition is nested at most {DEPTH_MAX} deep")
    match condition:
        case And(terms):
            return 1 if _is_one_term(condition) else sum(terms_in(term, depth + _is_group(term)) for term in terms)
        case Or(terms):
            return sum(terms_in(term, depth + isinstance(term, Or)) for term in terms)
        case Not(term):
            return terms_in(term, depth + 1 + _is_group(term))
        case Match(_, values):
            return len(values)
        case Compare() | Text() | Overdue():
            return 1
    raise InvalidRequest(f"where must be a condition, as parse_filter makes one, not {condition!r:.100}")


def status_apart(where: Condition | None) -> tuple[tuple[str, ...], Condition | None]:
    """Return the statuses that a condition begins with, and the rest of it.

    The command line puts them in front of a filter, and they must not count as a part of what somebody wrote.
    """
    if isinstance(where, And) and isinstance(first := where.terms[0], Match) and first.field == "status":
        rest = And(where.terms[1:]) if len(where.terms) > 2 else where.terms[-1] if len(where.terms) > 1 else None
        return tuple(map(str, first.values)), rest
    return (), where
