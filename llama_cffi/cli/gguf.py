"""`llama-cffi gguf`: show, change, copy, compare, split and merge GGUF files."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import llama_cffi.ggml as Ggml
from llama_cffi._core.argparse_types import integer
from llama_cffi._core.command_parser import USAGE_STATUS, CommandParser, suggestion
from llama_cffi.cli import options, output
from llama_cffi.cli.gguf_text import differences, document, shown, text

_TYPES = [kind.name.lower() for kind in Ggml.GgufType if kind.name not in ("ARRAY", "COUNT")]
_SIZE = re.compile(r"(\d+)([KMG]?)", re.IGNORECASE)


def make_parser() -> CommandParser:
    """The parser of the options."""
    parser = options.parser(
        "gguf",
        "Show, change, copy, compare, split and merge GGUF files. A file is replaced only after the new one was "
        "written completely.",
        "gguf show model.gguf --tensors",
        'gguf set model.gguf general.name "My model"',
        "gguf set model.gguf tokenizer.ggml.eos_token_id 2 --type uint32 --output fixed.gguf",
        "gguf remove model.gguf tokenizer.chat_template",
        "gguf copy donor.gguf model.gguf tokenizer.chat_template",
        "gguf diff before.gguf after.gguf",
        "gguf split model.gguf model --max-size 2G",
        "gguf merge model-00001-of-00003.gguf model.gguf",
    )
    parser.actions = {f"{name} {usage}": what for name, (usage, what, _) in _ACTIONS.items()}
    parser.add_argument("action", choices=_ACTIONS, metavar="ACTION", help=", ".join(_ACTIONS))
    parser.add_argument("arguments", nargs="*", metavar="FILE", help="what the action takes")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="set, remove: write to FILE (default: the file that is changed)"
    )
    parser.add_argument(
        "--type",
        choices=_TYPES,
        metavar="TYPE",
        help=f"set: the type of the value, or of the items of a list: {', '.join(_TYPES)} (default: the one that the "
        "key has, else one by the value)",
    )
    parser.add_argument("--tensor", action="store_true", help="remove: the names are those of tensors")
    parser.add_argument("--tensors", action="store_true", help="show: list every tensor")
    parser.add_argument("--max-tensors", type=integer(1), metavar="N", help="split: at most N tensors a file")
    parser.add_argument(
        "--max-size", metavar="N[K|M|G]", help="split: at most this size a file, such as 2G (default: 128 tensors)"
    )
    options.add_output(parser, "show, diff: print one JSON document")
    return parser


def main(argv: Sequence[str]) -> int:
    """Do what the action says. Returns 0, or 1 on failure and if files differ; wrong arguments exit with 2."""
    args = make_parser().parse_args(argv)
    return output.run(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    usage, _, action = _ACTIONS[args.action]
    least = len(usage.partition(" [")[0].split())
    if len(args.arguments) < least or (len(args.arguments) > least and not usage.endswith("...]")):
        raise output.CommandError(f"{args.action} takes {usage}, got {len(args.arguments)} arguments", USAGE_STATUS)
    return action(args)


def _show(args: argparse.Namespace) -> int:
    path, *keys = args.arguments
    with Ggml.Gguf.open(path) as file:
        for key in keys:
            value = file.metadata[_known(file, key)]
            if args.json:
                output.write_json(value)
            else:
                output.write((value if isinstance(value, str) else json.dumps(value)) + "\n")
        if not keys and args.json:
            output.write_json(document(file))
        elif not keys:
            output.write(output.plain_lines(text(file, args.tensors)) + "\n")
    return 0


def _known(file: Ggml.Gguf, name: str, tensors: bool = False) -> str:
    """Return the name of a value or a tensor. Raises CommandError with the one that was meant."""
    known = file.tensors if tensors else file.metadata
    if name in known:
        return name
    meant = suggestion(name, known)
    what = "tensor" if tensors else "key"
    hint = f"did you mean {meant}?" if meant else "gguf show lists them"
    raise output.CommandError(f"{file.path} has no {what} {name!r}: {hint}")


def _set(args: argparse.Namespace) -> int:
    path, key, word = args.arguments
    with Ggml.Gguf.open(path) as file:
        value = _value(word, args.type, file.metadata.type(key).name if key in file.metadata else "")
        kind = None if args.type is None else Ggml.GgufType[args.type.upper()]
        if isinstance(value, list):
            file.metadata.set(key, value, itemType=kind)
        else:
            file.metadata.set(key, value, kind)
        _write(args, file)
        output.say(f"{key} = {shown(file.metadata, key)}")
    return 0


def _value(word: str, kind: str | None, old: str) -> Any:
    """The value of an argument: JSON, else a text. What shall be a text is one whatever it looks like."""
    if kind == "string" and not word.startswith("["):
        return word
    if kind is None and old == "STRING":
        return word
    try:
        value = json.loads(word)
    except ValueError:
        return word
    if value is None or isinstance(value, dict):
        return word
    return float(value) if kind in ("float32", "float64") and isinstance(value, int) else value


def _remove(args: argparse.Namespace) -> int:
    path, *names = args.arguments
    with Ggml.Gguf.open(path) as file:
        for name in names:
            _known(file, name, args.tensor)
        for name in dict.fromkeys(names):
            (file.tensors if args.tensor else file.metadata).remove(name)
        _write(args, file)
    return 0


def _copy(args: argparse.Namespace) -> int:
    source, target, *keys = args.arguments
    with Ggml.Gguf.open(source) as file:
        if not keys:
            _write(args, file, target)
            return 0
        with Ggml.Gguf.open(target) as other:
            for key in keys:
                kinds = file.metadata.type(_known(file, key)), file.metadata.itemType(key)
                other.metadata.set(key, file.metadata[key], *kinds)
            _write(args, other, args.output or target)
    return 0


def _write(args: argparse.Namespace, file: Ggml.Gguf, target: str = "") -> None:
    target = target or args.output or args.arguments[0]
    progress = output.Progress("writing", os.path.basename(target), args.quiet)
    try:
        file.write(target, progress)
    finally:
        progress.end()


def _diff(args: argparse.Namespace) -> int:
    with Ggml.Gguf.open(args.arguments[0]) as first, Ggml.Gguf.open(args.arguments[1]) as second:
        found = differences(first, second)
    if args.json:
        output.write_json(found)
    elif found:
        rows = [[row["what"], row["name"], row["change"]] for row in found]
        output.write(output.table(rows, align="<<<") + "\n")
    return 1 if found else 0


def _split(args: argparse.Namespace) -> int:
    path, target = args.arguments
    size = None if args.max_size is None else _bytes(args.max_size)
    progress = output.Progress("splitting", os.path.basename(path), args.quiet)
    with Ggml.Gguf.open(path) as file:
        try:
            paths = file.split(target, args.max_tensors, size, progress)
        finally:
            progress.end()
    output.write("".join(f"{output.plain(name)}\n" for name in paths))
    return 0


def _bytes(word: str) -> int:
    match = _SIZE.fullmatch(word)
    if match is None or not int(match[1]):
        raise output.CommandError(f"--max-size: expected a size such as 500M or 2G, got {word!r}", USAGE_STATUS)
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2].upper()]


def _merge(args: argparse.Namespace) -> int:
    first, target = args.arguments
    if os.path.exists(target):
        raise output.CommandError(f"{target} exists: remove it first, or choose another name")
    with Ggml.Gguf.merge(first) as file:
        _write(args, file, target)
    return 0


# Name -> what the action takes, what it does, and the function.
_ACTIONS: dict[str, tuple[str, str, Callable[[argparse.Namespace], int]]] = {
    "show": ("FILE [KEY ...]", "prints what the file holds, or values alone", _show),
    "set": ("FILE KEY VALUE", "changes a value of the metadata, or adds one; a list is written as JSON", _set),
    "remove": ("FILE KEY [KEY ...]", "removes values of the metadata, or tensors", _remove),
    "copy": ("SOURCE TARGET [KEY ...]", "copies a whole file, or the named values into an existing one", _copy),
    "diff": ("FILE FILE", "lists the differences; the exit status is 1 if there are any", _diff),
    "split": ("FILE PREFIX", "writes the file as several, as llama.cpp names them", _split),
    "merge": ("FIRST TARGET", "writes the files of a split model as one", _merge),
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
