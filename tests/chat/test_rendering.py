"""Every template of llama.cpp's collection renders our conversations as Hugging Face's renderer does.

Differences are known, and explained (`judge.py`). Here, jinja2 as this package uses it stands for Hugging Face's
renderer, so that the tests do without `transformers`; `make chat-judge` takes the real one.
"""

from __future__ import annotations

import copy

import pytest

from llama_cffi.chat import jinja
from tests.chat import judge
from tests.chat.conversations import CONVERSATIONS


def test_there_are_templates_and_conversations() -> None:
    assert len(judge.templates()) >= 70
    assert len(CONVERSATIONS) == len({one.name for one in CONVERSATIONS}) == 30


@pytest.mark.slow
@pytest.mark.parametrize("ours", judge.OURS)
def test_prompts_are_equal_or_differ_as_explained(ours: str) -> None:
    known = judge.known(ours)
    wrong, equal = [], 0
    for path in judge.templates():
        for one in judge.comparisons(path, ours, jinja.render):
            kind = known[path.stem].get(one.conversation.name, "")
            equal += not kind
            if not one.still(kind, richer=True):
                wrong.append(f"{path.stem}, {one.conversation.name}: known as {kind!r}: {one.excerpt()}")
    assert not wrong
    assert equal >= 1200


def test_every_difference_has_a_reason() -> None:
    used = set()
    for ours in judge.OURS:
        for template, kinds in judge.known(ours).items():
            for name, kind in kinds.items():
                if judge.word(kind) in judge.OTHERS:
                    reason = judge.reason(template, name, judge.word(kind))
                    assert reason, (template, name)
                    used.add(reason)
                else:
                    assert set(kind.split(" + ")) <= judge.FORMS.keys()
    assert used == {row[-1] for row in judge.REASONS}


@pytest.mark.parametrize("name", judge.FORMS)
def test_forms_change_conversations(name: str) -> None:
    """A form that changes nothing would explain nothing; none adds text of its own."""
    changed = 0
    for conversation in CONVERSATIONS:
        given = judge.variables_of(conversation)
        before = copy.deepcopy(given)
        judge.FORMS[name](given)
        changed += given != before
    assert changed


def test_a_new_difference_is_noticed() -> None:
    path = next(path for path in judge.templates() if path.stem == "Qwen-Qwen3-0.6B")

    def spoiled(source: str, variables: judge.Variables) -> str:
        return jinja.render(source, variables).replace("<|im_end|>", "")

    known = judge.known("native")[path.stem]
    for one in judge.comparisons(path, "native", spoiled):
        assert not one.still(known.get(one.conversation.name, ""))
