"""Idempotency keys: what is sent twice happens once."""

import asyncio
import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taskctl import (
    Add,
    Changeset,
    Edit,
    IdempotencyKey,
    IdempotencyMismatch,
    InvalidRequest,
    NewTask,
    Remove,
    TaskNotFound,
    TaskPatch,
    TaskQuery,
    TaskService,
    fields,
)
from tests.contract.stacks import Stack
from tests.contract.told import failure_of
from tests.strategies import examples

KEY = IdempotencyKey("a-key")


def adding(*titles: str) -> Changeset:
    return Changeset(tuple(Add(NewTask(title=title)) for title in titles))


async def test_what_is_sent_again_gets_the_first_answer(tasks: TaskService) -> None:
    first = await tasks.write(adding("a", "b"), key=KEY)
    await tasks.edit(1, TaskPatch(title="changed"))
    again = await tasks.write(adding("a", "b"), key=KEY)
    assert (again.changeset, again.seq, again.results) == (first.changeset, first.seq, first.results)
    assert (first.replayed, again.replayed) == (False, True)
    assert [task.title for task in (await tasks.list()).items] == ["b", "changed"]
    assert len((await tasks.changes()).items) == 3


@pytest.mark.parametrize(
    "other",
    [
        adding("b"),
        adding("a", "a"),
        Changeset(adding("a").operations, atomic=False),
        Changeset(adding("a").operations, message="m"),
        Changeset((Remove(1),)),
    ],
)
async def test_a_key_of_another_request_is_refused(tasks: TaskService, other: Changeset) -> None:
    await tasks.write(adding("a"), key=KEY)
    failure, detail, _ = await failure_of(tasks.write(other, key=KEY))
    assert (failure, detail) == (IdempotencyMismatch, "the idempotency key 'a-key' belongs to another request")
    assert len((await tasks.changes()).items) == 1


async def test_other_keys_and_none_are_other_writes(tasks: TaskService) -> None:
    for key in (KEY, IdempotencyKey("another"), None, None, KEY):
        await tasks.write(adding("a"), key=key)
    assert [task.id for task in (await tasks.list()).items] == [4, 3, 2, 1]


async def test_all_kinds_of_results_come_again(tasks: TaskService) -> None:
    await tasks.write(adding("a", "b"))
    operations = (Edit(1, TaskPatch(title="c")), Remove(2), Remove(9), Add(NewTask(title="d", due="2030-01-01", labels=["l"])))
    changes = Changeset(operations, atomic=False)
    first, again = [await tasks.write(changes, key=KEY) for _ in range(2)]
    assert again.replayed
    assert again.results[:2] == first.results[:2]
    assert again.results[3] == first.results[3]
    failure = again.results[2]
    assert isinstance(failure, TaskNotFound)
    assert (failure.detail, failure.extra) == ("there is no task 9", {"id": 9})


async def test_what_changed_nothing_is_answered_again_and_failures_are_tried_again(tasks: TaskService) -> None:
    late = Changeset((Edit(1, TaskPatch(title="a")),), atomic=False)
    for atomic in (True, False):
        changes = Changeset(late.operations, atomic=atomic)
        for _ in range(2):
            if atomic:
                assert (await failure_of(tasks.write(changes, key=KEY)))[0] is TaskNotFound
            else:
                written = await tasks.write(changes, key=KEY)
                assert not written.replayed
    await tasks.write(adding("a"))
    assert not (await tasks.write(late, key=KEY)).replayed  # it changes nothing, and has not failed
    assert (await tasks.write(late, key=KEY)).replayed
    assert len((await tasks.changes()).items) == 1


async def test_a_dry_run_uses_up_no_key(tasks: TaskService) -> None:
    tried = Changeset(adding("a").operations, dry_run=True)
    for _ in range(2):
        assert not (await tasks.write(tried, key=KEY)).replayed
    assert not (await tasks.write(adding("a"), key=KEY)).replayed
    assert (await tasks.write(adding("a"), key=KEY)).replayed


async def test_of_many_at_once_one_happens_and_all_get_its_answer(tasks: TaskService) -> None:
    keys = [IdempotencyKey(f"key-{n % 10}") for n in range(60)]
    found = await asyncio.gather(*(tasks.write(adding(key.name), key=key) for key in keys))
    assert sum(written.replayed for written in found) == 50
    assert len({written.changeset for written in found}) == 10
    assert sorted(task.title for task in (await tasks.list()).items) == [f"key-{n}" for n in range(10)]
    for key, written in zip(keys, found, strict=True):
        assert getattr(written.results[0], "title", None) == key.name


