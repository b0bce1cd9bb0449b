"""Runs chat templates in jinja2's sandbox, with the options and functions that templates of models rely on."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NoReturn

MAX_SOURCE = 1 << 18  # characters of a template: compiling takes time that grows with their square


def render(source: str, variables: Mapping[str, Any]) -> str:
    """Render a template. Raises ValueError if it rejects the messages, fails, or takes too much time or memory."""
    import jinja2

    from llama_cffi.chat.jinja_budget import LimitError
    from llama_cffi.chat.jinja_limits import render as render_limited

    try:
        return render_limited(_compiled(source), variables)
    except LimitError as error:
        raise ValueError(f"the chat template was stopped: {error}") from error
    except jinja2.TemplateError as error:
        raise ValueError(f"the chat template rejects these messages: {error}") from error
    except _FAILURES as error:
        raise ValueError(f"the chat template fails with these messages: {type(error).__name__}: {error}") from error


def check(source: str) -> None:
    """Raise ValueError for a template that cannot be parsed, ImportError without jinja2."""
    try:
        import jinja2
    except ImportError:
        raise ImportError(
            "this chat template is written in Jinja, which needs jinja2: pip install jinja2; or name a "
            "built-in template (chatBuiltinTemplates() lists them)"
        ) from None
    if len(source) > MAX_SOURCE:
        raise ValueError(f"the chat template may have {MAX_SOURCE} characters, got {len(source)}")
    try:
        _compiled(source)
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"the chat template cannot be parsed: line {error.lineno}: {error.message}") from error
    except (jinja2.TemplateError, SyntaxError, *_FAILURES) as error:  # of Python's compiler, and of Jinja's parser
        raise ValueError(f"the chat template cannot be compiled: {type(error).__name__}: {error}") from error


# What templates raise that do something wrong.
_FAILURES = (
    TypeError,
    ValueError,
    LookupError,
    ArithmeticError,
    AttributeError,
    NameError,
    AssertionError,
    StopIteration,
    RuntimeError,  # RecursionError is one
    MemoryError,
)


@lru_cache(maxsize=16)
def _compiled(source: str) -> Any:
    return _environment().from_string(source)


@lru_cache(maxsize=1)
def _environment() -> Any:
    from jinja2 import nodes
    from jinja2.ext import Extension

    from llama_cffi.chat.jinja_limits import LimitedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks the assistant's text for training; here only its content is rendered."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body).set_lineno(line)

    environment = LimitedEnvironment([Generation])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = time.strftime
    environment.limit()
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON: jinja2's own filter escapes characters for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    """Templates call this to reject messages."""
    import jinja2

    raise jinja2.TemplateError(message)
