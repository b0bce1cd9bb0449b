"""Prompts for fill-in-the-middle (infill): the model writes what belongs between a prefix and a suffix."""

from __future__ import annotations

from collections.abc import Iterable

from llama_cffi._core.base_types import TOKEN_NULL, Token
from llama_cffi._core.checks import boolean, expected, integer
from llama_cffi.vocab.tokenize import tokenize
from llama_cffi.vocab.vocab import Vocab

_SNIPPET = "\n\n--- snippet ---\n\n"  # between other files, if the vocabulary has no token for that
_MOST = (1 << 31) - 1


def infillPrompt(
    vocab: Vocab,
    prefix: str,
    suffix: str,
    prompt: str = "",
    *,
    extra: Iterable[tuple[str, str]] = (),
    project: str = "myproject",
    fileName: str = "filename",
    suffixFirst: bool = False,
    limit: int | None = None,
    extraLimit: int | None = None,
) -> list[Token]:
    """Return the tokens of a fill-in-the-middle prompt, in the form of llama-server's `/infill`.

    The text that a generation writes after them belongs between `prefix` and `suffix`. `prompt` is the beginning of
    that text; its control tokens count as such, those of other texts do not. `extra` are other files, as (name, text),
    the most relevant last. `project` and `fileName` are told to models that have tokens for names.
    `suffixFirst` puts the suffix first, for models that were trained so (SPM infill).

    `limit` is the most tokens for these texts: three quarters of it are for the end of `prefix`, and one quarter is for
    `prompt` and the beginning of `suffix`. `extraLimit` is the most tokens for names and other files, of which the
    last stay.

    Raises ValueError for a model without fill-in-the-middle tokens.
    """
    if not isinstance(vocab, Vocab):
        raise expected("a Vocab", vocab, "pass model.vocab", "vocab")
    first, second, middle = _require_tokens(vocab)
    before, after = _plain(vocab, prefix, "prefix"), _plain(vocab, suffix, "suffix")
    begun = tokenize(vocab, _text(prompt, "prompt"), addSpecial=False, parseSpecial=True)
    context = _context(vocab, extra, _text(project, "project"), _text(fileName, "fileName"))
    if limit is not None:
        quarter = integer(limit, 0, _MOST, "limit") // 4
        before = before[max(0, len(before) - 3 * quarter) :]
        after = after[: max(0, quarter - 2 - len(begun))]
    if extraLimit is not None:
        context = context[max(0, len(context) - integer(extraLimit, 0, _MOST, "extraLimit")) :]
    parts = [[first, *before, *begun], [second, *after]]
    if boolean(suffixFirst, "suffixFirst"):
        parts.reverse()
    bos = [vocab.bos] if vocab.getAddBos() else []
    return [*context, *bos, *parts[0], *parts[1], middle]


def _require_tokens(vocab: Vocab) -> tuple[Token, Token, Token]:
    tokens = vocab.fimPre, vocab.fimSuf, vocab.fimMid
    missing = [f"fim{name}" for name, token in zip(("Pre", "Suf", "Mid"), tokens, strict=True) if token == TOKEN_NULL]
    if missing:
        raise ValueError(
            f"this model cannot fill in the middle: its vocabulary has no {' and no '.join(missing)}: use a model that "
            "was trained for it"
        )
    return tokens


def _context(vocab: Vocab, extra: Iterable[tuple[str, str]], project: str, file_name: str) -> list[Token]:
    """The tokens before the prefix: the names of the repository and the file, and other files."""
    if isinstance(extra, (str, bytes)) or not isinstance(extra, Iterable):
        raise expected("a list of (name, text)", extra, name="extra")
    tokens: list[Token] = []
    repository, separator = vocab.fimRep, vocab.fimSep
    if repository != TOKEN_NULL:
        tokens += [repository, *_plain(vocab, project + "\n", "project")]
    for pair in extra:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(f"extra: expected (name, text), got {pair!r}")
        name, text = _text(pair[0], "a name of extra"), _text(pair[1], "a text of extra")
        if separator != TOKEN_NULL:
            tokens += [separator, *_plain(vocab, name + "\n", "extra")]
        else:
            tokens += _plain(vocab, _SNIPPET, "extra")
        tokens += _plain(vocab, text, "extra")
    if separator != TOKEN_NULL:
        tokens += [separator, *_plain(vocab, file_name + "\n", "fileName")]
    return tokens


def _plain(vocab: Vocab, text: str, name: str) -> list[Token]:
    """The tokens of a text, without control tokens."""
    return tokenize(vocab, _text(text, name), addSpecial=False)


def _text(text: str, name: str) -> str:
    if not isinstance(text, str):
        raise expected("a str", text, name=name)
    return text
