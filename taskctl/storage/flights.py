"""Reads that arrive together are sent together.

Single tasks that are asked for while others are on their way become one query; equal questions that wait to be sent share
one. A question that is sent already is never shared: its snapshot may be older than the one who asks.
"""

import asyncio
import time
from collections import deque
from collections.abc import Coroutine
from contextvars import Context, copy_context
from typing import Any, NamedTuple, TypeAlias

from taskctl.errors import Overloaded, Unavailable
from taskctl.observe import Observer, ReadShared, on_behalf_of
from taskctl.storage.sql import Questions
from taskctl.tasks import GetTask, Query, Read, Ref, Task, no_task

TASKS_MAX = 500
"""Tasks asked for in one query."""
WAITING_MAX = 10_000
"""Different questions that wait."""


class _Asker(NamedTuple):
    """Somebody who waits for an answer."""

    answer: asyncio.Future[Any]
    context: Context
    since: float


_Askers: TypeAlias = list[_Asker]


class Flights:
    """Puts questions to the database, at most `width` statements at a time, and of single tasks two per workspace.

    patience: seconds after which a question that still waits to be sent is Overloaded instead.
    """

    def __init__(self, questions: Questions, observer: Observer, *, width: int, patience: float) -> None:
        self._questions = questions
        self._observer = observer
        self._width = width
        self._patience = patience
        self._waiting: dict[tuple[str, Query[Any]], _Askers] = {}
        self._queue: deque[tuple[str, Query[Any]]] = deque()
        self._refs: dict[str, dict[Ref, _Askers]] = {}
        self._flying: dict[str, int] = {}
        self._others = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    async def ask(self, workspace: str, query: Query[Any]) -> Read[Any]:
        """Return the answer to a question. Raises what the database says instead."""
        if self._closed:
            raise Unavailable("the service is being closed")
        waiting = len(self._waiting) + sum(map(len, self._refs.values()))
        if waiting >= WAITING_MAX:
            raise Overloaded(f"{waiting} questions are waiting to be answered already")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Read[Any]] = loop.create_future()
        asker = _Asker(answer, copy_context(), time.monotonic())
        if isinstance(query, GetTask):
            refs = self._refs.setdefault(workspace, {})
            if not refs:
                loop.call_soon(self._send_refs, workspace)
            refs.setdefault(query.id, []).append(asker)
        else:
            try:
                hash(query)
            except TypeError:  # a list somewhere in it: nothing can be equal to it
                return await self._questions.answer(workspace, query)
            key = (workspace, query)
            if (askers := self._waiting.get(key)) is not None:
                askers.append(asker)
            else:
                self._waiting[key] = [asker]
                self._queue.append(key)
                self._send_others()
        return await answer

    async def close(self) -> None:
        """Take nothing more, and return when all that was asked is answered."""
        self._closed = True
        while self._tasks or self._refs:
            await (asyncio.wait(self._tasks) if self._tasks else asyncio.sleep(0))

    def _start(self, work: Coroutine[Any, Any, None], askers: _Askers) -> None:
        contexts = [asker.context for asker in askers if not asker.answer.done()]
        task = asyncio.create_task(work, context=on_behalf_of(contexts))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _send_refs(self, workspace: str) -> None:
        refs = self._refs.get(workspace)
        if not refs or self._flying.get(workspace, 0) >= 2:
            return
        if len(refs) <= TASKS_MAX:
            del self._refs[workspace]
        else:
            refs = {ref: refs.pop(ref) for ref in list(refs)[:TASKS_MAX]}
        sent = {ref: askers for ref, askers in refs.items() if not self._late(askers)}
        self._flying[workspace] = self._flying.get(workspace, 0) + 1
        askers = [asker for askers in sent.values() for asker in askers]
        self._start(self._fly_refs(workspace, sent, askers), askers)

    def _late(self, askers: _Askers) -> bool:
        """Return whether it is too late to ask: nobody waits any more, or for so long that they are told so."""
        if all(asker.answer.done() for asker in askers):
            return True
        if time.monotonic() - askers[0].since <= self._patience:
            return False
        _fail(askers, Overloaded(f"the database has been busy with other questions for {self._patience:g} s"))
        return True

    async def _fly_refs(self, workspace: str, refs: dict[Ref, _Askers], all_of_them: _Askers) -> None:
        try:
            found = Read(dict[Ref, Task](), "")
            if refs:
                found = await self._for(all_of_them, self._questions.tasks(workspace, list(refs)))
        except Exception as e:
            for askers in refs.values():
                _fail(askers, e)
        else:
            for ref, askers in refs.items():
                if (task := found.value.get(ref)) is not None:
                    _tell(askers, Read(task, found.at))
                else:
                    _fail(askers, no_task(ref, found.at))
        finally:
            self._flying[workspace] -= 1
            if not self._flying[workspace]:
                del self._flying[workspace]
            self._send_refs(workspace)

    async def _for(self, askers: _Askers, asked: Coroutine[Any, Any, Read[Any]]) -> Read[Any]:
        """Put a question, and tell if several waited for the answer."""
        started = time.perf_counter()
        try:
            return await asked
        finally:
            if len(askers) > 1:
                self._observer(ReadShared([asker.context for asker in askers], time.perf_counter() - started))

    def _send_others(self) -> None:
        while self._queue and self._others < self._width:
            key = self._queue.popleft()
            askers = self._waiting.pop(key)
            if self._late(askers):
                continue
            self._others += 1
            self._start(self._fly_other(*key, askers), askers)

    async def _fly_other(self, workspace: str, query: Query[Any], askers: _Askers) -> None:
        try:
            _tell(askers, await self._for(askers, self._questions.answer(workspace, query)))
        except Exception as e:
            _fail(askers, e)
        finally:
            self._others -= 1
            self._send_others()


def _tell(askers: _Askers, answer: object) -> None:
    for asker in askers:
        if not asker.answer.done():  # whoever asked may be gone
            asker.answer.set_result(answer)


def _fail(askers: _Askers, e: Exception) -> None:
    for asker in askers:
        if not asker.answer.done():
            asker.answer.set_exception(e)
