# ruff: noqa: E501  (one case, one line)
"""Schemas, grammars and patterns from strangers: an error or a constraint, never the end of the process, in its time."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from llama_cffi import GrammarError
from llama_cffi.constrain import counts, guidance, tokenizer

SECONDS = 20  # for one case, on a machine that does other work
MEMORY = 6 << 30  # bytes of addresses
CASES = {
    "chain of references": 'schema({"$ref": "#/$defs/0", "$defs": chain(1600, lambda n: ref(n))})',
    "long chain of references": 'schema({"$ref": "#/$defs/0", "$defs": chain(30_000, lambda n: ref(n))})',
    "chain of objects": 'schema({"$ref": "#/$defs/0", "$defs": chain(3000, lambda n: {"properties": {"a": ref(n)}})})',
    "long chain of objects": 'schema({"$ref": "#/$defs/0", "$defs": chain(30_000, lambda n: {"properties": {"a": ref(n)}})})',
    "chain of choices": 'schema({"$ref": "#/$defs/0", "$defs": chain(3000, lambda n: {"anyOf": [ref(n), {"type": "null"}]})})',
    "chain of items": 'schema({"$ref": "#/$defs/0", "$defs": chain(3000, lambda n: {"items": ref(n), "type": "array"})})',
    "chain of limits": 'schema({"$ref": "#/$defs/0", "$defs": chain(2000, lambda n: {"allOf": [ref(n), {"maxLength": 9}]})})',
    "chain of oneOf": 'schema({"$ref": "#/$defs/0", "$defs": chain(500, lambda n: {"oneOf": [ref(n), {"type": "null"}]})})',
    "doubling": 'schema({"$ref": "#/$defs/0", "$defs": chain(60, lambda n: {"anyOf": [ref(n), ref(n)]})})',
    "doubling allOf": 'schema({"$ref": "#/$defs/0", "$defs": chain(60, lambda n: {"allOf": [ref(n), ref(n)]})})',
    "product": 'schema({"allOf": [{"anyOf": [{"maxLength": 10 * i + j} for j in range(10)]} for i in range(12)]})',
    "many properties": 'schema({"properties": {f"p{n}": {} for n in range(5000)}, "type": "object"})',
    "many required": 'schema({"required": [f"p{n}" for n in range(5000)], "type": "object"})',
    "many oneOf": 'schema({"oneOf": [{"properties": {"k": {"const": n}}, "required": ["k"]} for n in range(5000)]})',
    "many patterns": 'schema({"patternProperties": {f"^{n}$": {} for n in range(5000)}})',
    "many dependencies": 'schema({"dependentRequired": {f"a{n}": [f"b{n}"] for n in range(60)}})',
    "large counts": 'schema({"items": {"maxItems": 2**60}, "maxItems": 2**60, "minItems": 2**40})',
    "large pattern": 'schema({"type": "string", "pattern": "((a{1,1000}){1,1000}){1,1000}"})',
    "look-ahead": 'schema({"pattern": "^(?=a)" * 3000})',
    "brackets": 'schema({"pattern": "[" * 50_000})',
    "deep text": 'Constraint.fromJsonSchema("[" * 1_000_000)',
    "chain of rules": 'lark(rules(3000, lambda n: f"r{n}"))',
    "long chain of rules": 'lark(rules(7000, lambda n: f"r{n}"))',
    "very long chain of rules": 'lark(rules(100_000, lambda n: f"r{n}"))',
    "chain of terminals": 'lark(rules(3000, lambda n: f"R{n} \\"a\\"", "R"))',
    "doubling rules": 'lark(rules(40, lambda n: f"r{n} | r{n}"))',
    "doubling terminals": 'lark(rules(40, lambda n: f"R{n} R{n}", "R"))',
    "brackets in Lark": 'lark("start: " + "(" * 30_000)',
    "optional in Lark": 'lark("start: " + "\\"a\\"? " * 10_000)',
    "schema in Lark": 'lark("start: %json " + json.dumps({"$ref": "#/$defs/0", "$defs": chain(1600, lambda n: ref(n))}))',
    "brackets in regex": 'Constraint.fromRegex("(" * 60_000 + "a" + ")" * 60_000)',
    "long regex": 'Constraint.fromRegex("ab?" * 20_000)',
    "repeated regex": 'Constraint.fromRegex("((((a?b?){50}c){50}d){50}e){50}")',
}
_BEFORE = f"""
import json, resource
resource.setrlimit(resource.RLIMIT_AS, ({MEMORY}, {MEMORY}))
from llama_cffi import Constraint
ref = lambda n: {{"$ref": f"#/$defs/{{n}}"}}
chain = lambda size, link: {{str(n): link(n + 1) for n in range(size)}} | {{str(size): {{"type": "string"}}}}
rules = lambda size, link, r="r": (
    f"start: {{r}}0\\n" + "".join(f"{{r}}{{n}}: {{link(n + 1)}}\\n" for n in range(size)) + f"{{r}}{{size}}: \\"a\\"\\n")
schema, lark = Constraint.fromJsonSchema, Constraint.fromLark
try:
    """
_AFTER = """
except ValueError as error:  # GrammarError is one
    print("refused", type(error).__name__, str(error)[:200].replace(chr(10), " "))
else:
    print("taken")
"""
TAKEN = {"chain of references", "long chain of references", "chain of objects", "chain of rules", "doubling"}


@pytest.mark.parametrize("case", CASES)
def test_strange_constraints(case: str) -> None:
    code = _BEFORE + CASES[case] + _AFTER
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS)
    assert result.returncode == 0, (result.returncode, result.stderr[-500:])
    assert result.stdout.startswith(("taken", "refused")), result.stdout
    assert (result.stdout == "taken\n") or case not in TAKEN, result.stdout


def test_a_token_of_a_megabyte_is_never_allowed() -> None:
    read = tokenizer.piece_or_nothing
    assert read(b"a" * 1000) == b"a" * 1000
    assert read(b"a" * 1001) == read(b"a" * (1 << 20)) == b""


def test_a_panic_of_llguidance_is_a_grammar_error() -> None:
    class PanicException(BaseException):  # pyo3's, known by its name
        pass

    def fail() -> None:
        raise PanicException("assertion failed: a\nb")

    with pytest.raises(GrammarError, match="this vocabulary cannot be used.*assertion failed"):
        guidance.seam(fail, "this vocabulary")
    with pytest.raises(GrammarError, match="assertion failed"):
        guidance.seam(fail, "this vocabulary", stack=1 << 20)

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        guidance.seam(stop, "this vocabulary")


def test_many_properties_take_time_in_proportion() -> None:
    """Each of 30,000 names was compared with each that is required: half a minute."""
    names = [f"p{i}" for i in range(30_000)]
    own = {"properties": dict.fromkeys(names, True), "required": names[: len(names) // 2]}
    begin = time.process_time()
    assert counts.limited(pytest.fail, pytest.fail, {"minProperties": 15_000}, own) == own
    assert time.process_time() - begin < 2
