"""The page `/docs` in a real browser: it works under its strict policy, with nothing from elsewhere, and can be tried out.

Where no Chromium is installed these tests are skipped, but not where `CI` is set.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from playwright.async_api import Browser, Page, Request, async_playwright, expect

from tests.support import Server, Shell, serving

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(not CHROMIUM and not os.environ.get("CI"), reason="there is no Chromium on this machine")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(Shell(tmp_path, TASKCTL_DATABASE_URL=f"sqlite:///{tmp_path}/tasks.db")) as server:
        yield server


async def opened(browser: Browser, url: str) -> tuple[Page, list[str], list[str]]:
    """Return a page at the address, what it complains about, and the addresses that it asks."""
    page = await browser.new_page()
    complaints: list[str] = []
    asked: list[str] = []

    def ask(request: Request) -> None:
        asked.append(request.url)

    page.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", ask)
    await page.add_init_script(
        "document.addEventListener('securitypolicyviolation', e => console.error(`${e.violatedDirective} ${e.blockedURI}`))"
    )
    await page.goto(url)
    return page, complaints, asked


async def test_a_task_is_added_from_the_page_and_nothing_is_complained_about(server: Server) -> None:
    assert CHROMIUM, "there is no Chromium, and CI is set"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page, complaints, asked = await opened(browser, f"{server.url}/docs")
        await expect(page.locator(".info .title")).to_contain_text("taskctl")
        operation = page.locator("#operations-tasks-addTask")
        await operation.locator("button.opblock-summary-control").click()
        await operation.locator("button.try-out__btn").click()
        await operation.locator("textarea.body-param__text").fill('{"title": "Added from the page", "due": "2026-12-01"}')
        await operation.locator("button.execute").click()
        await expect(operation.locator(".live-responses-table .response .response-col_status")).to_contain_text("201")
        await browser.close()
    async with aiohttp.ClientSession() as session, session.get(f"{server.url}/api/v1/tasks") as answer:
        [task] = (await answer.json())["items"]
    assert (task["title"], task["due"]) == ("Added from the page", "2026-12-01")
    assert complaints == []
    assert all(url.startswith((f"{server.url}/", "data:")) for url in asked), asked
    assert f"{server.url}/api/v1/tasks?dry_run=false" in asked


async def test_another_document_cannot_be_put_in_its_place_by_a_link(server: Server) -> None:
    assert CHROMIUM, "there is no Chromium, and CI is set"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        # Such parameters are refused; whoever gets around that, by a page that is there already, does not get further.
        answer = await (await browser.new_page()).goto(f"{server.url}/docs?url=/version&configUrl=/version")
        assert answer is not None
        assert answer.status == 400
        page, _, asked = await opened(browser, f"{server.url}/docs#?url=/version&configUrl=/version")
        await expect(page.locator(".info .title")).to_contain_text("taskctl")
        await page.evaluate("history.replaceState(null, '', '/docs?url=/version&configUrl=/version')")
        await page.add_script_tag(url="/docs/initializer.js")
        await expect(page.locator(".info .title")).to_contain_text("taskctl")
        await browser.close()
    assert f"{server.url}/openapi.json" in asked
    assert f"{server.url}/version" not in asked
