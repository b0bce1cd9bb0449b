"""Constraints: what form generated text must have, and the sampler that keeps to it."""

from __future__ import annotations

import json
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from llama_cffi._core.arguments import StrOrBytes
from llama_cffi._core.user_warnings import warn
from llama_cffi.constrain.json_schema import adapter_of, narrow, schema_of
from llama_cffi.constrain.mask import Mask
from llama_cffi.constrain.tokenizer import library, tokenizer_of
from llama_cffi.errors import GrammarError
from llama_cffi.sampling.checks import grammar_text, root_name
from llama_cffi.sampling.sampler import Sampler
from llama_cffi.vocab.vocab import Vocab

if TYPE_CHECKING:
    from llama_cffi._core.handle import Handle

# White space between the parts of JSON: none, a space, or a new line with an indent. Without an end to it, a model may
# write nothing else.
_SPACE = r"( |\n{1,2}[ \t]{0,20})?"


class Constraint:
    """A form that text must have: `fromJsonSchema`, `fromType`, `fromRegex`, `fromLark` or `fromGbnf` make one.

    `sampler` makes a sampler that lets only such tokens through which keep to it; it may be used for any number of
    samplers and models. `parse` turns the finished text into a value. All but GBNF needs llguidance, numpy and, for
    types, pydantic: the extra `constrain`.

    A constraint says what may come next, not that the text comes to its end: at a limit of tokens it is cut off, and
    `parse` raises. Give strings and arrays limits (`maxLength`, `maxItems`), and enough tokens.
    """

    def __init__(self) -> None:
        raise TypeError("use Constraint.fromJsonSchema, fromType, fromRegex, fromLark or fromGbnf")

    @classmethod
    def _new(cls, kind: str, grammar: str, root: str = "") -> Constraint:
        constraint = cls.__new__(cls)
        constraint._kind, constraint._grammar, constraint._root = kind, grammar, root
        constraint._schema, constraint._read = None, str
        constraint._matchers, constraint._lock = weakref.WeakKeyDictionary(), threading.Lock()
        return constraint

    _kind: str
    _grammar: str
    _root: str  # of GBNF
    _schema: Any
    _read: Callable[[str], Any]
    _matchers: weakref.WeakKeyDictionary[Handle, Any]  # one for each model, at its beginning, to be copied
    _lock: threading.Lock

    @classmethod
    def fromGbnf(cls, grammar: StrOrBytes, root: StrOrBytes = "root") -> Constraint:
        """Text of a grammar in llama.cpp's GBNF, which starts at the rule `root`. llama.cpp itself keeps to it.

        `sampler` raises GrammarError for a grammar that llama.cpp cannot read.
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
    ) -> Constraint:
        """JSON that fits a schema, given as a dict or as JSON text. `{}` and True are any JSON.

        `whitespace` allows a space, or new lines with an indent, between the parts. `maxLength` and `maxItems` are
        limits for the strings and the arrays of the schema that have none of their own. Properties come in the
        schema's order. Raises GrammarError for a schema that no text fits, or with a keyword that cannot be kept to
        (`not`, `if`, `uniqueItems`, `contains`, ...): nothing is left out silently. Raises ValueError for text that is
        no JSON.
        """
        if isinstance(schema, str):
            try:
                schema = json.loads(schema)
            except ValueError as error:
                raise ValueError(f"schema is text, but no JSON: {error}") from None
        if not isinstance(schema, (Mapping, bool)):
            raise TypeError(f"schema is a dict, a bool or JSON text, not {type(schema).__name__}")
        chosen = narrow(
            dict(schema) if isinstance(schema, Mapping) else {} if schema else {"not": {}}, maxLength, maxItems
        )
        options = {"whitespace_pattern": _SPACE} if whitespace else {"whitespace_flexible": False}
        grammar = library().LLMatcher.grammar_from_json_schema(chosen, overrides=options)
        constraint = cls._checked("JSON", grammar)
        constraint._schema, constraint._read = chosen, json.loads
        return constraint

    @classmethod
    def fromType(
        cls, type: Any, *, whitespace: bool = True, maxLength: int | None = None, maxItems: int | None = None
    ) -> Constraint:
        """JSON for a Python type, by pydantic, which also reads it back: `parse` gives a value of the type.

        A type is whatever pydantic takes: its models, dataclasses, TypedDict, Literal, Enum, Optional, Union, list,
        dict, tuple, int, float, str, bool, with `Annotated` and `Field` for limits. Objects get no properties besides
        those of the class. A check in Python code (a validator) is run by `parse` alone. The other parameters and
        errors are those of `fromJsonSchema`; raises TypeError for what pydantic does not take.
        """
        adapter = adapter_of(type)
        constraint = cls.fromJsonSchema(
            schema_of(adapter), whitespace=whitespace, maxLength=maxLength, maxItems=maxItems
        )
        constraint._kind = getattr(type, "__name__", None) or str(type)
        constraint._read = adapter.validate_json
        return constraint

    @classmethod
    def fromRegex(cls, pattern: str) -> Constraint:
        """Text that matches a regular expression, as a whole; in the syntax of Rust's regex crate.

        Raises GrammarError for an expression that it cannot read, such as one that looks ahead or back.
        """
        return cls._checked("regex", library().LLMatcher.grammar_from_regex(_text(pattern, "pattern")))

    @classmethod
    def fromLark(cls, grammar: str) -> Constraint:
        """Text of a grammar in llguidance's variant of Lark, which starts at the rule `start`.

        Such a grammar may hold JSON Schema (`%json {...}`), regular expressions and special tokens (`<|name|>`). Raises
        GrammarError for a grammar that it cannot read.
        """
        return cls._checked("Lark", library().LLMatcher.grammar_from_lark(_text(grammar, "grammar")))

    @classmethod
    def _checked(cls, kind: str, grammar: str) -> Constraint:
        failed, messages = library().LLMatcher.validate_grammar_with_warnings(grammar)
        if failed:
            raise GrammarError(f"this {kind} constraint cannot be kept to: {' '.join(messages)}")
        for message in messages:
            warn(f"{kind} constraint: {message}", UserWarning)
        return cls._new(kind, grammar)

    @property
    def schema(self) -> Any:
        """The JSON Schema that the text fits, as a dict; None where there is none."""
        return self._schema

    def sampler(self, vocab: Vocab) -> Sampler:
        """A sampler for one text, for the beginning of a chain: drops the tokens that would break the constraint.

        Once the text may end, the end-of-generation tokens are allowed; once it must, only they are. It follows the
        tokens that `accept` or `sample` tells it, from the beginning of the output; `reset` begins anew, `clone` makes
        another one in the same state. Raises ValueError for a vocabulary without an end-of-generation token. While
        sampling, it raises ValueError where no candidate is left, and for a token that it does not allow. Keeps the
        vocabulary's model alive.

        The first sampler for a model reads its vocabulary: about a second for 262,144 tokens.
        """
        if not isinstance(vocab, Vocab):
            raise TypeError(f"vocab is a Vocab, not {type(vocab).__name__}: pass model.vocab")
        if self._root:
            return Sampler.initGrammar(vocab, self._grammar, self._root)
        return Sampler.init(Mask(vocab, self._matcher(vocab)))

    def chain(self, vocab: Vocab, *members: Sampler) -> Sampler:
        """A chain that begins with this constraint and goes on with `members`, which it owns from now on.

        The last of them must pick: `constraint.chain(vocab, Sampler.initTemp(0.7), Sampler.initDist(1))`.
        """
        chain = Sampler.chainInit()
        chain.chainAdd(self.sampler(vocab))
        for member in members:
            chain.chainAdd(member)
        return chain

    def _matcher(self, vocab: Vocab) -> Any:
        tokenizer = tokenizer_of(vocab)
        with self._lock:
            first = self._matchers.get(vocab._model)
            if first is None:
                first = library().LLMatcher(tokenizer, self._grammar, log_level=0)
                if first.is_error():
                    raise GrammarError(f"this {self._kind} constraint cannot be kept to: {first.get_error()}")
                self._matchers[vocab._model] = first
            return first.deep_copy()

    def parse(self, text: str) -> Any:
        """The value of a finished text: what JSON says, an object of the type, or the text itself.

        Raises ValueError for a text that is no JSON, which one is that was cut off at a limit of tokens, and
        pydantic's ValidationError, which is one too, where a type's own checks refuse it.
        """
        _text(text, "text")
        if self._read is json.loads:
            try:
                return json.loads(text)
            except ValueError as error:
                raise ValueError(f"the text is no whole JSON, was it cut off? {error}") from None
        return self._read(text)

    def __repr__(self) -> str:
        return f"<Constraint {self._kind}>"


def _text(value: str, name: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} is a str, not {type(value).__name__}")
    return value
