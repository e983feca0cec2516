"""How a test says which failure it expects: class, words and details, which are the same on every stack."""

from collections.abc import Awaitable
from typing import Any

import pytest

from taskctl import TaskctlError

Told = tuple[type[TaskctlError], str, dict[str, Any]]


def told(failure: object) -> Told:
    """Return all that a failure tells."""
    assert isinstance(failure, TaskctlError), failure
    return type(failure), failure.detail, dict(failure.extra)


async def failure_of(call: Awaitable[object]) -> Told:
    """Return what the failure of a call tells."""
    with pytest.raises(TaskctlError) as caught:
        await call
    return told(caught.value)
