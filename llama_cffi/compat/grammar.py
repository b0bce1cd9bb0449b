"""`LlamaGrammar`: a grammar or a JSON Schema that generated text follows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llama_cffi._core.checks import expected
from llama_cffi.constrain.constraint import Constraint
from llama_cffi.sampling.sampler import Sampler
from llama_cffi.vocab.vocab import Vocab


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
        """Make one from the text of a JSON Schema. Needs the extra `constrain`."""
        made = cls.__new__(cls)
        made._grammar = json_schema if isinstance(json_schema, str) else str(json_schema)
        made._constraint = Constraint.fromJsonSchema(json_schema)
        return made

    def _sampler(self, vocab: Vocab) -> Sampler:
        return self._constraint.sampler(vocab)


def grammar_sampler(grammar: Any, vocab: Vocab) -> Sampler:
    """Return the sampler of a LlamaGrammar, or of a Constraint."""
    if isinstance(grammar, LlamaGrammar):
        return grammar._sampler(vocab)
    if isinstance(grammar, Constraint):
        return grammar.sampler(vocab)
    raise expected("a LlamaGrammar", grammar, "LlamaGrammar.from_string(text) makes one", "grammar")
