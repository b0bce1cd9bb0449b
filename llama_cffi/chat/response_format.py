"""The JSON Schema of a response format, and the grammar of an answer that follows it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from llama_cffi._core.checks import expected
from llama_cffi.chat import native

# llama.cpp's grammars of a response format allow a Markdown fence around it, or require one; its parsers remove it.
_FENCED = re.compile(r'"```json" ([a-z0-9-]+ response-format[a-z-]* [a-z0-9-]+) "```"( \| )?')
_FENCE = "```"
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|\[(?:[^\]\\]|\\.)*\]|[a-zA-Z][a-zA-Z0-9-]*|\s+|.')
_GAP = '| " " | "\\n"{1,2} [ \\t]{0,20}'


def schema_text(given: Any) -> str:
    """Return the JSON Schema of a response format as text.

    `given` is a schema, OpenAI's `{"type": "json_schema", "json_schema": {"schema": ...}}` or `{"type":
    "json_object"}`, or a type that pydantic knows.
    """
    if isinstance(given, Mapping):
        wrapped = given.get("json_schema")
        if given.get("type") == "json_object":
            schema: Any = given.get("schema", {"type": "object"})
        elif given.get("type") == "json_schema" and isinstance(wrapped, Mapping):
            schema = wrapped.get("schema", {"type": "object"})
        else:
            schema = dict(given)
    elif isinstance(given, (str, bytes, int, float, list)) or given is None:
        raise expected("a JSON Schema or a type", given, name="responseFormat")
    else:
        from llama_cffi.constrain.types import adapter_of, schema_of

        schema = schema_of(adapter_of(given))
    try:
        return json.dumps(schema)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"responseFormat is not JSON: {error}") from None


def enforced(applied: Mapping[str, Any], schema: str, begun: str | None) -> dict[str, Any]:
    """Return what llama.cpp's chat code returned for a response format, such that the text of the answer is JSON.

    `begun` is how the answer begins, if the prompt has a part of it: it may open a fence.
    """
    if not applied["grammar"]:
        return _with_grammar(applied, schema, begun)
    if begun and _FENCE in begun:
        return dict(applied)
    required = any([not found[1] for found in _FENCED.findall(applied["grammar"])])
    grammar = _FENCED.sub(lambda found: "" if found[2] else found[1], applied["grammar"])
    return {**applied, "grammar": grammar, "fenced": required}


def fenced(text: str, partial: bool, start: str, end: str, prompt: str) -> str:
    """Return an answer with the fence that llama.cpp's parser requires around its JSON, after a thought."""
    start, end = start.strip(), end.strip()
    opened = _opens(prompt, start, end) or (bool(start) and text.lstrip().startswith(start))
    head, mark, rest = text.partition(end) if opened else ("", "", text)
    if (
        (opened and not mark)
        or (start and start.startswith(text.strip()))
        or _FENCE.startswith(rest.strip()[: len(_FENCE)])
    ):
        return text
    return f"{head}{mark}{_FENCE}json\n{rest}" + ("" if partial else f"\n{_FENCE}")


def _with_grammar(applied: Mapping[str, Any], schema: str, begun: str | None) -> dict[str, Any]:
    """Return a response format for a template for which llama.cpp makes no grammar."""
    prompt: str = applied["generation_prompt"]
    start, end = applied["thinking_start"].strip(), (applied["thinking_ends"] or [""])[0].strip()
    opened = _opens(prompt, start, end)
    rules, parser = [_renamed(native.schema_to_grammar(schema)).rstrip()], applied["parser"]
    if begun is not None:
        prompt, root = begun, "response-format"
    else:
        try:
            plain = parser.parse(f"{end}0" if opened else "0")["content"].strip() == "0"
        except native.ChatCodeError:
            plain = False
        root = f"{json.dumps(prompt, ensure_ascii=False)} response-gap response-format"
        if not plain:  # it reads an answer in a form of its own, which is not JSON
            parser = native.NativeParser.plain()
        elif start and end:
            mark = json.dumps(end, ensure_ascii=False)
            before = f"thought-0 {mark}" if opened else f"({json.dumps(start, ensure_ascii=False)} thought-0 {mark})?"
            root = root.replace("response-gap", f"{before} response-gap")
            rules += _until(end)
    rules += [f"response-gap ::= {_GAP}", f"root ::= {root}"]
    return {**applied, "grammar": "\n".join(rules), "generation_prompt": prompt, "parser": parser}


def _opens(prompt: str, start: str, end: str) -> bool:
    """Return True if a prompt begins a thought, between these marks, and does not end it."""
    return bool(start and end) and start in prompt and end not in prompt.rpartition(start)[2]


def _renamed(grammar: str) -> str:
    """Return a grammar whose first rule has another name than "root"."""
    return "".join("response-format" if token == "root" else token for token in _TOKEN.findall(grammar))


def _until(end: str) -> list[str]:
    """Return rules for any text without `end`: one for each beginning of it that the text can have read."""
    rules = []
    for state in range(len(end)):
        follow: dict[str, int] = {}
        for char in dict.fromkeys(end):
            read = end[:state] + char
            follow[char] = next(size for size in range(len(read), -1, -1) if read.endswith(end[:size]))
        known = {char: size for char, size in follow.items() if size}
        steps = [f"[{_code(char)}] thought-{size}" for char, size in known.items() if size < len(end)]
        rules.append(f"thought-{state} ::= | {' | '.join([*steps, f'[^{_codes(known)}] thought-0'])}")
    return rules


def _codes(chars: Mapping[str, int]) -> str:
    return "".join(map(_code, chars))


def _code(char: str) -> str:
    return f"\\U{ord(char):08X}"
