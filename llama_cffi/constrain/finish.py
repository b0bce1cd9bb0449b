"""What is done to a schema after it was rewritten: choices, parts that no text satisfies, names, and its size."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from llama_cffi.constrain.choices import Choices
from llama_cffi.constrain.reader import Reader
from llama_cffi.errors import GrammarError

Schema = Any

MAX_LEVELS = 1 << 15  # levels of all definitions together: how deeply llguidance may recurse


def finish(reader: Reader, schema: dict[str, Any], max_length: int | None) -> tuple[dict[str, Any], int]:
    """Complete a rewritten schema. Returns it and the number of its levels; raises GrammarError."""
    defs: dict[str, Schema] = schema["$defs"]
    _settle(reader, defs)
    nodes = [node for part in defs.values() for node in _within(part)]
    _drop_endless(schema, defs, nodes)
    _check_patterns(reader, defs, nodes)
    if max_length is not None:
        mixed = _mixed(defs, nodes)
        for node in reader.nameable:
            if id(node) not in mixed:
                more = node.pop("additionalProperties", True)
                node |= {"patternProperties": {f"^(?s:.){{0,{max_length}}}$": more}, "additionalProperties": False}
    # llguidance also recurses over the properties of an object.
    widest = max((len(node.get("properties", ())) + len(node.get("required", ())) for node in nodes), default=0)
    levels = sum(map(_depth, defs.values())) + widest
    if levels > MAX_LEVELS:
        raise GrammarError(f"schema must have at most {MAX_LEVELS} levels and properties, got {levels}")
    return schema, levels


def _inside(node: dict[str, Any]) -> Iterator[Schema]:
    """Yield the schemas directly inside another."""
    for key in ("allOf", "anyOf", "oneOf", "prefixItems"):
        yield from node.get(key, ())
    for key in ("properties", "patternProperties"):
        yield from node.get(key, {}).values()
    for key in ("items", "additionalProperties"):
        if key in node:
            yield node[key]


def _in_place(node: dict[str, Any], defs: dict[str, Schema]) -> Iterator[Schema]:
    """Yield the schemas that another applies to the same value."""
    for key in ("allOf", "anyOf", "oneOf"):
        yield from node.get(key, ())
    if "$ref" in node:
        yield defs[_name(node)]


def _name(node: dict[str, Any]) -> str:
    name: str = node["$ref"].rpartition("/")[2]
    return name


def _within(schema: Schema) -> Iterator[dict[str, Any]]:
    """Yield a schema and all inside it, each once."""
    todo, seen = [schema], set()
    while todo:
        node = todo.pop()
        if isinstance(node, dict) and id(node) not in seen:
            seen.add(id(node))
            yield node
            todo.extend(_inside(node))


def _depth(schema: Schema) -> int:
    deepest, todo = 1, [(schema, 1)]
    while todo:
        node, depth = todo.pop()
        deepest = max(deepest, depth)
        if isinstance(node, dict):
            todo.extend((part, depth + 1) for part in _inside(node))
    return deepest


def _settle(reader: Reader, defs: dict[str, Schema]) -> None:
    """Make every `oneOf` an `anyOf`."""
    choices = Choices(defs, reader.narrowed)
    while nodes := [node for part in defs.values() for node in _within(part) if "oneOf" in node]:
        settled = [(node, choices.settle(node["oneOf"], partial(reader.opposite, node))) for node in nodes]
        for node, options in settled:
            left = node.pop("oneOf")
            if options is None:
                reader.note("oneOf with choices that overlap")
            rule = {"anyOf": left if options is None else options}
            node.update({"allOf": [*node.get("allOf", ()), rule]} if "anyOf" in node else rule)
        defs |= reader.definitions()


def drop(schema: dict[str, Any], name: str) -> None:
    """Remove a definition that no text satisfies, and what needs it. Raises GrammarError if nothing is left."""
    defs: dict[str, Schema] = schema["$defs"]
    defs[name] = False
    _drop_endless(schema, defs, [node for part in defs.values() for node in _within(part)])


def _drop_endless(schema: dict[str, Any], defs: dict[str, Schema], nodes: list[dict[str, Any]]) -> None:
    """Replace what no finite text satisfies by False: a model could begin such a text, and never end it."""
    users: dict[str, list[str]] = {}
    for name, part in defs.items():
        for node in _within(part):
            if "$ref" in node:
                users.setdefault(_name(node), []).append(name)
    ends: set[str] = set()
    todo = [*defs]
    while todo:
        name = todo.pop()
        if name not in ends and _ends(defs[name], ends):
            ends.add(name)
            todo.extend(users.get(name, ()))
    if _name(schema) not in ends:
        raise GrammarError("this JSON constraint cannot be enforced: no finite text satisfies the schema")
    for node in nodes:
        if "$ref" in node and _name(node) not in ends:
            node.clear()
            node["anyOf"] = [False]  # as `node` cannot become False itself
    for name in [*defs]:
        if name not in ends:
            del defs[name]


def _ends(schema: Schema, ends: set[str]) -> bool:
    """Return True if a finite text may satisfy a schema, where those of `ends` have one."""
    if isinstance(schema, bool):
        return schema
    if "$ref" in schema and _name(schema) not in ends:
        return False
    if not all(_ends(part, ends) for part in schema.get("allOf", ())):
        return False
    if "anyOf" in schema and not any(_ends(part, ends) for part in schema["anyOf"]):
        return False
    if schema.get("type") == "object" and "enum" not in schema:
        properties, more = schema.get("properties", {}), schema.get("additionalProperties", True)
        rest = True if schema.get("patternProperties") else more
        if schema.get("minProperties", 0) > schema.get("maxProperties", 1e9):
            return False
        return all(_ends(properties.get(name, rest), ends) for name in schema.get("required", ()))
    if schema.get("type") == "array" and "enum" not in schema:
        first, count = schema.get("prefixItems", []), schema.get("minItems", 0)
        needed = [*first[:count], *([schema.get("items", True)] if count > len(first) else [])]
        return all(_ends(part, ends) for part in needed)
    return True


def _parts(node: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what a schema demands of an object, apart: its own keywords, and each other condition."""
    parts = [part for part in node.get("allOf", ()) if isinstance(part, dict)]
    parts.extend({key: node[key]} for key in ("$ref", "anyOf") if key in node)
    own: dict[str, Any] = {
        key: node[key] for key in ("properties", "patternProperties", "additionalProperties", "required") if key in node
    }
    return [*parts, own] if own else parts


