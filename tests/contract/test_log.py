"""The log: the history of a task, and the changes of the workspace."""

from datetime import UTC, datetime
from uuid import uuid4

import pytest

from taskctl import Add, Changeset, CursorExpired, Edit, NewTask, Remove, TaskNotFound, TaskPatch, TaskService
from tests.contract.stacks import Stack
from tests.contract.told import failure_of


async def test_a_history_tells_newest_first_what_became_what(tasks: TaskService) -> None:
    task = await tasks.add(NewTask(title="a", labels=["x"], due="2026-12-01", priority="low"))
    done = await tasks.edit(1, TaskPatch(status="done", labels=["x", "y"], due="2026-12-01T10:00:00Z"))
    await tasks.edit(1, TaskPatch(due=None, priority="low"))
    await tasks.remove(1)
    removal, cleared, edit, add = (await tasks.history(1)).items
    assert [(e.seq, e.op, e.version, e.entity, e.id) for e in (add, edit, cleared, removal)] == [
        (1, "add", 1, "task", 1),
        (2, "edit", 2, "task", 1),
        (3, "edit", 3, "task", 1),
        (4, "remove", 4, "task", 1),
    ]
    stamp = task.created_at.isoformat().replace("+00:00", "Z")
    whole = {
        "id": 1,
        "uid": str(task.uid),
        "title": "a",
        "description": None,
        "status": "todo",
        "priority": "low",
        "project": None,
        "labels": ["x"],
        "due": "2026-12-01",
        "started_at": None,
        "completed_at": None,
        "created_at": stamp,
        "updated_at": stamp,
        "version": 1,
    }
    assert done.completed_at is not None
    completed = done.completed_at.isoformat().replace("+00:00", "Z")
    assert (add.before, add.after) == (None, whole)
    assert edit.before == {"status": "todo", "labels": ["x"], "due": "2026-12-01", "completed_at": None}
    assert edit.after == {"status": "done", "labels": ["x", "y"], "due": "2026-12-01T10:00:00Z", "completed_at": completed}
    assert (cleared.before, cleared.after) == ({"due": "2026-12-01T10:00:00Z"}, {"due": None})
    assert removal.after is None
    assert removal.before is not None
    assert (removal.before["status"], removal.before["due"], removal.before["version"]) == ("done", None, 3)
    assert add.at == task.created_at
    assert edit.at == done.updated_at
    assert add.at <= edit.at <= cleared.at <= removal.at <= datetime.now(UTC)


async def test_a_removed_task_has_a_history_by_id_and_by_uid(tasks: TaskService) -> None:
    uid = uuid4()
    await tasks.add(NewTask(title="a", uid=uid))
    await tasks.remove(1)
    assert [e.op for e in (await tasks.history(1)).items] == ["remove", "add"]
    assert await tasks.history(uid) == await tasks.history(1)
    await tasks.add(NewTask(title="b", uid=uid))
    assert [(e.id, e.op) for e in (await tasks.history(uid)).items] == [(2, "add")]
    await tasks.remove(uid)
    assert [(e.id, e.op) for e in (await tasks.history(uid)).items] == [(2, "remove"), (2, "add")]
    assert [(e.id, e.op) for e in (await tasks.history(1)).items] == [(1, "remove"), (1, "add")]


async def test_what_never_was_has_no_history(tasks: TaskService) -> None:
    uid = uuid4()
    assert await failure_of(tasks.history(1)) == (TaskNotFound, "there is no task 1", {"id": 1})
    assert await failure_of(tasks.history(uid)) == (TaskNotFound, f"there is no task {uid}", {"id": str(uid)})


@pytest.mark.parametrize("limit", [1, 2, 7, None])
async def test_a_history_has_pages_that_stand_still(tasks: TaskService, limit: int | None) -> None:
    await tasks.add(NewTask(title="0"))
    await tasks.add(NewTask(title="another"))
    for n in range(1, 7):
        await tasks.edit(1, TaskPatch(title=str(n)))
    seen, cursor = [], None
    while True:
        page = await tasks.history(1, limit=limit, cursor=cursor)
        seen += [entry.version for entry in page.items]
        if page.next_cursor is None:
            break
        cursor = page.next_cursor
        await tasks.edit(1, TaskPatch(title=f"later {cursor}"))
    assert seen == [7, 6, 5, 4, 3, 2, 1]


