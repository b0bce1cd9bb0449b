"""Command line of the generator, the only program that writes generated files: `python -m codegen COMMAND`.

`snapshot`, `generate`, `check` and `needs` are here; `diff`, `history` and `changes` are in `codegen/diff/command.py`.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from pathlib import Path

from codegen import generate as generator
from codegen.api import snapshot
from codegen.api.model import Api, CodegenError
from codegen.api.paths import ROOT
from codegen.diff import arguments as diff_arguments
from codegen.fit import needs
from codegen.read import shim


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line, with every command."""
    made = argparse.ArgumentParser(
        prog="python -m codegen", description="Generate the bindings from llama.cpp's public headers."
    )
    commands = made.add_subparsers(dest="command", required=True)
    commands.add_parser("snapshot", help="read the pinned headers and libraries into codegen/api/api.json")
    commands.add_parser("generate", help="write every generated file from codegen/api/api.json")
    commands.add_parser("check", help="fail with a diff if a generated file differs from what generate would write")
    commands.add_parser("needs", help="write codegen/fit/needs.json: which part of the API the facade uses")
    diff_arguments.add_to(commands)
    return made


def main(arguments: list[str] | None = None) -> int:
    args = parser().parse_args(arguments)
    if args.command in diff_arguments.COMMANDS:
        from codegen.diff import command  # local: it imports `vendor`, and `check` must run without it

        return command.run(args)
    try:
        return {"snapshot": _snapshot, "generate": _generate, "needs": _needs, "check": _check}[args.command]()
    except CodegenError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def read_headers() -> Api:
    """Return the API of the pinned headers. Values come from the compiler, homes from the built libraries."""
    # Local: pycparser, a compiler and the native build are needed for `snapshot` only.
    from codegen.read import exports, headers, parse, probe
    from vendor.build import native
    from vendor.build.libraries import library_name
    from vendor.build.mtmd import library
    from vendor.source import pin

    plan = native.plan()
    plan.make()
    api = parse.parse(headers.preprocess(plan.headers), pin.load().label)
    files, modules = plan.files(), plan.modules()
    names = [*plan.linked, *(file for name in ("cpu", "rpc") for file in modules.get(name, ())[:1])]
    names += [library.FILE] if library.FILE in files else []
    libraries = {library_name(name): files[name] for name in names}
    return exports.assign_homes(probe.measure(api, plan.headers), libraries)


def _snapshot() -> int:
    api = read_headers()
    snapshot.SNAPSHOT.write_text(snapshot.dumps(api), encoding="utf-8")
    print(f"codegen/api/api.json: {len(api.functions)} functions of {api.pin}")
    return 0


def _generate() -> int:
    for name, text in expected().items():
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(name)
    return 0


def expected() -> dict[str, str]:
    """Return every generated file as it should be: its path -> its content."""
    return generator.generate(snapshot.load(), needs.load(), shim.load())


def _needs() -> int:
    from codegen.diff import history  # local: it imports `vendor`, and `check` must run without it

    api = snapshot.load()
    known = {name: history.load(history.FOLDER / f"{name}.json").api for name in history.names()}
    if api.pin not in [other.pin for other in known.values()]:
        known[api.pin] = api
    found = needs.with_versions(needs.gather(needs.with_former(api, needs.load().api)), known)
    needs.NEEDS.write_text(needs.dumps(found), encoding="utf-8")
    print(f"codegen/fit/needs.json: {len(found.api.functions)} functions")
    return 0


def drift(root: Path = ROOT) -> str:
    """Return a unified diff from the files on disk to the expected ones; empty if they are equal."""
    out: list[str] = []
    files = expected()
    for name, text in files.items():
        path = root / name
        on_disk = path.read_text(encoding="utf-8") if path.is_file() else ""
        out += difflib.unified_diff(on_disk.splitlines(True), text.splitlines(True), f"{name} (on disk)", name)
    folder = sorted((root / "llama_cffi" / "_generated").rglob("*"))
    found = [path.relative_to(root).as_posix() for path in folder if path.is_file() and "__pycache__" not in path.parts]
    out += [f"{name}: nothing generates this file: delete it\n" for name in found if name not in files]
    return "".join(out)


def _check() -> int:
    difference = drift()
    if difference:
        sys.stderr.write(difference)
        print("error: generated files are not up to date: run `python -m codegen generate`", file=sys.stderr)
        return 1
    print("generated files are up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main())