def _together(part: dict[str, Any], defs: dict[str, Schema]) -> Iterator[dict[str, Any]]:
    """Yield a schema and all that apply to the same value because of it."""
    todo, seen = [part], set()
    while todo:
        node = todo.pop()
        if isinstance(node, dict) and id(node) not in seen:
            seen.add(id(node))
            yield node
            todo.extend(_in_place(node, defs))


def _check_patterns(reader: Reader, defs: dict[str, Schema], nodes: list[dict[str, Any]]) -> None:
    """Note `patternProperties` that another condition for other names comes together with.

    llguidance does not apply the `additionalProperties` of one schema to the `patternProperties` of the other.
    """
    if not any("patternProperties" in node for node in nodes):
        return
    for node in nodes:
        parts = _parts(node)
        if len(parts) > 1:
            found = [[*_together(part, defs)] for part in parts]
            if any("patternProperties" in one for part in found for one in part):
                closing = [part for part in found if any(_names_matter(one) for one in part)]
                if len(closing) > 1:
                    reader.note("patternProperties together with other conditions for the same object")
                    return


def _names_matter(node: dict[str, Any]) -> bool:
    return "patternProperties" in node or "additionalProperties" in node


def _mixed(defs: dict[str, Schema], nodes: list[dict[str, Any]]) -> set[int]:
    """Return the ids of schemas that apply together with others to the same value."""
    found: set[int] = set()
    for node in nodes:
        if len(_parts(node)) > 1:
            todo: list[Schema] = [node]
            while todo:
                part = todo.pop()
                if isinstance(part, dict) and id(part) not in found:
                    found.add(id(part))
                    todo.extend(_in_place(part, defs))
    return found
