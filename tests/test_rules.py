"""The rules of change: which transitions there are, which times they set, and what counts as a change at all."""

from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskctl.errors import Conflict, InvalidRequest, StaleTask
from taskctl.fields import STATUSES
from taskctl.tasks import (
    Add,
    Changeset,
    ChangesSince,
    History,
    NewTask,
    Task,
    TaskPatch,
    TaskQuery,
    change,
    create,
    require_version,
)
from tests.strategies import new_tasks, patches

UID = UUID("01936f0c-7a3e-7c4b-9d2e-5b1f0a6c8e7d")
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)

TRANSITIONS = {
    ("todo", "in_progress"),
    ("todo", "done"),
    ("todo", "cancelled"),
    ("in_progress", "todo"),
    ("in_progress", "done"),
    ("in_progress", "cancelled"),
    ("done", "todo"),
    ("cancelled", "todo"),
}


def made(**members: Any) -> Task:
    return create(NewTask(**{"title": "t", **members}), id=7, uid=UID, now=NOW)


def test_a_new_task_has_the_documented_defaults() -> None:
    assert made() == Task(
        id=7,
        uid=UID,
        title="t",
        description=None,
        status="todo",
        priority="none",
        project=None,
        labels=(),
        due=None,
        started_at=None,
        completed_at=None,
        created_at=NOW,
        updated_at=NOW,
        version=1,
    )


@pytest.mark.parametrize("status", STATUSES)
def test_a_task_may_begin_in_any_status(status: str) -> None:
    task = made(status=status)
    assert task.started_at == (NOW if status == "in_progress" else None)
    assert task.completed_at == (NOW if status == "done" else None)
    assert task.is_open == (status in ("todo", "in_progress"))


@pytest.mark.parametrize("after", STATUSES)
@pytest.mark.parametrize("before", STATUSES)
def test_only_the_documented_transitions_exist(before: str, after: Any) -> None:
    task = made(status=before)
    if before == after:
        assert change(task, TaskPatch(status=after), now=LATER) is task
    elif (before, after) in TRANSITIONS:
        changed = change(task, TaskPatch(status=after), now=LATER)
        assert (changed.status, changed.version, changed.updated_at) == (after, 2, LATER)
    else:
        with pytest.raises(Conflict) as caught:
            change(task, TaskPatch(status=after, title="other"), now=LATER)
        assert caught.value.extra["id"] == 7
        assert before in caught.value.detail
        assert after in caught.value.detail


def test_started_at_is_set_the_first_time_only() -> None:
    started = change(made(), TaskPatch(status="in_progress"), now=LATER)
    assert started.started_at == LATER
    paused = change(started, TaskPatch(status="todo"), now=LATER + timedelta(1))
    again = change(paused, TaskPatch(status="in_progress"), now=LATER + timedelta(2))
    assert (paused.started_at, again.started_at) == (LATER, LATER)


def test_completed_at_is_set_exactly_while_done() -> None:
    done = change(made(), TaskPatch(status="done"), now=LATER)
    assert done.completed_at == LATER
    reopened = change(done, TaskPatch(status="todo"), now=LATER + timedelta(1))
    assert reopened.completed_at is None
    again = change(reopened, TaskPatch(status="done"), now=LATER + timedelta(2))
    assert again.completed_at == LATER + timedelta(2)


def test_an_edit_of_a_done_task_keeps_its_completion() -> None:
    done = made(status="done")
    assert change(done, TaskPatch(title="new"), now=LATER).completed_at == NOW


def test_an_edit_touches_only_what_it_names() -> None:
    task = made(description="d", priority="high", project="work", labels=["a"], due="2026-12-01")
    changed = change(task, TaskPatch(title="new"), now=LATER)
    assert changed == msgspec.structs.replace(task, title="new", version=2, updated_at=LATER)


def test_null_clears() -> None:
    task = made(description="d", project="work", labels=["a"], due="2026-12-01")
    cleared = change(task, TaskPatch(description=None, project=None, labels=[], due=None), now=LATER)
    assert (cleared.description, cleared.project, cleared.labels, cleared.due) == (None, None, (), None)
    assert cleared.version == 2


