"""Models of every kind of memory, and the plain loop that a generation is compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llama_cffi import Batch, Context, Model, Sampler
from llama_cffi._generated.enums import GgmlType
from tests import tiny_archs, tiny_models
from tests.tiny_models import TinySpec

# What to write, and whether a window is kept whole.
KINDS: dict[str, tuple[Callable[[Path], Path], bool]] = {
    "llama": (lambda path: tiny_models.write_llama(path, spec=_exact(tiny_models.LLAMA)), True),
    "window": (lambda path: tiny_archs.write(path, "gemma3", n_layer=6), True),
    "window-that-moves": (lambda path: tiny_archs.write(path, "gemma3", n_layer=6), False),
    "mamba": (lambda path: tiny_archs.write(path, "mamba2"), True),
    "rwkv": (lambda path: tiny_archs.write(path, "rwkv7"), True),
    "mrope": (lambda path: tiny_models.write_qwen2vl(path, _exact(tiny_models.QWEN2VL)), True),
}


def _exact(spec: TinySpec) -> TinySpec:
    """With weights that are not quantized: then batches of other sizes give nearly the same."""
    return replace(spec, quant="F32")


@pytest.fixture(scope="session", params=list(KINDS))
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kind]:
    """A model whose memory is of one kind."""
    write, swa_full = KINDS[request.param]
    with Model.load(write(tmp_path_factory.mktemp("kinds") / f"{request.param}.gguf")) as model:
        yield Kind(request.param, model, swa_full)


class Kind:
    """A model, and how to make contexts that keep their memory in a certain way."""

    def __init__(self, name: str, model: Model, swa_full: bool) -> None:
        self.name, self.model, self.swa_full = name, model, swa_full
        self.forgets_parts = name not in ("mamba", "rwkv")

    def context(self, n_ctx: int = 1024, n_batch: int = 512, n_ubatch: int = 64) -> Context:
        """In one of the default size a moving window keeps 256 tokens."""
        params = Context.Params(nCtx=n_ctx, nBatch=n_batch, nUbatch=n_ubatch, nThreads=1, nThreadsBatch=1)
        params.swaFull, params.typeK, params.typeV = self.swa_full, GgmlType.F32, GgmlType.F32
        return Context.initFromModel(self.model, params)


def plain(ctx: Context, tokens: list[int], limit: int) -> list[int]:
    """The likeliest tokens by the loop that everybody writes by hand, from an empty memory."""
    ctx.getMemory().clear()
    vocab, out = ctx.getModel().vocab, []
    with Sampler.initGreedy() as sampler:
        for start in range(0, len(tokens), ctx.nBatch):
            ctx.decode(Batch.getOne(tokens[start : start + ctx.nBatch]))
        while True:
            token = sampler.sample(ctx, -1)
            if vocab.isEog(token):
                return out
            out.append(token)
            if len(out) == limit:
                return out
            ctx.decode(Batch.getOne([token]))


class Counted:
    """How many tokens a context was made to decode."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tokens = 0
        compute = Context._compute

        def counting(ctx: Context, batch: Batch, encode: bool) -> int:
            self.tokens += batch.nTokens
            return compute(ctx, batch, encode)

        monkeypatch.setattr(Context, "_compute", counting)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


CHATML = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# As models of the Hermes family do: tools in the system message, calls as JSON in tags, results in a user's turn.
WITH_TOOLS = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n' }}
    {%- endif %}
    {%- for tool in tools %}
        {{- tool | tojson + '\\n' }}
    {%- endfor %}
    {{- 'Call one by <tool_call>{"name": ..., "arguments": ...}</tool_call>.<|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {%- if not loop.first %}
            {{- raise_exception('a system message comes first') }}
        {%- endif %}
        {%- continue %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content }}
    {%- for call in message.tool_calls or [] %}
        {{- '\\n<tool_call>' + ({'name': call.function.name, 'arguments': call.function.arguments} | tojson) }}
        {{- '</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


@pytest.fixture(scope="session")
def chatty(vectors: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """A tiny Llama that carries chat templates: ChatML, and one for tools."""
    builder = tiny_models._Builder(_exact(tiny_models.LLAMA), "llama")
    builder.writer.add_chat_template(
        [{"name": "default", "template": CHATML}, {"name": "tool_use", "template": WITH_TOOLS}]
    )
    n_vocab = builder.copy_tokenizer(vectors / "ggml-vocab-llama-spm.gguf")
    path = tiny_models._llama_like(builder, n_vocab).save(tmp_path_factory.mktemp("chatty") / "chatty.gguf")
    with Model.load(path) as model:
        yield model
