"""How a test says which failure it expects: class, words and details, which are the same on every stack.

The members at fault stand among the details, as `errors`.
"""

from collections.abc import Awaitable
from typing import Any

import pytest

from taskctl import TaskctlError

Told = tuple[type[TaskctlError], str, dict[str, Any]]


def told(failure: object) -> Told:
    """Return all that a failure tells."""
    assert isinstance(failure, TaskctlError), failure
    errors = {"errors": failure.errors} if failure.errors else {}
    return type(failure), failure.detail, {**failure.extra, **errors}


async def failure_of(call: Awaitable[object]) -> Told:
    """Return what the failure of a call tells."""
    with pytest.raises(TaskctlError) as caught:
        await call
    return told(caught.value)
