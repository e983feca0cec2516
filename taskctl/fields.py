"""What may stand in each field of a task: plain values in, canonical values out.

The rules are those of docs/tasks.md. A value that breaks one raises `Refused`, with a code for programs and a sentence for
people; `tasks.py` collects these for all the fields of a document. Strings come from everywhere (an argument, JSON, another
database), so they are all checked here, and only here.
"""

import re
import unicodedata
from abc import ABC
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Final
from uuid import UUID

TITLE_MAX: Final = 500
DESCRIPTION_MAX: Final = 64 * 1024
"""In bytes of UTF-8; the other limits count characters (code points)."""
PROJECT_MAX: Final = 100
LABEL_MAX: Final = 60
LABELS_MAX: Final = 50
KEY: Final = re.compile("[!-~]{1,255}")
"""An idempotency key."""

STATUSES: Final = ("todo", "in_progress", "done", "cancelled")
OPEN: Final = ("todo", "in_progress")
PRIORITIES: Final = ("none", "low", "medium", "high", "urgent")
"""In ascending order; so are the statuses, in the order of a task's life."""

if TYPE_CHECKING:
    Due = date | datetime
else:

    class Due(ABC):  # noqa: B024  # it is there to be registered with
        """A day (`date`) or an instant (`datetime` in UTC).

        msgspec allows one string-like type in a union, and a due has two: to it, this class stands for both.
        """

    Due.register(date)


class Refused(ValueError):
    """A value that may not stand in its field. `inner` leads to the part at fault, such as "/3" in a list.

    others: what else is wrong with it.
    """

    def __init__(self, code: str, detail: str, inner: str = "") -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.inner = inner
        self.others: list[Refused] = []


# Cc: C0, DEL and C1, so NUL and the escape that terminals obey too. Zl and Zp end a line. Cs: surrogates are not text.
_NOT_ON_A_LINE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_NOT_IN_A_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def _text(value: object, forbidden: re.Pattern[str]) -> str:
    if not isinstance(value, str):
        raise Refused("type", f"must be a text, not {_kind(value)}")
    if wrong := forbidden.search(value):
        char = ord(wrong[0])
        if 0xD800 <= char <= 0xDFFF:
            what = "a lone surrogate"
        elif wrong[0] in "\n\r\x0b\x0c\x85\u2028\u2029":
            what = "a line break"
        else:
            what = "a control character"
        raise Refused("character", f"must not contain {what} (U+{char:04X} at position {wrong.start()})")
    # Most text is ASCII and so is NFC already. This is canonical equivalence: what a reader sees does not change.
    return value if value.isascii() else unicodedata.normalize("NFC", value)


def _line(value: object, most: int) -> str:
    text = _text(value, _NOT_ON_A_LINE)
    if not text or text.isspace():
        raise Refused("empty", "must not be empty")
    if len(text) > most:
        raise Refused("length", f"must be at most {most} characters long, and is {len(text)}")
    return text


def title(value: object) -> str:
    """Return the title: one line of 1 to 500 characters, in NFC, taken literally."""
    return _line(value, TITLE_MAX)


def description(value: object) -> str | None:
    """Return the description: Markdown of at most 64 KiB, line breaks and tabs allowed, or None."""
    if value is None:
        return None
    text = _text(value, _NOT_IN_A_TEXT)
    size = len(text) if text.isascii() else len(text.encode())
    if size > DESCRIPTION_MAX:
        raise Refused("length", f"must be at most {DESCRIPTION_MAX} bytes long, and is {size}")
    return text


def project(value: object) -> str | None:
    """Return the project: a path with dots, such as `work.api`, of at most 100 characters, or None."""
    if value is None:
        return None
    text = _line(value, PROJECT_MAX)
    if any(not part or part.isspace() for part in text.split(".")):
        raise Refused("path", "must not have an empty part between its dots")
    return text


def label(value: object) -> str:
    """Return a label: one line of 1 to 60 characters."""
    return _line(value, LABEL_MAX)


def labels(value: object) -> tuple[str, ...]:
    """Return the labels as a set does: each once, sorted by code point; at most 50, each of 1 to 60 characters."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise Refused("type", f"must be a list of texts, not {_kind(value)}")
    found = set()
    refused: list[Refused] = []
    for position, one in enumerate(value):
        try:
            found.add(label(one))
        except Refused as e:
            refused.append(Refused(e.code, f"item {position} {e.detail}", f"/{position}"))
            if len(refused) == LABELS_MAX:  # a list of nothing else would have an answer many times its size
                break
    if refused:
        refused[0].others = refused[1:]
        raise refused[0]
    if len(found) > LABELS_MAX:
        raise Refused("length", f"must be at most {LABELS_MAX} labels, and are {len(found)}")
    return tuple(sorted(found))


def _one_of(allowed: tuple[str, ...]) -> Callable[[object], str]:
    def check(value: object) -> str:
        if not isinstance(value, str):
            raise Refused("type", f"must be a text, not {_kind(value)}")
        if value not in allowed:
            raise Refused("choice", f"must be one of {', '.join(allowed)}")
        return value

    return check


status = _one_of(STATUSES)
priority = _one_of(PRIORITIES)

_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_INSTANT = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")


def due(value: object) -> date | datetime | None:
    """Return the due: a day, an instant (in UTC, to the microsecond), or None.

    A text is a full date or a date-time as in RFC 3339; a datetime must know its zone.
    """
    if value is None:
        return None
    try:
        if isinstance(value, str):
            if value.isascii() and _DATE.fullmatch(value):
                return date.fromisoformat(value)
            if value.isascii() and _INSTANT.fullmatch(value):
                value = datetime.fromisoformat(value.upper())
        if isinstance(value, datetime):
            if value.tzinfo is None:
                raise Refused("zone", "must have a zone, such as a Z at its end, if it has a time")
            return value.astimezone(UTC)
    except (ValueError, OverflowError) as e:
        if isinstance(e, Refused):
            raise
        raise Refused("date", "is not in the calendar") from None
    if isinstance(value, date):
        return value
    if isinstance(value, str):
        raise Refused("format", 'must be a date such as "2026-12-01" or an instant such as "2026-12-01T15:00:00Z"')
    raise Refused("type", f"must be a date or an instant, not {_kind(value)}")


def uid(value: object) -> UUID | None:
    """Return the uid: a UUID (RFC 9562) in its usual form with hyphens, or None if the writer leaves it to taskctl."""
    if value is None or isinstance(value, UUID):
        return value
    if isinstance(value, str) and len(value) == 36:
        try:
            parsed = UUID(value)
        except ValueError:
            pass
        else:
            if str(parsed) == value.lower():
                return parsed
    raise Refused("uid", "must be a UUID such as 01936f0c-7a3e-7c4b-9d2e-5b1f0a6c8e7d")


def words(text: str | None) -> list[str]:
    """Return the words of a text as search sees them: NFKC, case folded, runs of letters, marks and digits.

    Both databases index what this returns, so that they agree to the letter; neither tokenises by itself.
    """
    if not text:
        return []
    if text.isascii():
        return re.findall(r"[a-z0-9]+", text.lower())
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    kept = (char if unicodedata.category(char)[0] in "LMN" else " " for char in folded)
    return "".join(kept).split()


def _kind(value: object) -> str:
    """Name the kind of a JSON or Python value as people do."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case list() | tuple() | set() | frozenset():
            return "a list"
        case dict():
            return "an object"
        case _:
            return f"a {type(value).__name__}"
