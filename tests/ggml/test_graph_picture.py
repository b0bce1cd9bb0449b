"""`graph.dump()` and what a notebook shows of a graph."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np

from llama_cffi import Ggml


def _graph(ctx: Ggml.Context) -> Ggml.CGraph:
    weights = ctx.tensor(np.ones((2, 3), np.float32)).setParam()
    weights.name = 'we"ights\\'
    product = ctx.mulMat(weights, ctx.tensor(np.ones((4, 3), np.float32)))
    graph = ctx.newGraph(16)
    graph.expand(ctx.add(product, product))
    return graph


def test_dump_has_a_box_for_each_tensor_and_an_arrow_for_each_source() -> None:
    with Ggml.Context() as ctx:
        text = _graph(ctx).dump()
    assert text.startswith("digraph G {") and text.rstrip().endswith("}")
    boxes = re.findall(r'^  (t\d+) \[label="(.*)", fillcolor="#\w{6}"\];$', text, re.M)
    labels = dict(boxes)
    assert [label.split("\\n")[0] for label in labels.values()] == ["parameter", "data", "MUL_MAT", "ADD"]
    assert 'we\\"ights\\\\' in text and "F32 (4, 2)" in text
    arrows = re.findall(r"^  (t\d+) -> (t\d+);$", text, re.M)
    by_title = {label.split("\\n")[0]: name for name, label in labels.items()}
    named = {(a, b) for a, b in arrows}
    assert named == {
        (by_title["parameter"], by_title["MUL_MAT"]),
        (by_title["data"], by_title["MUL_MAT"]),
        (by_title["MUL_MAT"], by_title["ADD"]),
    }


def test_a_notebook_shows_a_picture_that_is_valid_xml() -> None:
    with Ggml.Context() as ctx:
        graph = _graph(ctx)
        html = graph._repr_html_()
        picture = ElementTree.fromstring(html[html.index("<svg") :])
        names = [child.tag.rpartition("}")[2] for child in picture]
        assert names.count("rect") == 4 and names.count("line") == 3
        assert "CGraph 3 of 16 nodes" in html
    assert "freed" in graph._repr_html_() and "<svg" not in graph._repr_html_()


def test_a_large_graph_has_no_picture() -> None:
    with Ggml.Context() as ctx:
        tensor = ctx.tensor([1.0])
        for _ in range(200):
            tensor = ctx.sqr(tensor)
        graph = ctx.newGraph(256)
        graph.expand(tensor)
        assert "<svg" not in graph._repr_html_()
        assert graph.dump().count("SQR") == 200
        empty = ctx.newGraph(4)
        assert "<svg" not in empty._repr_html_() and "->" not in empty.dump()
