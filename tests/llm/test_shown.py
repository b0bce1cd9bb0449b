"""What people see who look around: `repr`, notebooks, `dir`, `help`, and what Params say of their fields."""

from __future__ import annotations

import pydoc
from typing import Any

import pytest

import llama_cffi
from llama_cffi import LLM, Batch, ChatSession, Context, Engine, Generation, Model, Sampler, load

HTML = "<script>&"


def test_a_repr_says_what_it_is(llm: LLM) -> None:
    assert repr(llm) == f"<LLM nCtx=512, {llm.model!r}>"


def test_notebooks_show_escaped_tables(llm: LLM, ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    for shown in (llm, llm.model, ctx):
        html = shown._repr_html_()
        assert html.startswith("<b>") and html.count("<") == html.count(">") and "'" not in html
    assert f"{llm.model.nParams:,}" in llm.model._repr_html_() and "512" in llm._repr_html_()
    monkeypatch.setattr(Model, "_describe", lambda self: HTML)
    for shown in (llm, llm.model, ctx, Generation(ctx, HTML)):
        html = shown._repr_html_()
        assert HTML not in html and "<script>" not in html
    llm.close()
    assert llm._repr_html_() == "<b>&lt;LLM closed&gt;</b>" and "closed" in llm.model._repr_html_()


def test_dir_of_the_package_is_its_api() -> None:
    assert [name for name in dir(llama_cffi) if name[:2] != "__"] == llama_cffi.__all__
    assert {"__version__", "__doc__"} <= set(dir(llama_cffi))


def test_dir_of_objects_is_their_api(llm: LLM, ctx: Context) -> None:
    generation, sampler = Generation(ctx, "x"), Sampler.initGreedy()
    session, completion = ChatSession(ctx, template="chatml"), llm.complete("x", maxTokens=1)
    params = (Context.Params(), Model.Params())
    with Engine(llm.model, nCtx=64, nThreads=1) as engine:
        objects: list[Any] = [llm, llm.model, llm.model.vocab, ctx, generation, sampler, session, completion, engine]
        for each in (*objects, *params, Batch.getOne([1])):
            names = dir(each)
            assert [name for name in names if name[0] == "_" and name[:2] != "__"] == [], type(each)
            assert {name for name in dir(type(each)) if name[0] != "_"} <= set(names)
    assert {"complete", "chat", "session", "embed", "model", "close"} <= set(dir(llm))


@pytest.mark.parametrize("cls", [Context.Params, Model.Params, Model.QuantizeParams, Sampler.ChainParams])
def test_every_field_describes_itself(cls: Any) -> None:
    whole, defaults = cls.describe(), cls()
    for name in cls._fields():
        said = cls.describe(name)
        first, _, rest = said.partition("\n")
        default = getattr(defaults, name)
        assert said in whole and first.startswith(f"{name}: ") and not first.startswith(f"{name}: ;")
        assert f"default {getattr(default, 'name', None) or repr(default)}" in first and rest.strip(), name


def test_a_field_has_type_range_default_and_unit() -> None:
    assert Context.Params.describe("nCtx").startswith("nCtx: int, 0 to 4294967295; default 512; in tokens\n")
    assert "default True" in Context.Params.describe("adaptThreads")
    assert "SplitMode: NONE, LAYER, ROW" in Model.Params.describe("splitMode")
    assert "in threads" in Context.Params.describe("nThreads") and "in layers" in Model.Params.describe("nGpuLayers")
    with pytest.raises(ValueError, match="n_ctx.*nCtx"):
        Context.Params.describe("n_ctx")


def test_help_of_a_field() -> None:
    said = pydoc.plain(pydoc.render_doc(Context.Params.nCtx))
    assert "default 512; in tokens" in said
    threads = Context.Params().nThreads  # a default of the facade, not of its base class
    assert f"default {threads}; in threads" in pydoc.plain(pydoc.render_doc(Context.Params.nThreads))
    assert "GPU" in pydoc.plain(pydoc.render_doc(Model.Params.devices))


def test_help_of_load_names_the_fields() -> None:
    said = pydoc.plain(pydoc.render_doc(load))
    assert all(name in said for name in ("nCtx", "nThreads", "nGpuLayers", "template", "untrusted"))
