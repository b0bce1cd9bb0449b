"""Constraints (structured output): JSON Schema, Python types, regular expressions or grammars for generated text."""

from __future__ import annotations

import json
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from llama_cffi._core.arguments import StrOrBytes
from llama_cffi._core.checks import expected
from llama_cffi._core.uncopyable import Uncopyable
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

# White space between the parts of JSON: none, a space, or line breaks with an indent. It is limited, as a model might
# otherwise write nothing else.
_SPACE = r"( |\n{1,2}[ \t]{0,20})?"


class Constraint(Uncopyable):
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
    def _new(cls, kind: str, grammar: str, root: str = "") -> Constraint:
        constraint = cls.__new__(cls)
        constraint._kind, constraint._grammar, constraint._root = kind, grammar, root
        constraint._schema, constraint._read = None, str
        constraint._matchers, constraint._lock = weakref.WeakKeyDictionary(), threading.Lock()
        return constraint

    _KIND = "constraint"
    _INSTEAD = "make another one from the same schema or grammar; several samplers may share one"

    _kind: str
    _grammar: str
    _root: str  # the first rule, for GBNF; else empty
    _schema: Any
    _read: Callable[[str], Any]  # converts a finished text to a value
    _matchers: weakref.WeakKeyDictionary[Handle, Any]  # model -> a matcher in the initial state, to be copied
    _lock: threading.Lock  # guards _matchers

    @classmethod
    def fromGbnf(cls, grammar: StrOrBytes, root: StrOrBytes = "root") -> Constraint:
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
    ) -> Constraint:
        """Make a constraint from a JSON Schema, given as a dict or as JSON text; `{}` and True allow any JSON.

        `whitespace` allows a space, or line breaks with an indent, between the parts. `maxLength` and `maxItems` limit
        the strings and arrays for which the schema has no limit. Properties come in the schema's order.

        Raises GrammarError for a schema that no text satisfies, or with a keyword that cannot be enforced (`not`, `if`,
        `uniqueItems`, `contains`, ...): nothing is ignored silently. Raises ValueError for text that is not JSON.
        """
        if isinstance(schema, str):
            try:
                schema = json.loads(schema)
            except ValueError as error:
                raise ValueError(f"schema is not valid JSON: {error}") from None
        if not isinstance(schema, (Mapping, bool)):
            raise expected("a dict, a bool or JSON text", schema, name="schema")
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
        """Make a constraint from a Python type by means of pydantic: JSON that `parse` converts to a value of the type.

        All types of pydantic work: its models, dataclasses, TypedDict, Literal, Enum, Optional, Union, list, dict,
        tuple, int, float, str, bool, with `Annotated` and `Field` for limits. Objects have only the properties of the
        class. Validators in Python code run in `parse`. The other parameters and errors are those of `fromJsonSchema`;
        raises TypeError for a type that pydantic does not support.
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
        """Make a constraint from a regular expression that the whole text must match, in the syntax of Rust's regex.

        Raises GrammarError for an expression that it does not support, such as one with look-around.
        """
        return cls._checked("regex", library().LLMatcher.grammar_from_regex(_text(pattern, "pattern")))

    @classmethod
    def fromLark(cls, grammar: str) -> Constraint:
        """Make a constraint from a grammar in llguidance's variant of Lark, which starts at the rule `start`.

        The grammar may contain JSON Schema (`%json {...}`), regular expressions and special tokens (`<|name|>`). Raises
        GrammarError for a grammar that llguidance cannot parse.
        """
        return cls._checked("Lark", library().LLMatcher.grammar_from_lark(_text(grammar, "grammar")))

    @classmethod
    def _checked(cls, kind: str, grammar: str) -> Constraint:
        failed, messages = library().LLMatcher.validate_grammar_with_warnings(grammar)
        if failed:
            raise GrammarError(f"this {kind} constraint cannot be enforced: {' '.join(messages)}")
        for message in messages:
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
        if self._root:
            return Sampler.initGrammar(vocab, self._grammar, self._root)
        return Sampler.init(Mask(vocab, self._matcher(vocab)))

    def chain(self, vocab: Vocab, *members: Sampler) -> Sampler:
        """Make a sampler chain of this constraint and `members`, which the chain owns from then on.

        The last of them must pick: `constraint.chain(vocab, Sampler.initTemp(0.7), Sampler.initDist(1))`. If one cannot
        be added, raises like `Sampler.chain`, and all stay the caller's.
        """
        return Sampler.chain(self.sampler(vocab), *members, noPerf=True)

    def _matcher(self, vocab: Vocab) -> Any:
        tokenizer = tokenizer_of(vocab)
        with self._lock:
            first = self._matchers.get(vocab._model)
            if first is None:
                first = library().LLMatcher(tokenizer, self._grammar, log_level=0)
                if first.is_error():
                    raise GrammarError(f"this {self._kind} constraint cannot be enforced: {first.get_error()}")
                self._matchers[vocab._model] = first
            return first.deep_copy()

    def parse(self, text: str) -> Any:
        """Convert a finished text to a value: that of the JSON, an object of the type, or the text itself.

        Raises ValueError for invalid JSON, such as a text that was cut off at a maximum number of tokens. For a type,
        this is pydantic's ValidationError (a ValueError), which its validators raise as well.
        """
        _text(text, "text")
        if self._read is json.loads:
            try:
                return json.loads(text)
            except ValueError as error:
                raise ValueError(f"the text is not complete JSON, was it cut off? {error}") from None
        return self._read(text)

    def __repr__(self) -> str:
        return f"<Constraint {self._kind}>"


def _text(value: str, name: str) -> str:
    if not isinstance(value, str):
        raise expected("a str", value, name=name)
    return value