@pytest.mark.parametrize("name", ["", "a b", "é", "a\n", "x" * 256])
async def test_what_is_no_key_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="1 to 255 visible ASCII"):
        IdempotencyKey(name)


async def test_a_list_may_be_counted(tasks: TaskService) -> None:
    await tasks.write(adding(*"abcde"))
    await tasks.remove(2)
    assert (await tasks.list(TaskQuery(limit=2, count=True))).total == 4
    page = await tasks.list(TaskQuery(limit=2, count=True))
    assert (await tasks.list(TaskQuery(limit=2, count=True, cursor=page.next_cursor))).total == 4
    assert not isinstance((await tasks.list(TaskQuery(limit=2))).total, int)


async def test_an_answer_tells_how_new_it_is(tasks: TaskService) -> None:
    empty = (await tasks.ask(TaskQuery())).at
    written = await tasks.write(adding("a"))
    read = await tasks.ask(TaskQuery())
    assert read.at == written.at != empty
    assert (await tasks.write(adding("b"))).at != written.at
    assert read.at


async def test_a_dry_run_under_a_used_key_is_a_dry_run(tasks: TaskService) -> None:
    await tasks.write(adding("a"), key=KEY)
    tried = await tasks.write(Changeset(adding("a").operations, dry_run=True), key=KEY)
    assert not tried.replayed
    assert getattr(tried.results[0], "id", None) == 2


async def test_answers_come_again_whatever_became_of_the_tasks(tasks: TaskService) -> None:
    changes = Changeset((*adding("a").operations, Edit(1, TaskPatch(labels=["x"])), Edit(1, TaskPatch(labels=["x"]))))
    first = await tasks.write(changes, key=KEY)
    await tasks.remove(1)
    again = await tasks.write(changes, key=KEY)
    assert again.replayed
    assert again.results == first.results


async def test_what_a_key_was_asked_for_counts_or_is_refused(tasks: TaskService, stack: Stack) -> None:
    """A server works it out from the request, so there is no way to tell it: better no write than one under another key."""
    named = IdempotencyKey("a-key", "what was asked for")
    if not stack.scopes:
        failure, detail, _ = await failure_of(tasks.write(adding("a"), key=named))
        assert (failure, detail) == (
            InvalidRequest,
            "over a server a key stands for the request that is sent; leave out what it was asked for",
        )
        assert (await tasks.list()).items == ()
        return
    await tasks.write(adding("a"), key=named)
    assert (await tasks.write(adding("b"), key=named)).replayed
    assert (await failure_of(tasks.write(adding("a"), key=IdempotencyKey("a-key", "another"))))[0] is IdempotencyMismatch


NUMBERS = itertools.count()
AWKWARD = ["a,b", 'a"b', "a{b", "{}", '"', "\\", '\\"', "NULL", "null", ",", "a\\", "%s", "?", "'", '{"a","b"}', "!" * 255]


@settings(examples(0.5), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    st.lists(st.from_regex(fields.KEY, fullmatch=True) | st.text(",\"{}\\'%?a", min_size=1, max_size=6), max_size=5, unique=True)
)
async def test_any_key_is_one_key(tasks: TaskService, names: list[str]) -> None:
    prefix = next(NUMBERS)  # the tasks are those of the examples before, too
    keys = {IdempotencyKey(f"{prefix}{name}"[:255]) for name in names}
    for replayed in (False, True):
        found = await asyncio.gather(*(tasks.write(adding("a"), key=key) for key in keys))
        assert [answer.replayed for answer in found] == [replayed] * len(keys)


async def test_awkward_keys_are_keys_each_by_itself_and_all_at_once(tasks: TaskService) -> None:
    keys = [*map(IdempotencyKey, AWKWARD)]
    first = [await tasks.write(adding("a"), key=key) for key in keys]
    again = await asyncio.gather(*(tasks.write(adding("a"), key=key) for key in keys))
    assert [answer.seq for answer in first] == [answer.seq for answer in again] == [*range(1, len(keys) + 1)]


@pytest.mark.parametrize("key", ["a,b", '"a","b"', 'a","b', "{a,b}"])
async def test_a_key_that_looks_like_several_is_none_of_them(tasks: TaskService, key: str) -> None:
    for name in ("a", "b"):
        await tasks.write(adding(name), key=IdempotencyKey(name))
    written = await tasks.write(adding("a"), key=IdempotencyKey(key))
    assert (written.replayed, written.seq) == (False, 3)
    assert (await tasks.write(adding("a"), key=IdempotencyKey(key))).replayed
    assert (await tasks.write(adding("a"), key=IdempotencyKey("a"))).replayed
