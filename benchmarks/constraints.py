"""Measures the cost of constraints, and checks that they hold: `python benchmarks/constraints.py` (in the .venv).

It has three parts; `--part` runs one of them:

- `runs`: generate with a random model under each of the schemas below, one text per seed. Counts the texts that end,
  and those that jsonschema finds valid, formats included.
- `vocab`: the time to build llguidance's table of a vocabulary, for 32,000 and 262,144 tokens.
- `cost`: the CPU time of `sample` per token with no constraint, with llguidance's masks, and with a llama.cpp grammar
  for the same JSON; one sequence, one thread, a chain of top-k, temperature and dist.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "examples"))

import jsonschema  # noqa: E402
import llguidance  # noqa: E402

from llama_cffi import Batch, Constraint, Context, Model, Sampler, Vocab, tokenize  # noqa: E402
from llama_cffi.constrain.tokenizer import _make as make_table  # noqa: E402
from tests import tiny_models  # noqa: E402
from vendor.source import fetch  # noqa: E402

Schema = dict[str, Any]

_SHORT = {"type": "string", "maxLength": 12}
_ADDRESS = {"type": "object", "properties": {"city": _SHORT, "zip": _SHORT}, "additionalProperties": False}

SCHEMAS: dict[str, Schema] = {
    "nested objects": {
        "type": "object",
        "properties": {
            "id": {"type": "integer", "minimum": 0, "maximum": 9999},
            "owner": {
                "type": "object",
                "properties": {"name": _SHORT, "address": _ADDRESS},
                "required": ["name"],
                "additionalProperties": False,
            },
        },
        "required": ["id", "owner"],
        "additionalProperties": False,
    },
    "enumerations": {
        "type": "object",
        "properties": {
            "colour": {"enum": ["red", "green", 'a "quoted" one', "\N{SNOWMAN}"]},
            "level": {"enum": [1, 2.5, None, True, {"deep": [1]}]},
            "kind": {"const": "fixed"},
        },
        "required": ["colour", "level", "kind"],
        "additionalProperties": False,
    },
    "arrays with limits": {
        "type": "array",
        "items": {
            "type": "array",
            "prefixItems": [_SHORT, {"type": "boolean"}],
            "items": {"type": "integer", "minimum": -5, "maximum": 5},
            "minItems": 2,
            "maxItems": 5,
        },
        "minItems": 1,
        "maxItems": 4,
    },
    "numbers": {
        "type": "object",
        "properties": {
            "count": {"type": "integer", "minimum": 17, "maximum": 1234},
            "share": {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
            "step": {"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 700},
            "any": {"type": "number"},
            "below": {"type": "integer", "exclusiveMaximum": -3, "minimum": -100000},
        },
        "required": ["count", "share", "step", "any", "below"],
        "additionalProperties": False,
    },
    "formats and patterns": {
        "type": "object",
        "properties": {
            "when": {"type": "string", "format": "date-time"},
            "day": {"type": "string", "format": "date"},
            "id": {"type": "string", "format": "uuid"},
            "host": {"type": "string", "format": "ipv4"},
            "code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3,5}$"},
            "part": {"type": "string", "pattern": "b[aeiou]d", "maxLength": 10},
        },
        "required": ["when", "day", "id", "host", "code", "part"],
        "additionalProperties": False,
    },
    "unions": {
        "type": "array",
        "items": {
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": 9},
                _SHORT,
                {"type": "null"},
                {
                    "oneOf": [
                        {
                            "type": "object",
                            "properties": {"kind": {"const": "cat"}, "lives": {"type": "integer", "maximum": 9}},
                            "required": ["kind", "lives"],
                            "additionalProperties": False,
                        },
                        {
                            "type": "object",
                            "properties": {"kind": {"const": "dog"}, "loud": {"type": "boolean"}},
                            "required": ["kind"],
                            "additionalProperties": False,
                        },
                    ]
                },
            ]
        },
        "maxItems": 4,
    },
    "recursion": {
        "$defs": {
            "tree": {
                "type": "object",
                "properties": {
                    "value": {"type": "integer", "minimum": 0, "maximum": 99},
                    "children": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 1},
                },
                "required": ["value"],
                "additionalProperties": False,
            }
        },
        "$ref": "#/$defs/tree",
    },
    "open objects": {
        "type": "object",
        "properties": {"a": {"type": "boolean"}, "b": {"type": "null"}},
        "required": ["b"],
        "patternProperties": {"^x_[a-z]{1,3}$": {"type": "integer", "minimum": 0, "maximum": 99}},
        "additionalProperties": False,
    },
}
"""Strings and arrays have limits, or are likely to end: a random model might otherwise never close them."""

LIMIT = 1500  # tokens of a run; a longer one counts as failed

# The same JSON object as a schema and as a llama.cpp grammar.
_FORM = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 60, "maxLength": 400},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
_GRAMMAR = r"""
root ::= "{\"name\":\"" char{60,400} "\",\"age\":" age "}"
char ::= [^"\\\x00-\x1f\x7f] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4})
age ::= [0-9] | [1-9] [0-9] | "1" [01] [0-9] | "120"
"""


def write(ctx: Context, chain: Sampler, prompt: list[int], limit: int = LIMIT) -> tuple[str, bool]:
    """Generate a text. Returns it, and True if it ended within the limit."""
    vocab = ctx.getModel().vocab
    ctx.getMemory().clear(False)
    ctx.decode(Batch.getOne(prompt))
    pieces: list[bytes] = []
    for _ in range(limit):
        token = chain.sample(ctx, -1)
        if vocab.isEog(token):
            return b"".join(pieces).decode(), True
        pieces.append(vocab._piece(token))
        ctx.decode(Batch.getOne([token]))
    return b"".join(pieces).decode("utf-8", "replace"), False


def runs(model: Model, seeds: range) -> Iterator[tuple[str, str, str]]:
    """Yield for each seed the name of its schema, the text, and the error in it ("" for a valid text)."""
    names = [*SCHEMAS]
    constraints = {name: Constraint.fromJsonSchema(schema) for name, schema in SCHEMAS.items()}
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    validators = {
        name: jsonschema.Draft202012Validator(schema, format_checker=checker) for name, schema in SCHEMAS.items()
    }
    with Context.initFromModel(model, Context.Params(nCtx=LIMIT + 64, nThreads=1, nThreadsBatch=1)) as ctx:
        for seed in seeds:
            name = names[seed % len(names)]
            chain = constraints[name].chain(model.vocab, Sampler.initDist(seed))
            text, ended = write(ctx, chain, [model.vocab.bos])
            wrong = "" if ended else f"no end after {LIMIT} tokens"
            if ended:
                try:
                    validators[name].validate(json.loads(text))
                except (ValueError, jsonschema.ValidationError) as error:
                    wrong = str(error).splitlines()[0]
            yield name, text, wrong


def report_runs(model: Model, count: int) -> bool:
    valid, total, longest = Counter[str](), Counter[str](), Counter[str]()
    started = time.perf_counter()
    for number, (name, text, wrong) in enumerate(runs(model, range(count)), start=1):
        total[name] += 1
        valid[name] += not wrong
        longest[name] = max(longest[name], len(text))
        if wrong:
            print(f"seed {number - 1}, {name}: {wrong}: {text[:200]!r}", flush=True)
        if sys.stderr.isatty():
            print(f"\r{number} of {count}", end="", file=sys.stderr)
    print(f"\n{'schema':24}{'valid':>8}{'of':>6}{'longest text':>16}")
    for name in SCHEMAS:
        print(f"{name:24}{valid[name]:8}{total[name]:6}{longest[name]:11} bytes")
    print(f"{'together':24}{valid.total():8}{total.total():6}   in {time.perf_counter() - started:.0f} s", flush=True)
    return valid.total() == total.total()


def report_vocab(model: Model) -> None:
    times = []
    for _ in range(3):
        started = time.process_time()
        make_table(model.vocab)
        times.append(time.process_time() - started)
    print(f"table of {model.vocab.nTokens:,} tokens: {statistics.median(times):.2f} s", flush=True)


def report_cost(model: Model) -> None:
    vocab = model.vocab
    print(f"\n{vocab.nTokens:,} tokens of vocabulary; ms of CPU for a token{'median':>14}{'mean':>8}{'max':>8}")
    with Context.initFromModel(model, Context.Params(nCtx=512, nThreads=1, nThreadsBatch=1)) as ctx:
        for name, first in _first_samplers(vocab):
            members = *first, Sampler.initTopK(40), Sampler.initTemp(1.0), Sampler.initDist(1)
            chain = Sampler.chain(*members, noPerf=True)
            times = _times(ctx, chain)
            figures = (statistics.median(times), statistics.mean(times), max(times))
            print(f"{name:50}" + "".join(f"{1e3 * figure:8.2f}" for figure in figures) + f"   {len(times)} tokens")


def _first_samplers(vocab: Vocab) -> Iterator[tuple[str, list[Sampler]]]:
    yield "no constraint", []
    yield "Constraint.fromJsonSchema (llguidance)", [Constraint.fromJsonSchema(_FORM, whitespace=False).sampler(vocab)]
    yield "Constraint.fromGbnf (llama.cpp)", [Constraint.fromGbnf(_GRAMMAR).sampler(vocab)]


def _times(ctx: Context, chain: Sampler) -> list[float]:
    vocab, times = ctx.getModel().vocab, []
    ctx.getMemory().clear(False)
    ctx.decode(Batch.getOne(tokenize(vocab, "A person in JSON: ")))
    for _ in range(60):
        started = time.process_time()
        token = chain.sample(ctx, -1)
        times.append(time.process_time() - started)
        if vocab.isEog(token):
            break
        ctx.decode(Batch.getOne([token]))
    return times[1:]  # the first call initializes


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=1000, help="number of seeds (default: %(default)s)")
    parser.add_argument("--part", choices=("runs", "vocab", "cost"), help="run this part only")
    parser.add_argument("--model", type=Path, help="large model to use instead of Gemma 3 270M")
    arguments = parser.parse_args()
    parts = [arguments.part] if arguments.part else ["vocab", "cost", "runs"]
    print(f"Python {platform.python_version()}, {platform.machine()}, llguidance {llguidance.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        vocab = fetch.vectors_dir() / "ggml-vocab-llama-spm.gguf"
        tiny = Model.load(tiny_models.write_llama(Path(folder) / "tiny.gguf", vocab))
    if parts != ["runs"]:
        import default_model

        for model in (tiny, Model.load(arguments.model or default_model.path())):
            for part, report in (("vocab", report_vocab), ("cost", report_cost)):
                if part in parts:
                    report(model)
    if "runs" in parts and not report_runs(tiny, arguments.runs):
        sys.exit(1)


if __name__ == "__main__":
    main()
