"""Random JSON Schemas: a constraint allows no text that jsonschema refuses, whatever the keywords are combined to."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
from hypothesis import HealthCheck, given, settings, strategies as st

from llama_cffi import Constraint, GrammarError
from tests.constrain.walks import accepts, write

_TEXTS = [
    *("null", "true", "false", "0", "1", "2", "3", "-1", "0.5", "1.5", '""', '"a"', '"b"', '"ab"', '"abc"', '"abcdef"'),
    *("[]", "[1]", "[1,1]", "[1,2]", '["a"]', '["a","a"]', '["a","b"]', '["b","a"]', "[true,false]", "[1,1,1,1]", "{}"),
    *(f'{{"a":{value}}}' for value in ("1", "1.5", '"a"', "null", "[]", "{}", '{"a":1}')),
    *(f'{{"b":{value}}}' for value in ("1", '"b"', "true", '{"b":1}')),
    *('{"a":1,"b":1}', '{"a":"a","b":1}', '{"a":"a","b":"b"}', '{"a":1,"b":"b"}', '{"c":1}', '{"a":1,"c":1}'),
]  # fmt: skip
_names = st.sampled_from(["a", "b", "c"])
_values = st.sampled_from([None, True, False, 0, 1, 2, 1.5, "a", "b", "ab", [], [1], {}, {"a": 1}])
_types = st.sampled_from(["null", "boolean", "integer", "number", "string", "array", "object"])
_plain = st.fixed_dictionaries(
    {},
    optional={
        "type": _types | st.lists(_types, min_size=1, max_size=3, unique=True),
        "enum": st.lists(_values, min_size=1, max_size=4),
        "const": _values,
        "minimum": st.integers(-1, 3),
        "exclusiveMaximum": st.integers(0, 4),
        "minLength": st.integers(0, 3),
        "maxLength": st.integers(0, 3),
        "minItems": st.integers(0, 2),
        "maxItems": st.integers(0, 3),
        "uniqueItems": st.booleans(),
        "required": st.lists(_names, max_size=2, unique=True),
        "minProperties": st.integers(0, 2),
        "maxProperties": st.integers(0, 2),
        "dependentRequired": st.dictionaries(_names, st.lists(_names, max_size=1), max_size=1),
        "propertyNames": st.sampled_from([{"enum": ["a", "c"]}, {"maxLength": 1}, {"pattern": "^[ab]"}]),
        "format": st.sampled_from(["own", "password"]),
    },
)  # fmt: skip


def _applied(inner: Any) -> Any:
    several = st.lists(inner, min_size=1, max_size=3)
    return st.fixed_dictionaries(
        {},
        optional={
            "type": _types,
            "oneOf": several,
            "anyOf": several,
            "allOf": several,
            "not": inner,
            "if": inner,
            "then": inner,
            "else": inner,
            "properties": st.dictionaries(_names, inner, max_size=2),
            "additionalProperties": inner,
            "items": inner,
            "prefixItems": st.lists(inner, max_size=2),
            "required": st.lists(_names, max_size=2, unique=True),
            "minItems": st.integers(0, 2),
            "uniqueItems": st.booleans(),
        },
    )


_schemas = st.recursive(st.booleans() | _plain, _applied, max_leaves=8)
_choices = st.builds(
    lambda kind, choices: {**kind, "oneOf": choices},
    st.sampled_from([{}, {"type": "object"}, {"type": ["string", "integer"]}, {"type": "array"}]),
    st.lists(_schemas, min_size=2, max_size=4),
)


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(_schemas | _choices, st.sampled_from([{}, {"maxLength": 2, "maxItems": 2}]), st.integers(0, 99))
def test_nothing_is_wrongly_accepted(schema: Any, options: dict[str, int], seed: int) -> None:
    try:
        constraint = Constraint.fromJsonSchema(schema, whitespace=False, **options)
    except GrammarError:
        return
    validator = jsonschema.Draft202012Validator(schema)
    written = [text for text in (write(constraint, seed + n, 200) for n in range(2)) if text is not None]
    texts = written + [text for text in _TEXTS if accepts(constraint, text)]
    assert [text for text in texts if not validator.is_valid(json.loads(text))] == []
