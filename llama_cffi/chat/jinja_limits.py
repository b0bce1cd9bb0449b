"""A Jinja sandbox with limits: on the steps and the CPU time of a template, and on the size of what it makes.

Jinja's own sandbox keeps a template away from Python's internals, but lets it run forever and take all memory. Here
each call, operator, filter and turn of a loop is a step, and whatever could make a large text from a small one is
estimated before it runs.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from itertools import islice
from typing import Any, cast

from jinja2 import nodes
from jinja2.environment import Template
from jinja2.ext import loopcontrols
from jinja2.runtime import LoopContext, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from llama_cffi.chat import jinja_budget
from llama_cffi.chat.jinja_budget import (
    MAX_BITS,
    MAX_ITEMS,
    MAX_WIDTH,
    LimitError,
    Rendering,
    budget,
    characters,
    comparable,
    is_simple,
    join,
    made,
    measure,
    text_of,
)


def render(template: Template, variables: Mapping[str, Any]) -> str:
    """Render a template within the limits. Raises LimitError, or what the template raises."""
    with Rendering(characters(variables)):
        return template.render(variables)


# The code of a template: with calls of functions of `jinja_budget` in it


def _call(name: str, *arguments: nodes.Expr) -> nodes.Call:
    return nodes.Call(nodes.ImportedName(f"{jinja_budget.__name__}.{name}"), list(arguments), [], None, None)


def _is_constant(node: nodes.Node) -> bool:
    if isinstance(node, (nodes.List, nodes.Tuple)):
        return all(_is_constant(item) for item in node.items)
    return isinstance(node, nodes.Const)


def limited(node: nodes.Node) -> Any:
    """Return a tree of Jinja's with the calls of the functions above in it."""
    for name, value in list(node.iter_fields()):
        if isinstance(value, nodes.Node):
            setattr(node, name, limited(value))
        elif isinstance(value, list):
            value[:] = [limited(item) if isinstance(item, nodes.Node) else item for item in value]
    if isinstance(node, (nodes.For, nodes.Macro, nodes.CallBlock)):
        node.body.insert(0, nodes.ExprStmt(_call("step")))
    elif isinstance(node, nodes.Concat):
        return _call("concat", *node.nodes)
    elif isinstance(node, (nodes.List, nodes.Dict)) or (isinstance(node, nodes.Tuple) and node.ctx == "load"):
        return node if _is_constant(node) else _call("made", node)
    elif isinstance(node, nodes.Compare) and not all(_is_constant(other.expr) for other in node.ops):
        pairs = [part for other in node.ops for part in (nodes.Const(other.op), other.expr)]
        return _call("compared", node.expr, *pairs)
    return node


# Operators, methods and filters

_PERCENT_WIDTH = re.compile(r"%[^%a-zA-Z]*(\*|\d{5})")
_FORMAT_WIDTH = re.compile(r"\{[^{}]*:[^{}]*(\{|\d{5})")


def _width(value: Any) -> int:
    size = len(value) if isinstance(value, str) else value if isinstance(value, int) else 0
    if abs(size) > MAX_WIDTH:
        raise LimitError(f"it pads or indents by {size:,}, and the limit is {MAX_WIDTH:,}")
    return abs(size)


def _format(text: str, pattern: re.Pattern[str], mark: str, *arguments: Any) -> None:
    """Check a text with places for arguments."""
    if pattern.search(text):
        raise LimitError(f"it formats with a width that is computed, or of more than {MAX_WIDTH:,} columns")
    budget().make(len(text) + text.count(mark) * (measure(*arguments) if arguments else 0))


def operate(name: str, left: Any, right: Any) -> None:
    """Check the operands of an operator."""
    used = budget()
    used.step()
    sized = (str, bytes, list, tuple)
    if name == "%" and isinstance(left, (str, bytes)):
        text = left if isinstance(left, str) else left.decode("latin-1")
        _format(text, _PERCENT_WIDTH, "%", right)
    elif name == "*" and (isinstance(left, sized) or isinstance(right, sized)):
        many, times = (left, right) if isinstance(left, sized) else (right, left)
        if isinstance(times, int) and times > 0 and len(many):
            weight = measure(many) if isinstance(many, (list, tuple)) else len(many)
            used.make(weight * times)
            if isinstance(many, (list, tuple)) and weight * times > 4 * MAX_ITEMS:
                raise LimitError(f"it makes a list of more than {MAX_ITEMS:,} items")
    elif name == "+" and isinstance(left, sized) and isinstance(right, sized):
        used.make(len(left) + len(right))
        if isinstance(left, tuple):
            measure(left, right)
        elif isinstance(left, list) and len(left) + len(right) > MAX_ITEMS:
            raise LimitError(f"it makes a list of more than {MAX_ITEMS:,} items")
    elif isinstance(left, int) and isinstance(right, int) and name in ("*", "**"):
        more = left.bit_length() * max(right, 0) if name == "**" else left.bit_length() + right.bit_length()
        if more > MAX_BITS:
            raise LimitError(f"it makes a number of {more:,} bits, and the limit is {MAX_BITS:,}")


