"""What no schema can say of a request, for schemathesis: it runs in the environment of tests/tools.txt, not in ours."""

import re
import uuid
from typing import Any

import schemathesis
from hypothesis import strategies as st

_TERMS = st.sampled_from(
    (
        "status:todo",
        "-label:later",
        "project:none",
        "label:a,b",
        "due<+3d",
        "due>=2026-12-01",
        "priority>low",
        "overdue",
        '"a b"',
        "milk",
    )
)
schemathesis.openapi.format("taskctl-filter", st.lists(_TERMS, max_size=5).map(" ".join))
_WORDS = st.sampled_from(("milk", "café", "猫", "a1", "Жук", "o'neil", "x-y", "(not)", "label:a", '"q"'))
schemathesis.openapi.format("taskctl-words", st.lists(_WORDS, max_size=5).map(" ".join))


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Change what would be refused, or mean something else, for reasons that only whoever has sent the others can know."""
    # A key that was used already would be another request's. What is no key stays as it is, to be refused.
    if re.fullmatch("[!-~]{1,255}", str((case.headers or {}).get("Idempotency-Key", ""))):
        case.headers["Idempotency-Key"] = uuid.uuid4().hex
    query = case.query or {}
    if isinstance(query.get("cursor"), str):  # they are opaque, and one that is made up belongs to no query
        del query["cursor"]
    if case.method == "DELETE" and query.get("dry_run") in (True, "true"):  # what is not removed is still there
        del query["dry_run"]
