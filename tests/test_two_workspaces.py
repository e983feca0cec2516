"""Two workspaces on one server, doing everything: neither ever sees a byte of the other, and neither changes anything there."""

import asyncio
import json
import re
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import msgspec
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from taskctl import Settings, create_app
from taskctl.access import OWNER
from taskctl.server.requests import OPENED
from tests.postgres import database
from tests.redis import emptied
from tests.support import Api, bearing, minted

WHO = st.sampled_from(["amber", "birch"])
REF = st.integers(1, 6)
LABELS = st.sampled_from(["red", "blue"])
TERM = st.sampled_from(
    ["status:todo", "label:red", "not label:blue", "due:none", "project:none", "status:done", "milk", "id:1", "priority>=low"]
)
FILTER = st.recursive(TERM, lambda inner: st.builds("({} {} {})".format, inner, st.sampled_from(["or", "and"]), inner))
"""Filters as they would get out of a statement that lacks its parentheses."""


class Workspaces(RuleBasedStateMachine):
    """Everything that is written in a workspace bears its name, and the names of its tasks are kept here, as a model."""

    postgres: ClassVar = False

    @initialize()
    def begin(self) -> None:
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.tasks: dict[str, dict[int, str]] = {"amber": {}, "birch": {}}
        self.next = {"amber": 1, "birch": 1}
        self.uids: dict[str, list[str]] = {"amber": [], "birch": []}
        self.cursors: list[tuple[str, str, str]] = []
        self.seen: dict[str, list[str]] = {"amber": [], "birch": []}
        self.tokens: dict[str, str] = {}
        self.ids: dict[str, list[str]] = {"amber": [], "birch": []}
        self._do(self._begun())

    async def _begun(self) -> None:
        folder = self.stack.enter_context(TemporaryDirectory())
        settings = Settings(database_url=f"sqlite:///{folder}/tasks.db", auth="tokens")
        if self.postgres:
            url, redis = self.stack.enter_context(database()), self.stack.enter_context(emptied())
            settings = Settings(database_url=url, auth="tokens", redis_url=redis, redis_tasks=True)
        server = TestServer(create_app(msgspec.structs.replace(settings, rate_limit_token="off", rate_limit_address="off")))
        self.api: Api = await self.stack.enter_async_context(TestClient[web.Request, web.Application](server))
        assert self.api.app is not None
        store = self.api.app[OPENED].tokens
        assert store is not None
        for who in ("amber", "birch"):
            await store.access(OWNER).add_workspace(who)
            token = await minted(self.api, "admin", workspace=who)
            self.tokens[who] = token.secret
            self.ids[who].append(token.token.id)

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    def _ask(self, who: str, method: str, path: str, body: Any = None, **headers: str) -> tuple[ClientResponse, Any]:
        """Send a request, and look whether the answer has anything of the other one."""

        async def asked() -> tuple[ClientResponse, str]:
            shown = {**bearing(self.tokens[who]), **{name.replace("_", "-"): value for name, value in headers.items()}}
            answer = await self.api.request(method, f"/api/v1/{path}", json=body, headers=shown)
            return answer, await answer.text()

        answer, text = self._do(asked())
        assert answer.status < 500, text
        other = _other(who)
        whole = text + str(answer.headers)
        for own in re.findall(r"[0-9a-f-]{36}", path + json.dumps(body)):  # what was asked for may be in the answer
            whole = whole.replace(own, "")
        assert f"{other}'s" not in whole
        assert not [secret for secret in (*self.uids[other], *self.ids[other]) if secret in whole]
        if seen := answer.headers.get("X-Taskctl-Seq"):
            self.seen[who].append(seen)
        return answer, json.loads(text) if text else None

    def _took(self, who: str, answer: ClientResponse, task: Any) -> None:
        if answer.status == 201:
            assert task["id"] == self.next[who]
            self.tasks[who][task["id"]] = task["title"]
            self.next[who] += 1
            self.uids[who].append(task["uid"])

    @rule(who=WHO, title=st.sampled_from(["milk", "bread"]), label=LABELS, key=st.sampled_from([None, "k1", "k2"]))
    def add(self, who: str, title: str, label: str, key: str | None) -> None:
        headers = {"Idempotency_Key": key} if key else {}
        body = {"title": f"{who}'s {title}", "labels": [label], "project": f"{who}'s.project"}
        answer, task = self._ask(who, "POST", "tasks", body, **headers)
        assert answer.status in ((201, 422) if key else (201,))
        if answer.headers.get("Idempotency-Replayed") == "true":
            assert task["title"] == body["title"]
        else:
            self._took(who, answer, task)

    @rule(who=WHO, id=REF, status=st.sampled_from(["todo", "done"]))
    def edit(self, who: str, id: int, status: str) -> None:
        answer, task = self._ask(who, "PATCH", f"tasks/{id}", {"status": status})
        assert answer.status == (200 if id in self.tasks[who] else 404)
        assert answer.status == 404 or task["title"] == self.tasks[who][id]

    @rule(who=WHO, id=REF)
    def remove(self, who: str, id: int) -> None:
        answer, _ = self._ask(who, "DELETE", f"tasks/{id}")
        assert answer.status == (204 if self.tasks[who].pop(id, None) else 404)

    @precondition(lambda self: all(self.uids.values()))
    @rule(who=WHO, data=st.data(), method=st.sampled_from(["GET", "PATCH", "DELETE", "history", "batch", "add"]))
    def reach_for_a_task_of_the_other_one(self, who: str, data: st.DataObject, method: str) -> None:
        uid = data.draw(st.sampled_from(self.uids[_other(who)]))
        match method:
            case "history":
                answer, _ = self._ask(who, "GET", f"tasks/{uid}/history")
            case "batch":
                operations = [{"op": "edit", "id": uid, "patch": {"title": f"{who}'s now"}}]
                answer, _ = self._ask(who, "POST", "batch", {"operations": operations})
            case "add":  # a task of one's own may have the same
                answer, task = self._ask(who, "POST", "tasks", {"title": f"{who}'s copy", "uid": uid})
                assert answer.status == 201
                self._took(who, answer, task)
                for uids in self.uids.values():  # from now on it tells nothing of whose it is
                    while uid in uids:
                        uids.remove(uid)
                return
            case _:
                answer, _ = self._ask(who, method, f"tasks/{uid}", {"title": f"{who}'s now"} if method == "PATCH" else None)
        assert answer.status == 404

    @rule(who=WHO, filter=FILTER, sort=st.sampled_from(["id", "-priority,title", "updated_at"]), limit=st.sampled_from([1, 50]))
    def list(self, who: str, filter: str, sort: str, limit: int) -> None:
        answer, page = self._ask(who, "GET", f"tasks?filter={filter}&sort={sort}&limit={limit}", Prefer="count=exact")
        assert answer.status == 200, page
        assert all(self.tasks[who][task["id"]] == task["title"] for task in page["items"])
        assert page["total"] <= len(self.tasks[who])
        if page["next_cursor"]:
            self.cursors.append((who, f"tasks?filter={filter}&sort={sort}&limit={limit}", page["next_cursor"]))

    @precondition(lambda self: self.cursors)
    @rule(who=WHO, data=st.data())
    def go_on(self, who: str, data: st.DataObject) -> None:
        owner, path, cursor = data.draw(st.sampled_from(self.cursors))
        answer, _ = self._ask(who, "GET", f"{path}&cursor={cursor}")
        assert answer.status == (200 if who == owner else 400)

    @rule(who=WHO, path=st.sampled_from(["changes", "projects", "labels", "stats", "tokens", "me", "cache", "tasks/1/history"]))
    def look_around(self, who: str, path: str) -> None:
        _, found = self._ask(who, "GET", path)
        match path:
            case "stats":
                assert sum(found["counts"].values()) == len(self.tasks[who])
            case "labels":
                assert sum(sum(label["counts"].values()) for label in found["items"]) <= len(self.tasks[who])
            case "me":
                assert found["workspace"] == who

    @rule(who=WHO)
    def have_seen_what_the_other_one_saw(self, who: str) -> None:
        for seen in self.seen[_other(who)][-1:]:
            answer, page = self._ask(who, "GET", "tasks", X_Taskctl_Seq=seen)
            assert answer.status == 200
            assert {task["id"] for task in page["items"]} == set(self.tasks[who])

    @rule(who=WHO)
    def make_a_token(self, who: str) -> None:
        answer, made = self._ask(who, "POST", "tokens", {"name": f"n{len(self.ids[who])}", "scopes": ["admin"]})
        assert answer.status == 201
        self.ids[who].append(made["token"]["id"])
        self.tokens[who] = made["secret"]

    @rule(who=WHO)
    def reach_for_a_token_of_the_other_one(self, who: str) -> None:
        id = self.ids[_other(who)].pop(0)  # what is asked for may be in the answer
        answer, _ = self._ask(who, "DELETE", f"tokens/{id}")
        assert answer.status == 404
        self.ids[_other(who)].append(id)
        answer, _ = self._ask(who, "GET", "tokens?workspace=default")
        assert answer.status == 403

    @invariant()
    def each_has_what_it_wrote_and_nothing_else(self) -> None:
        for who, tasks in self.tasks.items():
            _, page = self._ask(who, "GET", "tasks")
            assert {task["id"]: task["title"] for task in page["items"]} == tasks

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self._do(self.stack.aclose())
            self.runner.close()


def _other(who: str) -> str:
    return "birch" if who == "amber" else "amber"


class WorkspacesOnPostgres(Workspaces):
    """The same on PostgreSQL, with a Redis."""

    postgres: ClassVar = True


TestWorkspaces = Workspaces.TestCase
TestWorkspacesOnPostgres = WorkspacesOnPostgres.TestCase
