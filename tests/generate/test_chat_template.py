"""Templates: the model's own in Jinja, its variants, the built-in ones; what does not fit is an error."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from llama_cffi import ChatMessage, ChatTemplate, Model, ToolFormat, chatApplyTemplate, tokenize
from llama_cffi.chat import native
from tests.generate.conftest import CHATML, WITH_TOOLS

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Grüße!"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "東京?"},
]
WEATHER = {"name": "weather", "description": "It's <hot> & wet", "parameters": {"type": "object"}}


def test_the_models_own(chatty: Model) -> None:
    template = ChatTemplate(chatty)
    assert template.source == CHATML and not template.builtin and template.variants == ["tool_use"]
    expected = chatApplyTemplate("chatml", [ChatMessage(m["role"], m["content"]) for m in CHAT])
    assert template.render(CHAT) == expected
    assert template.render([ChatMessage(m["role"].encode(), m["content"]) for m in CHAT]) == expected
    assert template.render(CHAT, addGenerationPrompt=False) == expected.removesuffix("<|im_start|>assistant\n")
    assert template.tokens(CHAT) == tokenize(chatty.vocab, expected, parseSpecial=True)


def test_tools_take_the_variant_for_tools(chatty: Model) -> None:
    template = ChatTemplate(chatty)
    assert template.toolFormat is ToolFormat.HERMES and template.takesTools
    text = template.render(CHAT, tools=[WEATHER])
    assert '{"type": "function", "function": {"name": "weather", "description": "It\'s <hot> & wet"' in text
    assert text == template.render(CHAT, tools=[{"type": "function", "function": WEATHER}])
    assert text.startswith("<|im_start|>system\nBe brief.\n{") and text.endswith("<|im_start|>assistant\n")
    assert ChatTemplate(chatty, "tool_use").source == WITH_TOOLS


@pytest.mark.parametrize("arguments", [{"city": "Zürich"}, '{"city": "Zürich"}'])
def test_calls_and_results_in_the_history(chatty: Model, arguments: object) -> None:
    call = {"id": "call00001", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    chat = [*CHAT[:2], {"role": "assistant", "content": "", "tool_calls": [call]}, {"role": "tool", "content": "31 °C"}]
    text = ChatTemplate(chatty, "tool_use").render(chat)
    assert '<tool_call>{"name": "weather", "arguments": {"city": "Zürich"}}</tool_call><|im_end|>\n' in text
    assert "<|im_start|>tool\n31 °C<|im_end|>" in text


def test_a_builtin_one_by_name(tiny: Model, chatty: Model) -> None:
    for model in (tiny, chatty):
        template = ChatTemplate(model, "gemma")
        assert template.builtin and template.toolFormat is None and not template.takesTools
        assert template.render(CHAT) == chatApplyTemplate("gemma", [ChatMessage(m["role"], m["content"]) for m in CHAT])
        assert repr(template) == "<ChatTemplate gemma>"


def test_one_of_the_callers_own(tiny: Model) -> None:
    template = ChatTemplate(tiny, "{{ bos_token }}{% for m in messages %}[{{ m.content | trim }}]{% endfor %}")
    assert template.render([{"role": "user", "content": " x "}]) == "<s>[x]"
    tokens = template.tokens([{"role": "user", "content": " x "}])
    assert tokens.count(tiny.vocab.bos) == 1 and tokens == tokenize(tiny.vocab, "[x]")


# What templates expect of those who render them


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{% if true %}\n  a\n{% endif %}\nb", "  a\nb"),  # trim_blocks
        ("  {% if true %}\na{% endif %}", "a"),  # lstrip_blocks
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{% for i in range(3) %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}", "02"),
        ("{{ {'a': '<é&>'} | tojson }}", '{"a": "<é&>"}'),
        ("{{ {'b': 1, 'a': [1]} | tojson(indent=1) }}", '{\n "b": 1,\n "a": [\n  1\n ]\n}'),
        ("{{ eos_token }}", "</s>"),
        ("{{ strftime_now('%Y') | length }}", "4"),
        ("{% generation %}a{{ 1 }}{% endgeneration %}", "a1"),
        ("{{ messages[0]['content'].upper() }}{{ tools is defined }}", "HIFalse"),
        ("{{ enable_thinking }}", "no"),
        ("{% set ns = namespace(n=1) %}{% set ns.n = 2 %}{{ ns.n }}", "2"),
        ("{{ nothing }}", ""),
    ],
)
def test_the_ways_of_templates(tiny: Model, source: str, text: str) -> None:
    template = ChatTemplate(tiny, source if "{{" in source else source + "{{ '' }}")
    assert template.render([{"role": "user", "content": "hi"}], enable_thinking="no") == text


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='x') }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__self__ }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ range(10**9) | list }}",
    ],
)
def test_the_sandbox_holds(tiny: Model, attack: str) -> None:
    chat = [{"role": "user", "content": "hi"}]
    try:
        assert ChatTemplate(tiny, attack).render(chat) in ("", "1")  # undefined; 1 was appended to a copy
    except ValueError as error:
        assert "the chat template" in str(error)
    assert chat == [{"role": "user", "content": "hi"}]


# Errors


def test_a_model_without_one(tiny: Model) -> None:
    with pytest.raises(ValueError, match="has no chat template .*chatml.* in Jinja"):
        ChatTemplate(tiny)


def test_never_a_guess(tiny: Model, chatty: Model) -> None:
    with pytest.raises(ValueError, match="'nonsense': llama.cpp has .*chatml"):
        ChatTemplate(tiny, "nonsense")
    with pytest.raises(ValueError, match="this model has the variants tool_use; llama.cpp has"):
        ChatTemplate(chatty, "nonsense")
    with pytest.raises(TypeError, match="template.*got int"):
        ChatTemplate(tiny, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="makes one"):
        ChatTemplate("model")  # type: ignore[arg-type]


def test_a_template_that_cannot_be_read(tiny: Model) -> None:
    with pytest.raises(ValueError, match=r"line 2: .*endfor"):
        ChatTemplate(tiny, "{% for m in messages %}\n{{ m }}")


def test_what_a_template_refuses(chatty: Model, tiny: Model) -> None:
    with pytest.raises(ValueError, match="a system message comes first"):
        ChatTemplate(chatty, "tool_use").render(CHAT[::-1])
    with pytest.raises(ValueError, match="the chat template .* these messages: "):
        ChatTemplate(tiny, "{{ none - 1 }}").render(CHAT)
    with pytest.raises(ValueError, match="the chat template .* these messages"):
        ChatTemplate(tiny, "{{ messages[0].nothing() }}").render(CHAT)


@pytest.mark.parametrize(
    ("messages", "error", "words"),
    [
        ("text", TypeError, "for one"),
        ({"role": "user", "content": "x"}, TypeError, "for one"),
        (["text"], TypeError, "a message.*got str"),
        ([{"content": "x"}], ValueError, "needs a role"),
    ],
)
def test_wrong_messages(chatty: Model, messages: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        ChatTemplate(chatty).render(messages)  # type: ignore[arg-type]


def test_tools_that_cannot_be_told(tiny: Model, chatty: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="leave tools out"):
        ChatTemplate(tiny, "chatml").render(CHAT, tools=[WEATHER])
    with monkeypatch.context() as patched, pytest.raises(ValueError, match="leave tools out"):
        patched.setattr(native, "available", lambda: False)
        ChatTemplate(tiny, CHATML).render(CHAT, tools=[WEATHER])
    if native.available():  # in the system message
        assert '"name": "weather"' in ChatTemplate(tiny, CHATML).render(CHAT, tools=[WEATHER])
    with pytest.raises(ValueError, match="a tool needs a name"):
        ChatTemplate(chatty).render(CHAT, tools=[{"description": "?"}])
    with pytest.raises(TypeError, match="a tool.*dict.*got str"):
        ChatTemplate(chatty).render(CHAT, tools=["weather"])  # type: ignore[list-item]


def test_a_builtin_one_takes_text_only(tiny: Model) -> None:
    template = ChatTemplate(tiny, "chatml")
    with pytest.raises(ValueError, match="messages of text only"):
        template.render([{"role": "user", "content": None}])
    with pytest.raises(ValueError, match="no variables, got enable_thinking"):
        template.render(CHAT, enable_thinking=False)


def test_without_jinja2(chatty: Model, tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert not native.available() or ChatTemplate(chatty).render(CHAT)  # by llama.cpp's chat code
    monkeypatch.setattr(native, "available", lambda: False)
    with pytest.raises(ImportError, match=re.escape("pip install jinja2")):
        ChatTemplate(chatty)
    assert ChatTemplate(tiny, "chatml").render(CHAT)


def test_jinja2_is_not_imported_before_it_is_needed() -> None:
    code = (
        "import sys; from llama_cffi import *; sys.exit(any(n in sys.modules for n in ('jinja2', 'numpy', 'asyncio')))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
