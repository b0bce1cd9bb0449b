"""Text completion: runs a request, and describes its text in llama-cpp-python's dicts."""

from __future__ import annotations

import codecs
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llama_cffi._core.base_types import Token
from llama_cffi._core.checks import expected, integer
from llama_cffi.compat.decoding import DecodingMethods
from llama_cffi.compat.sampling import make_sampler
from llama_cffi.compat.tokenizer import piece_bytes
from llama_cffi.generation.log_probs import log_probs
from llama_cffi.generation.steps import StopReason
from llama_cffi.generation.stop_rules import StopRules
from llama_cffi.generation.text_stream import TextStream
from llama_cffi.sampling.sampler import Sampler
from llama_cffi.vocab.infill import infillPrompt


class TextRun:
    """One text: an iterator over pieces `(text, logprobs)`, one for each token, and one for text that was held back."""

    def __init__(
        self,
        llama: DecodingMethods,
        prompt: list[Token],
        sampler: Sampler,
        *,
        stop: str | Sequence[str] | None = None,
        max_tokens: int | None = None,
        logprobs: int | None = None,
        special: bool = False,
        stopping_criteria: Any = None,
        offset: int = 0,
    ) -> None:
        """`offset` is where the text begins, for `text_offset`. The run owns the sampler."""
        self._llama, self._sampler = llama, sampler
        try:
            n_ctx = llama.n_ctx()
            if not prompt:
                raise ValueError("the prompt is empty, and this model has no BOS token to start from: pass a word")
            if len(prompt) >= n_ctx:
                raise ValueError(
                    f"the prompt has {len(prompt)} tokens, which exceed the context window of {n_ctx}: pass a higher "
                    "n_ctx (Context.Params.nCtx)"
                )
            room = n_ctx - len(prompt)
            asked = 0 if max_tokens is None else integer(max_tokens, -(1 << 31), (1 << 31) - 1, "max_tokens")
            most = min(asked, room) if asked > 0 else room
            vocab = llama._model.vocab
            strings = [] if not stop else [stop] if isinstance(stop, str) else list(stop)
            self._rules = StopRules(TextStream(vocab, [text for text in strings if text], special), frozenset(), most)
            self.logprobs = None if logprobs is None else integer(logprobs, 0, vocab.nTokens, "logprobs")
        except BaseException:
            sampler.close()
            raise
        self.prompt, self.id, self.created = prompt, f"cmpl-{uuid.uuid4()}", int(time.time())
        self._criteria, self._special = stopping_criteria, special
        self._characters, self._decoder = offset, codecs.getincrementaldecoder("utf-8")("ignore")
        self.finish_reason = "stop"
        self.calls = 0  # tool calls that a stream has shown

    @property
    def usage(self) -> dict[str, int]:
        count = len(self._rules.tokens)
        return {
            "prompt_tokens": len(self.prompt),
            "completion_tokens": count,
            "total_tokens": len(self.prompt) + count,
        }

    @property
    def tokens(self) -> list[Token]:
        return self._rules.tokens

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any] | None]]:
        rules, llama = self._rules, self._llama
        tokens = llama._tokens(self.prompt, self._sampler, self._criteria)
        try:
            for token in tokens:
                text = rules.feed(token)
                if text is None:
                    break
                yield text, None if self.logprobs is None else self._describe(token)
                if rules.reason is not None:
                    break
        finally:
            tokens.close()
            self._sampler.close()
        llama._remember()
        rest = rules.finish()
        if rest:
            yield rest, None
        self.finish_reason = "length" if rules.reason == StopReason.LENGTH else "stop"

    def result(self) -> tuple[str, dict[str, Any] | None]:
        """Compute the whole text, and return it with its log-probabilities."""
        texts: list[str] = []
        found: dict[str, Any] | None = None if self.logprobs is None else empty_logprobs()
        for text, described in self:
            texts.append(text)
            if found is not None and described is not None:
                for key, values in described.items():
                    found[key] += values
        return "".join(texts), found

    def _describe(self, token: Token) -> dict[str, Any]:
        """Return the log-probability of the token that was just sampled, and the alternatives."""
        assert self.logprobs is not None
        value, alternatives = log_probs(self._llama.context, token, self.logprobs)
        return self.entry(token, value, {self._string(each.token): each.logProb for each in alternatives})

    def entry(self, token: Token, value: float | None, best: dict[str, float] | None) -> dict[str, Any]:
        """Return the dict of one token. Its offset is where the characters of the tokens before it end."""
        text, offset = self._string(token), self._characters
        data = piece_bytes(self._llama._model.vocab, [token], self._special)
        self._characters += len(self._decoder.decode(data))
        top = None if best is None or value is None else {**best, text: value}
        return {"tokens": [text], "text_offset": [offset], "token_logprobs": [value], "top_logprobs": [top]}

    def _string(self, token: Token) -> str:
        return piece_bytes(self._llama._model.vocab, [token], self._special).decode("utf-8", "ignore")


