"""What all programs tell of their process and their Python."""

import gc
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final

from taskctl.metrics.exposition import PlainCounter, PlainGauge
from taskctl.observe import Reading

if sys.platform != "win32":
    import resource


def add_process(counter: Callable[..., PlainCounter], gauge: Callable[..., PlainGauge]) -> None:
    """Add these metrics, by what makes a counter and a gauge of a name and a help."""

    def collected(what: str) -> Callable[[], Reading]:
        return lambda: {(str(number),): generation[what] for number, generation in enumerate(gc.get_stats())}

    counter("process_cpu_seconds_total", "Processor time, of user and system.").read = time.process_time
    for name, what, doc in _COLLECTED:
        counter(name, doc, "generation").read = collected(what)
    if sys.platform != "win32":
        gauge("process_max_fds", "How many files and connections there may be.").read = _files_max
    if sys.platform == "linux":
        page = os.sysconf("SC_PAGE_SIZE")
        gauge("process_resident_memory_bytes", "Memory.").read = lambda: int(_stat()[21]) * page
        gauge("process_virtual_memory_bytes", "Address space.").read = lambda: int(_stat()[20])
        gauge("process_open_fds", "Open files and connections.").read = _files
        if (started := _started()) is not None:
            gauge("process_start_time_seconds", "When it started, since 1970.").read = lambda: started


_COLLECTED: Final = (
    ("python_gc_collections_total", "collections", "Runs of the garbage collector."),
    ("python_gc_objects_collected_total", "collected", "Objects that it freed."),
    ("python_gc_objects_uncollectable_total", "uncollectable", "Objects that it could not free."),
)


def _files() -> float:
    return sum(1 for _ in os.scandir("/proc/self/fd")) - 1  # without the one that this takes


def _files_max() -> float:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _stat() -> Sequence[bytes]:
    """Return /proc/self/stat, without the number and the name, which may have anything in it."""
    with open("/proc/self/stat", "rb") as file:  # noqa: PTH123  # it is no path of anybody's
        return file.read().rpartition(b")")[2].split()


def _started() -> float | None:
    """Return when the process started; None where the kernel does not tell when it did itself, as in some sandboxes."""
    with open("/proc/stat", encoding="ascii") as file:  # noqa: PTH123
        boot = next((int(line.split()[1]) for line in file if line.startswith("btime ")), None)
    return boot + int(_stat()[19]) / os.sysconf("SC_CLK_TCK") if boot is not None else None
