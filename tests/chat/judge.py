"""Compares our two renderers of chat templates with Hugging Face's: `python -m tests.chat.judge [--write]`.

"native" is the chat library itself, and "public" is `ChatTemplate.render`. Every template of llama.cpp's collection
renders every conversation of `conversations.py`. Where the prompts differ, the other renderer gets the conversation in
the forms in which llama.cpp passes it to templates (`FORMS`). If the prompts are equal then, these forms are the
reason. `differences.json` says what is known for each template and conversation: nothing (the prompts are equal), the
forms, or a difference that `REASONS` explains. Anything else is an error.

The tests do without `transformers`, and take jinja2 as this package uses it in its place.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import itertools
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from llama_cffi import ChatTemplate, Ggml, Model
from llama_cffi.chat import generic_tools
from llama_cffi.chat.messages import as_message, as_tool
from llama_cffi.chat.native import NativeTemplate
from tests.chat import cases
from tests.chat.conversations import CONVERSATIONS, Conversation
from vendor.source import fetch

KNOWN = Path(__file__).with_name("differences.json")
BOS, EOS = "<s>", "</s>"
MOST_FORMS = 4  # that explain one difference together

# Differences that no form explains.
DIFFERS, NATIVE, OTHER = "differs", "native-only", "other-only"
OTHERS = (DIFFERS, NATIVE, OTHER)

Variables = dict[str, Any]


Renderer = Callable[[str, Variables], str]


def hugging_face(source: str, variables: Variables) -> str:
    """Render as `apply_chat_template` of `transformers` does. Raises whatever the template raises."""
    from transformers.utils import chat_template_utils

    rest = {name: value for name, value in variables.items() if name not in ("messages", "tools")}
    if "add_generation_prompt" not in rest or "tools" not in variables:  # the function would set them
        return str(chat_template_utils._compile_jinja_template(source).render(**variables))
    found, _ = chat_template_utils.render_jinja_template(
        [variables["messages"]], variables["tools"], chat_template=source, **rest
    )
    return str(found[0])


def variables_of(conversation: Conversation) -> Variables:
    """What `apply_chat_template` passes to a template: with thoughts under each name that templates know."""
    messages = copy.deepcopy(conversation.messages)
    for message in messages:
        if "reasoning_content" in message:
            message["thinking"] = message["reasoning_content"]
    return {
        "messages": messages,
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
    for name in ("add_generation_prompt", "tools"):
        if not given[name]:
            del given[name]


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


def _parts_are_joined(given: Variables) -> None:
    for message in given["messages"]:
        if isinstance(message.get("content"), list):
            message["content"] = "".join(part["text"] for part in message["content"])


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
            message.pop("thinking", None)
            message["content"] = ([{"type": "thinking", "thinking": thought}] if thought else []) + parts


def _tools_are_described(given: Variables) -> None:
    _describe_tools(given, writes=False)


def _tools_and_calls_are_described(given: Variables) -> None:
    _describe_tools(given, writes=True)


def _describe_tools(given: Variables, writes: bool) -> None:
    if given.get("tools"):
        tools = [as_tool(tool) for tool in given.pop("tools")]
        given["messages"] = generic_tools.described([as_message(one) for one in given["messages"]], tools, writes)


FORMS: dict[str, Callable[[Variables], None]] = {
    "tools are described": _tools_are_described,
    "tools and calls are described": _tools_and_calls_are_described,
    "sets variables": _sets_variables,
    "leaves out what is empty": _leaves_out_what_is_empty,
    "developer is system": _developer_is_system,
    "parts are lines": _parts_are_lines,
    "parts are joined": _parts_are_joined,
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


# Why prompts differ beyond these forms, by template, conversation and kind: the first row that fits.
REASONS = (
    ("*", "result in parts", "*", "llama.cpp joins parts only where the whole template wants text"),
    ("StepFun3.5-Flash", "parts", "*", "llama.cpp trims each part"),
    ("Kimi-K2-*", "*call*", NATIVE, "the sandbox of jinja2 forbids to append to a list"),
    ("Kimi-K2-*", "result in parts", NATIVE, "the sandbox of jinja2 forbids to append to a list"),
    ("fireworks-*", "*", NATIVE, "the template reads `functions`, which nobody sets: in llama.cpp it is empty"),
    ("llama-cpp-deepseek-r1", "*", NATIVE, "jinja2's `map` is a generator, which `tojson` cannot write"),
    ("meetkai-functionary-medium-v3.1", "*", DIFFERS, "jinja2's `safe` marks text whose rest is escaped for HTML"),
    ("ByteDance-Seed-OSS", "*", NATIVE, "a tool without parameters: what is undefined is empty in llama.cpp"),
    ("CohereForAI-c4ai-command-r-plus-tool_use", "*", NATIVE, "a parameter without a type: as above"),
    ("google-gemma-4-*", "*", DIFFERS, "llama.cpp puts results of tools into the call's message; null is empty"),
    ("openai-gpt-oss-120b", "*, closed", DIFFERS, "llama.cpp ends a last answer as those before it"),
    ("llm-jp-*", "*, closed", DIFFERS, "llama.cpp ends a last answer as those before it"),
    ("IFM-K2-Horizon", "*", NATIVE, "the template demands a thought in each answer: llama.cpp adds an empty one"),
    ("google-translategemma-*", "*", NATIVE, "the template takes a text with its languages: llama.cpp adds these"),
    ("openbmb-MiniCPM5-1B", "*call*", DIFFERS, "llama.cpp prints a list as its joined items, and a dict as nothing"),
)


def reason(template: str, conversation: str, kind: str) -> str:
    """Why these prompts differ; "" if nobody knows."""
    found = [why for *patterns, why in REASONS if all(map(fnmatchcase, (template, conversation, kind), patterns))]
    return found[0] if found else ""


@dataclass
class Comparison:
    """Two prompts of a conversation, or the errors of the renderers."""

    template: str
    source: str
    conversation: Conversation
    ours: Callable[[Conversation], str]
    other: Renderer

    def __post_init__(self) -> None:
        self.prompt, self.error = _attempt(lambda: self.ours(self.conversation))

    def equal(self, forms: Sequence[str] = ()) -> bool | None:
        """Return True if the prompts are equal, or both are errors; None if a form changes nothing or cannot matter."""
        if forms and self.error:
            return None
        given = variables_of(self.conversation)
        for name in forms:
            before = copy.deepcopy(given)
            try:
                FORMS[name](given)
            except (KeyError, ValueError):
                return None
            if given == before:
                return None
        prompt, error = _attempt(lambda: self.other(self.source, given))
        return (prompt, bool(error)) == (self.prompt, bool(self.error))

    def kind(self) -> str:
        """Find how the prompts differ: "" for not, the names of forms, or one of the other kinds with a digest."""
        if self.equal():
            return ""
        for size in range(1, MOST_FORMS + 1):
            for forms in itertools.combinations(FORMS, size):
                if self.equal(forms):
                    return " + ".join(forms)
        return self.rest()

    def rest(self) -> str:
        """The kind of a difference that no form explains."""
        _, other_error = self._other()
        kind = DIFFERS if bool(self.error) == bool(other_error) else OTHER if self.error else NATIVE
        today = [datetime.now().strftime(form) for form in ("%d %b %Y", "%b %d %Y", "%B %d, %Y", "%Y-%m-%d")]
        dateless = re.sub("|".join(map(re.escape, today)), "today", self.prompt)
        return f"{kind} {hashlib.sha256(dateless.encode()).hexdigest()[:8]}"

    def _other(self) -> tuple[str, str]:
        given = variables_of(self.conversation)
        _sets_variables(given)
        return _attempt(lambda: self.other(self.source, given))

    def still(self, known: str, richer: bool = False) -> bool:
        """Return True if the prompts are equal, or differ, as they are known to.

        `richer`: the other renderer may render what Hugging Face's rejects, if the prompts are equal then.
        """
        if word(known) in OTHERS:
            same = not self.equal() and self.rest() == known
            return same or (richer and word(known) == NATIVE and word(self.kind()) not in OTHERS)
        return bool(self.equal(known.split(" + ") if known else ()))

    def excerpt(self) -> str:
        """Both prompts around the first character that differs, or the errors."""
        prompt, error = self._other()
        if error or self.error:
            return f"ours: {self.error or 'a prompt'}; other: {error or 'a prompt'}"
        pairs = enumerate(zip(self.prompt, prompt, strict=False))
        at = next((i for i, (a, b) in pairs if a != b), min(len(self.prompt), len(prompt)))
        return f"ours {self.prompt[max(0, at - 30) : at + 60]!r}, other {prompt[max(0, at - 30) : at + 60]!r}"


def _attempt(render: Callable[[], str]) -> tuple[str, str]:
    """Return the prompt, or "" and the error."""
    try:
        return render(), ""
    except Exception as error:  # of any kind: templates call whatever they like
        return "", f"{type(error).__name__}: {error}"


def templates() -> list[Path]:
    return sorted((cases.folder() / "models" / "templates").glob("*.jinja"))


def _native(source: str) -> Callable[[Conversation], str]:
    template = NativeTemplate(source, BOS, EOS)
    return lambda conversation: template.render(conversation.inputs)


@cache
def _model() -> Model:
    """A vocabulary with these BOS and EOS."""
    return Model.load(fetch.vectors_dir() / "ggml-vocab-llama-spm.gguf", Model.Params(vocabOnly=True))


def _public(source: str) -> Callable[[Conversation], str]:
    template = ChatTemplate(_model(), source)

    def render(one: Conversation) -> str:
        return template.render(one.messages, tools=one.tools or None, addGenerationPrompt=one.opens, **one.variables)

    return render


OURS = {"native": _native, "public": _public}


def comparisons(path: Path, ours: str, other: Renderer) -> Iterator[Comparison]:
    source = path.read_text(encoding="utf-8")
    render = OURS[ours](source)
    for conversation in CONVERSATIONS:
        yield Comparison(path.stem, source, conversation, render, other)


Known = dict[str, dict[str, str]]  # by template and conversation


def known(ours: str) -> Known:
    """What is known about one of our renderers."""
    stored = json.loads(KNOWN.read_text(encoding="utf-8"))[ours]
    return {
        template: {name: kind for kind, names in kinds.items() for name in names} for template, kinds in stored.items()
    }


def word(kind: str) -> str:
    """A kind without its digest."""
    first = kind.split(" ")[0]
    return first if first in OTHERS else kind


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chat.judge", description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="find the forms, and write differences.json")
    arguments = parser.parse_args()
    Ggml.Backend.cpuLoad()
    found: dict[str, Known] = {}
    bad = 0
    for ours in OURS:
        counts: Counter[str] = Counter()
        stored = {} if arguments.write else known(ours)
        found[ours] = {}
        for path in templates():
            kinds = found[ours][path.stem] = {}
            for one in comparisons(path, ours, hugging_face):
                name = one.conversation.name
                kind = one.kind() if arguments.write else stored.get(path.stem, {}).get(name, "")
                counts[word(kind) or "equal"] += 1
                if kind:
                    kinds[name] = kind
                explained = word(kind) not in OTHERS or reason(path.stem, name, word(kind))
                if not explained or not one.still(kind):
                    bad += 1
                    print(f"{ours}, {path.stem}, {name}: known as {kind!r}; {one.excerpt()}")
        print(f"{ours}: {sum(counts.values())} prompts")
        for words, count in counts.most_common():
            print(f"{count:6} {words}")
    if arguments.write:
        _write(found)
    print(f"{bad} differences without an explanation")
    return 1 if bad else 0


def _write(found: dict[str, Known]) -> None:
    """Write a row for each template and kind."""
    sections = []
    for ours, stored in found.items():
        rows = []
        for template, kinds in sorted(stored.items()):
            grouped: dict[str, list[str]] = {}
            for name, kind in kinds.items():
                grouped.setdefault(kind, []).append(name)
            lines = [f"   {json.dumps(kind)}: {json.dumps(names)}" for kind, names in grouped.items()]
            rows.append(f"  {json.dumps(template)}: {{\n" + ",\n".join(lines) + "\n  }")
        sections.append(f" {json.dumps(ours)}: {{\n" + ",\n".join(rows) + "\n }")
    KNOWN.write_text("{\n" + ",\n".join(sections) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
