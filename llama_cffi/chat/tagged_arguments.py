"""Enforces the texts that a tool allows in formats that write arguments between tags, and not as JSON.

llama.cpp's grammar allows any text there, whatever the `enum` or the `maxLength` of the tool's schema.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

MOST_CHARACTERS = 256  # a longer `maxLength` would need as many rules
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|\[(?:[^\]\\]|\\.)*\]|[a-zA-Z][a-zA-Z0-9-]*|\s+|.')
# Names of rules that llama.cpp's builder makes: any text before a mark; the same with the mark; a rule that has either.
_TEXT = re.compile(r"until-\d+$")
_TEXT_AND_MARK = re.compile(r"ac-\d+$")
_SHARED = re.compile(r"[a-z0-9]+-arg-string$")
_STEP = re.compile(r"\[(\\.|[^\\])\](?: (ac-\d+-\d+))?$")
_NAME = r"[a-zA-Z0-9-]+-arg-[a-zA-Z0-9-]+"
_REPEATED = re.compile(rf"\((space )?(\()?({_NAME}(?: \| {_NAME})*)(?(2)\))\)\*")
_ANY_TOOL = r"tool-[a-zA-Z0-9-]+"
_SPACED = re.compile(rf'(\(({_ANY_TOOL}(?: \| {_ANY_TOOL})*)\)|(?<![^ ])({_ANY_TOOL})) space (?=")')
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


def limited(grammar: str, tools: Sequence[Mapping[str, Any]], once: bool) -> str:
    """Return a grammar that allows only the texts of the tools' schemas.

    `once`: each optional argument comes once at most, in the schema's order, so that calls end.
    """
    rules = dict(line.split(" ::= ", 1) for line in grammar.splitlines() if " ::= " in line)
    schemas = dict[str, Any]()
    for name, schema in _arguments(tools):
        schemas[name] = None if name in schemas else schema  # two arguments that share a name: leave them
    changed = dict[str, str]()
    for name, schema in schemas.items():
        if name in rules and isinstance(schema, Mapping):
            changed |= _with_texts(name, schema, rules)
    for name, body in rules.items():
        if "-arg-" not in name:
            found = _without_space(body, rules)
            found = _REPEATED.sub(_in_order, found) if once else found
            changed |= {name: found} if found != body else {}
    if not changed:
        return grammar
    return "".join(f"{name} ::= {body}\n" for name, body in {**rules, **changed}.items())


def _without_space(body: str, rules: Mapping[str, str]) -> str:
    """Return a rule without space between arguments and the mark after a call: llama.cpp's parser does not read it."""

    def tight(match: re.Match[str]) -> str:
        tools = [rules.get(name, "") for name in (match[2] or match[3]).split(" | ")]
        open_ends = any(["-arg-" in tool for tool in tools]) and not any([tool.endswith('"') for tool in tools])
        return f"{match[1]} " if open_ends else match[0]

    return _SPACED.sub(tight, body)


def _arguments(tools: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Yield the name of the rule for each argument, in each way that llama.cpp names them, and its schema."""
    for number, tool in enumerate(tools):
        function = tool["function"]
        parameters = function.get("parameters")
        properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
        for place, (key, schema) in enumerate(properties.items() if isinstance(properties, Mapping) else ()):
            # By their names or, in newer versions, by their numbers.
            for one, other in dict.fromkeys(((function["name"], key), (str(number), str(place)))):
                for name in (f"tool-{one}-arg-{other}", f"ling3-arg-{one}-{other}"):
                    yield re.sub(r"[^a-zA-Z0-9-]+", "-", name), schema


def _with_texts(name: str, schema: Mapping[str, Any], rules: Mapping[str, str]) -> dict[str, str]:
    """Return the rule of an argument with the texts of its schema, and new rules for them; {} if it allows any."""
    tokens = [
        part
        for token in _TOKEN.findall(rules[name])
        for part in (_TOKEN.findall(rules[token]) if _SHARED.match(token) and token in rules else [token])
    ]
    places = [at for at, token in enumerate(tokens) if _TEXT.match(token) or _TEXT_AND_MARK.match(token)]
    if len(places) != 1:
        return {}
    (place,) = places
    if _TEXT_AND_MARK.match(tokens[place]):
        mark, end = _mark(tokens[place], rules), place + 1
    else:
        mark, end = _following(tokens, place)
    texts, most = _choices(schema), _limits(schema)
    if len(mark) < 2 or any([f"{text}{mark}".find(mark) != len(text) for text in texts]):
        return {}
    new = dict[str, str]()
    if texts:
        value = f"({' | '.join(map(_literal, texts))})"
    elif most is not None:
        new, value = _counted(f"{name}-text", mark, *most), f"{name}-text-0"
    else:
        return {}
    return {name: "".join([*tokens[:place], value, " ", _literal(mark), *tokens[end:]]), **new}


def _following(tokens: Sequence[str], place: int) -> tuple[str, int]:
    """Return the literal after a place, and where it ends; "" if there is none."""
    at = place + 1
    while at < len(tokens) and tokens[at].isspace():
        at += 1
    if at == len(tokens) or tokens[at][0] != '"':
        return "", at
    try:
        return str(json.loads(tokens[at])), at + 1
    except ValueError:
        return "", at


def _mark(name: str, rules: Mapping[str, str]) -> str:
    """Return the mark at which a rule for any text ends: what its states take one after the other; "" if unknown."""
    found, at, number = "", name, 0
    while len(found) < 100:
        number += 1
        after = f"{name}-{number:02}"
        for step in map(_STEP.match, rules.get(at, "").split(" | ")):
            if step is not None and step[2] in (None, after):
                found += _ESCAPES.get(step[1][1:], step[1][-1]) if step[1][0] == "\\" else step[1]
                if step[2] is None:
                    return found
                break
        else:
            return ""
        at = after
    return ""


def _choices(schema: Mapping[str, Any]) -> list[str]:
    """Return the texts that a schema lists; [] if it lists none, or other values too."""
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    return list(values) if isinstance(values, list) and all([isinstance(value, str) for value in values]) else []


def _limits(schema: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the least and the most characters of a text; None if there is no limit that can be enforced."""
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    if schema.get("type") != "string" or type(most) is not int or type(least) is not int:
        return None
    return (least, most) if 0 <= least <= most <= MOST_CHARACTERS else None


def _counted(name: str, mark: str, least: int, most: int) -> dict[str, str]:
    """Return rules for a text that holds no beginning of a mark: its first character only before another second one."""
    first, second = _in_class(mark[0]), _in_class(mark[1])
    found = {}
    for count in range(most + 1):
        ways = ['""'] if count >= least else []
        if count < most:
            ways.append(f"[^{first}] {name}-{count + 1}")
        if count + 1 < most:
            ways.append(f"[{first}] [^{first}{second}] {name}-{count + 2}")
        found[f"{name}-{count}"] = " | ".join(ways)
    return found


def _in_order(match: re.Match[str]) -> str:
    return " ".join(f"({match[1] or ''}{name})?" for name in match[3].split(" | "))


def _in_class(character: str) -> str:
    return f"\\x{ord(character):02X}" if character in "\\[]^-" or character < " " else character


def _literal(text: str) -> str:
    return '"' + re.sub(r'["\\\x00-\x1f\x7f]', lambda match: f"\\x{ord(match[0]):02X}", text) + '"'
