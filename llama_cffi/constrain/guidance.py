"""The seam to llguidance: compiles grammars within limits and on a large stack; its failures become exceptions.

llguidance recurses for every level of a schema and every rule of a grammar, so a long chain would overflow the stack.
"""

from __future__ import annotations

import json
import random
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from llama_cffi._core.large_stack import on_large_stack
from llama_cffi._core.ownership import locked
from llama_cffi.errors import GrammarError

if TYPE_CHECKING:
    from typing import TypeVar

    T = TypeVar("T")

# llguidance's defaults, 200,000 and 50,000, are too small for a long string with a pattern. At these limits, a step
# takes a few seconds.
_LIMITS = {"step_lexer_fuel": 3_000_000, "step_max_items": 200_000}

MAX_TEXT = 1 << 16  # bytes of a Lark grammar or a regular expression: llguidance takes quadratic time for some
STACK_PER_BYTE = 4096  # of such a text: measured 3,150 for a chain of rules, which have at least 4 bytes each
STACK_PER_LEVEL = 16384  # of a schema: measured 4,600

_TRIAL_TOKENS = 64  # how far the trial of a new constraint goes
_BYTES = 256
_LONGEST_REASON = 400  # characters
_trial_lock = threading.Lock()  # guards _trial_tokenizer
_trial_tokenizer: Any = None


def library() -> Any:
    """Import and return llguidance; raise ImportError if it or numpy is not installed."""
    try:
        import llguidance
        import numpy  # noqa: F401  for the masks
    except ImportError as error:
        raise ImportError("constraints need llguidance and numpy: pip install llguidance numpy") from error
    return llguidance


def seam(call: Callable[[], T], what: str, stack: int = 0) -> T:
    """Run a call of llguidance, with `stack` bytes of stack if not 0. Raises GrammarError if it fails or panics."""
    try:
        return on_large_stack(call, stack, leave=True) if stack else call()
    except (TypeError, ValueError, RecursionError) as error:
        raise GrammarError(f"{what} cannot be used: {reason(str(error))}") from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # pyo3's; it derives from BaseException, and cannot be imported
            raise
        raise GrammarError(f"{what} cannot be used: llguidance failed with {reason(str(error))!r}") from None


def reason(text: str) -> str:
    """Return a message of llguidance in one line, without the state that it appends."""
    words = " ".join(text.partition("\n<state>")[0].split())
    if len(words) > _LONGEST_REASON:
        return f"{words[: _LONGEST_REASON // 2]} ... {words[-_LONGEST_REASON // 2 :]}"
    return words


class Grammar:
    """A constraint in llguidance's form, which is compiled once for each vocabulary."""

    def __init__(self, kind: str, text: str, stack: int) -> None:
        self.kind = kind
        self._text, self._stack = text, stack
        self._lock = threading.Lock()  # guards what follows
        self.generation = 0  # how often a text has failed: all matchers of an older one may share its lexer
        # tokenizer -> a matcher in the initial state, to be copied. The copies share its lexer, and the lexer's errors.
        self._pristine: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()

    def matcher(self, key: Any, tokenizer: Any) -> Any:
        """Return a matcher in the initial state. `key` stands for the tokenizer: its model."""
        with locked(self._lock):
            found = self._pristine.get(key)
            if found is None:
                found = self._pristine[key] = self.compile(tokenizer)
            return found.deep_copy()

    def replacement(self, key: Any, tokenizer: Any) -> Any:
        """Return a matcher that shares nothing with the others, one of which failed; new ones share nothing either."""
        with locked(self._lock):
            self.generation += 1
            self._pristine.pop(key, None)
        return self.compile(tokenizer)

    def compile(self, tokenizer: Any) -> Any:
        """Return a new matcher. Raises GrammarError."""
        module = library()
        limits = module.LLParserLimits(**_LIMITS)
        what = f"this {self.kind} constraint"
        made = seam(lambda: module.LLMatcher(tokenizer, self._text, log_level=0, limits=limits), what, self._stack)
        if made.is_error():
            raise GrammarError(f"{what} cannot be enforced: {_reason(made)}")
        return made

    def try_out(self) -> list[str]:
        """Compile the grammar and follow the beginning of a random text. Returns warnings; raises GrammarError."""
        matcher = self.compile(_trial())
        warnings: list[str] = matcher.get_grammar_warnings()
        choose = random.Random(0).choice
        for _ in range(_TRIAL_TOKENS):
            mask = matcher.compute_bitmask()
            allowed = [byte for byte in range(_BYTES) if mask[byte >> 3] >> (byte & 7) & 1]
            if not matcher.is_error() and allowed:
                matcher.consume_token(choose(allowed))
            if matcher.is_error():
                raise GrammarError(f"this {self.kind} constraint cannot be enforced: {_reason(matcher)}")
            if not allowed:
                break
        return warnings


def allows(schema: dict[str, Any], value: str) -> bool:
    """Return whether a rewritten schema allows a string. Raises GrammarError if llguidance cannot read the schema."""
    text = seam(lambda: library().LLMatcher.grammar_from_json_schema(json.dumps(schema)), "this schema")
    matcher = Grammar("JSON", text, STACK_PER_LEVEL).compile(_trial())
    wanted = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
    return matcher.try_consume_tokens([*wanted]) == len(wanted) and bool(matcher.is_accepting())


def _reason(matcher: Any) -> str:
    text = reason(matcher.get_error())
    return "no text satisfies it" if text == "NoExtensionBias" else text


def _trial() -> Any:
    """Return a tokenizer whose tokens are the bytes, and an end."""
    global _trial_tokenizer
    with locked(_trial_lock):
        if _trial_tokenizer is None:
            module = library()
            _trial_tokenizer = module.LLTokenizer(module.TokenizerWrapper(_Bytes()), eos_token=[_BYTES])
        return _trial_tokenizer


class _Bytes:
    def __init__(self) -> None:
        self.tokens = [bytes([byte]) for byte in range(_BYTES)] + [b"<end>"]
        self.special_token_ids = [_BYTES]
        self.eos_token_id, self.bos_token_id = _BYTES, None

    def __call__(self, text: bytes) -> list[int]:
        return list(text)
