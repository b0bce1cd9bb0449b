"""The pinned headers: what the generator reads out of them, held against other ways of reading."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import pytest

from codegen import generate
from codegen.__main__ import expected
from codegen.api import snapshot
from codegen.api.model import Api, flat_fields
from codegen.fit import needs
from codegen.read import headers, parse, probe, shim
from codegen.rules import policy
from vendor.source import pin

Run = Callable[[Sequence[str]], str]

# How often a header says that a function follows, and its deprecation macros.
_EXPORT = re.compile(r"\b(?:LLAMA_API|GGML_API|GGML_BACKEND_API|MTMD_API)\b")
_DEPRECATED = re.compile(r"\b(?:GGML_)?DEPRECATED\s*\(")


def code_of(path: Path) -> str:
    """A header without comments, preprocessor lines and what only C++ sees, by regular expressions alone."""
    text = re.sub(r"/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    text = re.sub(r"//[^\n]*", "", text)
    text = re.sub(r"#ifdef __cplusplus\n(?:(?!#if).)*?#endif", "", text, flags=re.DOTALL)
    return re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", "", text, flags=re.MULTILINE)


def without_homes(api: Api) -> Api:
    return replace(api, functions=tuple(replace(f, home=None) for f in api.functions))


def function_doc(api: Api, name: str) -> str:
    return next(f.doc for f in api.functions if f.name == name)


# Counts


@pytest.mark.parametrize("header", headers.PUBLIC_HEADERS)
def test_every_function_is_found(real_api: Api, real_headers: dict[str, Path], header: str) -> None:
    announced = len(_EXPORT.findall(code_of(real_headers[header])))
    assert announced > 0
    assert sum(f.header == header for f in real_api.functions) == announced


def test_every_function_is_bound_or_left_out_for_a_reason() -> None:
    api = snapshot.load()
    reasons = Counter((policy.left_out(f) or "bound").partition(" ")[0] for f in api.functions)
    assert set(reasons) == {"bound", "takes", "returns", "declared,"}
    assert reasons["bound"] > 900


def test_every_enumerator_is_found(real_api: Api, real_headers: dict[str, Path]) -> None:
    code = "\n".join(map(code_of, real_headers.values()))
    bodies = re.findall(r"\benum\b[^;{()]*\{(.*?)\}", code, re.DOTALL)
    named = Counter(m[1] for body in bodies for m in re.finditer(r"(?:^|,)\s*(\w+)", body))
    assert len(named) > 400
    assert named == Counter(m.name for enum in real_api.enums for m in enum.members)


# The snapshot


def test_snapshot_is_what_the_headers_say(real_api: Api) -> None:
    committed = snapshot.dumps(without_homes(snapshot.load())).splitlines()
    assert snapshot.dumps(real_api).splitlines() == committed


def test_snapshot_is_in_its_own_format() -> None:
    text = snapshot.SNAPSHOT.read_text(encoding="utf-8")
    assert snapshot.dumps(snapshot.loads(text)) == text


def test_reading_and_generating_twice_gives_the_same_text(
    real_api: Api, real_folders: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    start = perf_counter()
    again = probe.measure(parse.parse(headers.preprocess(real_folders), pin.load().label), real_folders)
    homes = {f.name: f.home for f in snapshot.load().functions}
    again = replace(again, functions=tuple(replace(f, home=homes[f.name]) for f in again.functions))
    generated = generate.generate(again, needs.load(), shim.load())
    seconds = perf_counter() - start
    with capsys.disabled():
        print(f"\nheaders to generated text: {seconds:.1f} s")
    assert snapshot.dumps(without_homes(again)) == snapshot.dumps(real_api)
    assert generated == expected()


# Hints


def hints(path: Path) -> Iterator[tuple[str, str]]:
    """Function and hint of each use of a deprecation macro, by counting parentheses."""
    text = code_of(path)
    for match in _DEPRECATED.finditer(text):
        depth, end, quoted = 1, match.end(), False
        while depth:
            quoted ^= text[end] == '"'
            depth += 0 if quoted else {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        inside = text[match.end() : end - 1]
        yield re.findall(r"(\w+)\s*\(", inside)[0], "".join(re.findall(r'"([^"]*)"', inside))


def test_every_deprecated_function_carries_its_hint(real_api: Api, real_headers: dict[str, Path]) -> None:
    expected = {name: hint for path in real_headers.values() for name, hint in hints(path)}
    found = {f.name: f.deprecated for f in real_api.functions if f.deprecated}
    assert found == expected
    # The macro around the export macro, and the other way about.
    assert found["llama_n_vocab"] == "use llama_vocab_n_tokens instead"
    assert found["llama_get_state_size"] == "use llama_state_get_size instead"
    assert found["llama_copy_state_data"] == "use llama_state_get_data instead"
    assert found["ggml_rope_custom"] == "use ggml_rope_ext instead"


# Values and layouts, from a program that knows nothing of the generator's probe


def test_every_value_and_layout_is_the_compilers(
    real_api: Api, real_folders: list[Path], run: Run, tmp_path: Path
) -> None:
    questions: dict[str, object] = {m.name: m.value for enum in real_api.enums for m in enum.members}
    questions |= {c.name: c.value for c in real_api.constants if c.kind == "int"}
    for record in real_api.records:
        if record.fields is not None:
            questions[f"sizeof({record.spelling})"] = record.size
            questions |= {f"offsetof({record.spelling},{f.name})": f.offset for f in flat_fields(record)}
    assert len(questions) > 600
    includes = "".join(f'#include "{name}"\n' for name in real_api.headers)
    body = "".join(f'    std::cout << "{q}=" << (long long) ({q}) << "\\n";\n' for q in questions)
    source = tmp_path / "values.cpp"
    text = f"#include <cstddef>\n#include <iostream>\n{includes}int main() {{\n{body}}}\n"
    source.write_text(text, encoding="utf-8")
    program = source.with_suffix("")
    run(["c++", "-std=c++17", "-w", "-O0", *(f"-I{x}" for x in real_folders), str(source), "-o", str(program)])
    answers = dict(line.rsplit("=", 1) for line in run([str(program)]).splitlines())
    assert {name: str(value) for name, value in questions.items()} == answers


# Comments


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("llama_decode", "Positive return values does not mean a fatal error, but rather a warning."),
        ("llama_tokenize", "@param tokens The tokens pointer must be large enough to hold the resulting tokens."),
        ("llama_model_meta_count", "Get the number of metadata key/value pairs"),
        ("ggml_opt_fit", "silent: whether or not info prints to stderr should be suppressed"),
        ("ggml_hardswish", "hardswish(x) = x * relu6(x + 3) / 6"),
        ("gguf_write_to_file_ptr", "write the entire context to a binary file"),
    ],
)
def test_doc_comment_of_a_function(real_api: Api, name: str, part: str) -> None:
    assert part in function_doc(real_api, name).splitlines()


def test_doc_comments_stay_with_their_declaration(real_api: Api) -> None:
    constants = {c.name: c.doc for c in real_api.constants}
    assert constants["LLAMA_FILE_MAGIC_GGLA"] == "'ggla'"
    assert constants["GGML_QNT_VERSION"] == "bump this on quantization format changes"
    assert constants["GGML_MAX_DIMS"] == ""
    members = {m.name: m.doc for enum in real_api.enums for m in enum.members}
    assert members["LLAMA_POOLING_TYPE_RANK"].startswith("used by reranking models to attach")
    assert members["LLAMA_POOLING_TYPE_LAST"] == ""
    records = {r.tag: r for r in real_api.records}
    assert records["llama_batch"].doc.startswith("Input data for llama_encode/llama_decode\n")
    fields = {f.name: f.doc for f in records["llama_batch"].fields or ()}
    assert fields == dict.fromkeys(fields, "") | {"logits": 'TODO: rename this to "output"'}
    typedefs = {t.name: t.doc for t in real_api.typedefs}
    assert typedefs["llama_batch"] == ""
    assert typedefs["ggml_fp16_t"].startswith("ieee 754-2008 half-precision float16")


def test_comment_that_goes_on_below_a_field(real_api: Api) -> None:
    tensor = next(r for r in real_api.records if r.tag == "ggml_tensor")
    strides = next(f.doc for f in tensor.fields or () if f.name == "nb")
    assert [line.partition(" ")[0] for line in strides.splitlines()] == ["stride", "nb[0]", "nb[1]", "nb[i]"]
