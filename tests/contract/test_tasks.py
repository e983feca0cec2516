"""One task at a time: add, get, edit, remove; versions, ids and uids."""

from datetime import UTC, date, datetime, timedelta
from uuid import UUID, uuid4

import msgspec
import pytest

from taskctl import Conflict, NewTask, StaleTask, Task, TaskNotFound, TaskPatch, TaskService
from taskctl.tasks import Ref
from tests.contract.told import failure_of
from tests.strategies import NASTY_LINES


async def test_a_task_with_only_a_title_has_the_defaults(tasks: TaskService) -> None:
    start = datetime.now(UTC)
    task = await tasks.add(NewTask(title="Buy milk"))
    assert start - timedelta(seconds=1) < task.created_at <= datetime.now(UTC) + timedelta(seconds=1)
    assert task == Task(
        id=1,
        uid=task.uid,
        title="Buy milk",
        description=None,
        status="todo",
        priority="none",
        project=None,
        labels=(),
        due=None,
        started_at=None,
        completed_at=None,
        created_at=task.created_at,
        updated_at=task.created_at,
        version=1,
    )
    assert task.uid.version == 7
    assert await tasks.get(1) == task


async def test_a_task_comes_back_as_it_was_given(tasks: TaskService) -> None:
    uid = uuid4()
    new = NewTask(
        title="Title",
        description="# Heading\n\n- item\ttab\r\n",
        status="in_progress",
        priority="urgent",
        project="work.api",
        labels=["b", "a"],
        due=datetime(2026, 12, 1, 15, 0, 0, 123456, tzinfo=UTC),
        uid=uid,
    )
    task = await tasks.add(new)
    assert {name: getattr(task, name) for name in new.__struct_fields__} == msgspec.structs.asdict(new)
    assert task.started_at == task.created_at
    assert await tasks.get(task.id) == await tasks.get(uid) == task


@pytest.mark.parametrize("text", NASTY_LINES.values(), ids=NASTY_LINES)
async def test_texts_come_back_to_the_letter(tasks: TaskService, text: str) -> None:
    project = text.replace(".", "·")
    task = await tasks.add(NewTask(title=text, description=f"{text}\n\t{text}", project=project, labels=[text, "a"]))
    assert (task.title, task.description, task.project) == (text, f"{text}\n\t{text}", project)
    assert task.labels == tuple(sorted([text, "a"]))
    assert await tasks.get(task.id) == task
    assert (await tasks.projects()).items[0].name == project
    changed = await tasks.edit(task.id, TaskPatch(title=f"{text}x"))
    assert changed.title == f"{text}x"
    [edit, add] = (await tasks.history(task.id)).items
    assert edit.before == {"title": text}
    assert add.after is not None
    assert (add.after["title"], add.after["labels"]) == (text, list(task.labels))


@pytest.mark.parametrize("title", ["x" * 500, "🚀" * 500])
async def test_the_longest_task_fits(tasks: TaskService, title: str) -> None:
    labels = [f"{n:02}" + "ü" * 58 for n in range(50)]
    new = NewTask(title=title, description="é" * 32768, project="p" * 100, labels=labels)
    task = await tasks.add(new)
    assert await tasks.get(task.id) == task
    assert (task.title, task.description, list(task.labels)) == (title, "é" * 32768, labels)


