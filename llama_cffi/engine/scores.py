"""Scores of many texts at once: submits them to an engine, a limited number at a time, and collects the results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from llama_cffi._core.checks import expected
from llama_cffi.errors import QueueFullError
from llama_cffi.generation.score import ScoredTokens

if TYPE_CHECKING:
    from typing import Any

    from llama_cffi._core.base_types import Token
    from llama_cffi.engine.request import Request
    from llama_cffi.generation.steps import GenerationStep
    from llama_cffi.vocab.vocab import Vocab

    Text = str | Sequence[Token]
    Work = tuple[list[Token], int]  # the tokens to decode, and the first one to score


def scored_texts(vocab: Vocab, texts: Iterable[Text], context: Text | Sequence[Text]) -> list[ScoredTokens]:
    """The tokens of texts, after one context or each after its own. Raises TypeError or ValueError."""
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable):
        raise expected("a list of texts", texts, "write [text] for one" if isinstance(texts, str) else "", "texts")
    texts = list(texts)
    contexts: list[Any] = [context] * len(texts)
    if isinstance(context, (list, tuple)) and context and not hasattr(context[0], "__index__"):
        contexts = list(context)
        if len(contexts) != len(texts):
            raise ValueError(f"context must be one, or one for each text: got {len(contexts)} for {len(texts)} texts")
    return [
        ScoredTokens.check(vocab, text, before, f"texts[{i}]")
        for i, (text, before) in enumerate(zip(texts, contexts, strict=True))
    ]


def score_all(
    work: Iterable[Work], submit: Callable[[list[Token], int], Request], most: int
) -> Iterator[list[GenerationStep]]:
    """Yield the steps of each piece of work, in order. At most `most` are submitted at a time.

    What is not computed when the iterator is closed, or after an error, is cancelled.
    """
    waiting: deque[Request] = deque()
    try:
        for tokens, first in work:
            if len(waiting) >= most:
                yield _first_of(waiting)
            while True:
                try:
                    waiting.append(submit(tokens, first))
                    break
                except QueueFullError:  # of `maxWaiting`
                    if not waiting:
                        raise
                yield _first_of(waiting)
        while waiting:
            yield _first_of(waiting)
    finally:
        for request in waiting:
            request.cancel()


def _first_of(waiting: deque[Request]) -> list[GenerationStep]:
    waiting[0].result()
    return [step for step in waiting.popleft().promptLogProbs if step is not None]
