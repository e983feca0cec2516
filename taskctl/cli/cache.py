"""`taskctl cache`: what a server remembers."""

from taskctl import wiring
from taskctl.cli.call import Call, command, noun
from taskctl.cli.output import FOR_PEOPLE, show_object
from taskctl.tasks import CacheStats
from taskctl.wire import decode, error_of

app = noun("Look into what a server remembers of its answers.")


@command(app)
def stats(call: Call) -> None:
    """Show how many answers the server remembers, and how often questions were answered from where, or why not from memory."""
    found = decode(_asked(call, "GET"), CacheStats)
    numbers = {"entries": found.entries, "bytes": found.bytes}
    asked = found.asked if call.settings.output in (*FOR_PEOPLE, "csv") else {"asked": found.asked}
    show_object({**numbers, **asked}, call.settings)


@command(app)
def clear(call: Call) -> None:
    """Have the server forget everything, also in the Redis that it shares with others. Nothing is lost but time."""
    _asked(call, "DELETE")


def _asked(call: Call, method: str) -> bytes:
    answer = wiring.call_api(call.loaded, method, "/cache", [], None, call.observer)
    if answer.status >= 400:
        raise error_of(answer.body)
    return answer.body
