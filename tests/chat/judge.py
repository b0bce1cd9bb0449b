"""Compares the native renderer of chat templates with Hugging Face's: `python -m tests.chat.judge [--write] [TEXT]`.

Every template of llama.cpp's collection renders every conversation of `conversations.py`. Where the prompts differ,
Hugging Face's renderer gets the same conversation in other forms: those in which llama.cpp passes it to templates. If
the prompts are equal then, these forms are the reason. `differences.json` holds what is known: for each template and
conversation the forms, or what is different. `reasons.py` says why. Anything else is an error.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from llama_cffi.chat.native import NativeTemplate
from tests.chat import cases, reasons
from tests.chat.conversations import CONVERSATIONS, Conversation

KNOWN = Path(__file__).with_name("differences.json")
BOS, EOS = "<s>", "</s>"
MOST_FORMS = 4  # that explain one difference together

Variables = dict[str, Any]


def hugging_face(source: str, variables: Variables) -> str:
    """Render with `transformers`, as `apply_chat_template` does. Raises whatever the template raises."""
    from transformers.utils.chat_template_utils import render_jinja_template

    rest = {name: value for name, value in variables.items() if name not in ("messages", "tools")}
    if "add_generation_prompt" not in rest:  # which the function would set
        from transformers.utils.chat_template_utils import _compile_jinja_template

        return str(_compile_jinja_template(source).render(**variables))
    rendered, _ = render_jinja_template([variables["messages"]], variables["tools"], chat_template=source, **rest)
    return str(rendered[0])


def variables_of(conversation: Conversation) -> Variables:
    """What `apply_chat_template` passes to a template."""
    return {
        "messages": conversation.messages,
        "tools": conversation.tools or None,
        "add_generation_prompt": conversation.opens,
        "bos_token": BOS,
        "eos_token": EOS,
        **conversation.variables,
    }


# The forms in which llama.cpp passes conversations to templates. Each changes the variables in place.


def _sets_variables(given: Variables) -> None:
    given.setdefault("enable_thinking", True)
    given["date_string"] = datetime.now().strftime("%d %b %Y")
    given["datetime"] = datetime.now().strftime("%b %d %Y")


def _leaves_out_what_is_empty(given: Variables) -> None:
    if not given["add_generation_prompt"]:
        del given["add_generation_prompt"]
    if not given["tools"]:
        del given["tools"]
    if "add_generation_prompt" in given and "tools" not in given:
        given["tools"] = []


def _developer_is_system(given: Variables) -> None:
    for message in given["messages"]:
        message["role"] = "system" if message["role"] == "developer" else message["role"]


def _system_joins_user(given: Variables) -> None:
    first, *rest = given["messages"]
    if first["role"] == "system" and rest:
        rest[0]["content"] = f"{_text(first['content'])}\n{_text(rest[0]['content'])}"
        given["messages"] = rest


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content)
    return str(content or "")


def _parts_are_lines(given: Variables) -> None:
    for message in given["messages"]:
        if isinstance(message.get("content"), list):
            message["content"] = _text(message["content"])


def _text_is_a_part(given: Variables) -> None:
    for message in given["messages"]:
        if isinstance(message.get("content"), str):
            message["content"] = [{"type": "text", "text": message["content"]}]


def _none_is_empty(given: Variables) -> None:
    for message in given["messages"]:
        message["content"] = message["content"] or ""


def _empty_is_absent(given: Variables) -> None:
    for message in given["messages"]:
        if not message["content"] and not message.get("tool_calls"):
            del message["content"]


def _arguments_are_values(given: Variables) -> None:
    for function in _functions(given):
        if isinstance(function["arguments"], str):
            function["arguments"] = json.loads(function["arguments"])


def _arguments_are_text(given: Variables) -> None:
    for function in _functions(given):
        if not isinstance(function["arguments"], str):
            function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)


def _arguments_are_compact_text(given: Variables) -> None:
    for function in _functions(given):
        if not isinstance(function["arguments"], str):
            function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False, separators=(",", ":"))


def _functions(given: Variables) -> Iterator[dict[str, Any]]:
    for message in given["messages"]:
        for call in message.get("tool_calls") or []:
            yield call["function"]


def _space_is_trimmed(given: Variables) -> None:
    for message in given["messages"]:
        for name in ("content", "reasoning_content"):
            if isinstance(message.get(name), str):
                message[name] = message[name].strip()


def _thoughts_are_parts(given: Variables) -> None:
    for message in given["messages"]:
        if message["role"] in ("system", "assistant"):
            parts = message["content"] or []
            parts = [{"type": "text", "text": parts}] if isinstance(parts, str) else parts
            thought = message.pop("reasoning_content", None)
            message["content"] = ([{"type": "thinking", "thinking": thought}] if thought else []) + parts


FORMS: dict[str, Callable[[Variables], None]] = {
    "sets variables": _sets_variables,
    "leaves out what is empty": _leaves_out_what_is_empty,
    "developer is system": _developer_is_system,
    "parts are lines": _parts_are_lines,
    "arguments are values": _arguments_are_values,
    "None is empty": _none_is_empty,
    "system joins user": _system_joins_user,
    "text is a part": _text_is_a_part,
    "arguments are text": _arguments_are_text,
    "arguments are compact text": _arguments_are_compact_text,
    "empty is absent": _empty_is_absent,
    "space is trimmed": _space_is_trimmed,
    "thoughts are parts": _thoughts_are_parts,
}


def _attempt(render: Callable[[], str]) -> tuple[str, str]:
    """Return the prompt, or "" and the error."""
    try:
        return render(), ""
    except Exception as error:  # of any kind: templates call whatever they like
        return "", f"{type(error).__name__}: {error}"


def compare(source: str, template: NativeTemplate, conversation: Conversation) -> tuple[str, str]:
    """Return how the prompts differ, "" if they are equal, and an excerpt of both."""
    prompt, error = _attempt(lambda: str(template.render(conversation.inputs)))
    given = variables_of(conversation)
    other, other_error = _attempt(lambda: hugging_face(source, copy.deepcopy(given)))
    if (prompt, bool(error)) == (other, bool(other_error)):
        return "", ""
    for size in range(1, MOST_FORMS + 1):
        for names in itertools.combinations(FORMS, size):
            changed = copy.deepcopy(given)
            before = None
            for name in names:
                before = copy.deepcopy(changed)
                try:
                    FORMS[name](changed)
                except (KeyError, ValueError):
                    before = changed
                if changed == before:
                    break  # this form changes nothing
            if changed == before:
                continue
            again, again_error = _attempt(lambda changed=changed: hugging_face(source, changed))
            if (prompt, bool(error)) == (again, bool(again_error)):
                return " + ".join(names), ""
    if bool(error) != bool(other_error):
        return ("only Hugging Face renders" if error else "only native renders"), error or other_error
    return "differs", _excerpt(prompt, other)


def _excerpt(one: str, two: str) -> str:
    at = next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
    return f"native {one[max(0, at - 20) : at + 60]!r}, Hugging Face {two[max(0, at - 20) : at + 60]!r}"


def run(only: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Yield template, conversation, how the prompts differ, and an excerpt."""
    for path in sorted((cases.folder() / "models" / "templates").glob("*.jinja")):
        if only in path.name:
            source = path.read_text(encoding="utf-8")
            template = NativeTemplate(source, BOS, EOS)
            for conversation in CONVERSATIONS:
                yield path.stem, conversation.name, *compare(source, template, conversation)
