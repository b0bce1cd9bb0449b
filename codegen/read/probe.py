"""Measures values, sizes and offsets with the compiler. The generator never computes one itself."""

from __future__ import annotations

import json
import math
import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from os import environ
from pathlib import Path

from codegen.api.model import Api, CodegenError, Constant, Enum, Field, Function, Record, flat_fields

_Value = int | float | str

# put_int is a macro so that the sign is tested before a conversion to a parameter's type. Text is printed as hex.
_PROLOGUE = r"""
#include <stddef.h>
#include <stdio.h>
#define put_int(x) ((x) < 0 ? printf("%lld,\n", (long long)(x)) : printf("%llu,\n", (unsigned long long)(x)))
#define put_float(x) printf("\"%.17g\",\n", (double)(x))
static void put_str(const char * text) {
    putchar('"');
    while (*text) printf("%02x", (unsigned char)*text++);
    puts("\",");
}
int main(void) {
puts("[");
"""

_DIMENSION = re.compile(r"\[([^\[\]]*)\]")


def measure(api: Api, folders: Sequence[Path]) -> Api:
    """Return the API with values, sizes, offsets and array lengths, which a small compiled program prints."""
    questions = _Questions()
    constants = [questions.ask(f"put_{c.kind}", c.name) for c in api.constants]
    enums = [[questions.ask("put_int", member.name) for member in enum.members] for enum in api.enums]
    records = {record.spelling: _ask_record(questions, record) for record in api.records if record.fields is not None}
    dimensions = {x: questions.ask("put_int", x) for x in sorted(set(_dimensions(api)))}
    answers = questions.run(api.headers, folders)
    lengths = {expression: int(answers[index]) for expression, index in dimensions.items()}
    layouts = {name: _Layout(asked, answers, lengths) for name, asked in records.items()}
    return replace(
        api,
        functions=tuple(_measured_function(f, lengths) for f in api.functions),
        typedefs=tuple(replace(t, type=_sized(t.type, lengths)) for t in api.typedefs),
        constants=tuple(_measured_constant(c, answers[i]) for c, i in zip(api.constants, constants, strict=True)),
        enums=tuple(_measured_enum(e, [answers[i] for i in x]) for e, x in zip(api.enums, enums, strict=True)),
        records=tuple(layouts[r.spelling].apply(r) if r.spelling in layouts else r for r in api.records),
    )


class _Questions:
    def __init__(self) -> None:
        self._lines: list[str] = []

    def ask(self, call: str, expression: str) -> int:
        self._lines.append(f"{call}({expression});\n")
        return len(self._lines) - 1

    def run(self, headers: Sequence[str], folders: Sequence[Path]) -> list[_Value]:
        includes = "".join(f'#include "{name}"\n' for name in headers)
        with tempfile.TemporaryDirectory() as scratch:
            source = Path(scratch) / "probe.c"
            program = source.with_suffix("")
            text = includes + _PROLOGUE + "".join(self._lines) + 'puts("null]"); return 0; }\n'
            source.write_text(text, encoding="utf-8")
            command = [*shlex.split(environ.get("CC", "cc")), "-std=gnu11", "-w", *(f"-I{x}" for x in folders)]
            result = subprocess.run([*command, str(source), "-o", str(program)], capture_output=True, text=True)
            if result.returncode != 0:
                raise CodegenError(
                    f"the program that measures values and layouts does not compile:\n{result.stderr.strip()}"
                )
            output = subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout
        answers: list[_Value] = json.loads(output)
        return answers


# Records

_Asked = tuple[int, dict[str, tuple[int, int | None]]]  # of the size; of each member's offset and size


def _ask_record(questions: _Questions, record: Record) -> _Asked:
    size = questions.ask("put_int", f"sizeof({record.spelling})")
    fields: dict[str, tuple[int, int | None]] = {}
    for member in flat_fields(record):
        if member.bits is None:
            offset = questions.ask("put_int", f"offsetof({record.spelling}, {member.name})")
            fields[member.name] = offset, None
            if "[]" not in member.type:  # a flexible array member has no size
                size_of = questions.ask("put_int", f"sizeof((({record.spelling} *)0)->{member.name})")
                fields[member.name] = offset, size_of
    return size, fields


class _Layout:
    """The measured layout of one record."""

    def __init__(self, asked: _Asked, answers: Sequence[_Value], lengths: Mapping[str, int]) -> None:
        size, fields = asked
        self._size = int(answers[size])
        self._fields = {
            name: (int(answers[offset]), None if length is None else int(answers[length]))
            for name, (offset, length) in fields.items()
        }
        self._lengths = lengths

    def apply(self, record: Record) -> Record:
        return replace(record, size=self._size, fields=self._measured_fields(record, reachable=True))

    def _measured_fields(self, record: Record, reachable: bool) -> tuple[Field, ...]:
        return tuple(self._measured_field(member, reachable) for member in record.fields or ())

    def _measured_field(self, member: Field, reachable: bool) -> Field:
        inner = member.inner
        if inner is not None:  # C reaches the members of a named member only through that member
            inner = replace(inner, fields=self._measured_fields(inner, reachable and not member.name))
        offset, size = self._fields.get(member.name, (None, None)) if reachable else (None, None)
        return replace(member, type=_sized(member.type, self._lengths), inner=inner, offset=offset, size=size)


# Other values


def _measured_constant(constant: Constant, value: _Value) -> Constant:
    if constant.kind == "str":
        return replace(constant, value=bytes.fromhex(str(value)).decode("utf-8", "backslashreplace"))
    if constant.kind == "float":
        if not math.isfinite(float(value)):
            raise CodegenError(
                f"{constant.header}: {constant.name} must be finite, got {value}: the snapshot cannot store it"
            )
        return replace(constant, value=float(value))
    return replace(constant, value=value)


def _measured_enum(enum: Enum, values: Sequence[_Value]) -> Enum:
    members = tuple(replace(m, value=int(value)) for m, value in zip(enum.members, values, strict=True))
    return replace(enum, members=members)


def _measured_function(function: Function, lengths: Mapping[str, int]) -> Function:
    params = tuple(replace(param, type=_sized(param.type, lengths)) for param in function.params)
    return replace(function, returns=_sized(function.returns, lengths), params=params)


def _sized(ctype: str, lengths: Mapping[str, int]) -> str:
    return _DIMENSION.sub(lambda m: f"[{lengths.get(m[1], m[1])}]", ctype)


def _dimensions(api: Api) -> Iterator[str]:
    """Yield array lengths that are expressions, such as `64 / sizeof(int32_t)`."""
    for ctype in _types(api):
        yield from (x for x in _DIMENSION.findall(ctype) if x and not x.isdigit())


def _types(api: Api) -> Iterator[str]:
    for function in api.functions:
        yield function.returns
        yield from (param.type for param in function.params)
    yield from (typedef.type for typedef in api.typedefs)
    pending = list(api.records)
    while pending:
        for member in pending.pop().fields or ():
            yield member.type
            if member.inner:
                pending.append(member.inner)