@pytest.mark.parametrize(
    "due",
    [
        date.min,
        date(1969, 12, 31),
        date(1970, 1, 1),
        date.max,
        datetime.min.replace(tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(2026, 12, 1, tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
    ],
    ids=str,
)
async def test_every_due_of_the_calendar_comes_back(tasks: TaskService, due: date | datetime) -> None:
    task = await tasks.get((await tasks.add(NewTask(title="t", due=due))).id)
    assert (task.due, type(task.due)) == (due, type(due))


async def test_an_edit_makes_the_next_version(tasks: TaskService) -> None:
    task = await tasks.add(NewTask(title="old", labels=["a"], due="2026-12-01"))
    changed = await tasks.edit(task.id, TaskPatch(title="new", labels=[]))
    assert changed == msgspec.structs.replace(task, title="new", labels=(), version=2, updated_at=changed.updated_at)
    assert changed.updated_at >= task.updated_at
    assert await tasks.get(task.id) == changed


async def test_null_clears_and_what_is_left_out_stays(tasks: TaskService) -> None:
    task = await tasks.add(NewTask(title="t", description="d", project="p", priority="high", due="2026-12-01"))
    cleared = await tasks.edit(task.id, TaskPatch(description=None, project=None, due=None))
    assert (cleared.description, cleared.project, cleared.due, cleared.priority) == (None, None, None, "high")


async def test_an_edit_that_changes_nothing_leaves_no_trace(tasks: TaskService) -> None:
    task = await tasks.add(NewTask(title="t", labels=["a", "b"]))
    for patch in (TaskPatch(), TaskPatch(title="t", labels=["b", "a"], status="todo", due=None)):
        assert await tasks.edit(task.id, patch) == task
    assert [change.seq for change in (await tasks.changes()).items] == [1]


async def test_the_states_of_a_task_set_its_times(tasks: TaskService) -> None:
    task = await tasks.add(NewTask(title="t"))
    started = await tasks.edit(task.id, TaskPatch(status="in_progress"))
    assert started.started_at == started.updated_at
    done = await tasks.edit(task.id, TaskPatch(status="done"))
    assert (done.started_at, done.completed_at) == (started.started_at, done.updated_at)
    reopened = await tasks.edit(task.id, TaskPatch(status="todo"))
    assert (reopened.started_at, reopened.completed_at) == (started.started_at, None)
    assert reopened.version == 4


async def test_an_impossible_transition_is_a_conflict_and_changes_nothing(tasks: TaskService) -> None:
    task = await tasks.add(NewTask(title="t", status="done"))
    failure, detail, extra = await failure_of(tasks.edit(task.id, TaskPatch(status="cancelled", title="other")))
    assert failure is Conflict
    assert detail == "task 1 is done, and from there it cannot become cancelled; reopen it first"
    assert extra["id"] == 1
    assert "done" in extra.values()
    assert await tasks.get(task.id) == task


async def test_a_writer_who_has_seen_this_version_may_write(tasks: TaskService) -> None:
    task = await tasks.add(NewTask(title="t"))
    assert (await tasks.edit(task.id, TaskPatch(title="u"), if_version=1)).version == 2
    await tasks.remove(task.id, if_version=2)
    assert (await failure_of(tasks.get(task.id)))[0] is TaskNotFound


@pytest.mark.parametrize("seen", [1, 3, 0, -1])
async def test_a_writer_who_has_seen_another_version_is_stale(tasks: TaskService, seen: int) -> None:
    await tasks.add(NewTask(title="t"))
    task = await tasks.edit(1, TaskPatch(title="u"))
    stale = (StaleTask, f"task 1 is at version 2, not {seen}", {"id": 1, "current_version": 2})
    assert await failure_of(tasks.edit(1, TaskPatch(title="v"), if_version=seen)) == stale
    assert await failure_of(tasks.edit(1, TaskPatch(), if_version=seen)) == stale
    assert await failure_of(tasks.remove(1, if_version=seen)) == stale
    assert await tasks.get(1) == task


@pytest.mark.parametrize("id", [2, 0, -1, 10**17, 2**63 - 1, 2**63, 2**70, -(2**70), UUID(int=7)], ids=str)
async def test_a_task_that_never_was_is_not_found(tasks: TaskService, id: Ref) -> None:
    await tasks.add(NewTask(title="t"))
    is_number = isinstance(id, int) and -(2**63) <= id < 2**63  # what every JSON reader has as a whole number
    missing = (TaskNotFound, f"there is no task {id}", {"id": id if is_number else str(id)})
    assert await failure_of(tasks.get(id)) == missing
    assert await failure_of(tasks.edit(id, TaskPatch(title="u"))) == missing
    assert await failure_of(tasks.edit(id, TaskPatch(title="u"), if_version=1)) == missing
    assert await failure_of(tasks.remove(id)) == missing
    assert await failure_of(tasks.history(id)) == missing
    assert (await tasks.changes()).next == 1


async def test_a_removed_task_is_gone(tasks: TaskService) -> None:
    task = await tasks.add(NewTask(title="t", labels=["a"], project="p"))
    await tasks.remove(task.id)
    for ref in (task.id, task.uid):
        missing = (TaskNotFound, f"there is no task {ref}", {"id": ref if isinstance(ref, int) else str(ref)})
        assert await failure_of(tasks.get(ref)) == missing
        assert await failure_of(tasks.edit(ref, TaskPatch(title="u"))) == missing
        assert await failure_of(tasks.remove(ref)) == missing
    assert (await tasks.list()).items == ()
    assert (await tasks.projects()).items == (await tasks.labels()).items == ()


async def test_ids_are_never_used_again(tasks: TaskService) -> None:
    for _ in range(3):
        await tasks.add(NewTask(title="t"))
    await tasks.remove(3)
    await tasks.remove(1)
    assert (await tasks.add(NewTask(title="t"))).id == 4


async def test_a_uid_names_a_task_in_every_call(tasks: TaskService) -> None:
    task = await tasks.add(NewTask(title="t"))
    changed = await tasks.edit(task.uid, TaskPatch(title="u"), if_version=1)
    assert changed == await tasks.get(task.uid) == await tasks.get(task.id)
    assert len((await tasks.history(task.uid)).items) == 2
    await tasks.remove(task.uid, if_version=2)
    assert (await tasks.list()).items == ()


async def test_a_uid_that_is_taken_is_a_conflict(tasks: TaskService) -> None:
    uid = uuid4()
    await tasks.add(NewTask(title="other"))
    task = await tasks.add(NewTask(title="t", uid=uid))
    taken = (Conflict, f"there is a task with the uid {uid} already", {"id": task.id})
    assert await failure_of(tasks.add(NewTask(title="u", uid=uid))) == taken
    assert (await tasks.add(NewTask(title="v"))).id == 3


async def test_a_removed_task_gives_its_uid_up(tasks: TaskService) -> None:
    uid = uuid4()
    await tasks.add(NewTask(title="t", uid=uid))
    await tasks.remove(1)
    again = await tasks.add(NewTask(title="u", uid=uid))
    assert again.id == 2
    assert await tasks.get(uid) == again


async def test_a_dry_run_answers_and_writes_nothing(tasks: TaskService) -> None:
    task = await tasks.add(NewTask(title="t"))
    added = await tasks.add(NewTask(title="u"), dry_run=True)
    assert (added.id, added.title, added.version) == (2, "u", 1)
    edited = await tasks.edit(1, TaskPatch(title="u"), dry_run=True)
    assert (edited.title, edited.version) == ("u", 2)
    await tasks.remove(1, dry_run=True)
    assert (await failure_of(tasks.remove(9, dry_run=True)))[0] is TaskNotFound
    assert (await failure_of(tasks.edit(1, TaskPatch(), if_version=5, dry_run=True)))[0] is StaleTask
    assert (await tasks.list()).items == (task,)
    assert [change.seq for change in (await tasks.changes()).items] == [1]
    assert (await tasks.add(NewTask(title="v"))).id == 2
    assert (await tasks.changes()).next == 2


async def test_a_service_that_serves_is_ready(tasks: TaskService) -> None:
    await tasks.ready()
