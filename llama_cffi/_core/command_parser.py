"""The argument parser of the commands: short usage, examples in the help, and errors of one line that suggest a fix.

Pure Python: the doctor uses it where the extension cannot be imported.
"""

from __future__ import annotations

import argparse
import os
import re
import sys

from llama_cffi._suggest import near

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any, NoReturn

SCRIPT = "llama-cffi"
USAGE_STATUS = 2

_MODULE = "python -m llama_cffi"
_OPTION_RE = re.compile(r"--?[A-Za-z][\w-]*")
_ARGUMENT_RE = re.compile(r"argument ([^:]+): (.*)", re.DOTALL)


def program() -> str:
    """Return what the user typed to start the program: the console script, or the module."""
    return SCRIPT if os.path.basename(sys.argv[0]).startswith(SCRIPT) else _MODULE


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return the command or option that was meant by `name`, or ""."""
    plain = {word.lstrip("-").replace("-", "_"): word for word in known}
    found = near(name.lstrip("-").replace("-", "_"), plain)
    return plain[found] if found else ""


class CommandParser(argparse.ArgumentParser):
    """The parser of one command. `examples` are command lines without the name of the program, for the help."""

    def __init__(self, command: str, description: str, examples: Sequence[str] = ()) -> None:
        super().__init__(prog=f"{program()} {command}", description=description, add_help=False)
        self.command = command
        self.examples = examples
        self.actions: Mapping[str, str] = {}  # of a command that has several: how each is written, and what it does
        self._given: list[str] = []
        self._positionals.title = "arguments"
        self.add_argument("-h", "--help", action="help", help="show this help")

    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride]  # its overloads say the same
        self, args: Any = None, namespace: Any = None
    ) -> Any:
        """Parse the arguments, which are kept for messages."""
        self._given = list(args or ())
        return super().parse_known_args(args, namespace)

    # Help

    def format_usage(self) -> str:
        return f"usage: {self.short_usage()}\n"

    def format_help(self) -> str:
        self.usage = self.short_usage().replace("%", "%%")
        text = super().format_help()
        if self.actions:
            text += "\nactions:\n" + "".join(f"  {usage}\n      {what}\n" for usage, what in self.actions.items())
        if self.examples:
            text += f"\nexample{'s' if len(self.examples) > 1 else ''}:\n"
            text += "".join(f"  {program()} {example}\n" for example in self.examples)
        return text

    def print_help(self, file: Any = None) -> None:
        """Print the help. Raises OSError if it cannot be written; argparse ignores that."""
        print(self.format_help(), end="", file=file)

    def short_usage(self) -> str:
        """The usage in one line, without a list of the options."""
        return " ".join([self.prog, "[OPTION ...]", *map(_placeholder, self.positionals)])

    # The arguments

    @property
    def positionals(self) -> list[argparse.Action]:
        return [action for action in self._actions if not action.option_strings]

    @property
    def options(self) -> list[argparse.Action]:
        return [action for action in self._actions if action.option_strings and action.help != argparse.SUPPRESS]

    # Errors

    def error(self, message: str) -> NoReturn:
        """Exit with status 2 after a line that says what is wrong and what to do."""
        line = self._unknown_option() or self._explained(message)
        self.exit(USAGE_STATUS, "error: " + "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line) + "\n")

    def _unknown_option(self) -> str:
        """The message about the first option that does not exist; empty if all do."""
        actions = {name: action for action in self.options for name in action.option_strings}
        for word in self._given:
            if word == "--":
                break
            name = word.partition("=")[0]
            if not _OPTION_RE.fullmatch(name):
                continue
            longer = [action for option, action in actions.items() if name[:2] == "--" and option.startswith(name)]
            same = [action for action in self.options if _names_in_llama_cpp(action, name)]
            if same and name not in actions and len(longer) != 1:
                return f"unknown option {name}: llama.cpp's {name} is {'/'.join(same[0].option_strings)} here"
            if not longer and (name[:2] == "--" or name[:2] not in actions):
                meant = suggestion(name, actions)
                return f"unknown option {name}: " + (
                    f"did you mean {meant}?" if meant else f"{self.prog} --help lists the options"
                )
        return ""

    def _explained(self, message: str) -> str:
        """A message of argparse in our words; one that is not known stays as it is."""
        if found := _ARGUMENT_RE.fullmatch(message):
            return self._explained_argument(found[1], found[2])
        head, _, rest = message.partition(": ")
        if head == "unrecognized arguments":
            takes = " ".join(map(_placeholder, self.positionals)) or "options only"
            hint = "; put quotes around a text that has spaces" if self.positionals else ""
            return f"unexpected argument {rest!r}: {self.command} takes {takes}{hint}"
        if head == "the following arguments are required":
            return f"{rest} {'are' if ', ' in rest else 'is'} missing: {self.short_usage()}"
        if head == "ambiguous option":
            option, _, matches = rest.partition(" could match ")
            return f"{option} is ambiguous: it can mean {matches}"
        if found := re.fullmatch(r"one of the arguments (.*) is required", message):
            return f"one of {', '.join(found[1].split(' '))} is required: {self.prog} --help explains them"
        return message

    def _explained_argument(self, name: str, message: str) -> str:
        action = next((action for action in self._actions if _name(action) == name), None)
        if message.startswith("not allowed with argument "):
            return f"use either {name} or {message.removeprefix('not allowed with argument ')}"
        if found := re.fullmatch(r"ignored explicit argument (.*)", message, re.DOTALL):
            return f"{name} does not take a value, got {found[1]}"
        if action and re.fullmatch(r"expected (one|at least one|\d+) arguments?", message):
            option = action.option_strings[0] if action.option_strings else name
            return f"{name} needs a value: {option} {_metavar(action)}"
        if action and action.choices and (found := re.match(r"invalid choice: ('.*?'|\".*?\")", message)):
            choices = [str(choice) for choice in action.choices]
            meant = suggestion(found[1][1:-1], choices)
            hint = f": did you mean {meant}?" if meant else ""
            return f"{name}: expected {_either(choices)}, got {found[1]}{hint}"
        if found := re.fullmatch(r"invalid (\w+) value: (.*)", message, re.DOTALL):
            return f"{name}: expected {found[1]}, got {found[2]}"
        return f"{name}: {message}"


def _names_in_llama_cpp(action: argparse.Action, name: str) -> bool:
    """Return True if the help of an option says that `name` is its name in llama.cpp."""
    return re.search(rf"llama\.cpp: {re.escape(name)}(?![\w-])", action.help or "") is not None


def _name(action: argparse.Action) -> str:
    """The name of an argument in argparse's messages."""
    return "/".join(action.option_strings) or str(action.metavar or action.dest)


def _metavar(action: argparse.Action) -> str:
    if action.metavar is None and action.choices:
        return "{" + ",".join(map(str, action.choices)) + "}"
    return action.metavar if isinstance(action.metavar, str) else action.dest.upper()


def _placeholder(action: argparse.Action) -> str:
    """A positional argument in the usage."""
    name = _metavar(action)
    forms = {"?": f"[{name}]", "*": f"[{name} ...]", "+": f"{name} [{name} ...]"}
    return forms.get(str(action.nargs), name)


def _either(words: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))
