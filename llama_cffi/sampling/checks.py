"""What sampler constructors refuse, because llama.cpp would end the process over it or compute nonsense."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

from llama_cffi._core.arguments import StrOrBytes, c_string
from llama_cffi._core.checks import integer, no_such_token, out_of_range
from llama_cffi._core.ffi import ffi
from llama_cffi._core.structs import FLOAT_MAX
from llama_cffi._generated.enums import VocabType
from llama_cffi.vocab.vocab import Vocab

LAST_N_LIMIT = 1 << 20  # llama.cpp allocates a ring of this many tokens
_GRAMMAR_LIMIT = 1 << 19  # bytes; its rules are followed recursively
_NESTING_LIMIT = 256
_PATTERN_LIMIT = 4096  # bytes


def finite(value: float, name: str) -> float:
    """A number that a C float can hold."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, got {value!r}") from None
    if not math.isfinite(number) or abs(number) > FLOAT_MAX:
        raise ValueError(f"{name} must be finite, got {value}")
    return number


def within(value: float, low: float, high: float, name: str, hint: str = "") -> float:
    if not low <= finite(value, name) <= high:
        raise out_of_range(name, value, f"{low:g}", f"{high:g}", hint)
    return float(value)


def positive(value: float, name: str, hint: str = "") -> float:
    if not finite(value, name) > 0:
        raise ValueError(f"{name} must be greater than 0, got {value}{hint and f': {hint}'}")
    return float(value)


def seed_number(seed: int) -> int:
    return integer(seed, 0, 0xFFFFFFFF, "seed", "DEFAULT_SEED takes a random one")


def min_keep(value: int) -> int:
    return integer(value, 0, (1 << 31) - 1, "minKeep")


def last_n(value: int, name: str) -> int:
    return integer(value, -1, LAST_N_LIMIT, name, "0 is off, -1 the context size")


def vocab_size(vocab: Vocab | int, name: str = "nVocab") -> int:
    """A vocabulary, or how many tokens it has."""
    if isinstance(vocab, Vocab):
        vocab._c  # noqa: B018 - raises if the model was freed
        return vocab.nTokens
    if isinstance(vocab, bool) or not hasattr(vocab, "__index__"):
        raise TypeError(f"{name} is a Vocab (model.vocab) or how many tokens it has, not {type(vocab).__name__}")
    return integer(vocab, 1, (1 << 31) - 1, name)


def tokenizer(vocab: Vocab) -> Any:
    """The C pointer of a vocabulary that knows the text of its tokens."""
    if not isinstance(vocab, Vocab):
        raise TypeError(f"vocab is a Vocab, not {type(vocab).__name__}: pass model.vocab")
    if vocab.type == VocabType.NONE:
        raise ValueError("this model carries no tokenizer, and the sampler reads the text of tokens: use another one")
    return vocab._c


def grammar_text(grammar: StrOrBytes) -> bytes:
    """A grammar that the parser, which is recursive, can read."""
    data = c_string(grammar, "grammarStr")
    if not data.strip():
        raise ValueError('grammarStr is empty, and would allow anything: write rules, such as root ::= "yes" | "no"')
    if len(data) > _GRAMMAR_LIMIT:
        raise ValueError(f"grammarStr has {len(data)} bytes, and the limit is {_GRAMMAR_LIMIT}: make it simpler")
    data.decode("utf-8")
    depth = _nesting(_LITERALS.sub(b"", data))
    if depth > _NESTING_LIMIT:
        raise ValueError(
            f"grammarStr nests parentheses {depth} deep, and the limit is {_NESTING_LIMIT}: give inner parts a rule"
        )
    return data


# Where parentheses are plain characters: comments, literals, classes.
_LITERALS = re.compile(rb'#[^\n]*|"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]', re.DOTALL)
_ESCAPES = re.compile(rb"\\.|\[(?:\\.|[^\]\\])*\]", re.DOTALL)


def _nesting(data: bytes) -> int:
    depth = deepest = 0
    for byte in data:
        depth += (byte == ord("(")) - (byte == ord(")"))
        deepest = max(deepest, depth)
    return deepest


def root_name(root: StrOrBytes) -> bytes:
    data = c_string(root, "grammarRoot")
    if not data:
        raise ValueError('grammarRoot is empty: name the rule to start from, usually "root"')
    return data


def patterns(values: Iterable[StrOrBytes], name: str) -> list[bytes]:
    """Regular expressions for C++'s `std::regex`, which is recursive."""
    found = strings(values, name)
    for data in found:
        if len(data) > _PATTERN_LIMIT or _nesting(_ESCAPES.sub(b"", data)) > _NESTING_LIMIT:
            raise ValueError(
                f"a pattern of {name} is longer than {_PATTERN_LIMIT} bytes, or nests parentheses more than "
                f"{_NESTING_LIMIT} deep: make it simpler"
            )
        if _repeats_repetition(data):
            raise ValueError(
                f"a pattern of {name} repeats a group that repeats something itself, such as (a*)*, which C++ may "
                "search for without end: repeat only one of them"
            )
    return found


_SINGLES = re.compile(rb"\\.|\[(?:\\.|[^\]\\])*\]", re.DOTALL)
_MARKS = re.compile(rb"[()*+]|\{\d+,?\d*\}")


def _repeats_repetition(data: bytes) -> bool:
    """Whether a repeated group has a repetition inside: the time to search doubles with each character then."""
    plain = _SINGLES.sub(b"x", data)
    groups = [False]  # whether something is repeated in each group that is open
    closed = (-1, False)  # where the last group ended, and whether something was repeated in it
    for mark in _MARKS.finditer(plain):
        if mark[0] == b"(":
            groups.append(False)
        elif mark[0] == b")" and len(groups) > 1:
            closed = mark.end(), groups.pop()
            groups[-1] |= closed[1]
        elif mark[0] != b")":
            if closed == (mark.start(), True):
                return True
            groups[-1] = True
    return False


def strings(values: Iterable[StrOrBytes], name: str) -> list[bytes]:
    if isinstance(values, (str, bytes)):
        raise TypeError(f"{name} is a sequence of texts: write [{values!r}] for one")
    found = [c_string(value, f"an item of {name}") for value in values]
    for data in found:
        if not data:
            raise ValueError(f"an item of {name} is empty: leave it out")
        data.decode("utf-8")
    return found


def string_array(values: list[bytes]) -> tuple[Any, list[Any]]:
    """A `const char *[]`, and what keeps it alive."""
    owned = [ffi.new("char[]", value) for value in values]
    return ffi.new("char *[]", owned or 1), owned


def biases(values: Mapping[int, float] | Iterable[tuple[int, float]], n_vocab: int) -> list[tuple[int, float]]:
    """Tokens and what to add to their logits, each token once."""
    pairs = cast("Iterable[tuple[int, float]]", values.items() if isinstance(values, Mapping) else values)
    rows = [(token, bias) for token, bias in pairs]
    seen: set[int] = set()
    for token, bias in rows:
        if not 0 <= operator.index(token) < n_vocab:
            raise no_such_token(token, n_vocab)
        if token in seen:
            raise ValueError(f"token {token} has two biases: add them up")
        seen.add(token)
        if bias != -math.inf and not abs(bias) <= FLOAT_MAX:
            raise ValueError(f"the bias of token {token} is a number or -inf (never pick it), not {bias}")
    return rows
