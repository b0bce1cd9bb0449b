"""Checks of the arguments of samplers: values for which llama.cpp would abort the process or compute nonsense."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping

from llama_cffi._core.arguments import StrOrBytes, c_string
from llama_cffi._core.checks import expected, integer, no_such_token, number, out_of_range, shown
from llama_cffi._core.ffi import ffi
from llama_cffi._core.structs import FLOAT_MAX
from llama_cffi._generated import enums
from llama_cffi.vocab.vocab import Vocab

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, cast
else:
    from llama_cffi._core.stand_ins import cast

LAST_N_LIMIT = 1 << 20  # tokens; llama.cpp allocates a ring buffer of this size
_INFINITE = float("inf")
_GRAMMAR_LIMIT = 1 << 19  # bytes; llama.cpp follows the rules recursively
_NESTING_LIMIT = 256  # parentheses inside each other
_PATTERN_LIMIT = 4096  # bytes


def finite(value: float, name: str) -> float:
    """Return a number that a C float can hold."""
    found = number(value, name)
    if not abs(found) <= FLOAT_MAX:  # true for NaN as well
        raise ValueError(f"{name} must be finite, got {shown(value)}")
    return found


def within(value: float, low: float, high: float, name: str, hint: str = "") -> float:
    """Return a number in [low, high]."""
    if not low <= finite(value, name) <= high:
        raise out_of_range(name, value, f"{low:g}", f"{high:g}", hint)
    return float(value)


def positive(value: float, name: str, hint: str = "") -> float:
    """Return a number greater than 0."""
    if not finite(value, name) > 0:
        raise ValueError(f"{name} must be greater than 0, got {value}{hint and f': {hint}'}")
    return float(value)


def seed_number(seed: int) -> int:
    """Return a seed: an unsigned 32-bit number."""
    return integer(seed, 0, 0xFFFFFFFF, "seed", "leave it out, or pass DEFAULT_SEED, for another one each time")


def min_keep(value: int) -> int:
    """Return how many candidates a sampler must keep."""
    return integer(value, 0, (1 << 31) - 1, "minKeep")


def last_n(value: int, name: str) -> int:
    """Return how many of the latest tokens a penalty looks at."""
    return integer(value, -1, LAST_N_LIMIT, name, "0 turns it off, -1 means the context size")


def vocab_size(vocab: Vocab | int, name: str = "nVocab") -> int:
    """Return the size of a vocabulary, given as a Vocab or as a number of tokens."""
    if isinstance(vocab, Vocab):
        vocab._c  # noqa: B018 - raises if the model was freed
        return vocab.nTokens
    if isinstance(vocab, bool) or not hasattr(vocab, "__index__"):
        raise expected("a Vocab or its number of tokens", vocab, "pass model.vocab", name)
    return integer(vocab, 1, (1 << 31) - 1, name)


def tokenizer(vocab: Vocab) -> Any:
    """Return the C pointer of a vocabulary with a tokenizer."""
    if not isinstance(vocab, Vocab):
        raise expected("a Vocab", vocab, "pass model.vocab", "vocab")
    if vocab.type == enums.VocabType.NONE:
        raise ValueError("this sampler reads the text of tokens, and the model has no tokenizer: use another sampler")
    return vocab._c


def grammar_text(grammar: StrOrBytes) -> bytes:
    """Return a GBNF grammar as UTF-8, of a size and nesting that llama.cpp's recursive parser can handle."""
    data = c_string(grammar, "grammarStr")
    if not data.strip():
        raise ValueError('grammarStr must not be empty: write rules, such as root ::= "yes" | "no"')
    if len(data) > _GRAMMAR_LIMIT:
        raise ValueError(f"grammarStr must have at most {_GRAMMAR_LIMIT} bytes, got {len(data)}: simplify it")
    data.decode("utf-8")
    depth = _nesting(data, _LITERALS)
    if depth > _NESTING_LIMIT:
        raise ValueError(
            f"grammarStr may nest parentheses {_NESTING_LIMIT} deep, got {depth}: make rules of the inner parts"
        )
    return data