async def test_a_history_of_hundreds_comes_whole_if_no_limit_is_set(tasks: TaskService) -> None:
    edits = tuple(Edit(1, TaskPatch(title=str(n))) for n in range(449))
    await tasks.write(Changeset((Add(NewTask(title="t")), *edits)))
    assert [e.version for e in (await tasks.history(1, limit=None)).items] == list(range(450, 0, -1))
    assert len((await tasks.history(1)).items) == 50


async def test_the_log_of_an_empty_workspace_is_empty(tasks: TaskService) -> None:
    changes = await tasks.changes()
    assert (changes.items, changes.next, changes.more) == ((), 0, False)
    assert changes.epoch


async def test_the_log_can_be_followed_from_any_place(tasks: TaskService) -> None:
    await tasks.write(Changeset(tuple(Add(NewTask(title=str(n))) for n in range(10))))
    await tasks.remove(3)
    first = await tasks.changes(limit=4)
    assert ([e.seq for e in first.items], first.next, first.more) == ([1, 2, 3, 4], 4, True)
    rest = await tasks.changes(first.next, epoch=first.epoch)
    assert ([e.seq for e in rest.items], rest.next, rest.more) == ([5, 6, 7, 8, 9, 10, 11], 11, False)
    assert (rest.items[-1].op, rest.items[-1].id) == ("remove", 3)
    assert (await tasks.changes(4, limit=7)).more is False
    end = await tasks.changes(rest.next, epoch=rest.epoch)
    assert (end.items, end.next, end.more, end.epoch) == ((), 11, False, first.epoch)
    await tasks.add(NewTask(title="new"))
    assert [e.seq for e in (await tasks.changes(end.next, epoch=end.epoch)).items] == [12]


async def test_the_log_comes_a_thousand_at_a_time(tasks: TaskService) -> None:
    for _ in range(3):
        await tasks.write(Changeset(tuple(Add(NewTask(title="t")) for _ in range(400))))
    first = await tasks.changes(limit=1000)
    assert (len(first.items), first.more) == (1000, True)
    assert len((await tasks.changes()).items) == 100


@pytest.mark.parametrize("since", [2, 100, 2**62])
async def test_a_place_beyond_the_head_is_of_another_history(tasks: TaskService, since: int) -> None:
    await tasks.add(NewTask(title="t"))
    failure, detail, extra = await failure_of(tasks.changes(since))
    assert failure is CursorExpired
    assert str(since) in detail
    assert extra == {"epoch": (await tasks.changes()).epoch}


async def test_another_epoch_is_another_history(tasks: TaskService) -> None:
    await tasks.add(NewTask(title="t"))
    epoch = (await tasks.changes()).epoch
    for other in ("", "0" * 16, epoch.upper() + "x"):
        failure, _, extra = await failure_of(tasks.changes(1, epoch=other))
        assert (failure, extra) == (CursorExpired, {"epoch": epoch})


async def test_the_log_says_by_which_way_a_write_came(tasks: TaskService, stack: Stack) -> None:
    await tasks.add(NewTask(title="t"))
    [entry] = (await tasks.changes()).items
    assert (entry.actor, entry.source) == (None, stack.source)


async def test_the_log_says_who_wrote(tasks: TaskService, stack: Stack) -> None:
    ann = tasks.scoped(actor="Ann 🚀", source="import")
    await ann.add(NewTask(title="t"))
    await tasks.add(NewTask(title="u"))
    await ann.write(Changeset((Edit(1, TaskPatch(title="v")), Remove(2))))
    by_ann = ("Ann 🚀", "import") if stack.scopes else (None, stack.source)
    assert [(e.actor, e.source) for e in (await ann.changes()).items] == [by_ann, (None, stack.source), by_ann, by_ann]
    assert await ann.list() == await tasks.list()
