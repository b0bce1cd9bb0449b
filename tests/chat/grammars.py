"""Whether the grammar of an answer's format allows an answer, from where it applies."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from llama_cffi import AnswerFormat, Model, Sampler, tokenize
from tests.chat.case import ParseCase
from vendor.source import fetch

Applied = dict[str, Any]


@cache
def model() -> Model:
    """A vocabulary of bytes, in which any text can be spelled."""
    return Model.load(fetch.vectors_dir() / "ggml-vocab-gpt-2.gguf", Model.Params(vocabOnly=True))


def allows(model: Model, form: AnswerFormat, text: str) -> bool:
    """Return True if the grammar of an answer allows a text as the whole answer."""
    sampler = form.grammarSampler(model.vocab)
    assert sampler is not None
    with sampler:
        form.begin(sampler)
        try:
            for token in (*tokenize(model.vocab, text, addSpecial=False), model.vocab.eos):
                sampler.accept(token)
        except ValueError:
            return False
    return True


def problem(case: ParseCase, made: Applied) -> str:
    """Return why the grammar does not allow the answer of a case; "" if it does, or if there is no grammar."""
    if not made["grammar"] or case.partial:
        return ""
    whole = made["generation_prompt"] + case.text
    start = _start(case, made)
    if start is None:
        return "nothing triggers the grammar of this call" if case.expected["calls"] else ""
    vocab = model().vocab
    done = ""
    with Sampler.initGrammar(vocab, made["grammar"]) as sampler:
        for token in (*tokenize(vocab, whole[start:], addSpecial=False), vocab.eos):
            try:
                sampler.accept(token)
            except ValueError:
                return f"the grammar does not allow {vocab.getText(token)!r} after {done!r}"
            done += vocab.getText(token)
    return ""


def _start(case: ParseCase, made: Applied) -> int | None:
    """Where the grammar begins to apply, in the prompt of the generation and the answer; None for nowhere.

    A trigger in the prompt is fired by the first token of the answer, so that the grammar applies from there.
    """
    if not made["grammar_lazy"]:
        return 0
    whole, answer = made["generation_prompt"] + case.text, len(made["generation_prompt"])
    if made["thinking_ends"] and all(trigger["type"] == "word" for trigger in made["triggers"]):
        found = _first_outside_thoughts(whole, made)
        if found is not None or not case.expected["calls"]:
            return None if found is None else max(found, answer)  # otherwise this template calls within thoughts
    found_all = [at for trigger in made["triggers"] if (at := _first(whole, trigger, answer)) >= 0]
    return max(min(found_all), answer) if found_all else None


def _first_outside_thoughts(text: str, made: Applied) -> int | None:
    words = "|".join(re.escape(trigger["value"]) for trigger in made["triggers"])
    begin, end = made["thinking_start"], "|".join(map(re.escape, made["thinking_ends"]))
    at, thinks = 0, False
    while at < len(text):
        sought = end if thinks else "|".join(filter(None, (re.escape(begin), words)))
        match = re.compile(sought).search(text, at)
        if match is None:
            return None
        if not thinks and match.group() != begin:
            return match.start()
        thinks, at = not thinks, match.end()
    return None


def _first(text: str, trigger: dict[str, str], answer: int) -> int:
    value = trigger["value"]
    if trigger["type"] == "word":
        return text.find(value)
    if trigger["type"] == "pattern":
        match = re.search(value, text)
        return match.start(match.re.groups) if match else -1
    for end in range(answer, len(text) + 1):  # "pattern_full": it is tried at each token
        match = re.fullmatch(value, text[:end])
        if match:
            groups = [at for at in range(1, match.re.groups + 1) if match.group(at)]
            return match.start(groups[0] if groups else 0)
    return -1
