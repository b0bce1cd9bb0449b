"""The pages of ggml's operations: the generated methods of `Ggml.Context`, which are too many for its own page."""

from __future__ import annotations

import re

from llama_cffi import Ggml
from llama_cffi._generated.constructors import Constructors
from members import entry, heading, link, member_table, members, table

OWNER = "Ggml.Context"
NAMES = frozenset(name for name in vars(Constructors) if name[0] != "_") - frozenset(vars(Ggml.Context))

# Page, title, introduction, and the names: the first that matches counts, and the last takes the rest.
_PAGES: list[tuple[str, str, str, str]] = [
    (
        "operations-shapes",
        "Tensors, shapes, copies and rows",
        "New tensors, views, copies, parts, rows by their index, padding and repetition.",
        "newTensor|view|reshape|permute|transpose|cont|cpy|dup|cast|concat|repeat|pad|roll|arange|fill|"
        "(get|set)Rows|set([12]d)?(Inplace)?$|acc",
    ),
    (
        "operations-activations",
        "Activations and gated units",
        "Functions such as GELU and SiLU, and the gated linear units that multiply by them.",
        "elu|gelu|relu|silu|sigmoid|hard|leaky|softplus|tanh|xielu|step|glu|geglu|reglu|swiglu",
    ),
    (
        "operations-reductions",
        "Products, sums, norms and sorting",
        "Matrix products, sums, normalization, softmax, losses, masks and sorting.",
        "mulMat|outProd|sum|mean|cumsum|arg|topK|count|norm|rmsNorm|groupNorm|l2Norm|softMax|crossEntropy|solveTri|tri|diag",
    ),
    (
        "operations-images",
        "Convolutions, pooling and images",
        "Convolutions and what they are made of, pooling, scaling of images, and windows.",
        "conv|im2col|col2im|pool|interpolate|upscale|win|timestep|(get|add)RelPos",
    ),
    (
        "operations-models",
        "Attention, positions, recurrent layers and optimizers",
        "Flash attention, rotary positions, state space and other recurrent layers, and steps of optimizers.",
        "rope|flashAttn|dsv4|gated|lightning|rwkv|ssm|optStep",
    ),
    (
        "operations-elements",
        "Arithmetic and functions of elements",
        "Sums and products of elements, and functions of each of them.",
        "",
    ),
]


def _grouped() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {page: [] for page, *_ in _PAGES}
    for name in sorted(NAMES, key=str.lower):
        found[next(page for page, _, _, names in _PAGES if re.match(names, name))].append(name)
    return found


def overview() -> str:
    """Return the part of the class's own page: the names by group, each with a link."""
    rows = []
    found = _grouped()
    for page, title, _, _ in _PAGES:
        names = ", ".join(link(f"{OWNER}.{name}", name) for name in found[page])
        rows.append([f":doc:`{title} <{page}>`", names])
    text = f"{len(NAMES)} methods, one for each constructor of ggml, on pages of their own.\n"
    toctree = ".. toctree::\n   :hidden:\n\n" + "".join(f"   {page}\n" for page, *_ in _PAGES)
    return "\n".join([".. rubric:: Operations\n", text, table([], rows), toctree])


def pages() -> dict[str, str]:
    """Return the text of each page by its name."""
    every = {member.name: member for member in members(Ggml.Context)}
    out = {}
    for page, title, text, _ in _PAGES:
        found = [every[name] for name in _grouped()[page]]
        parts = [heading(title), f"{text} Methods of `{OWNER}`.\n", member_table(OWNER, found)]
        out[page] = "\n".join([*parts, ".. rubric:: Details\n", *(entry(OWNER, member) for member in found)])
    return out
