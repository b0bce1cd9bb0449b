# ruff: noqa: E501  (one case, one line)
"""JSON Schemas as people write them: what is enforced wherever it lies, what is taken, refused or checked later."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest

from llama_cffi import Constraint, GrammarError
from tests.constrain.walks import accepts, write

FEBRUARY = "2023-02-29"  # no such day
DAY = {"type": "string", "format": "date"}
DRAFT_7 = "http://json-schema.org/draft-07/schema#"


def _make(schema: Any, **options: Any) -> Constraint[Any]:
    return Constraint.fromJsonSchema(schema, whitespace=False, **options)


# What applies wherever it lies

PLACES: dict[str, tuple[Any, str]] = {
    "definitions": ({"$ref": "#/definitions/D", "definitions": {"D": DAY}}, '"{}"'),
    "components": (
        {
            "$ref": "#/components/schemas/A",
            "components": {"schemas": {"A": {"properties": {"d": {"$ref": "#/components/schemas/D"}}}, "D": DAY}},
        },
        '{{"d":"{}"}}',
    ),
    "any container": ({"$ref": "#/x-own/0/deep", "x-own": [{"deep": DAY}]}, '"{}"'),
    "properties of another": ({"properties": {"a": DAY, "b": {"$ref": "#/properties/a"}}, "type": "object"}, '{{"b":"{}"}}'),
    "draft 7 items": ({"$schema": DRAFT_7, "type": "array", "items": [DAY]}, '["{}"]'),
    "draft 7 additionalItems": ({"$schema": DRAFT_7, "type": "array", "items": [], "additionalItems": DAY}, '["{}"]'),
    "prefixItems": ({"type": "array", "prefixItems": [DAY]}, '["{}"]'),
    "items": ({"type": "array", "items": DAY}, '["{}"]'),
    "anyOf": ({"anyOf": [DAY, {"type": "null"}]}, '"{}"'),
    "oneOf": ({"oneOf": [DAY, {"type": "null"}]}, '"{}"'),
    "allOf": ({"allOf": [{"type": "string"}, DAY]}, '"{}"'),
    "patternProperties": ({"type": "object", "patternProperties": {"^d": DAY}}, '{{"d":"{}"}}'),
    "additionalProperties": ({"type": "object", "additionalProperties": DAY}, '{{"d":"{}"}}'),
    "dependentSchemas": (
        {"type": "object", "properties": {"a": {}}, "dependentSchemas": {"a": {"properties": {"d": DAY}}}},
        '{{"a":1,"d":"{}"}}',
    ),
    "then": ({"if": {"type": "string"}, "then": DAY}, '"{}"'),
    "else": ({"if": {"type": "number"}, "else": DAY}, '"{}"'),
    "unevaluatedProperties": ({"type": "object", "unevaluatedProperties": DAY}, '{{"d":"{}"}}'),
    "a nested id": (
        {"$id": "https://a.example/s", "$ref": "other", "$defs": {"x": {"$id": "other", **DAY}}},
        '"{}"',
    ),
    "an anchor": ({"$ref": "#day", "$defs": {"x": {"$anchor": "day", **DAY}}}, '"{}"'),
    "without a type": ({"format": "date"}, '"{}"'),
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_only_dates_that_exist_anywhere(place: str) -> None:
    schema, text = PLACES[place]
    constraint = _make(schema)
    assert accepts(constraint, text.format("2024-02-29"))
    assert not accepts(constraint, text.format(FEBRUARY))


@pytest.mark.parametrize("place", PLACES)
def test_limits_of_length_anywhere(place: str) -> None:
    schema, text = PLACES[place]
    schema = json.loads(json.dumps(schema).replace(json.dumps(DAY)[1:-1], '"type": "string"'))
    if place == "without a type":
        schema = {"type": ["string", "null"]}
    constraint = _make(schema, maxLength=3)
    assert accepts(constraint, text.format("abc"))
    assert not accepts(constraint, text.format("abcd"))


def test_limits_of_items_anywhere() -> None:
    schema = {"$ref": "#/x/y", "x": {"y": {"type": "array", "items": {"anyOf": [{"type": "array"}, {"type": "null"}]}}}}
    constraint = _make(schema, maxItems=2)
    assert accepts(constraint, "[[1,1],null]")
    assert not accepts(constraint, "[[1,1,1],null]")
    assert not accepts(constraint, "[null,null,null]")


# What asks for nothing

NEUTRAL = [
    {"uniqueItems": False}, {"if": {"type": "string"}}, {"then": False}, {"else": False}, {"dependencies": {}},
    {"dependentRequired": {}}, {"dependentSchemas": {"a": True}}, {"minContains": 0}, {"maxContains": 1},
    {"contains": {"type": "null"}, "minContains": 0}, {"minItems": 0}, {"minItems": 0.0}, {"minLength": 0},
    {"minProperties": 0.0}, {"propertyNames": True}, {"propertyNames": {}}, {"propertyNames": {"type": "string"}},
    {"unevaluatedProperties": True}, {"unevaluatedItems": {}}, {"not": False}, {"patternProperties": {}},
    {"additionalItems": False}, {"required": []}, {"properties": {}}, {"allOf": [{}]}, {"anyOf": [True]},
    {"oneOf": [{}]}, {"pattern": ""}, {"format": "password"}, {"format": "int32"}, {"format": "own-name"},
    {"contentEncoding": "base64"}, {"nullable": True}, {"title": 1}, {"$comment": {}}, {"multipleOf": 1},
    {"patternProperties": {".*": {}}}, {"dependencies": {"a": []}}, {"if": True, "then": True}, {"allOf": [{"not": False}]},
]  # fmt: skip


@pytest.mark.parametrize("schema", NEUTRAL, ids=str)
def test_what_asks_for_nothing_is_taken(schema: Any) -> None:
    constraint = _make(schema)
    for text in ("1", '"a"', "[1,1]", '{"a":[null]}', "null", "{}", "[]"):
        assert accepts(constraint, text)


# Keywords that llguidance does not have, or reads differently. Each: the schema, what fits, what does not.

EXACT: list[tuple[Any, list[str], list[str]]] = [
    ({"type": "array", "minItems": 2.0, "items": {"const": 1}}, ["[1,1]"], ["[1]"]),
    ({"not": {"type": ["string", "null"]}}, ["1", "[]"], ['"a"', "null"]),
    ({"type": "string", "not": {"enum": ["ab", "ac", "x"]}}, ['""', '"a"', '"abc"', '"y"'], ['"ab"', '"ac"', '"x"']),
    ({"type": "integer", "not": {"const": 5}}, ["4", "6", "55"], ["5"]),
    ({"type": "object", "not": {"required": ["a"]}}, ['{"b":1}'], ['{"a":1}']),
    ({"type": "object", "dependentRequired": {"a": ["b"]}}, ['{"b":1}', '{"a":1,"b":1}'], ['{"a":1}']),
    ({"type": "object", "dependencies": {"a": {"required": ["b"]}}}, ["{}"], ['{"a":1}']),
    (
        {
            "type": "object", "properties": {"k": {"enum": ["a", "b"]}, "v": {"type": "integer"}}, "required": ["k"],
            "if": {"properties": {"k": {"const": "a"}}}, "then": {"required": ["v"]}, "additionalProperties": False,
        },
        ['{"k":"b"}', '{"k":"a","v":1}'],
        ['{"k":"a"}'],
    ),
    ({"if": False, "else": {"const": 1}}, ["1"], ["2"]),
    ({"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}, ['{"a":1}'], ['{"a":1,"b":1}', "{}"]),
    (
        {"oneOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}], "$defs": {
            "a": {"type": "object", "properties": {"k": {"const": "a"}}}, "b": {"properties": {"k": {"const": "b"}}}}},
        ['{"k":"a"}', '{"k":"b"}'],
        ["{}", '{"k":"c"}'],
    ),
    ({"oneOf": [{"type": "integer", "maximum": 3}, {"type": "integer", "minimum": 5}]}, ["3", "5"], ["4"]),
    ({"type": "object", "additionalProperties": {"type": "null"}, "propertyNames": {"enum": ["a"]}}, ['{"a":null}'],
     ['{"b":null}', '{"a":1}']),
    ({"type": "object", "propertyNames": {"pattern": "^x"}, "properties": {"a": {}, "xa": {}}}, ['{"xa":1,"xb":1}'],
     ['{"a":1}', '{"b":1}']),
    ({"type": "object", "properties": {"a": {}, "b": {}, "c": {}}, "additionalProperties": False, "minProperties": 2},
     ['{"a":1,"c":1}', '{"a":1,"b":1,"c":1}'], ['{"a":1}']),
    ({"type": "object", "properties": {"a": {}, "b": {}}, "additionalProperties": False, "maxProperties": 1},
     ['{"b":1}', "{}"], ['{"a":1,"b":1}']),
    ({"type": "object", "propertyNames": {"type": "integer"}, "properties": {"a": {}}}, ["{}"], ['{"a":1}', '{"b":1}']),
    ({"type": "array", "contains": True}, ["[1]"], ["[]"]),
    ({"type": "string", "pattern": "^[a-z&&[^b]]$"}, ['"&]"'], ['"c"']),  # a class of Rust's would hold c
    ({"type": "string", "pattern": "^(?!aws:)[a-z:]+$"}, ['"aws"', '"awx:a"'], ['"aws:a"']),
    ({"type": "string", "pattern": "^(?=.*[0-9]).{2}$"}, ['"a1"'], ['"ab"', '"a12"']),
    ({"type": "integer", "maximum": 2**63 - 1, "minimum": 2**63 - 9}, [], [str(2**63), str(2**63 - 10)]),
    ({"type": "integer", "minimum": 2**53 + 1, "maximum": 2**53 + 3}, [str(2**53 + 2)], [str(2**53), str(2**53 + 4)]),
    ({"minimum": 5, "exclusiveMinimum": True, "type": "integer"}, ["6"], ["5"]),
    ({"type": "object", "patternProperties": {"^.*$": {"type": "null"}}, "properties": {"a": {}}}, ['{"a":null}'],
     ['{"a":1}', '{"b":1}']),
    ({"type": "array", "items": {"enum": ["a", "b", 1, 1.0]}, "uniqueItems": True},
     ["[]", '["a"]', '["b","a"]', '[1,"b","a"]'], ['["a","a"]', '["c"]', "[1,1]", '["a","b",1,1]']),
    ({"uniqueItems": True, "items": {"$ref": "#/$defs/e"}, "minItems": 1, "maxItems": 2, "$defs": {"e": {"type": "boolean"}}},
     ["1", "[true]", "[false,true]"], ["[]", "[true,true]", "[1]"]),
    ({"type": "array", "items": {"enum": [*range(9)]}, "uniqueItems": True, "maxItems": 2}, ["[8,0]"], ["[8,8]", "[1,2,3]"]),
    # oneOf with choices that overlap: the opposite of the other choice is required as well
    ({"oneOf": [{"properties": {"a": {"type": "integer"}}}, {"required": ["b"]}]}, ["{}", '{"a":"x","b":1}'],
     ['{"b":1}', "[]", '{"a":1,"b":1}']),
    ({"oneOf": [{"type": "object", "properties": {"n": {"type": "string"}}},
                {"type": "object", "properties": {"n": {"type": "string"}, "m": {"type": "string"}}}]},
     ['{"n":"a","m":1}'], ["{}", '{"n":"a"}', '{"n":"a","m":"b"}', '{"n":1,"m":1}']),
    ({"oneOf": [{"type": "string", "maxLength": 3}, {"type": "string", "minLength": 2}]}, ['"a"', '"abcd"'], ['"ab"', '"abc"']),
    ({"oneOf": [{"type": "integer", "minimum": 2}, {"type": "integer", "maximum": 4}]}, ["1", "5"], ["2", "4"]),
    ({"oneOf": [{"enum": ["a", "b"]}, {"enum": ["b", "c"]}]}, ['"a"', '"c"'], ['"b"', '"d"']),
    ({"oneOf": [{"type": "string"}, {"const": "a"}]}, ['"b"'], ['"a"']),
    ({"oneOf": [{"type": ["string", "null"]}, {"oneOf": [{"type": "string"}, {"type": "boolean"}]}]}, ["null", "true"],
     ['"a"', "1"]),
    ({"oneOf": [{"not": {"type": "integer"}}, {"type": "number"}]}, ['"a"', "2"], ["1.5"]),
    ({"not": {"oneOf": [{"type": "integer"}, {"const": 1}]}, "type": ["integer", "null"]}, ["1", "null"], ["2"]),
    ({"enum": [1, "a"], "type": "string"}, ['"a"'], ["1"]),
    ({"const": 1, "enum": [True, 1]}, ["1"], ["true"]),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "right", "wrong"), EXACT, ids=lambda value: str(value)[:60])
def test_keywords_mean_what_the_standard_says(schema: Any, right: list[str], wrong: list[str]) -> None:
    constraint = _make(schema)
    assert [text for text in right if not accepts(constraint, text)] == []
    assert [text for text in wrong if accepts(constraint, text)] == []


def test_limits_of_the_caller_do_not_tell_choices_apart() -> None:
    """Options and shortcuts make the choices of `oneOf` smaller: what fits both in the schema must not be taken."""
    several = {"oneOf": [{"type": "array", "minItems": 3}, {"type": "array"}]}
    long = {"oneOf": [{"type": "string", "minLength": 3}, {"type": "string"}]}
    for schema, right, wrong in ((several, "[1,1]", "[1,1,1]"), (long, '"ab"', '"abc"')):
        for options in ({}, {"maxItems": 2, "maxLength": 2}):
            constraint = _make(schema, **options)
            assert accepts(constraint, right)
            assert not accepts(constraint, wrong)
    either = {"type": "object", "properties": {"a": {}, "b": {}}, "minProperties": 1}
    schema = {"oneOf": [either, {"type": "object", "required": ["c"], "properties": {"a": False, "b": False}}]}
    with pytest.raises(GrammarError, match="oneOf.*unenforced='check'"):
        _make(schema)


def test_a_name_that_comes_twice_does_not_count_twice() -> None:
    two = {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 2}
    with pytest.raises(GrammarError, match=r"minProperties 2.*twice.*unenforced='check'"):
        _make(two)
    late = _make(two, unenforced="check")
    assert late.parse('{"a":1,"b":2}') == {"a": 1, "b": 2}
    with pytest.raises(ValueError, match="satisfy the schema"):
        late.parse('{"a":1,"a":2}')
    assert accepts(_make(two | {"minProperties": 1}), '{"a":1}')
    assert not accepts(_make(two | {"minProperties": 1}), "{}")
    assert accepts(_make(two | {"required": ["a", "b"]}), '{"a":1,"b":2}')
    assert not accepts(_make({"type": "object", "required": ["a"], "minProperties": 2}), '{"a":1,"a":2}')


# Formats

FORMATS: dict[str, tuple[list[str], list[str]]] = {
    "date": (["2024-02-29", "0001-01-01"], [FEBRUARY, "0000-01-01", "2024-1-1", "2024-04-31"]),
    "time": (["23:59:59Z", "00:00:00.123456+23:59"], ["24:00:00Z", "23:59:60Z", "12:00:00", "12:00:00+24:00"]),
    "date-time": (["2024-02-29T00:00:00Z"], [f"{FEBRUARY}T00:00:00Z", "2024-02-29 00:00:00Z", "2024-02-29T00:00:00"]),
    "duration": (["P1Y2M3D", "PT1H2M3S", "P4W"], ["P", "PT", "P1", "P1W2D", "P9999999999D", "PT9999999999S"]),
    "hostname": (
        ["a", "a-b.example", ".".join(["a" * 63] * 3)],
        ["", "-a", "a-", "a..b", "a" * 64, ".".join(["a" * 60] * 5), "a_b", "a--b", "a.1"],
    ),
    "email": (["a.b@c.de", "a+b@c-d.example"], ["a", "@b.de", "a@", "a@b..de", "a" * 65 + "@b.de", "a@" + "b" * 64 + ".de"]),
    "ipv4": (["0.0.0.0", "255.255.255.255"], ["256.0.0.0", "1.2.3", "01.2.3.4"]),
    "ipv6": (["::", "::1", "1::", "1:2:3:4:5:6:7:8", "1::8"], [":", "1", ":::", "1::2::3", "1:2:3:4:5:6:7:8:9", "12345::"]),
    "uuid": (["00000000-0000-0000-0000-00000000000f"], ["0" * 32, "00000000-0000-0000-0000-00000000000g"]),
    "uri": (["https://a.example/b?c#d", "urn:a:b"], ["", "a", "//a", "https://a b", "https://a/%g0", "1a:b"]),
    "uri-reference": (["", "a/b", "/a", "#x", "https://a.example"], ["a b", "%", "\\"]),
    "json-pointer": (["", "/a/~0~1"], ["a", "/~2", "/~"]),
    "relative-json-pointer": (["0", "1/a", "2#"], ["", "-1", "01", "1a"]),
    "uri-template": (["https://a/{b}"], ["{", "{a", "}"]),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_formats(name: str) -> None:
    constraint = _make({"type": "string", "format": name})
    right, wrong = FORMATS[name]
    assert [text for text in right if not accepts(constraint, json.dumps(text))] == []
    assert [text for text in wrong if accepts(constraint, json.dumps(text))] == []
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    for seed in range(20):
        text = write(constraint, seed)
        assert text is not None
        value = json.loads(text)
        if name == "relative-json-pointer":  # jsonschema takes a 0 inside a number for one at its beginning
            value = re.sub("^[1-9][0-9]*", "1", value)
        assert checker.conforms(value, name), text


def test_formats_that_cannot_be_enforced() -> None:
    for name in ("password", "own"):
        assert accepts(_make({"type": "string", "format": name}), '"a"')
        with pytest.raises(GrammarError, match=f"format '{name}'"):
            _make({"type": "string", "format": name}, formats="refuse")
    late = _make({"type": "string", "format": "regex"})
    assert late.parse('"a+"') == "a+"
    with pytest.raises(ValueError, match=r"'\('"):
        late.parse('"("')


# What is checked later

LATE: list[tuple[Any, str, str]] = [
    ({"type": "array", "uniqueItems": True}, "[1,2]", "[1,1]"),
    ({"type": "array", "items": {"enum": [*range(9)]}, "uniqueItems": True}, "[1,2,3]", "[1,2,1]"),
    ({"type": "array", "contains": {"type": "null"}}, "[1,null]", "[1]"),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "1.5", "1"),
    ({"oneOf": [{"type": "string"}, {"type": "integer"}, {"type": "number"}]}, '"a"', "1"),
    ({"oneOf": [{"properties": {"a": {"pattern": "x"}}}, {"required": ["b"]}]}, "{}", '{"b":1}'),
    ({"oneOf": [{"items": {"type": "string"}}, {"type": "array", "minItems": 1}]}, "[1]", '["a"]'),
    ({"oneOf": [{"additionalProperties": {"type": "string"}}, {"properties": {"a": {}}}]}, '{"a":1}', '{"a":""}'),
    ({"type": "string", "not": {"pattern": "a"}}, '"b"', '"a"'),
    ({"type": "string", "pattern": "^(.)\\1$"}, '"aa"', '"ab"'),
    ({"if": {"properties": {"a": {"pattern": "x"}}}, "then": False, "type": "object"}, '{"a":"y"}', '{"a":"x"}'),
    ({"type": "object", "properties": {"a": {}}, "maxProperties": 1}, '{"a":1}', '{"a":1,"b":1}'),
    ({"allOf": [{"additionalProperties": {"type": "integer"}}, {"patternProperties": {"^b": {}}}]}, '{"b":1}', '{"b":""}'),
    (
        {"allOf": [{"properties": {"a": {}}}], "type": "object", "unevaluatedProperties": False},
        '{"a":1}',
        '{"b":1}',
    ),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "right", "wrong"), LATE, ids=lambda value: str(value)[:60])
def test_what_is_refused_or_checked_later(schema: Any, right: str, wrong: str) -> None:
    with pytest.raises(GrammarError, match="unenforced='check'"):
        _make(schema)
    constraint = _make(schema, unenforced="check")
    assert accepts(constraint, right)
    assert constraint.parse(right) == json.loads(right)
    with pytest.raises(ValueError, match="does not satisfy the schema"):
        constraint.parse(wrong)


def test_options_have_two_values() -> None:
    for name in ("formats", "unenforced"):
        with pytest.raises(ValueError, match=f"{name}.*'refuse'.*'check'.*'never'"):
            _make({}, **{name: "never"})


# What is malformed, or fits no text

BROKEN: list[tuple[Any, str]] = [
    ({"anyOf": 7}, "anyOf.*array.*int"), ({"allOf": {}}, "allOf.*array"), ({"oneOf": []}, "oneOf.*at least one"),
    ({"items": 5}, "object, true or false.*int"), ({"properties": {"a": 1}}, "object, true or false.*int"),
    ({"properties": []}, "properties.*object.*list"), ({"type": "foo"}, "type.*foo"), ({"type": 5}, "type.*5"),
    ({"required": "a"}, "required.*strings"), ({"required": [1]}, "required.*strings"), ({"enum": 3}, "enum.*array"),
    ({"minLength": -1}, "minLength.*-1"), ({"maxItems": True}, "maxItems.*bool"), ({"minItems": 1.5}, "minItems.*1.5"),
    ({"multipleOf": 0}, "multipleOf.*0"), ({"minimum": "1"}, "minimum.*number.*str"), ({"uniqueItems": 1}, "uniqueItems"),
    ({"$ref": 5}, r"\$ref.*string"), ({"$ref": "#/nope"}, "nope"), ({"$ref": "other.json"}, "another document"),
    ({"$ref": "#/a/9999999999999", "a": []}, "no target"), ({"pattern": "("}, r"pattern '\('"), ({"not": 5}, "int"),
    ({"pattern": "[]"}, "different engines"), ({1: 2}, "str, got int"), ({"a": {1}}, "JSON values, got set"),
    ({"minimum": float("nan")}, "finite.*nan"), ({"maximum": 2**70}, "2\\^64"), ({"const": 2**64}, "2\\^64"),
    ({"enum": [-(2**63) - 1]}, "2\\^63"), ({"multipleOf": 2**65}, "2\\^64"), ({"const": 2**53 + 1}, "exact.*9007199254740993"),
    ({"const": "\ud800"}, "cannot be used"), ({"$dynamicRef": "#a", "$schema": DRAFT_7}, "dynamicRef.*draft-07"),
    ({"patternProperties": {f"^{n}$": {} for n in range(101)}}, "at most 100.*101"),
    ({"$ref": "x", "$id": "http://[::1"}, "not a URI"),
    # no text
    (False, "no finite text"), ({"not": {}}, "no finite text"), ({"$ref": "#"}, "itself"), ({"enum": []}, "no finite text"),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}, "itself"),
    ({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "no finite text"),
    ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, "no finite text"),
    ({"type": "integer", "minimum": 1, "maximum": 2, "multipleOf": 5}, "multiple"),
    ({"type": "string", "pattern": "^aaa$", "maxLength": 2}, "empty"),
    ({"type": "object", "properties": {"a": {}}, "additionalProperties": False, "minProperties": 2}, "no finite text"),
    ({"type": "array", "items": {"type": "boolean"}, "uniqueItems": True, "minItems": 3}, "no finite text|nsatisfiable"),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "message"), BROKEN, ids=lambda value: str(value)[:60])
def test_malformed_schemas_are_grammar_errors(schema: Any, message: str) -> None:
    with pytest.raises(GrammarError, match=message):
        _make(schema)


def test_an_optional_part_that_fits_no_text_is_left_out() -> None:
    endless = {"type": "object", "properties": {"a": {"$ref": "#/$defs/e"}}, "required": ["a"]}
    empty = {"type": "string", "pattern": "^aaa$", "maxLength": 2}
    for part in (endless, empty):
        schema = {"type": "object", "properties": {"a": {"$ref": "#/$defs/e"}, "b": {}}, "$defs": {"e": part}}
        constraint = _make(schema)
        assert accepts(constraint, '{"b":1}')
        assert all(
            text is None or "a" not in json.loads(text) for text in (write(constraint, seed) for seed in range(5))
        )


def test_depth_has_a_limit() -> None:
    deep: Any = {"type": "integer"}
    for _ in range(90):
        deep = {"type": "array", "items": deep}
    assert accepts(_make(deep), "[" * 90 + "1" + "]" * 90)
    for _ in range(120):
        deep = {"type": "array", "items": deep}
    round_about: dict[str, Any] = {}
    round_about["items"] = round_about
    for schema in (deep, round_about):
        with pytest.raises(GrammarError, match="at most 200 levels"):
            _make(schema)
    for text in ("[" * 100_000, '{"items":' * 5000 + "1" + "}" * 5000):
        with pytest.raises(ValueError, match="at most 200 levels|not valid JSON"):
            Constraint.fromJsonSchema(text)
    shared: Any = {}
    for _ in range(60):
        shared = {"anyOf": [shared, shared]}
    with pytest.raises(GrammarError, match="at most 300000 values"):
        _make(shared)
    with pytest.raises(ValueError, match="nested too deeply"):
        _make({}).parse("[" * 100_000)


def test_the_schema_is_not_changed() -> None:
    schema = {"type": "object", "properties": {"a": {"oneOf": [{"type": "string"}, {"type": "null"}]}}}
    before = json.dumps(schema)
    constraint = _make(schema, maxLength=2, maxItems=2)
    assert json.dumps(schema) == before
    assert constraint.schema == schema and constraint.schema is not schema


def test_names_in_the_order_of_the_schema() -> None:
    base = {"type": "object", "properties": {"z": {"const": 1}}, "required": ["z"]}
    rest = {"properties": {"a": {"const": 1}}, "required": ["a"]}
    assert accepts(_make({"allOf": [base], **rest, "additionalProperties": True}), '{"z":1,"a":1}')
    assert accepts(_make({**rest, "allOf": [base]}), '{"a":1,"z":1}')
    assert re.fullmatch(r'\{"z":1,"a":1(,.*)?\}', write(_make({"allOf": [base], **rest}), 3) or "", re.DOTALL)
