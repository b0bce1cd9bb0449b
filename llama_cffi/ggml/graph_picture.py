"""Pictures of a graph of operations: text in the DOT language for Graphviz, and SVG for notebooks."""

from __future__ import annotations

from llama_cffi._core.ffi import lib
from llama_cffi._generated import enums

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llama_cffi.ggml.tensor import Tensor

_MAX_DRAWN = 150
_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _MARGIN = 150, 40, 16, 36, 8
_COLOURS = {"parameter": "#ffe3a3", "loss": "#f7b7a8", "data": "#dde7f5", "operation": "#ffffff"}
_LOSS, _PARAM = lib.GGML_TENSOR_FLAG_LOSS, lib.GGML_TENSOR_FLAG_PARAM


def dot(nodes: Sequence[Tensor], leafs: Iterable[Tensor]) -> str:
    """Return a graph in the DOT language: a box for each tensor, and an arrow from each source to what uses it."""
    tensors = _tensors(nodes, leafs)
    number = {tensor: i for i, tensor in enumerate(tensors)}
    lines = ["digraph G {", '  node [shape=box, style="filled,rounded", fontname="sans-serif"];']
    for tensor, i in number.items():
        label = "\\n".join(_quoted(line) for line in _lines(tensor))
        lines.append(f'  t{i} [label="{label}", fillcolor="{_COLOURS[_role(tensor)]}"];')
    lines += [
        f"  t{number[source]} -> t{i};"
        for tensor, i in number.items()
        for source in _sources(tensor)
        if source in number
    ]
    return "\n".join([*lines, "}", ""])


def svg(nodes: Sequence[Tensor], leafs: Iterable[Tensor]) -> str:
    """Return a picture: data at the top, results at the bottom. Empty for a graph that is too large for one."""
    from html import escape  # notebooks have imported it already

    tensors = _tensors(nodes, leafs)
    if not 0 < len(tensors) <= _MAX_DRAWN:
        return ""
    place = _places(tensors)
    width = max(x for x, _ in place.values()) + _WIDTH + _MARGIN
    height = max(y for _, y in place.values()) + _HEIGHT + _MARGIN
    parts = []
    for tensor, (x, y) in place.items():
        for source in _sources(tensor):
            if source in place:
                sx, sy = place[source]
                parts.append(
                    f'<line x1="{sx + _WIDTH // 2}" y1="{sy + _HEIGHT}" x2="{x + _WIDTH // 2}" y2="{y}" stroke="#888"/>'
                )
    for tensor, (x, y) in place.items():
        first, *rest = _lines(tensor)
        parts.append(
            f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="5" fill="{_COLOURS[_role(tensor)]}" '
            f'stroke="#555"/><text x="{x + 6}" y="{y + 16}" font-weight="bold">{escape(_short(first))}</text>'
            f'<text x="{x + 6}" y="{y + 32}">{escape(_short(" ".join(rest)))}</text>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
        f'font-size="11" fill="#111">{"".join(parts)}</svg>'
    )


def _tensors(nodes: Sequence[Tensor], leafs: Iterable[Tensor]) -> list[Tensor]:
    """All tensors of a graph, each after its sources."""
    found: dict[Tensor, None] = dict.fromkeys(leafs)
    for node in nodes:
        found.update(dict.fromkeys(_sources(node)))
        found[node] = None
    return list(found)


def _sources(tensor: Tensor) -> list[Tensor]:
    return list(dict.fromkeys(tensor.sources))


def _places(tensors: list[Tensor]) -> dict[Tensor, tuple[int, int]]:
    """Return the corner of each box: a row for each distance from the data."""
    depth: dict[Tensor, int] = {}
    rows: list[list[Tensor]] = []
    for tensor in tensors:
        depth[tensor] = max((depth.get(source, 0) + 1 for source in tensor.sources), default=0)
        while len(rows) <= depth[tensor]:
            rows.append([])
        rows[depth[tensor]].append(tensor)
    return {
        tensor: (_MARGIN + column * (_WIDTH + _GAP_X), _MARGIN + row * (_HEIGHT + _GAP_Y))
        for row, members in enumerate(rows)
        for column, tensor in enumerate(members)
    }


def _role(tensor: Tensor) -> str:
    flags = tensor._c.flags
    if flags & _PARAM:
        return "parameter"
    if flags & _LOSS:
        return "loss"
    return "data" if tensor.op == enums.GgmlOp.NONE else "operation"


def _lines(tensor: Tensor) -> list[str]:
    """What a box says: the operation, the name, type and shape."""
    role = _role(tensor)
    title = tensor.op.name if tensor.op != enums.GgmlOp.NONE else role
    return [title, *([tensor.name] if tensor.name else []), f"{tensor.type.name} {tensor.shape}"]


def _short(text: str) -> str:
    return text if len(text) <= 26 else text[:25] + "\u2026"


def _quoted(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text).replace("\\", "\\\\").replace('"', '\\"')
