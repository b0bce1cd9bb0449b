"""The share of real JSON Schemas that `Constraint.fromJsonSchema` takes, and whether it keeps to them.

`python benchmarks/schemas.py` (in the .venv). The schemas are those that public packages hold; pip fetches the packages
at fixed versions into a cache, and nothing of them is installed. For each schema that is taken, texts are written by
chance, with bytes as tokens, and checked with jsonschema. `--refused` prints why others are refused.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import tarfile
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import jsonschema  # noqa: E402
from jsonschema_specifications import REGISTRY  # noqa: E402

from llama_cffi import Constraint  # noqa: E402
from tests.constrain.walks import write  # noqa: E402

PACKAGES = [  # name, version, most schemas of it
    ("connector-for-ai-agents", "0.2.6", 1000),  # results of API calls
    ("datamodel-code-generator", "0.89.0", 3000),  # JSON Schema and OpenAPI, many of them unusual on purpose
    ("cfn-lint", "1.58.0", 200),
    ("jupyterlab", "4.6.6", 100),
    ("check-jsonschema", "0.39.0", 100),
    ("ansible-lint", "26.10.1", 100),
    ("hepdata-validator", "0.3.6", 100),
    ("cyclonedx-python-lib", "11.12.0", 100),
    ("nbformat", "5.11.1", 100),
    ("dbt-core", "1.12.6", 100),
    ("pyhf", "0.7.6", 100),
    ("altair", "6.3.0", 100),
]
_KEYWORDS = {"properties", "$ref", "type", "anyOf", "oneOf", "allOf", "items", "definitions"}

_CHOICES: tuple[Literal["refuse", "check"], ...] = ("refuse", "check")


def fetch(cache: Path) -> None:
    for name, version, _ in PACKAGES:
        if not list(cache.glob(f"{name.replace('-', '_')}-{version}*")):
            source = ["--no-binary", name] if name == "datamodel-code-generator" else ["--only-binary", ":all:"]
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", *source, "-d", str(cache)]
            subprocess.run([*command, f"{name}=={version}"], check=True)


def files(cache: Path, name: str, version: str) -> Iterator[tuple[str, bytes]]:
    path = next(cache.glob(f"{name.replace('-', '_')}-{version}*"))
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            for entry in archive.namelist():
                if entry.endswith(".json"):
                    yield entry, archive.read(entry)
    else:
        with tarfile.open(path) as archive:
            for member in archive:
                if re.search(r"/tests/data/(jsonschema/[^/]*\.json|openapi/[^/]*\.(json|yaml))$", member.name):
                    stream = archive.extractfile(member)
                    yield member.name, stream.read() if stream else b""


def schemas(cache: Path) -> Iterator[tuple[str, Any]]:
    """Yield each schema once, with its package."""
    import yaml

    seen = set()
    for name, version, most in PACKAGES:
        found = []
        for entry, data in files(cache, name, version):
            try:
                value = yaml.safe_load(data) if entry.endswith("yaml") else json.loads(data)
                value = json.loads(json.dumps(value, default=str))
            except (ValueError, TypeError, yaml.YAMLError, RecursionError):
                continue
            for schema in _inside(value, entry):
                key = json.dumps(schema, sort_keys=True)
                if key not in seen:
                    seen.add(key)
                    found.append((name, schema))
        random.Random(0).shuffle(found)
        yield from found[:most]


def _inside(value: Any, entry: str) -> Iterator[Any]:
    """Yield the schemas of a file: itself, the components of OpenAPI, or the outputs of tools."""
    if not isinstance(value, dict):
        return
    if "/data/tools/" in entry:
        tools = value.get("tools")
        outputs = [tool.get("output") for tool in tools.values()] if isinstance(tools, dict) else []
        yield from (output for output in outputs if isinstance(output, dict) and "properties" in output)
    elif "/openapi/" in entry:
        parts = (value.get("components") or {}).get("schemas") or {}
        for name in parts:
            yield {"$ref": f"#/components/schemas/{name}", "components": {"schemas": parts}}
    elif _KEYWORDS & value.keys() and ("schema" in str(value.get("$schema", "")) or "properties" in value):
        yield value


def _multiple(validator: Any, step: float, value: Any, schema: Any) -> Iterator[Exception]:
    """Check `multipleOf` in decimals: jsonschema divides floats, and finds that 0.6 is not a multiple of 0.1."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if Decimal(repr(value)) % Decimal(repr(step)):
            yield jsonschema.ValidationError(f"{value} is not a multiple of {step}")


def wrong(constraint: Constraint[Any], schema: Any, seeds: range, counts: Counter[str]) -> Iterator[str]:
    """Yield what is wrong in texts that a constraint allows."""
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    kind = jsonschema.validators.extend(kind, {"multipleOf": _multiple})
    validator = kind(schema, registry=REGISTRY, format_checker=kind.FORMAT_CHECKER)
    for seed in seeds:
        text = write(constraint, seed, 1200)
        if text is None:
            counts["no end within 1,200 bytes"] += 1
            continue
        try:
            value = constraint.parse(text)
        except ValueError:
            counts["refused by parse()"] += 1
            continue
        try:
            error = next(validator.iter_errors(value), None)
        except Exception:  # a pattern that Python's re does not read, a reference to another document
            counts["jsonschema cannot tell"] += 1
            continue
        counts["valid" if error is None else "WRONG"] += 1
        if error is not None:
            yield f"{error.message[:200]} in {text[:200]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "llama-cffi" / "schemas")
    parser.add_argument("--texts", type=int, default=4, help="texts for each schema (default: %(default)s)")
    parser.add_argument("--unenforced", choices=_CHOICES, help="only with this choice (default: both)")
    parser.add_argument("--refused", action="store_true", help="print the reasons")
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    fetch(arguments.cache)
    found = list(schemas(arguments.cache))
    failed = False
    for unenforced in [choice for choice in _CHOICES if arguments.unenforced in (None, choice)]:
        started, taken, total = time.perf_counter(), Counter[str](), Counter[str]()
        reasons, counts = Counter[str](), Counter[str]()
        for name, schema in found:
            total[name] += 1
            try:
                constraint = Constraint.fromJsonSchema(schema, whitespace=False, unenforced=unenforced)
            except ValueError as error:
                reasons[re.sub(r"[0-9]+", "N", str(error).rpartition("generated: ")[2])[:100]] += 1
                continue
            taken[name] += 1
            for message in wrong(constraint, schema, range(arguments.texts), counts):
                print(f"WRONG, {name}: {message}", flush=True)
                failed = True
        share = taken.total() / total.total()
        print(f"\nunenforced={unenforced!r}: {taken.total()} of {total.total()} schemas taken ({share:.1%})")
        for name in total:
            print(f"  {name:28}{taken[name]:6} of {total[name]:5}")
        print(f"  texts: {dict(counts)}, in {time.perf_counter() - started:.0f} s", flush=True)
        if arguments.refused:
            for reason, count in reasons.most_common(40):
                print(f"  {count:5}  {reason}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
