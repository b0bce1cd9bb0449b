"""`LlamaGrammar`: a grammar or a JSON Schema that generated text follows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llama_cffi._core.checks import expected
from llama_cffi.chat import native
from llama_cffi.compat.unsupported import unsupported
from llama_cffi.constrain.constraint import Constraint
from llama_cffi.sampling.sampler import Sampler
from llama_cffi.vocab.vocab import Vocab

_JSON = r"""
value ::= object | array | string | number | "true" | "false" | "null"
object ::= "{" gap (member ("," gap member)*)? "}"
member ::= string gap ":" gap value gap
array ::= "[" gap (value gap ("," gap value gap)*)? "]"
string ::= "\"" ([^"\\\x00-\x1f] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4}))* "\""
number ::= "-"? ("0" | [1-9] [0-9]{0,15}) ("." [0-9]{1,15})? ([eE] [-+]? [0-9]{1,3})?
gap ::= [ \t\n]{0,20}
"""
JSON_GBNF = "root ::= object" + _JSON
JSON_ARR_GBNF = "root ::= array" + _JSON


def json_schema_to_gbnf(schema: str, prop_order: list[str] | None = None) -> str:
    """Return the GBNF grammar of a JSON Schema, as llama.cpp makes it. `prop_order` must be empty."""
    if prop_order:
        raise unsupported("prop_order", "name the properties of the schema in the order of the text")
    if not isinstance(schema, str):
        raise expected("a str", schema, "json.dumps(schema) makes one", "json_schema")
    return native.schema_to_grammar(schema)


class LlamaGrammar:
    """A `Constraint` in llama-cpp-python's spelling. Requests may share it."""

    def __init__(self, *args: Any, _grammar: str, **kwargs: Any) -> None:
        """Not for users: `LlamaGrammar.from_string(text)` makes one."""
        self._grammar = _grammar
        self._constraint: Constraint[Any] = Constraint.fromGbnf(_grammar)

    @classmethod
    def from_string(cls, grammar: str, verbose: bool = True) -> LlamaGrammar:
        """Make one from the text of a GBNF grammar, which starts at the rule `root`."""
        return cls(_grammar=grammar)

    @classmethod
    def from_file(cls, file: str | Path, verbose: bool = True) -> LlamaGrammar:
        """Make one from a file with a GBNF grammar."""
        return cls.from_string(Path(file).read_text(encoding="utf-8"), verbose)

    @classmethod
    def from_json_schema(cls, json_schema: str, verbose: bool = True) -> LlamaGrammar:
        """Make one from the text of a JSON Schema. Objects have the properties that it names, and no others."""
        return cls.from_string(json_schema_to_gbnf(json_schema), verbose)

    def _sampler(self, vocab: Vocab) -> Sampler:
        return self._constraint.sampler(vocab)


def grammar_sampler(grammar: Any, vocab: Vocab) -> Sampler:
    """Return the sampler of a LlamaGrammar, or of a Constraint."""
    if isinstance(grammar, LlamaGrammar):
        return grammar._sampler(vocab)
    if isinstance(grammar, Constraint):
        return grammar.sampler(vocab)
    raise expected("a LlamaGrammar", grammar, "LlamaGrammar.from_string(text) makes one", "grammar")
