"""Rewrites a JSON Schema of any draft to an equal or stricter one that llguidance enforces exactly.

The result has no annotations, references only to its own `$defs`, and only keywords that llguidance reads as the
standard does. What cannot be said like that is noted in `Reader.problems`.
"""

from __future__ import annotations

import re
from typing import Any

from llama_cffi.constrain import keywords
from llama_cffi.constrain.counts import distinct, limited
from llama_cffi.constrain.document import Document
from llama_cffi.constrain.guidance import allows
from llama_cffi.constrain.negation import Negation
from llama_cffi.constrain.parts import joined, keys_of, one_pattern
from llama_cffi.constrain.patterns import FORMATS, rust_patterns
from llama_cffi.errors import GrammarError

Schema = Any  # a dict or a bool

_DEEP = 12  # levels of a schema in one definition: llguidance reads JSON with at most 128 levels
_MOST_CHOICES = 100  # into which a keyword may be expanded
_EVERY_NAME = frozenset(("", "^", ".*", "^.*", "^.*$", ".*$"))
_IN_PLACE = frozenset(("allOf", "anyOf", "oneOf", "$ref", "if", "dependentSchemas", "dependencies", "contains"))
_FEW: dict[str, list[Any]] = {"boolean": [True, False], "null": [None]}  # the values of a type
_SHOWN = 100  # characters of a pattern in a message
# Patterns that llguidance reads for certain.
_SIMPLE = re.compile(r"\^?(?:[^\\()\[\]{}^$*+?|]|\\[dwsDWS.\-/]|\[[A-Za-z0-9_ -]+\]|[*+?])*\$?")


