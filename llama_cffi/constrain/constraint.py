"""Constraints (structured output): JSON Schema, Python types, regular expressions or grammars for generated text."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from llama_cffi._core.arguments import StrOrBytes
from llama_cffi._core.checks import expected
from llama_cffi._core.uncopyable import Uncopyable
from llama_cffi._core.user_warnings import warn
from llama_cffi.constrain.document import read_json
from llama_cffi.constrain.guidance import MAX_TEXT, STACK_PER_BYTE, Grammar, library
from llama_cffi.constrain.json_schema import SchemaOptions, checker_of, compile_schema
from llama_cffi.constrain.mask import Mask
from llama_cffi.constrain.types import adapter_of, schema_of
from llama_cffi.errors import GrammarError
from llama_cffi.sampling.checks import grammar_text, root_name
from llama_cffi.sampling.sampler import Sampler
from llama_cffi.vocab.vocab import Vocab

if TYPE_CHECKING:
    Late = Literal["refuse", "check"]

T = TypeVar("T")
Value = TypeVar("Value")


class Constraint(Uncopyable, Generic[T]):
    """A constraint on generated text, for structured output such as JSON.

    `fromJsonSchema`, `fromType`, `fromRegex`, `fromLark` and `fromGbnf` make one. `sampler` makes a sampler that allows
    only tokens that satisfy the constraint, for any number of texts and models. `parse` converts the finished text to a
    value. All but GBNF needs the extra `constrain`: llguidance, numpy and, for types, pydantic.

    A constraint does not make the text end: if it is cut off at a maximum number of tokens, `parse` raises ValueError.
    Limit strings and arrays (`maxLength`, `maxItems`), and allow enough tokens.
    """

    _MADE_BY = "use Constraint.fromJsonSchema, fromType, fromRegex, fromLark or fromGbnf"

    def __init__(self) -> None:
        raise TypeError(f"Constraint objects are not made by calling the class: {self._MADE_BY}")

    @classmethod
    def _new(cls, kind: str, grammar: Grammar | str, root: str = "") -> Constraint[Any]:
        constraint = cls.__new__(cls)
        constraint._kind, constraint._grammar, constraint._root = kind, grammar, root
        constraint._schema, constraint._read = None, str
        return constraint

    _KIND = "constraint"
    _INSTEAD = "make another one from the same schema or grammar; several samplers may share one"

    _kind: str
    _grammar: Grammar | str  # text for GBNF
    _root: str  # the first rule, for GBNF; else empty
    _schema: Any
    _read: Callable[[str], Any]  # converts a finished text to a value

    @classmethod
    def fromGbnf(cls, grammar: StrOrBytes, root: StrOrBytes = "root") -> Constraint[str]:
        """Make a constraint from a GBNF grammar, which starts at the rule `root`. llama.cpp itself enforces it.

        `sampler` raises GrammarError for a grammar that llama.cpp cannot parse.
        """
        return cls._new("GBNF", grammar_text(grammar).decode(), root_name(root).decode())

    @classmethod
    def fromJsonSchema(
        cls,
        schema: Mapping[str, Any] | bool | str,
        *,
        whitespace: bool = True,
        maxLength: int | None = None,
        maxItems: int | None = None,
        formats: Late = "check",
        unenforced: Late = "refuse",
    ) -> Constraint[Any]:
        """Make a constraint from a JSON Schema, given as a dict or as JSON text; `{}` and True allow any JSON.

        `whitespace` allows a space, or line breaks with an indent, between the parts. `maxLength` and `maxItems` limit
        the strings and arrays for which the schema has no limit. Properties come in the schema's order.

        `unenforced` says what happens to a keyword that cannot be enforced while a text is generated (`uniqueItems`,
        `contains`, a `oneOf` with choices that overlap, ...): "refuse" raises GrammarError, "check" has `parse` check
        the text with jsonschema. `formats` says the same for a `format` that cannot be enforced. There, "check" leaves
        names that are not in the standard as annotations, as the standard says.

        Raises GrammarError for a schema that is malformed or too deep, that no text satisfies, or with an integer
        beyond 64 bits; ValueError for text that is not JSON.
        """
        if isinstance(schema, str):
            schema = read_json(schema)
        if not isinstance(schema, (Mapping, bool)):
            raise expected("a dict, a bool or JSON text", schema, name="schema")
        options = SchemaOptions(whitespace, maxLength, maxItems, formats, unenforced)
        grammar, copied, late = compile_schema(schema, options)
        constraint = cls._new("JSON", grammar)
        constraint._schema, constraint._read = copied, _json_reader(checker_of(copied) if late else None)
        return constraint

    @overload
    @classmethod
    def fromType(
        cls,
        type: type[Value],
        *,
        whitespace: bool = True,
        maxLength: int | None = None,
        maxItems: int | None = None,
        unenforced: Late = "refuse",
    ) -> Constraint[Value]: ...

    @overload
    @classmethod
    def fromType(
        cls,
        type: Any,
        *,
        whitespace: bool = True,
        maxLength: int | None = None,
        maxItems: int | None = None,
        unenforced: Late = "refuse",
    ) -> Constraint[Any]: ...

    @classmethod
    def fromType(
        cls,
        type: Any,
        *,
        whitespace: bool = True,
        maxLength: int | None = None,
        maxItems: int | None = None,
        unenforced: Late = "refuse",
    ) -> Constraint[Any]:
        """Make a constraint from a Python type by means of pydantic: JSON that `parse` converts to a value of the type.

        All types of pydantic work: its models, dataclasses, TypedDict, Literal, Enum, Optional, Union, list, dict,
        tuple, int, float, str, bool, with `Annotated` and `Field` for limits. Objects have only the properties of the
        class. Validators in Python code run in `parse`, and with `unenforced="check"` what cannot be enforced before
        is left to it too. The other parameters and errors are those of `fromJsonSchema`; raises TypeError for a type
        that pydantic does not support.
        """
        adapter = adapter_of(type)
        options = SchemaOptions(whitespace, maxLength, maxItems, "check", unenforced)
        grammar, copied, _ = compile_schema(schema_of(adapter), options)
        constraint = cls._new("JSON", grammar)
        constraint._kind = getattr(type, "__name__", None) or str(type)
        constraint._schema, constraint._read = copied, adapter.validate_json
        return constraint

    @classmethod
    def fromRegex(cls, pattern: str) -> Constraint[str]:
        """Make a constraint from a regular expression that the whole text must match, in the syntax of Rust's regex.

        Raises GrammarError for an expression that it does not support, such as one with look-around, that matches no
        text, or of more than 65,536 bytes.
        """
        text = library().LLMatcher.grammar_from_regex(_text(pattern, "pattern", MAX_TEXT))
        return cls._tried("regex", Grammar("regex", text, STACK_PER_BYTE * len(text)))

    @classmethod
    def fromLark(cls, grammar: str) -> Constraint[str]:
        """Make a constraint from a grammar in llguidance's variant of Lark, which starts at the rule `start`.

        The grammar may contain JSON Schema (`%json {...}`), regular expressions and special tokens (`<|name|>`). Raises
        GrammarError for a grammar that llguidance cannot parse, that no text satisfies, or of more than 65,536 bytes.
        """
        text = library().LLMatcher.grammar_from_lark(_text(grammar, "grammar", MAX_TEXT))
        return cls._tried("Lark", Grammar("Lark", text, STACK_PER_BYTE * len(text)))

    @classmethod
    def _tried(cls, kind: str, grammar: Grammar) -> Constraint[Any]:
        for message in grammar.try_out():
            warn(f"{kind} constraint: {message}", UserWarning)
        return cls._new(kind, grammar)

    @property
    def schema(self) -> Any:
        """The JSON Schema of the constraint, as a dict; None if it was not made from a schema or a type."""
        return self._schema

    def sampler(self, vocab: Vocab) -> Sampler:
        """Make a sampler for one text, which drops the candidates that would violate the constraint.

        Put it at the start of a chain. It allows end-of-generation tokens once the text may end, and only these once it
        must. It follows the text by `accept`, which `sample` calls, from the start of the output; `reset` starts over,
        and `clone` makes a copy in the same state. It keeps the vocabulary's model alive.

        Raises ValueError for a vocabulary without an end-of-generation token. During sampling, it raises ValueError if
        no candidate is left, or for a token that it does not allow.

        The first sampler for a model reads its vocabulary, which takes about a second for 262,144 tokens.
        """
        if not isinstance(vocab, Vocab):
            raise expected("a Vocab", vocab, "pass model.vocab", "vocab")
        if isinstance(self._grammar, str):
            return Sampler.initGrammar(vocab, self._grammar, self._root)
        return Sampler.init(Mask(vocab, self._grammar))

    def chain(self, vocab: Vocab, *members: Sampler) -> Sampler:
        """Make a sampler chain of this constraint and `members`, which the chain owns from then on.

        The last of them must pick: `constraint.chain(vocab, Sampler.initTemp(0.7), Sampler.initDist(1))`. If one cannot
        be added, raises like `Sampler.chain`, and all stay the caller's.
        """
        return Sampler.chain(self.sampler(vocab), *members, noPerf=True)

    def parse(self, text: str) -> T:
        """Convert a finished text to a value: that of the JSON, an object of the type, or the text itself.

        Raises ValueError for invalid JSON, such as a text that was cut off at a maximum number of tokens, and for a
        text that violates what could not be enforced. For a type, this is pydantic's ValidationError (a ValueError),
        which its validators raise as well.
        """
        value: T = self._read(_text(text, "text"))
        return value

    def __repr__(self) -> str:
        return f"<Constraint {self._kind}>"


def _json_reader(check: Callable[[Any], None] | None) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            value = json.loads(text)
        except RecursionError:
            raise ValueError("the text is nested too deeply to be read: limit the schema's depth") from None
        except ValueError as error:
            raise ValueError(f"the text is not complete JSON, was it cut off? {error}") from None
        if check is not None:
            check(value)
        return value

    return read


def _text(value: str, name: str, longest: int | None = None) -> str:
    if not isinstance(value, str):
        raise expected("a str", value, name=name)
    if longest is not None:
        try:
            size = len(value.encode())
        except UnicodeEncodeError as error:
            raise GrammarError(f"{name} must be valid Unicode: {error}") from None
        if size > longest:
            raise GrammarError(f"{name} must have at most {longest} bytes, got {size}")
    return value
