"""Bounds the text before a required tool call, so that an answer with `toolChoice="required"` does call a tool.

llama.cpp's grammar for it allows thoughts and content of any length before the call, in which an answer can use up all
its tokens. Here, only spaces are left of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|\[(?:[^\]\\]|\\.)*\]|[a-zA-Z][a-zA-Z0-9-]*|\s+|.')
# Names of rules that llama.cpp's builder makes: any text before a mark; the same with the mark; the calls; one tool.
_TEXT = re.compile(r"until-\d+$")
_TEXT_AND_MARK = re.compile(r"ac-\d+$")
_CALLS = re.compile(r"(.*-)?tool-calls?(-root)?$|tools$")
_TOOL = re.compile(r"(.*-)?tool-")
_UNMARKED = '"all\\n" space (tool-'  # calls right after empty content, without a mark between them
_NEW_ID = "[a-zA-Z0-9]{9}"
_ID = re.compile(r'("\\"\w*id\w*\\"" space ":" space )\(.*?\| json-number\)')
_REPEATED = re.compile(r"\([a-z -]*\)\*")
_WORDS = ("[A-Za-z0-9_-]", "[0-9]")
# Several calls. Two formats repeat the tools themselves, and do so also where one call was asked for.
_MANY_CALLS = "(tool-call space)+"
_ANY_TOOL = r"(?:[a-z0-9]+-)*tool-[a-zA-Z0-9-]+"
_MANY_TOOLS = re.compile(rf"(\({_ANY_TOOL}(?: \| {_ANY_TOOL})*\)|(?<![^ ]){_ANY_TOOL})\+(?![^ ])")


def bounded(applied: Mapping[str, Any], thinks: bool, parallel: bool) -> str:
    """Return the grammar of a required call, with spaces for any text around the calls.

    `applied` is what llama.cpp's chat code returned; `thinks` leaves thoughts as they are. Not `parallel`: one call.
    """
    grammar, start, end = applied["grammar"], applied["thinking_start"], (applied["thinking_ends"] or [""])[0]
    mark, begun = applied["generation_prompt"].rpartition(start)[1:] if start else ("", "")
    opened = bool(mark) and end not in begun  # the prompt has begun a thought ...
    begun = begun.strip() if opened else ""  # ... with these words
    rules = dict(line.split(" ::= ", 1) for line in grammar.splitlines() if " ::= " in line)
    around, new = list[str](), ["root"] if "root" in rules else []
    while new:
        name = new.pop()
        around.append(name)
        if not _CALLS.match(name):  # what is in a call stays as it is
            names = [token for token in _TOKEN.findall(rules[name]) if token in rules and not _TEXT.match(token)]
            new += [one for one in names if one not in (*around, *new) and (_CALLS.match(one) or not _TOOL.match(one))]
    empty = "space" if "space" in rules else '""'
    texts = (empty, f"{empty} {_literal(begun)} {empty}" if begun else empty)
    found = {name: _without_text(rules[name], start, end, texts, thinks) for name in around}
    if not (thinks and found == {name: _without_text(rules[name], start, end, texts, False) for name in around}):
        rules |= found  # otherwise the mark of a thought is not where it is expected
    if opened and end:  # or else the parser takes a call after it as a part of the thought
        rules |= {name: rules[name].replace(f"{_literal(end)}?", _literal(end)) for name in around}
    if not parallel:
        rules = {name: body.replace(_MANY_CALLS, "tool-call space") for name, body in rules.items()}
        rules = {name: _MANY_TOOLS.sub(r"\1", body) if _CALLS.match(name) else body for name, body in rules.items()}
    rules = {name: _with_short_words(body) if _is_tool(name) else body for name, body in rules.items()}
    return "".join(f"{name} ::= {body}\n" for name, body in rules.items())


def _without_text(body: str, start: str, end: str, texts: tuple[str, str], thinks: bool) -> str:
    """Return a rule with the first of `texts` in place of any text, and with the second in place of a thought."""
    found, mark = list[str](), ""  # the last mark
    for token in _TOKEN.findall(body):
        if token[0] == '"' and token != r'"\n"':
            mark = token
        opened = bool(start) and mark == _literal(start)
        if _TEXT.match(token) and not (thinks and opened):
            found.append(texts[opened])
        elif _TEXT_AND_MARK.match(token) and opened and not thinks:
            found.append(_literal(end))
        elif not (token in "?*+" and found and found[-1] in texts):
            found.append(token)
    text = "".join(found)
    if _UNMARKED in text and text.endswith(") | tools)"):
        text = text.partition("(" + _UNMARKED)[0] + "tools"
    return text if thinks else _REPEATED.sub('""', text)


def _is_tool(name: str) -> bool:
    return bool(_TOOL.match(name)) and not _CALLS.match(name) and "-schema" not in name and "-arg-" not in name


def _with_short_words(body: str) -> str:
    """Return a rule in which repeated letters or digits have at most 16, and the id of a call 9."""
    tokens = _TOKEN.findall(_ID.sub(r'\1"\\"" [a-zA-Z0-9]{9} "\\""', body))
    return "".join(
        _NEW_ID if _TEXT.match(token) else "{1,16}" if token == "+" and before in _WORDS else token
        for before, token in zip(["", *tokens], tokens, strict=False)
    )


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
