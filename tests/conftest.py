"""Hypothesis's profiles, where temporary files are, and in which order tests run.

Of the profiles, `default` is quick, and `HYPOTHESIS_PROFILE=fuzz` looks for long.
"""

import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "default", max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("fuzz", settings.get_profile("default"), max_examples=1000, stateful_step_count=50)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

MEMORY, ROOM_BYTES = Path("/dev/shm"), 4 << 30
if "TMPDIR" not in os.environ and MEMORY.is_dir():
    # Most of what tests write is databases, and no test takes the power away: nothing has to get to a disk.
    found = os.statvfs(MEMORY)
    noexec = found.f_flag & getattr(os, "ST_NOEXEC", 0)  # some tests write a program and run it
    if found.f_bavail * found.f_frsize >= ROOM_BYTES and os.access(MEMORY, os.W_OK) and not noexec:
        os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)

LONGEST = ("test_schemathesis.py", "test_plans.py", "test_two_workspaces.py", "test_docs_page.py", "test_generated_client.py")
"""Where the tests are that take longest. They come first, so that no worker is busy with one when all others are done."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


def pytest_collection_finish() -> None:
    """Keep the garbage collector from going through all modules and tests again and again: they are there to the end."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _nobody_is_logged_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tokens of whoever runs the tests out of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield
