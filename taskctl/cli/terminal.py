"""What may reach a terminal: text that is seen as it is, with nothing in it that a terminal obeys or that turns it round."""

import re
import sys

_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: colours, the cursor
    # OSC and the like: titles, links, the clipboard
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x90\x98\x9c-\x9f]*(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]*[0-~]"
)
_TURNS = re.compile("[\u202a-\u202e\u2066-\u2069]")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_CONTROL_BUT_LINES = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def plain(text: str) -> str:
    """Return a text on one line, as it may be printed."""
    return text if text.isprintable() else _without(text, _CONTROL)


def plain_lines(text: str) -> str:
    """Return lines as they may be printed; tabs stay, too."""
    return _without(text, _CONTROL_BUT_LINES)


def _without(text: str, control: re.Pattern[str]) -> str:
    # What is left of a sequence in a sequence is taken by the last step, which leaves nothing.
    return control.sub(" ", _TURNS.sub("", _SEQUENCE.sub("", text)))


def tell(message: str) -> None:
    """Print something that is not data, on one line of stderr. No secret is in it, and no escape, whoever wrote it."""
    _tell(plain(message))


def tell_lines(message: str) -> None:
    """Print several lines that are not data on stderr."""
    _tell(plain_lines(message))


def tell_json(document: bytes) -> None:
    """Print a JSON document on a line of stderr, to a terminal with everything in it to be seen."""
    text = document.decode("utf-8", "backslashreplace")
    if sys.stderr.isatty():
        from taskctl.wire import shown_json

        text = shown_json(text)
    print(text, file=sys.stderr)


def _tell(text: str) -> None:
    from taskctl.access import redacted

    print(redacted(text), file=sys.stderr)
