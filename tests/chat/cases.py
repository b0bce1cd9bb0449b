"""llama.cpp's own expectations about chat, read from the tests of the pinned tree when our tests run.

Nothing of llama.cpp's text is stored in this repository: `reader.py` runs the C++ of its tests.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from tests.chat import cpp
from tests.chat.case import Cases, RenderCase
from tests.chat.reader import Reader
from vendor.source import fetch


@cache
def folder() -> Path:
    """The folder with llama.cpp's chat tests and templates."""
    return fetch.chat_tests_dir()


def template_source(path: str) -> str:
    """The text of a template that a case names, or gives itself."""
    return path if "{" in path else (folder() / path).read_text(encoding="utf-8")


@cache
def read() -> Cases:
    """The cases of tests/test-chat.cpp."""
    return Reader((folder() / "tests" / "test-chat.cpp").read_text(encoding="utf-8")).cases


@cache
def render_cases() -> list[RenderCase]:
    """The cases of tests/test-chat-template.cpp that hold for a Jinja engine."""
    source = (folder() / "tests" / "test-chat-template.cpp").read_text(encoding="utf-8")
    interpreter = cpp.Interpreter(cpp.tokenize(source), {}, {"U8C": lambda text: text})
    scope = interpreter.call("main_automated_tests")
    found = []
    for case in scope.find("test_cases"):
        name, template, expected, expected_jinja, bos, eos, supported, extra = [
            *case,
            *("", "", "", "", "", "", True, [])[len(case) :],
        ]
        if supported:
            messages = [{"role": role, "content": text} for role, text in [*scope.find("conversation"), *extra]]
            found.append(RenderCase(name, template, bos, eos, {"messages": messages}, expected_jinja or expected))
    return found