# Comments, literals and character classes, where a parenthesis is a plain character.
_LITERALS = rb'(?s)#[^\n]*|"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]'
_ESCAPES = rb"(?s)\\.|\[(?:\\.|[^\]\\])*\]"


def _nesting(data: bytes, plain: bytes) -> int:
    """Return how deep parentheses are nested, but for those in matches of the pattern `plain`."""
    import re  # only grammars need it

    depth = deepest = 0
    for byte in re.sub(plain, b"", data):
        depth += (byte == ord("(")) - (byte == ord(")"))
        deepest = max(deepest, depth)
    return deepest


def root_name(root: StrOrBytes) -> bytes:
    """Return the name of a grammar's first rule as UTF-8."""
    data = c_string(root, "grammarRoot")
    if not data:
        raise ValueError('grammarRoot must not be empty: name the rule to start from, usually "root"')
    return data


def patterns(values: Iterable[StrOrBytes], name: str) -> list[bytes]:
    """Return regular expressions of a size and nesting that C++'s recursive `std::regex` can handle."""
    found = strings(values, name)
    for data in found:
        depth = _nesting(data, _ESCAPES)
        if len(data) > _PATTERN_LIMIT or depth > _NESTING_LIMIT:
            raise ValueError(
                f"a pattern of {name} may have {_PATTERN_LIMIT} bytes and nest parentheses {_NESTING_LIMIT} deep, got "
                f"{len(data)} bytes and depth {depth}: simplify it"
            )
        if _repeats_repetition(data):
            raise ValueError(
                f"a pattern of {name} repeats a group that contains a repetition, such as (a*)*; matching it may take "
                "exponential time: repeat only one of them"
            )
    return found


def _repeats_repetition(data: bytes) -> bool:
    """Return True if a repeated group contains a repetition: the search then takes exponential time."""
    import re

    plain = re.sub(_ESCAPES, b"x", data)
    groups = [False]  # for each open group, True if it contains a repetition
    closed = (-1, False)  # where the last group ended, and True if it contained a repetition
    for mark in re.finditer(rb"[()*+]|\{\d+,?\d*\}", plain):
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
    """Return texts as UTF-8, none of them empty."""
    if isinstance(values, (str, bytes)):
        raise expected("an iterable of texts", values, f"write [{values!r}] for one", name)
    found = [c_string(value, f"an item of {name}") for value in values]
    for data in found:
        if not data:
            raise ValueError(f"an item of {name} must not be empty: leave it out")
        data.decode("utf-8")
    return found


def string_array(values: list[bytes]) -> tuple[Any, list[Any]]:
    """Return a `const char *[]`, and the texts that it points to, which must be kept alive."""
    owned = [ffi.new("char[]", value) for value in values]
    return ffi.new("char *[]", owned or 1), owned


def biases(values: Mapping[int, float] | Iterable[tuple[int, float]], n_vocab: int) -> list[tuple[int, float]]:
    """Return pairs of a token and the bias added to its logit, each token once."""
    pairs = cast("Iterable[tuple[int, float]]", values.items() if isinstance(values, Mapping) else values)
    try:
        rows = [(operator.index(token), float(bias)) for token, bias in pairs]
    except (TypeError, ValueError):
        raise TypeError(f"logitBias must be {{token: bias}}, or pairs of both, got {str(values)[:80]}") from None
    seen: set[int] = set()
    for token, bias in rows:
        if not 0 <= token < n_vocab:
            raise no_such_token(token, n_vocab)
        if token in seen:
            raise ValueError(f"token {token} has two biases: pass their sum")
        seen.add(token)
        if bias != -_INFINITE and not abs(bias) <= FLOAT_MAX:
            raise ValueError(f"the bias of token {token} must be finite or -inf, got {bias}: -inf rules the token out")
    return rows
