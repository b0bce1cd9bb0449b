"""The page at `/` in headless Chromium, as wide as a phone and a desktop; axe-core looks for what hinders people."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.server.serving import TOOL, Running, is_idle, wait_for

_CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
# The machine that says so has a browser; on others, the page is not tested.
_REQUIRED = os.environ.get("LLAMA_CFFI_TEST_PAGE") == "1"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not _CHROMIUM and not _REQUIRED, reason="needs Chromium (Debian: apt install chromium)"),
]
_OPTIONS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
_SERIOUS = ("serious", "critical")
_WIDTHS = pytest.mark.parametrize("width", [390, 1280])


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=_CHROMIUM, args=list(_OPTIONS))
        yield found
        found.close()


@pytest.fixture
def problems() -> list[str]:
    """What the browser's console complains about."""
    return []


def _open(browser: Browser, server: Running, problems: list[str], width: int = 1280, **options: Any) -> Page:
    page = browser.new_context(viewport={"width": width, "height": 800}, **options).new_page()
    page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(server.url)
    expect(page.locator("#model option").first).to_be_attached()
    return page


def _set(page: Page, **values: str) -> None:
    page.get_by_role("button", name="Settings").click()
    for name, value in values.items():
        page.locator(f"#settings [name={name}]").fill(value)
    page.get_by_role("button", name="Save").click()


def _hindrances(page: Page) -> list[Any]:
    found = Axe().run(page).response["violations"]
    return [(item["id"], item["impact"], [node["html"] for node in item["nodes"]]) for item in found]


@_WIDTHS
def test_a_conversation_by_keyboard(browser: Browser, smol_server: Running, problems: list[str], width: int) -> None:
    page = _open(browser, smol_server, problems, width)
    _set(page, temperature="0", max_tokens="24")
    page.locator("#input").focus()
    page.keyboard.type("What is 2+2?")
    page.keyboard.press("Enter")
    answer = page.locator("article.assistant .body")
    expect(answer).to_contain_text("4", timeout=60_000)
    expect(page.get_by_role("button", name="Try again")).to_be_visible(timeout=60_000)
    assert "tokens/s" in page.locator("#speed").inner_text()
    expect(page.get_by_role("status")).to_have_text("The answer is complete.")
    expect(page.locator("#input")).to_be_focused()
    assert page.evaluate("document.documentElement.scrollWidth") == width  # nothing is cut or has to be scrolled to
    page.reload()
    expect(page.locator("article")).to_have_count(2)  # the tab remembers the conversation
    page.get_by_role("button", name="New chat").click()
    expect(page.locator("article")).to_have_count(0)
    assert problems == []


@_WIDTHS
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_hinders_people(browser: Browser, server: Running, width: int, scheme: Any) -> None:
    page = _open(browser, server, [], width, color_scheme=scheme, bypass_csp=True)  # axe is injected as a script
    _set(page, max_tokens="8")
    page.locator("#input").fill("Hello")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Try again")).to_be_visible()
    assert [item for item in _hindrances(page) if item[1] in _SERIOUS] == []
    page.get_by_role("button", name="Settings").click()
    assert [item for item in _hindrances(page) if item[1] in _SERIOUS] == []


def test_stop_frees_the_place(browser: Browser, server: Running, problems: list[str]) -> None:
    page = _open(browser, server, problems)
    _set(page, max_tokens="3000")
    page.locator("#input").fill("Hello")
    page.keyboard.press("Enter")
    expect(page.locator("article.assistant .body")).not_to_be_empty()
    page.keyboard.press("Escape")
    expect(page.get_by_role("status")).to_have_text("Stopped.")
    wait_for(lambda: is_idle(server))
    expect(page.get_by_role("button", name="Send")).to_be_visible()


def test_an_error_is_shown(browser: Browser, server: Running, problems: list[str]) -> None:
    page = _open(browser, server, problems)
    _set(page, max_tokens="8", system="word " * 9000)
    page.locator("#input").fill("Hello")
    page.keyboard.press("Enter")
    expect(page.locator("article .error")).to_be_visible()
    assert page.locator("article .error").inner_text()


def test_tools_are_checked_before_they_are_sent(browser: Browser, server: Running, problems: list[str]) -> None:
    page = _open(browser, server, problems)
    page.get_by_role("button", name="Settings").click()
    for wrong in ("[", '{"a": 1}', "[1]"):
        page.locator("#settings [name=tools]").fill(wrong)
        page.get_by_role("button", name="Save").click()
        expect(page.locator("#wrong")).to_be_visible()
    page.locator("#settings [name=tools]").fill(json.dumps([TOOL]))
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#settings")).to_be_hidden()
    assert problems == []


# What a model answers by chance is not to be relied on: here, the browser gets the events of an answer with everything.
_EVENTS = (
    {"reasoning_content": "It is about the weather."},
    {"content": "I *ask* `it`: <img src=x onerror=alert(1)>\n\n```\ncode\n```\n"},
    {"tool_calls": [{"index": 0, "id": "a1", "function": {"name": "get_weather", "arguments": ""}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": '{"city": '}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": '"Bern"}'}}]},
)


def test_thoughts_and_calls_are_folded(browser: Browser, server: Running, problems: list[str]) -> None:
    page = _open(browser, server, problems)
    asked: list[Any] = []

    def reply(route: Any) -> None:
        asked.append(route.request.post_data_json)
        deltas = _EVENTS if len(asked) == 1 else ({"content": "Sunny."},)
        why = "tool_calls" if len(asked) == 1 else "stop"
        chunks: list[Any] = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
        chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": why}]})
        text = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
        route.fulfill(status=200, content_type="text/event-stream", body=text)

    page.route("**/v1/chat/completions", reply)
    page.locator("#input").fill("What is it like in Bern?")
    page.keyboard.press("Enter")
    result = page.get_by_role("textbox", name="Result of get_weather")
    expect(result).to_be_visible()
    thoughts = page.locator("details", has_text="Thoughts")
    expect(thoughts.locator(".inside")).to_be_hidden()
    thoughts.locator("summary").click()
    expect(thoughts.locator(".inside")).to_have_text("It is about the weather.")
    expect(page.locator("article.assistant em")).to_have_text("ask")
    assert page.locator("article img").count() == 0  # an answer cannot add elements
    result.fill("sunny")
    result.press("Enter")
    expect(page.locator("article.assistant").nth(1).locator(".body")).to_have_text("Sunny.")
    sent = asked[1]["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "tool"]
    assert sent[1]["tool_calls"][0]["function"] == {"name": "get_weather", "arguments": '{"city": "Bern"}'}
    assert sent[2] == {"role": "tool", "tool_call_id": "a1", "content": "sunny"}
    assert problems == []