def empty_logprobs() -> dict[str, list[Any]]:
    """Return the dict of log-probabilities of no token."""
    return {"tokens": [], "text_offset": [], "token_logprobs": [], "top_logprobs": []}


def start_run(llama: DecodingMethods, prompt: str | Sequence[Token], options: Mapping[str, Any]) -> TextRun:
    """Check the options of `create_completion`, and make the run."""
    suffix = options["suffix"]
    tokens = prompt_tokens(llama, prompt, suffix)
    if options["echo"] and options["logprobs"] is not None and not llama._logits_all:
        raise ValueError("echo with logprobs needs the logits of the prompt: pass logits_all=True to Llama()")
    if options["echo"] and options["stream"]:
        raise ValueError("echo and stream exclude each other: the caller of a stream has the prompt already")
    llama._next_seed(options["seed"])
    sampler = make_sampler(
        llama._model.vocab,
        llama._seed,
        llama.last_n_tokens_size,
        llama._ids,
        {**options, "temp": options["temperature"]},
    )
    text = prompt if isinstance(prompt, str) else ""
    return TextRun(
        llama,
        tokens,
        sampler,
        stop=options["stop"],
        max_tokens=options["max_tokens"],
        logprobs=options["logprobs"],
        stopping_criteria=options["stopping_criteria"],
        offset=0 if options["echo"] else len(text),
    )


def prompt_tokens(llama: DecodingMethods, prompt: str | Sequence[Token], suffix: str | None = None) -> list[Token]:
    """Return the tokens of a prompt: of a str with what the model adds to every text, and control tokens parsed.

    With a suffix, those of the text to fill in between: prefix, suffix and the middle, in the model's own marks.
    """
    if isinstance(prompt, (bytes, bytearray)) or not isinstance(prompt, (str, Sequence)):
        raise expected("a str or a list of tokens", prompt, "decode it" if isinstance(prompt, bytes) else "", "prompt")
    if suffix is not None:
        return _infill_tokens(llama, prompt, suffix)
    if not isinstance(prompt, str):
        last = llama.n_vocab() - 1
        return [integer(token, 0, last, "a token of the prompt") for token in prompt]
    return llama.tokenize(prompt.encode("utf-8"), True, True)


def _infill_tokens(llama: DecodingMethods, prompt: str | Sequence[Token], suffix: str) -> list[Token]:
    if not isinstance(prompt, str):
        prompt = llama.detokenize(list(prompt)).decode("utf-8", "replace")
    return infillPrompt(llama._model.vocab, prompt, suffix, suffixFirst=llama.spm_infill)


def whole(run: TextRun, model: str, prompt: str | Sequence[Token], echo: bool) -> dict[str, Any]:
    """Compute a text, and return llama-cpp-python's dict of it."""
    text, found = run.result()
    if echo:
        llama = run._llama
        shown = prompt if isinstance(prompt, str) else llama.detokenize(list(prompt)).decode("utf-8", "ignore")
        text = shown + text
        if found is not None:
            found = _with_prompt(run, found)
    choice = {"text": text, "index": 0, "logprobs": found, "finish_reason": run.finish_reason}
    return {**_head(run, model), "choices": [choice], "usage": run.usage}


def _with_prompt(run: TextRun, found: dict[str, Any]) -> dict[str, Any]:
    """Put the tokens of the prompt before those of the text. The first one of all has no log-probability."""
    llama, count, prompt = run._llama, run.logprobs or 0, run.prompt
    first = int(prompt[0] == llama.token_bos())
    run._characters, run._decoder = 0, codecs.getincrementaldecoder("utf-8")("ignore")
    merged, scores = empty_logprobs(), llama._all_scores()
    for i, token in enumerate([*prompt, *run.tokens][first:], first):
        value, best = None, None
        if first < i < len(prompt):
            row = llama.logits_to_logprobs(scores[i - 1])
            best = {run._string(int(each)): float(row[each]) for each in row.argsort()[::-1][:count]}
            value = float(row[token])
        elif i > first:
            value, best = found["token_logprobs"][i - len(prompt)], found["top_logprobs"][i - len(prompt)]
        for key, values in run.entry(token, value, best).items():
            merged[key] += values
    return merged


def chunks(run: TextRun, model: str) -> Iterator[dict[str, Any]]:
    """Yield the text piece by piece, and at last why it ended."""
    for text, found in run:
        if text or found:
            yield _chunk(run, model, text, found, None)
    yield _chunk(run, model, "", None, run.finish_reason)


def _chunk(run: TextRun, model: str, text: str, found: Any, reason: str | None) -> dict[str, Any]:
    choice = {"text": text, "index": 0, "logprobs": found, "finish_reason": reason}
    return {**_head(run, model), "choices": [choice]}


def _head(run: TextRun, model: str) -> dict[str, Any]:
    return {"id": run.id, "object": "text_completion", "created": run.created, "model": model}