@pytest.mark.parametrize(
    "patch",
    [
        TaskPatch(),
        TaskPatch(title="e\u0301"),
        TaskPatch(labels=["b", "a", "b"]),
        TaskPatch(due="2026-12-01T16:00:00+01:00"),
        TaskPatch(status="todo", priority="none", description=None, project=None),
    ],
)
def test_an_edit_that_changes_nothing_returns_the_very_same_task(patch: TaskPatch) -> None:
    task = made(title="é", labels=["a", "b"], due="2026-12-01T15:00:00Z")
    assert change(task, patch, now=LATER) is task


def test_a_day_and_the_instant_of_its_midnight_are_different_dues() -> None:
    task = made(due=date(2026, 12, 1))
    assert change(task, TaskPatch(due="2026-12-01T00:00:00Z"), now=LATER).version == 2


def test_a_writer_who_saw_an_older_version_is_told_the_current_one() -> None:
    task = change(made(), TaskPatch(title="new"), now=LATER)
    require_version(task, None)
    require_version(task, 2)
    for stale in (1, 3, 0, -1):
        with pytest.raises(StaleTask) as caught:
            require_version(task, stale)
        assert caught.value.extra == {"id": 7, "current_version": 2}


@given(new_tasks, st.lists(patches, max_size=8))
def test_whatever_is_edited_the_invariants_hold(new: NewTask, edits: list[TaskPatch]) -> None:
    task = create(new, id=1, uid=UID, now=NOW)
    started = task.started_at
    for step, patch in enumerate(edits, start=1):
        before, now = task, NOW + timedelta(seconds=step)
        try:
            task = change(before, patch, now=now)
        except Conflict:
            assert isinstance(patch.status, str)
            assert (before.status, patch.status) not in TRANSITIONS
            continue
        named = {name: value for name, value in msgspec.structs.asdict(patch).items() if value is not msgspec.UNSET}
        assert all(getattr(task, name) == value for name, value in named.items())
        if task is before:
            assert all(getattr(before, name) == value for name, value in named.items())
            continue
        assert task.version == before.version + 1
        assert task.updated_at == now
        assert (task.id, task.uid, task.created_at) == (before.id, before.uid, before.created_at)
        assert (task.completed_at is not None) == (task.status == "done")
        if started is None and task.status == "in_progress":
            started = now
        assert task.started_at == started


@given(new_tasks, patches)
def test_the_same_edit_twice_changes_once(new: NewTask, patch: TaskPatch) -> None:
    task = create(new, id=1, uid=UID, now=NOW)
    try:
        once = change(task, patch, now=LATER)
    except Conflict:
        return
    assert change(once, patch, now=LATER + timedelta(1)) is once


@pytest.mark.parametrize(
    "make",
    [
        lambda: Changeset(()),
        lambda: Changeset((Add(NewTask(title="t")),) * 501),
        lambda: Changeset((Add(NewTask(title="t")),), message="two\nlines"),
        lambda: Changeset((Add(NewTask(title="t")),), message=""),
        lambda: TaskQuery(limit=0),
        lambda: TaskQuery(limit=-1),
        lambda: TaskQuery(sort=("colour",)),
        lambda: TaskQuery(sort=("--id",)),
        lambda: TaskQuery(sort=("",)),
        lambda: TaskQuery(sort=("due", "-due")),
        lambda: History(id=1, limit=0),
        lambda: ChangesSince(since=-1),
        lambda: ChangesSince(limit=0),
        lambda: ChangesSince(limit=1001),
    ],
)
def test_a_question_that_makes_no_sense_is_refused_before_it_is_asked(make: Any) -> None:
    with pytest.raises(InvalidRequest):
        make()


def test_a_batch_of_500_is_the_largest() -> None:
    assert len(Changeset((Add(NewTask(title="t")),) * 500).operations) == 500
