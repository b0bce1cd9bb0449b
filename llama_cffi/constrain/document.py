"""A JSON Schema as a document: a copy within limits, and where its references (`$ref`) lead."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urljoin

from llama_cffi.errors import GrammarError

MAX_DEPTH = 200
MAX_VALUES = 300_000
# Keywords with values that are no schemas: names in them mean nothing.
_VALUES = frozenset(("const", "enum", "default", "examples", "example"))
# Where a schema holds others: as the values of an object; alone or in a list.
_MAPS = frozenset(("$defs", "definitions", "properties", "patternProperties", "dependentSchemas", "dependencies"))
_SCHEMAS = frozenset(
    ("allOf", "anyOf", "oneOf", "not", "if", "then", "else", "items", "prefixItems", "additionalItems", "contains")
    + ("additionalProperties", "propertyNames", "unevaluatedItems", "unevaluatedProperties")
)


def read_json(text: str) -> Any:
    """Return the value of a JSON text. Raises ValueError, also for one that is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(f"schema must be nested at most {MAX_DEPTH} levels deep") from None
    except ValueError as error:
        raise ValueError(f"schema is not valid JSON: {error}") from None


def plain_copy(schema: Any) -> Any:
    """Return a copy that holds only what JSON has. Raises GrammarError for other values, and beyond the limits."""
    count = 0

    def copy(value: Any, depth: int) -> Any:
        nonlocal count
        count += 1
        if count > MAX_VALUES:
            raise GrammarError(f"schema must have at most {MAX_VALUES} values")
        if value is None or isinstance(value, (str, bool, int)):
            return value
        if isinstance(value, float):
            if not math.isfinite(value):
                raise GrammarError(f"schema must hold finite numbers, got {value}")
            return value
        if depth == MAX_DEPTH:
            raise GrammarError(f"schema must be nested at most {MAX_DEPTH} levels deep")
        if isinstance(value, (list, tuple)):
            return [copy(item, depth + 1) for item in value]
        if isinstance(value, Mapping):
            for name in value:
                if not isinstance(name, str):
                    raise GrammarError(f"schema must have keys of type str, got {type(name).__name__}: {name!r}")
            return {name: copy(item, depth + 1) for name, item in value.items()}
        raise GrammarError(f"schema must hold JSON values, got {type(value).__name__}")

    try:
        return copy(schema, 0)
    except RecursionError:
        raise GrammarError(f"schema must be nested at most {MAX_DEPTH} levels deep, less on a deep stack") from None


class Document:
    """Finds the targets of references in a schema. Other documents are never fetched."""

    def __init__(self, root: Any) -> None:
        self.root = root
        self._bases: dict[int, str] = {}  # id of a dict -> the URI of the schema that it is in
        self._resources: dict[str, Any] = {"": root}
        self._anchors: dict[tuple[str, str], list[Any]] = {}
        self._index()

    def _index(self) -> None:
        # Up to draft 7, the keywords beside $ref mean nothing to other documents; here, only $id is skipped.
        named = str(self.root.get("$schema", "")) if isinstance(self.root, dict) else ""
        old = any(f"draft-0{number}" in named for number in (3, 4, 6, 7))
        todo: list[tuple[Any, str, bool]] = [(self.root, "", True)]  # the last says if it is a schema, or may hold some
        while todo:
            value, base, is_schema = todo.pop()
            if isinstance(value, list):
                todo.extend((item, base, is_schema) for item in value)
            if not isinstance(value, dict):
                continue
            if is_schema:
                base = self._identify(value, base, old)
            self._bases[id(value)] = base
            for key, item in value.items():
                if is_schema and key in _MAPS and isinstance(item, dict):
                    self._bases[id(item)] = base
                    todo.extend((part, base, True) for part in item.values())
                elif key not in _VALUES:
                    todo.append((item, base, is_schema and key in _SCHEMAS))

    def _identify(self, schema: dict[str, Any], base: str, old: bool) -> str:
        """Enter the names of a schema. Returns the URI that the references in it start from."""
        name = schema.get("$id", schema.get("id"))
        if isinstance(name, str) and not (old and "$ref" in schema):
            uri, _, fragment = _join(base, name).partition("#")
            if fragment and name.startswith("#"):
                self._anchors.setdefault((base, fragment), []).append(schema)
            else:
                base = uri
                self._resources.setdefault(base, schema)
        for key in ("$anchor", "$dynamicAnchor"):
            if isinstance(schema.get(key), str):
                self._anchors.setdefault((base, schema[key]), []).append(schema)
        return base

    def resolve(self, node: dict[str, Any], reference: str) -> Any:
        """Return what a reference in `node` leads to. Raises GrammarError."""
        base = self._bases.get(id(node), "")
        uri, _, fragment = _join(base, reference).partition("#")
        found = self._resources.get(uri)
        if found is None:
            raise GrammarError(f"reference {reference!r} leads to another document: include it under '$defs'")
        fragment = unquote(fragment)
        if fragment and not fragment.startswith("/"):
            targets = self._anchors.get((uri, fragment), [])
            if len(targets) != 1:
                raise GrammarError(f"reference {reference!r} has {len(targets)} targets in the schema, expected 1")
            return targets[0]
        for part in fragment.split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, dict) and key in found:
                found = found[key]
            elif isinstance(found, list) and key.isdecimal() and len(key) < 10 and int(key) < len(found):
                found = found[int(key)]
            else:
                raise GrammarError(f"reference {reference!r} has no target in the schema: there is no {key!r}")
        return found

    def dynamic(self, node: dict[str, Any], keyword: str) -> Any:
        """Return what `$dynamicRef` or `$recursiveRef` leads to. Raises GrammarError if that depends on the way."""
        reference: str = node[keyword]
        named = str(self.root.get("$schema", "")) if isinstance(self.root, dict) else ""
        if ("2019-09" not in named) if keyword == "$recursiveRef" else ("draft-0" in named or "2019-09" in named):
            raise GrammarError(f"{keyword} is not a keyword of the schema's draft ({named or '2020-12'}): use '$ref'")
        name = reference.rpartition("#")[2]
        same = [found for (_, anchor), all_found in self._anchors.items() if anchor == name for found in all_found]
        if len(same) > 1 or (keyword == "$recursiveRef" and len(self._resources) > 2):
            raise GrammarError(f"{keyword} {reference!r} has several targets in the schema: use '$ref'")
        return self.resolve(node, reference)


def _join(base: str, reference: str) -> str:
    if reference.startswith("#"):
        return base + reference
    try:
        return urljoin(base, reference) or reference
    except ValueError as error:
        raise GrammarError(f"reference {reference!r} is not a URI: {error}") from None
