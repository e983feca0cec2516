"""CSV and YAML: what other programs read, and neither tables nor JSON are."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any

import msgspec
import yaml

from taskctl.fields import STATUSES
from taskctl.tasks import Tally

# The last four are the first ones in full width, which a Japanese spreadsheet takes for the same.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", *"\uff1d\uff0b\uff0d\uff20")


def as_csv(items: Sequence[Any], kind: type) -> str:
    """Return things as CSV (RFC 4180) with a header, which is that of `kind` if there are none.

    A text that a spreadsheet would take for a formula gets an apostrophe in front of it. All but numbers is quoted: where a
    semicolon separates, what stands behind one would be a cell of its own. docs/cli.md says what else there is.
    """
    records = [*map(_record, items)]
    names = list(records[0]) if records else _names(kind)
    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\r\n")
    writer.writerow(names)
    writer.writerows([_cell(value) for value in record.values()] for record in records)
    return out.getvalue()


def _names(kind: type) -> list[str]:
    return ["name", *STATUSES] if kind is Tally else list(kind.__struct_fields__)  # type: ignore[attr-defined]


def _record(item: Any) -> Mapping[str, Any]:
    if isinstance(item, Tally):
        return {"name": item.name, **{str(status): count for status, count in item.counts.items()}}
    if isinstance(item, Mapping):
        return item
    return {name: getattr(item, name) for name in item.__struct_fields__}


def _cell(value: Any) -> str | int | float:
    match value:
        case None | msgspec.UNSET:
            return ""
        case bool():
            return str(value).lower()
        case int() | float():  # of ours, so a minus is no formula
            return value
        case str():
            return _harmless(value)
        case date() | datetime():
            return str(msgspec.to_builtins(value))
        case tuple() | list():
            return _harmless(", ".join(map(str, value)))
        case Mapping() | msgspec.Struct():
            return msgspec.json.encode(value).decode()
        case _:
            return _harmless(str(value))


def _harmless(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text


class _Name(str):
    """The name of a member, which is ours; every other text is quoted, so that it is one to every reader."""

    __slots__ = ()


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]  # libyaml's, where it is
    pass


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    lines = text.split("\n")
    in_lines = len(lines) > 1 and all(line.isprintable() and line == line.rstrip() for line in lines)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if in_lines else '"')


def _name(dumper: yaml.SafeDumper, name: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", str(name))


_Dumper.add_representer(str, _text)
_Dumper.add_representer(_Name, _name)


def as_yaml(value: Any) -> str:
    """Return something as YAML: the API's members, every text quoted or in lines of its own, and everything in it to be seen."""
    built = _named(msgspec.to_builtins(value))
    dumped: str = yaml.dump(built, Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=1 << 30)
    return re.sub("[^\n -~]", _seen, dumped)


def _named(value: Any) -> Any:
    match value:
        case dict():
            return {_Name(name): _named(inner) for name, inner in value.items()}
        case list() | tuple():
            return [*map(_named, value)]
        case _:
            return value


def _seen(match: re.Match[str]) -> str:
    """Return a character as it can be seen. What cannot stands between quotes, where this means the same."""
    char = match[0]
    return char if char.isprintable() else f"\\U{ord(char):08X}" if ord(char) > 0xFFFF else f"\\u{ord(char):04X}"
