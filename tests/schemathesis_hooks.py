"""What no schema can say of a request, for schemathesis: it runs in the environment of tests/tools.txt, not in ours."""

import atexit
import json
import os
import re
import uuid
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import requests
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


EVERY = 3
"""One in so many writes is sent again."""
met: Counter[str] = Counter()
"""How often it has come to what no single request can bring about."""


@schemathesis.hook
def before_load_schema(context: Any, raw_schema: dict[str, Any]) -> None:
    """Take away `default`, by which every status would be one that is documented."""
    for path in raw_schema["paths"].values():
        for operation in path.values():
            del operation["responses"]["default"]


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Change what would be refused, or mean something else, for reasons that only whoever has sent the others can know."""
    # A key that was used already would be another request's. What is no key stays as it is, to be refused.
    if re.fullmatch("[!-~]{1,255}", str((case.headers or {}).get("Idempotency-Key", ""))):
        case.headers["Idempotency-Key"] = uuid.uuid4().hex
    if case.method == "DELETE" and (case.path_parameters or {}).get("id") == os.environ["SCHEMATHESIS_TOKEN_ID"]:
        case.path_parameters["id"] = "0" * 12  # it would saw off the branch that it sits on
    query = case.query or {}
    if isinstance(query.get("cursor"), str):  # they are opaque, and one that is made up belongs to no query
        del query["cursor"]
    if case.method == "GET" and case.path.endswith(("/tasks", "/history")) and case.meta.generation.mode.is_positive:
        met["lists"] += 1
        if met["lists"] % EVERY == 0:  # few tasks are there, and a page is to end before them
            case.query = {"limit": 1, **{name: query[name] for name in ("sort",) if name in query}}
    if case.method == "DELETE" and query.get("dry_run") in (True, "true"):  # what is not removed is still there
        del query["dry_run"]


@schemathesis.hook
def after_call(context: Any, case: Any, response: Any) -> None:
    """Send what follows from an answer: the same write again, another one under its key, and the next page."""
    if response.status_code // 100 != 2:
        return
    asked = response.request
    if "Idempotency-Key" in asked.headers and "dry_run=true" not in asked.url and changed(response):
        met["keys"] += 1
        if met["keys"] % EVERY == 0:
            replay(case, response)
    link = response.headers.get("link")
    if case.method == "GET" and link:
        turn_over(case, response, link[0])


def changed(response: Any) -> bool:
    """Return whether something may have been written: what only fails leaves its key unused."""
    if not response.content or "results" not in response.json():
        return True
    return any("problem" not in result for result in response.json()["results"])


def send(request: Any, **headers: str) -> Any:
    again = request.copy()
    again.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    with requests.Session() as session:
        return session.send(again, timeout=30)


def replay(case: Any, response: Any) -> None:
    again = send(response.request)
    assert (again.status_code, again.content) == (response.status_code, response.content), again.text
    assert again.headers["Idempotency-Replayed"] == "true"
    case.validate_response(again)
    met["replays"] += 1
    other = send(response.request, Prefer="another=request")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch"), other.text
    met["mismatches"] += 1


def turn_over(case: Any, response: Any, link: str) -> None:
    found = re.fullmatch('<([^>]*)>; rel="next"', link)
    assert found, link
    following = response.request.copy()
    following.url = urljoin(response.request.url, found[1])
    page = send(following)
    assert page.status_code == 200, page.text
    case.validate_response(page)

    def seen(items: list[dict[str, Any]]) -> set[int]:
        return {item.get("seq", item["id"]) for item in items}

    assert page.json()["items"]
    assert not seen(page.json()["items"]) & seen(response.json()["items"])
    met["pages"] += 1


@atexit.register
def tell() -> None:
    """Leave what was met to the test."""
    if "SCHEMATHESIS_MET" in os.environ:
        Path(os.environ["SCHEMATHESIS_MET"]).write_text(json.dumps(met))