class Reader:
    """One schema while it is rewritten."""

    def __init__(self, root: Schema, max_length: int | None, max_items: int | None, strict_formats: bool) -> None:
        self.document = Document(root)
        self.problems: dict[str, None] = {}  # what cannot be enforced, in order
        self.late_formats = False  # True if a text must be checked for a format after it was generated
        self.nameable: list[dict[str, Any]] = []  # objects with any names, whose length may be limited
        self._max_length, self._max_items, self._strict_formats = max_length, max_items, strict_formats
        self._patterns: dict[str, list[str]] = {}  # as they are in the schema -> as llguidance reads them
        self._definitions: dict[int, str] = {}  # id of a schema -> its name in $defs
        self._todo: list[tuple[str, Any]] = []
        # id of a rewritten schema -> its keywords that are stricter than in the schema, None for all of them
        self.narrowed: dict[int, set[str] | None] = {}
        self._choices: dict[int, list[Any]] = {}  # id of a rewritten `oneOf` -> its choices in the schema
        self._opposites: dict[int, tuple[Schema, bool] | None] = {}  # id of a schema -> its opposite
        self._negation = Negation(self.note, self.schema, self.document.resolve, self._narrow, strict_formats)

    def read(self) -> dict[str, Any]:
        """Return the schema rewritten: a reference to one of its definitions."""
        root = self.define(self.document.root)
        return {**root, "$defs": self.definitions()}

    def definitions(self) -> dict[str, Schema]:
        """Return the definitions that are new since the last call."""
        defs: dict[str, Schema] = {}
        while self._todo:
            name, node = self._todo.pop()
            defs[name] = self.schema(node, 0)
        return defs

    def opposite(self, node: dict[str, Any], place: int) -> tuple[Schema, bool] | None:
        """Return the opposite of a choice of a rewritten `oneOf`, as `Negation.exact` does."""
        choice = self._choices[id(node)][place]
        if id(choice) not in self._opposites:
            self._opposites[id(choice)] = self._negation.exact(choice, 0)
        return self._opposites[id(choice)]

    def _narrow(self, node: dict[str, Any], *keys: str) -> None:
        """Note that keywords of a rewritten schema are stricter than in the schema; without keywords, all of them."""
        found = self.narrowed.setdefault(id(node), set())
        if found is not None:
            self.narrowed[id(node)] = found | {*keys} if keys else None

    def define(self, node: Any) -> dict[str, Any]:
        """Return a reference to the definition of a schema; it is read later."""
        passed: set[int] = set()
        while isinstance(node, dict):  # a chain of references is one
            keys = [key for key in node if key in keywords.APPLICATORS or key in keywords.READ]
            if keys != ["$ref"]:
                break
            if id(node) in passed:
                raise GrammarError("no text satisfies a reference that leads back to itself")
            passed.add(id(node))
            keywords.check(node)
            node = self.document.resolve(node, node["$ref"])
        key = id(node) if isinstance(node, dict) else -1 - bool(node)
        name = self._definitions.get(key)
        if name is None:
            name = self._definitions[key] = str(len(self._definitions))
            self._todo.append((name, node))
        return {"$ref": f"#/$defs/{name}"}

    def note(self, problem: str) -> None:
        """Note what cannot be enforced."""
        self.problems.setdefault(problem)

    def schema(self, node: Any, depth: int) -> Schema:
        """Return a schema rewritten."""
        if isinstance(node, bool):
            return node
        if not isinstance(node, dict):
            raise keywords.malformed("a schema", "an object, true or false", node)
        if depth == _DEEP:
            return self.define(node)
        keywords.check(node)
        types = keywords.types_of(node)
        plain = self._own(node, types, depth + 1)
        if plain is False:
            return False
        conditions = self._conditions(node, types, depth + 1)
        if any(condition is False for condition in conditions):
            return False
        conditions = [condition for condition in conditions if condition is not True]
        if not plain or not conditions:
            return joined([plain, *conditions] if plain else conditions)
        # Properties are generated in the order in which the schema first mentions them.
        first = next((key for key in node if key in keywords.APPLICATORS or key in ("properties", "required")), "")
        return joined([*conditions, plain] if first in keywords.APPLICATORS else [plain, *conditions])

    def _own(self, node: dict[str, Any], types: list[str], depth: int) -> Schema:
        """Return the part of a schema without the keywords that apply other schemas to the same value."""
        own: dict[str, Any] = {}
        if "const" in node or "enum" in node:
            values = node.get("enum", [node.get("const")])
            if "const" in node:
                values = [value for value in values if keywords.same(value, node["const"])]
            values = [value for value in values if keywords.has_type(value, types)]
            keywords.check_literals(values)
            if not values:
                return False
            own["enum"] = values
            types = [name for name in types if any(keywords.has_type(value, [name]) for value in values)]
        if "type" in node:
            own["type"] = types[0] if len(types) == 1 else types
        if {"number", "integer"} & {*types}:
            own |= keywords.bounds(node)
            self._multiple(node, own, types)
        if "string" in types and not self._string(node, own, types):
            return False
        if "array" in types:
            self._array(node, own, types, depth)
        if "object" in types:
            own = self._object(node, own, types, depth)
        return own

    def _multiple(self, node: dict[str, Any], own: dict[str, Any], types: list[str]) -> None:
        step = node.get("multipleOf")
        if step is None:
            return
        if step <= 0:
            raise GrammarError(f"multipleOf must be greater than 0, got {step}")
        if "number" in types or (1 / step) % 1:
            own["multipleOf"] = step

    # Strings

    def _string(self, node: dict[str, Any], own: dict[str, Any], types: list[str]) -> bool:
        low = keywords.count(node, "minLength") or 0
        high = keywords.count(node, "maxLength")
        patterns = self.readable(node["pattern"]) if node.get("pattern") else []
        if "format" in node:
            more, longest = self._format(node["format"])
            patterns.extend(more)
            if longest:
                high = min(high or longest, longest) if high != 0 else 0
        if self._max_length is not None and "type" in node and "enum" not in own and high is None and not patterns:
            high = max(self._max_length, low)
            self._narrow(own, "maxLength")
        if high is not None:
            if low > high and types == ["string"]:
                return False
            own["maxLength"] = high
        if low:
            own["minLength"] = low
        if patterns:
            own["pattern"] = patterns[0]
        if patterns[1:]:
            own["allOf"] = [{"type": types, "pattern": pattern} for pattern in patterns[1:]]
        return True

    def readable(self, pattern: str) -> list[str]:
        """Return a pattern for llguidance; none, with a note, if it cannot read it."""
        found = self._patterns.get(pattern)
        if found is None:
            try:
                found = rust_patterns(pattern)
                if not _SIMPLE.fullmatch(pattern):
                    for part in found:
                        allows({"type": "string", "pattern": part}, "")
            except GrammarError as error:
                found = []
                why = str(error).rpartition("error: ")[2].removeprefix(f"pattern {pattern!r}: ")
                self.note(f"pattern {pattern[:_SHOWN]!r} ({why[:_SHOWN]})")
            self._patterns[pattern] = found
        return found

    def unreadable(self) -> list[str]:
        """Return the patterns that llguidance cannot read."""
        return [pattern for pattern, found in self._patterns.items() if not found]

    def _format(self, name: str) -> tuple[tuple[str, ...], int]:
        found = FORMATS.get(name)
        if found is None:
            if self._strict_formats:
                self.note(f"format {name!r}")
            self.late_formats |= name == "regex"
            return (), 0
        return found

    # Arrays

    def _array(self, node: dict[str, Any], own: dict[str, Any], types: list[str], depth: int) -> None:
        low = keywords.count(node, "minItems") or 0
        high = keywords.count(node, "maxItems")
        items, first = node.get("items"), node.get("prefixItems", [])
        if isinstance(items, list):
            if first:
                raise GrammarError("items and prefixItems must not both be arrays")
            first, items = items, node.get("additionalItems")
        unevaluated = node.get("unevaluatedItems", True)
        if unevaluated is not True and items is None and unevaluated != {}:
            if _IN_PLACE & {*node}:
                self.note("unevaluatedItems beside a keyword that applies other schemas")
            else:
                items = unevaluated
        low, high = self._contains(node, low, high)
        if node.get("uniqueItems") and (high is None or high > 1):
            values = None if first else self._enumeration(items)
            arrays = None if values is None else distinct(values, low, high)
            if arrays is None:
                self.note("uniqueItems")
            else:
                others = [{"type": [name for name in keywords.TYPES if name != "array"]}]
                own["allOf"] = [*own.get("allOf", ()), {"anyOf": [*arrays, *others] or [False]}]
        if self._max_items is not None and "type" in node and "enum" not in own and high is None:
            high = max(self._max_items, low)
            self._narrow(own, "maxItems")
        if first:
            own["prefixItems"] = [self.schema(item, depth) for item in first]
        if items is not None and (items := self.schema(items, depth)) is not True:
            own["items"] = items
        if low:
            own["minItems"] = low
        if high is not None:
            own["maxItems"] = high

    def _enumeration(self, node: Any) -> list[Any] | None:
        """Return the values that a schema enumerates; None if it does not."""
        for _ in range(_MOST_CHOICES):
            if isinstance(node, dict) and [key for key in node if key in keywords.READ] == ["$ref"]:
                keywords.check(node)
                node = self.document.resolve(node, node["$ref"])
        if not isinstance(node, dict) or not {*node} & keywords.READ <= {"type", "enum", "const"}:
            return None
        keywords.check(node)
        if not {"enum", "const"} & {*node}:
            return _FEW.get(str(node.get("type")))
        own = self._own(node, keywords.types_of(node), 0)
        return [*own["enum"]] if own else []

    def _contains(self, node: dict[str, Any], low: int, high: int | None) -> tuple[int, int | None]:
        if "contains" not in node:
            return low, high
        fewest = keywords.count(node, "minContains", 1) or 0
        most = keywords.count(node, "maxContains")
        if node["contains"] in (True, {}):
            return max(low, fewest), most if high is None else min(high, high if most is None else most)
        if fewest or most is not None:
            self.note("contains")
        return low, high

    # Objects

    def _object(self, node: dict[str, Any], own: dict[str, Any], types: list[str], depth: int) -> dict[str, Any]:
        properties = {name: self.schema(part, depth) for name, part in node.get("properties", {}).items()}
        required = keywords.strings("required", node.get("required", []))
        more: Schema = self._additional(node, depth)
        patterns: dict[str, Schema] = {}
        if len(node.get("patternProperties", ())) > _MOST_CHOICES:
            raise GrammarError(
                f"patternProperties must have at most {_MOST_CHOICES} patterns, got {len(node['patternProperties'])}"
            )
        for pattern, part in node.get("patternProperties", {}).items():
            if pattern in _EVERY_NAME:
                every = self.define(part)
                properties = {name: joined([one, every]) for name, one in properties.items()}
                patterns = {name: joined([one, every]) for name, one in patterns.items()}
                more = joined([more, every])
            elif len(found := self.readable(pattern)) == 1:
                patterns[found[0]] = self.schema(part, depth)
            elif found:
                self.note(f"patternProperties with look-ahead: {pattern[:_SHOWN]!r}")
        if "propertyNames" in node:
            properties, patterns, more = self._names(node["propertyNames"], properties, patterns, more, required)
        if more is not False or patterns:
            if any(ord(char) < 32 or char == "\x7f" for name in (*properties, *required) for char in name):
                self.note("a name of a property with a control character, beside other names")
        own |= {key: value for key, value in (("properties", properties), ("patternProperties", patterns)) if value}
        if more is not True:
            own["additionalProperties"] = more
        if required:
            own["required"] = required
        if types == ["object"] and more is not False and not properties and not patterns and "type" in node:
            self.nameable.append(own)
        if {"pattern", "format"} & {*keys_of(node.get("propertyNames"))}:
            self._narrow(own, "properties")
        return limited(self.note, self._narrow, node, own)

    def _additional(self, node: dict[str, Any], depth: int) -> Schema:
        if "additionalProperties" in node:
            more = node["additionalProperties"]
            several = "propertyNames" in node and not isinstance(more, bool)
            return self.define(more) if several else self.schema(more, depth)
        unevaluated = node.get("unevaluatedProperties", True)
        if unevaluated is True or unevaluated == {}:
            return True
        if not _IN_PLACE & {*node}:
            return self.schema(unevaluated, depth)
        self.note("unevaluatedProperties beside a keyword that applies other schemas")
        return True

    def _names(
        self, rule: Any, properties: dict[str, Schema], patterns: dict[str, Schema], more: Schema, required: list[str]
    ) -> tuple[dict[str, Schema], dict[str, Schema], Schema]:
        """Apply `propertyNames`."""
        names = rule
        for _ in range(_MOST_CHOICES):
            if isinstance(names, dict) and [key for key in names if key in keywords.READ] == ["$ref"]:
                keywords.check(names)
                names = self.document.resolve(names, names["$ref"])
        if names is True or (isinstance(names, dict) and not keywords.READ & names.keys()):
            return properties, patterns, more
        if names is False:
            return dict.fromkeys(properties, False), {}, False
        if not isinstance(names, dict):
            raise keywords.malformed("propertyNames", "a schema", names)
        if "string" not in keywords.types_of(names):
            return dict.fromkeys(properties, False), {}, False
        keywords.check(names)
        keys = {key for key in names if key in keywords.READ} - {"type"}
        if not keys:
            return properties, patterns, more
        if keys & {"enum", "const"} and keys <= {"enum", "const"} and not patterns:
            own = self._own(names, ["string"], 0)
            allowed = own["enum"] if own else []
            known = {name: part for name, part in properties.items() if name in allowed}
            known |= {name: more for name in allowed if name not in known}
            return known | {name: False for name in properties if name not in allowed}, {}, False
        own = self._own(names, ["string"], 0) if keys <= {"pattern", "minLength", "maxLength", "format"} else {}
        pattern = one_pattern(own) if own else ""
        if not pattern or patterns or len(properties) > _MOST_CHOICES:
            self.note("propertyNames")
            return properties, patterns, more
        known = {name: part if allows(own, name) else False for name, part in properties.items()}
        return known, {pattern: more}, False

    # Conditions

    def _conditions(self, node: dict[str, Any], types: list[str], depth: int) -> list[Schema]:
        found: list[Schema] = []
        for key, value in node.items():
            if key == "$ref":
                found.append(self.define(self.document.resolve(node, value)))
            elif key in ("$dynamicRef", "$recursiveRef"):
                found.append(self.define(self.document.dynamic(node, key)))
            elif key == "allOf":
                found.extend(self.schema(part, depth) for part in value)
            elif key in ("anyOf", "oneOf"):
                condition = {key: [self.schema(part, depth) for part in value]}
                found.append(condition)
                if key == "oneOf":
                    self._choices[id(condition)] = value
            elif key == "not":
                opposite = self._negation.choice(value, "not", depth)
                found.append(True if opposite is None else opposite)
            elif key == "if" and ("then" in node or "else" in node):
                found.append(self._if(node, depth))
            elif key in ("dependentRequired", "dependentSchemas", "dependencies"):
                found.extend(self._dependent(name, part, depth) for name, part in value.items())
        return found

    def _if(self, node: dict[str, Any], depth: int) -> Schema:
        then, otherwise = node.get("then", True), node.get("else", True)
        test = self.schema(node["if"], depth)
        met = joined([test, self.schema(then, depth)])
        unmet = self._negation.choice(node["if"], "if", depth)
        if unmet is None:
            return True
        return {"anyOf": [met, joined([unmet, self.schema(otherwise, depth)])]}

    def _dependent(self, name: str, rule: Any, depth: int) -> Schema:
        absent = {"properties": {name: False}}
        if isinstance(rule, list):
            names = keywords.strings(f"dependencies of {name!r}", rule)
            return {"anyOf": [absent, {"type": "object", "required": [name, *names]}]} if names else True
        then = self.schema(rule, depth)
        return True if then is True else {"anyOf": [absent, joined([{"type": "object", "required": [name]}, then])]}
