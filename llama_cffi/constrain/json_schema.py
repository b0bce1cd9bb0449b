"""From a JSON Schema to a grammar of llguidance, and the check of what that grammar cannot enforce."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from llama_cffi._core.checks import integer
from llama_cffi._core.user_warnings import warn
from llama_cffi.constrain.document import plain_copy
from llama_cffi.constrain.finish import drop, finish
from llama_cffi.constrain.guidance import STACK_PER_LEVEL, Grammar, library, seam
from llama_cffi.constrain.reader import Reader
from llama_cffi.errors import GrammarError

# White space between the parts of JSON: none, a space, or line breaks with an indent. It is limited, as a model might
# otherwise write nothing else.
_SPACE = r"( |\n{1,2}[ \t]{0,20})?"
_CHOICES = ("refuse", "check")
_MOST_TRIALS = 20
_UNSATISFIABLE = re.compile(r"Unsatisfiable schema.* while processing json-schema:///#/\$defs/([0-9]+)$")
_MOST_NAMED = 5  # problems in a message


class SchemaOptions:
    """The options of `fromJsonSchema` and `fromType`, checked."""

    def __init__(
        self, whitespace: bool, max_length: int | None, max_items: int | None, formats: str, unenforced: str
    ) -> None:
        for name, choice in (("formats", formats), ("unenforced", unenforced)):
            if choice not in _CHOICES:
                raise ValueError(f"{name} must be 'refuse' or 'check', got {choice!r}")
        self.whitespace = whitespace
        self.max_length = None if max_length is None else integer(max_length, 0, 1 << 31, "maxLength")
        self.max_items = None if max_items is None else integer(max_items, 0, 1 << 31, "maxItems")
        self.formats, self.unenforced = formats, unenforced


def compile_schema(schema: Any, options: SchemaOptions) -> tuple[Grammar, Any, bool]:
    """Return the grammar of a schema, a copy of the schema, and True if a text must be checked once it is finished.

    Raises GrammarError for a schema that is malformed, that no text satisfies, or that cannot be enforced.
    """
    copied = plain_copy(schema)
    reader = Reader(copied, options.max_length, options.max_items, options.formats == "refuse")
    rewritten, levels = finish(reader, reader.read(), options.max_length)
    if reader.problems and options.unenforced == "refuse":
        named = [*reader.problems][:_MOST_NAMED]
        more = f" and {len(reader.problems) - len(named)} more" if len(reader.problems) > len(named) else ""
        raise GrammarError(
            f"this JSON constraint cannot be enforced while a text is generated: {'; '.join(named)}{more}: remove it, "
            "or pass unenforced='check' to have parse() check it"
        )
    for pattern in reader.unreadable():
        try:
            re.compile(pattern)
        except re.error as error:
            raise GrammarError(f"pattern {pattern[:100]!r} cannot be read: {error}") from None
    settings = {"whitespace_pattern": _SPACE} if options.whitespace else {"whitespace_flexible": False}
    grammar = _grammar(rewritten, settings, levels * STACK_PER_LEVEL)
    return grammar, copied, bool(reader.problems) or reader.late_formats


def _grammar(schema: dict[str, Any], settings: Any, stack: int) -> Grammar:
    """Return the grammar of a rewritten schema, without the optional parts that no text satisfies."""
    failure = GrammarError("")
    for _ in range(_MOST_TRIALS):
        text = seam(
            lambda: library().LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=settings), "this schema"
        )
        grammar = Grammar("JSON", text, stack)
        try:
            for message in grammar.try_out():
                warn(f"JSON constraint: {message}", UserWarning)
            return grammar
        except GrammarError as error:
            # llguidance refuses a definition that no text satisfies, even if nothing requires it.
            match = _UNSATISFIABLE.search(str(error))
            if match is None:
                raise
            try:
                drop(schema, match[1])
            except GrammarError:
                raise error from None
            failure = error
    raise failure


def checker_of(schema: Any) -> Callable[[Any], None]:
    """Return a function that raises ValueError for a value that does not satisfy the schema."""
    try:
        import jsonschema
        import jsonschema.validators
        from jsonschema_specifications import REGISTRY
    except ImportError as error:
        raise ImportError(
            "parts of this schema are checked in parse(), which needs jsonschema: pip install jsonschema"
        ) from error
    validators: Any = jsonschema.validators
    drafts: Any = (jsonschema.Draft202012Validator, jsonschema.Draft7Validator, jsonschema.Draft4Validator)
    named = validators.validator_for(schema, default=None)
    reason = ""
    for kind in (named,) if named else drafts:
        try:
            kind.check_schema(schema, format_checker=jsonschema.FormatChecker(()))
        except jsonschema.SchemaError as error:
            reason = error.message
            continue
        # With this registry, no reference is ever fetched.
        validator = validators.extend(kind, {"pattern": _match})(
            schema, registry=REGISTRY, format_checker=jsonschema.FormatChecker(("regex",))
        )
        break
    else:
        raise GrammarError(f"this schema cannot be checked in parse(), as it is malformed: {reason[:200]}")

    def check(value: Any) -> None:
        try:
            error = next(validator.iter_errors(value), None)
        except Exception as failure:  # a pattern that Python's re does not read, a value that is nested too deeply
            raise ValueError(f"the text cannot be checked against the schema: {failure}") from failure
        if error is not None:
            raise ValueError(f"the text does not satisfy the schema at {error.json_path}: {error.message[:500]}")

    return check


def _match(validator: Any, pattern: str, value: Any, schema: Any) -> Iterator[Exception]:
    """Check `pattern` as jsonschema does, except for one that only llguidance can read, which has enforced it."""
    import jsonschema

    try:
        fits = not isinstance(value, str) or re.search(pattern, value) is not None
    except re.error:
        return
    if not fits:
        yield jsonschema.ValidationError(f"{value!r} does not match {pattern!r}")
