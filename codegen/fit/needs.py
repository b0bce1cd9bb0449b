"""The part of the C API that the facade and the shim use, with the signatures they were written for: needs.json.

`python -m codegen needs` writes codegen/fit/needs.json from the sources and the snapshot. `complete.py` compares a
header with it.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from codegen.api import snapshot
from codegen.api.model import Api, CodegenError, Enum, Field, Function, Record, Typedef, flat_fields
from codegen.api.paths import ROOT
from codegen.rules import naming

NEEDS = Path(__file__).with_name("needs.json")

# Types that are the same on every supported platform, and the spelling to compare them by.
_SAME = {"int": "int32_t", "unsigned int": "uint32_t", "enum ggml_status": "int32_t"}

_WORD = re.compile(r"\w+")
_C_NAME = re.compile(r"(?:llama|ggml|gguf|mtmd|LLAMA|GGML|GGUF|MTMD)_\w+")


@dataclass(frozen=True)
class Needs:
    """The needed part of the API, and for each name (`struct.field` too) the known versions that have it."""

    api: Api
    members: frozenset[str]  # enumerators that the sources use, as `Class.MEMBER` or by their C name
    versions: Mapping[str, tuple[str, str]]  # name -> the first and the last version with it

    def has(self, name: str) -> str:
        """Return the versions that have a name, as text: "0.3.20 to 0.3.36"."""
        first, last = self.versions[name]
        return first if first == last else f"{first} to {last}"


def with_former(api: Api, former: Api) -> Api:
    """Return the API, plus the former needs that it lacks: the facade may use them with versions that have them."""
    records = {record.spelling: record for record in former.records}
    spellings = {x.spelling for x in _tagged(api)} | {typedef.name for typedef in api.typedefs}
    names = {function.name for function in api.functions} | {constant.name for constant in api.constants}
    functions = (*api.functions, *(f for f in former.functions if f.name not in names))
    constants = (*api.constants, *(c for c in former.constants if c.name not in names))
    return replace(
        api,
        functions=tuple(sorted(functions, key=lambda f: f.name)),
        records=(
            *(_with_fields(r, records.get(r.spelling)) for r in api.records),
            *(r for r in former.records if r.spelling not in spellings),
        ),
        enums=(*api.enums, *(e for e in former.enums if e.spelling not in spellings)),
        typedefs=(*api.typedefs, *(t for t in former.typedefs if t.name not in spellings)),
        constants=tuple(sorted(constants, key=lambda c: c.name)),
    )


def _with_fields(record: Record, former: Record | None) -> Record:
    if record.fields is None or former is None:
        return record
    have = {field.name for field in flat_fields(record)}
    lost = (field for field in flat_fields(former) if field.name not in have)
    return replace(record, fields=(*record.fields, *(replace(field, offset=None) for field in lost)))


def gather(api: Api, root: Path = ROOT) -> Needs:
    """Return the part of `api` that the sources use, without versions."""
    names, enums, members = _used(root)
    functions = [_bare(f) for f in api.functions if f.name in names]
    typedefs = [t for t in api.typedefs if t.name in names]
    records = _whole(api, names, functions, typedefs)
    members |= {m.name for e in api.enums for m in e.members if m.name in names}
    used = [
        e for e in api.enums if naming.class_name(e.tag or e.alias) in enums or members & {m.name for m in e.members}
    ]
    types = _closure(api, functions, records, used, typedefs)
    constants = [c for c in api.constants if c.name in names]
    return Needs(
        Api(
            pin=api.pin,
            headers=(),
            functions=tuple(functions),
            records=tuple(_bare_record(r, r in records) for r in api.records if r.spelling in types),
            enums=tuple(_bare_enum(e) for e in api.enums if e.spelling in types),
            typedefs=tuple(replace(t, doc="") for t in api.typedefs if t.name in types),
            constants=tuple(replace(c, doc="") for c in constants),
        ),
        frozenset(members),
        {},
    )


def _whole(api: Api, names: set[str], functions: list[Function], typedefs: list[Typedef]) -> list[Record]:
    """Return the records whose fields matter.

    These are the records that the sources name, that a call passes by value or that a callback type mentions, and the
    records inside them.
    """
    passed = [ctype for f in functions for ctype in (f.returns, *(p.type for p in f.params)) if "*" not in ctype]
    named = set(_WORD.findall(" ".join([*passed, *(t.type for t in typedefs if "(*)" in t.type)]))) | names
    while True:
        whole = [r for r in api.records if (r.tag or r.alias) in named or r.tag.endswith("_params")]
        inside = {w for r in whole for f in flat_fields(r) if "*" not in f.type for w in _WORD.findall(f.type)}
        if inside <= named:
            return whole
        named |= inside


def _bare(function: Function) -> Function:
    return replace(function, doc="", deprecated=None)


def _bare_enum(enum: Enum) -> Enum:
    return replace(enum, doc="", members=tuple(replace(m, doc="") for m in enum.members))


def _bare_record(record: Record, whole: bool) -> Record:
    """Return the record without comments, and without fields unless `whole`: pointers to it need none."""
    if not whole or record.fields is None:
        return replace(record, doc="", fields=None, size=None)
    return replace(record, doc="", fields=tuple(_bare_field(field) for field in record.fields))


def _bare_field(field: Field) -> Field:
    return replace(field, doc="", inner=field.inner and _bare_record(field.inner, True))


def _used(root: Path) -> tuple[set[str], set[str], set[str]]:
    """Return the C names, the classes of enumerations and the enumerators that the sources use."""
    names: set[str] = set()
    enums: set[str] = set()
    members: set[str] = set()
    for path in sources(root):
        text = path.read_text(encoding="utf-8")
        if path.suffix != ".py":
            names |= set(_C_NAME.findall(_without_comments(text)))
            continue
        aliases: dict[str, str] = {}
        spelled: list[tuple[str, str]] = []
        for node in ast.walk(ast.parse(text, str(path))):
            match node:
                case ast.Attribute(value=ast.Name(id="lib"), attr=name):
                    names.add(name)
                case ast.Attribute(value=ast.Attribute(value=ast.Name(id="enums"), attr=owner), attr=member):
                    members.add(f"{owner}.{member}")
                case ast.Attribute(value=ast.Name(id="enums"), attr=owner):
                    enums.add(owner)
                case ast.Attribute(value=ast.Name(id=owner), attr=member) if member.isupper():
                    spelled.append((owner, member))
                case ast.Constant(value=str(words)) if not _is_prose(words):
                    names |= set(_C_NAME.findall(words))
                case ast.ImportFrom(module="llama_cffi._generated.enums", names=imported):
                    aliases |= {item.asname or item.name: item.name for item in imported}
        enums |= set(aliases.values())
        members |= {f"{aliases[owner]}.{member}" for owner, member in spelled if owner in aliases}
    return names, enums, members


def sources(root: Path = ROOT) -> list[Path]:
    """Return the hand-written files of the package."""
    package = root / "llama_cffi"
    files = [*sorted(package.rglob("*.py")), *sorted((package / "_shim").iterdir())]
    return [path for path in files if "_generated" not in path.parts and path.suffix in (".py", ".cpp", ".h", ".hpp")]


def _is_prose(text: str) -> bool:
    return "\n" in text or "`" in text or len(text.split()) > 4


def _without_comments(text: str) -> str:
    return re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.DOTALL)


def _closure(
    api: Api,
    functions: Iterable[Function],
    records: Iterable[Record],
    enums: Iterable[Enum],
    typedefs: Iterable[Typedef],
) -> set[str]:
    """Return the spellings of all types that these refer to, directly or through other types."""
    by_name: dict[str, list[Record | Enum | Typedef]] = {t.name: [t] for t in api.typedefs}
    for each in _tagged(api):  # a struct and its typedef may have the same name
        by_name.setdefault(each.tag or each.alias, []).append(each)
    found: set[str] = set()
    whole = {record.spelling for record in records}

    def add(ctype: str) -> None:
        for known in [known for word in _WORD.findall(ctype) for known in by_name.get(word, [])]:
            spelling = known.name if isinstance(known, Typedef) else known.spelling
            if spelling in found:
                continue
            found.add(spelling)
            if isinstance(known, Typedef):
                add(known.type)
            elif isinstance(known, Record) and spelling in whole:
                for field in flat_fields(known):
                    add(field.type)

    for function in functions:
        for ctype in (function.returns, *(p.type for p in function.params)):
            add(ctype)
    for record in records:
        add(record.tag or record.alias)
    for enum in enums:
        add(enum.tag or enum.alias)
    for typedef in typedefs:
        add(typedef.name)
    return found


def dumps(needs: Needs) -> str:
    """Return the text of `needs.json`."""
    api = json.loads(snapshot.dumps(needs.api))
    data = {"api": api, "members": sorted(needs.members), "versions": needs.versions}
    return snapshot.render(data)


def load(path: Path = NEEDS) -> Needs:
    """Read `needs.json`."""
    data = json.loads(path.read_text(encoding="utf-8"))
    api = snapshot.loads(json.dumps(data["api"]))
    return Needs(api, frozenset(data["members"]), {k: (v[0], v[1]) for k, v in data["versions"].items()})


def field_form(record: Record, field: Field) -> str:
    """Return `struct.field`, plus the type of a pointer field: the facade builds the object that it points to."""
    name = f"{record.tag or record.alias}.{field.name}"
    return f"{name} {plain(field.type)}" if field.type.endswith("*") else name


def plain(ctype: str) -> str:
    """Return a type without the differences that a caller from Python does not notice."""
    words = " ".join(re.sub(r"\bconst\b", "", ctype).split()).replace("* *", "**")
    return _SAME.get(words, words)


def names_of(api: Api) -> set[str]:
    """Return every name that a version may have or lack: functions, types, constants, enumerators, `struct.field`."""
    names = {f.name for f in api.functions} | {c.name for c in api.constants} | {t.name for t in api.typedefs}
    names |= {x.tag or x.alias for x in _tagged(api)} | {m.name for e in api.enums for m in e.members}
    return names | {f"{r.tag or r.alias}.{f.name}" for r in api.records for f in flat_fields(r)}


def _tagged(api: Api) -> list[Record | Enum]:
    return [*api.records, *api.enums]


def with_versions(needs: Needs, known: Mapping[str, Api]) -> Needs:
    """Return the needs with the known versions (`known`, oldest first) that have each name."""
    versions: dict[str, tuple[str, str]] = {}
    for label, api in known.items():
        forms = {field_form(r, f) for r in api.records for f in flat_fields(r)}
        other = {
            f"{r.tag or r.alias}.{f.name}"
            for r in needs.api.records
            for f in flat_fields(r)
            if field_form(r, f) not in forms
        }
        for name in (names_of(api) & names_of(needs.api)) - other:
            versions[name] = (versions.get(name, (label,))[0], label)
    missing = sorted(names_of(needs.api) - set(versions))
    if missing:
        raise CodegenError(
            f"no known version has {missing[0]}: run `python -m codegen history`, which reads them again"
        )
    return replace(needs, versions=dict(sorted(versions.items())))