def _method(owner: str | bytes, name: str, args: tuple[Any, ...], named: Mapping[str, Any]) -> None:
    """Check the call of a method of a text."""
    used = budget()
    if name in ("format", "format_map") and isinstance(owner, str):
        _format(owner, _FORMAT_WIDTH, "{", *args, named)
    elif name in ("center", "ljust", "rjust", "zfill"):
        _width(args[0] if args else 0)
    elif name == "expandtabs":
        tabs = owner.count("\t" if isinstance(owner, str) else b"\t")  # type: ignore[arg-type]
        used.make(len(owner) + tabs * max((_width(value) for value in (*args, *named.values())), default=8))
    elif name == "replace" and len(args) >= 2:
        _replace(owner, args[0], args[1])
    elif name == "join" and args:
        if not isinstance(args[0], (list, tuple, str)):
            raise LimitError("it joins what is not a list: make it one with |list")
        used.make(measure(args[0]) + len(owner) * len(args[0]))
    elif name in ("split", "rsplit", "splitlines"):
        used.make(len(owner))
        if len(owner) > MAX_ITEMS and len(owner.split(None, MAX_ITEMS)) > MAX_ITEMS:
            raise LimitError(f"it makes a list of more than {MAX_ITEMS:,} items")
    elif name in ("translate", "maketrans"):
        raise LimitError(f"it calls {name}, which is not allowed")
    else:
        used.make(len(owner))


def _replace(text: Any, old: Any, new: Any) -> None:
    if isinstance(text, (str, bytes)) and isinstance(old, type(text)) and isinstance(new, type(text)):
        budget().make(len(text) + text.count(old) * max(0, len(new) - len(old)))  # type: ignore[arg-type]


_SHALLOW = frozenset(  # filters that do not look into what their argument contains
    "length count first last map select reject selectattr rejectattr items default d attr reverse".split()
)
_TEXT = frozenset(  # filters of texts
    "upper lower trim replace capitalize center indent length count string safe escape e forceescape tojson default d "
    "first last format truncate int float reverse".split()
)


def _filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter with limits."""
    skipped = 1 if hasattr(function, "jinja_pass_arg") else 0  # the context or the environment

    @functools.wraps(function)
    def run(*args: Any, **named: Any) -> Any:
        budget().step()
        value, *rest = args[skipped:] or (None,)
        if isinstance(value, (Iterator, range)):
            value = list(islice(value, MAX_ITEMS + 1))
            args = (*args[:skipped], value, *rest)
        if isinstance(value, str) and name not in _TEXT and len(value) > (1 << 14 if name == "urlize" else MAX_ITEMS):
            raise LimitError(f"the filter {name} gets a text of {len(value):,} characters")
        if name not in _SHALLOW and not is_simple(value):
            measure(value)
        numbers = (*rest, *named.values())
        if name in ("center", "indent", "wordwrap", "batch", "slice", "round"):
            wide = max(map(_width, numbers), default=4)
            lines = value.count("\n") + 1 if name == "indent" and isinstance(value, str) else 1
            budget().make(lines * wide)
        elif name == "tojson":
            measure(value, indent=max(map(_width, numbers), default=0))
        elif name == "format" and isinstance(value, str):
            _format(value, _PERCENT_WIDTH, "%", *numbers)
        elif name == "replace" and len(rest) >= 2:
            _replace(value, *rest[:2])
        elif name == "int" and isinstance(value, str) and len(value) > MAX_WIDTH:
            raise LimitError(f"it makes a number of a text of {len(value):,} characters")
        elif name == "join" and isinstance(value, Sized):
            budget().make(len(value) * max((len(x) for x in numbers if isinstance(x, str)), default=0))
        elif name == "sum":
            _sum(value, numbers)
        result = function(*args, **named)
        return made(result) if name not in _SHALLOW else result

    return run


def _sum(value: Any, others: Iterable[Any]) -> None:
    """Check a sum, which may be one of lists."""
    if any(isinstance(other, (list, tuple)) for other in others):
        size = sum(len(part) if isinstance(part, (list, tuple)) else 1 for part in value)
        budget().make(size * len(value))


def _test(function: Callable[..., Any]) -> Callable[..., Any]:
    """A test (`is ...`) with limits."""
    skipped = 1 if hasattr(function, "jinja_pass_arg") else 0

    @functools.wraps(function)
    def run(*args: Any, **named: Any) -> Any:
        budget().step()
        if len(args) > skipped + 1:
            comparable(*args[skipped : skipped + 2])
        return function(*args, **named)

    return run


class LimitedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with limits. `render` of this module renders its templates."""

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)
    concat = staticmethod(join)

    def __init__(self, extensions: Iterable[Any] = ()) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols, *extensions],
            optimized=False,  # it would compute while it compiles
            finalize=text_of,
        )
        del self.globals["lipsum"]

    def limit(self) -> None:
        """Put limits on the filters and tests. To be called once all are there."""
        self.filters.update({name: _filter(name, function) for name, function in self.filters.items()})
        self.tests.update({name: _test(cast("Callable[..., Any]", function)) for name, function in self.tests.items()})

    def _generate(self, source: nodes.Template, *args: Any, **named: Any) -> str:
        return super()._generate(limited(source), *args, **named)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        operate(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(argument, slice):
            budget().step()
        return super().getitem(obj, argument)

    def call(__self, __context: Any, __obj: Any, *args: Any, **named: Any) -> Any:  # noqa: N805
        budget().step()
        bound = getattr(__obj, "__wrapped__", __obj)
        owner = None if isinstance(__obj, (type, Undefined, LoopContext)) else getattr(bound, "__self__", None)
        if isinstance(owner, (str, bytes)):
            _method(owner, bound.__name__, args, named)
        elif isinstance(owner, int):
            for value in (*args, *named.values()):
                _width(value)
        result = super().call(__context, __obj, *args, **named)
        if isinstance(result, str):
            budget().make(len(result))
        elif isinstance(result, (dict, list, tuple, Namespace)) and owner is None:
            measure(result)
        return result
