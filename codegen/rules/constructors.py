"""The constructors of ggml: which arguments the generated methods of `Ggml.Context` accept.

A constructor takes a context and returns a tensor. Most wrong arguments fail an assertion of ggml, which becomes an
exception. The tables here are for the rest: a stride of 0 is a division by zero, and None a NULL that C reads.
A parameter without a row is an error, so that a new one is looked at before it is bound.
"""

from __future__ import annotations

from codegen.api.model import Api, CodegenError, Function, Param
from codegen.rules import naming, policy

# Written by hand in llama_cffi/ggml/context.py, and why.
BY_HAND = {
    "ggml_get_tensor": "finds a tensor and makes none",
    "ggml_new_tensor": "its array has nDims elements; `newTensor` takes any number of dimensions",
    "ggml_reshape": "`reshape` takes a tensor or any number of dimensions",
    "ggml_new_f32": "writes the number into the context's memory",
    "ggml_new_i32": "writes the number into the context's memory",
    "ggml_map_custom1": "calls back",
    "ggml_map_custom1_inplace": "calls back",
    "ggml_map_custom2": "calls back",
    "ggml_map_custom2_inplace": "calls back",
    "ggml_map_custom3": "calls back",
    "ggml_map_custom3_inplace": "calls back",
    "ggml_custom_4d": "calls back",
    "ggml_custom_inplace": "calls back",
}

_SMALL = 1 << 24  # so that sums and products of a few do not overflow an int
_LARGE = 1 << 40  # of elements or bytes

# Names of integer parameters -> their range.
RANGES: dict[str, tuple[int, int]] = {
    **dict.fromkeys(("s", "s0", "s1", "s2", "stride", "stride0", "stride1", "scale_factor"), (1, _SMALL)),
    **dict.fromkeys(("d", "d0", "d1", "d2", "dilation0", "dilation1", "k0", "k1"), (1, _SMALL)),
    **dict.fromkeys(("p0", "p1", "p2", "p3", "pad0", "pad1"), (0, _SMALL)),
    **dict.fromkeys(("lp0", "lp1", "lp2", "lp3", "rp0", "rp1", "rp2", "rp3"), (0, _SMALL)),
    **dict.fromkeys(("shift0", "shift1", "shift2", "shift3"), (-_SMALL, _SMALL)),
    **dict.fromkeys(("axis0", "axis1", "axis2", "axis3"), (0, 3)),
    **dict.fromkeys(("w", "w0", "h0", "qh", "kh", "oc", "n_groups", "max_period", "k"), (1, _SMALL)),
    **dict.fromkeys(("n_batch", "n_channels", "n_channels_out", "IC", "K"), (1, _SMALL)),
    **dict.fromkeys(("ne0", "ne1", "ne2", "ne3"), (1, _LARGE)),
    **dict.fromkeys(("nb1", "nb2", "nb3", "offset"), (0, _LARGE)),
    **dict.fromkeys(("n_past", "n_ctx_orig", "n_iter"), (0, 2**31 - 1)),
    "n_dims": (1, _SMALL),
    "mode": (0, 1 << 12),
    "sections": (0, _SMALL),
}

# Ranges of single functions.
EXCEPTIONS: dict[tuple[str, str], tuple[int, int]] = {
    ("ggml_concat", "dim"): (0, 3),
    ("ggml_timestep_embedding", "dim"): (1, _SMALL),
}

# Tensors that may be left out.
OPTIONAL = {
    ("ggml_flash_attn_ext", "mask"),
    ("ggml_rope_ext", "c"),
    ("ggml_rope_ext_inplace", "c"),
    ("ggml_rope_ext_back", "c"),
    ("ggml_rope_multi", "c"),
    ("ggml_rope_multi_inplace", "c"),
    ("ggml_rope_multi_back", "c"),
    ("ggml_soft_max_ext", "mask"),
    ("ggml_soft_max_ext_inplace", "mask"),
}

# Arrays -> the number of their elements and the type of C.
ARRAYS = {"sections": (4, "int"), "ne": (4, "int64_t")}


# What a constructor computes, by its name without `ggml_` and `_inplace`. Others get the text of the header.
SUMMARIES = {
    "abs": "Absolute values.",
    "acc": "`a` with `b` added to a part of it; strides and offset in bytes.",
    "add": "a + b, element by element; `b` is repeated to the shape of `a`.",
    "add_cast": "a + b as another type.",
    "add_id": "a + the rows of `b` that `ids` selects.",
    "arange": "The numbers from `start` to `stop`, exclusively, in steps.",
    "argmax": "The index of the largest element of each row (I32).",
    "argsort": "The indices that sort each row (I32).",
    "argsort_top_k": "The indices of the `k` largest elements of each row, in order (I32).",
    "cast": "`a` as another type.",
    "ceil": "Rounded up.",
    "clamp": "Limited to [min, max].",
    "concat": "`a` and `b`, one after the other along a dimension.",
    "cont": "A contiguous copy.",
    "cont_1d": "A contiguous copy in one dimension.",
    "cont_2d": "A contiguous copy in two dimensions.",
    "cont_3d": "A contiguous copy in three dimensions.",
    "cont_4d": "A contiguous copy in four dimensions.",
    "cos": "Cosine.",
    "count_equal": "The number of equal elements of two I32 tensors (I64).",
    "cpy": "`a`, copied to `b` with conversion; a view of `b`.",
    "cross_entropy_loss": "The mean cross entropy of logits `a` and probabilities `b`.",
    "cumsum": "Cumulative sums of each row.",
    "diag": "A matrix with `a` on its diagonal.",
    "diag_mask_inf": "`a` with -inf above the diagonal, which is shifted by `nPast` columns.",
    "diag_mask_zero": "`a` with 0 above the diagonal, which is shifted by `nPast` columns.",
    "div": "a / b, element by element; `b` is repeated to the shape of `a`.",
    "dup": "A copy of the data.",
    "dup_tensor": "A new tensor of the same type and shape; the data is not copied.",
    "elu": "Exponential linear unit: x if x > 0, else exp(x) - 1.",
    "exp": "Exponential function.",
    "expm1": "exp(x) - 1.",
    "fill": "A tensor of the shape of `a` with all elements `c`.",
    "flash_attn_ext": "Attention, softmax(q k^T * scale + mask) v, without storing the scores.",
    "floor": "Rounded down.",
    "gelu": "Gaussian error linear unit, approximated by tanh.",
    "gelu_erf": "Gaussian error linear unit.",
    "gelu_quick": "Gaussian error linear unit, approximated by x * sigmoid(1.702 x).",
    "get_rows": "The rows of `a` with the indices `b` (I32).",
    "group_norm": "Normalized to mean 0 and variance 1 in `nGroups` groups of the third dimension.",
    "hardsigmoid": "min(1, max(0, (x + 3) / 6)).",
    "hardswish": "x * hardsigmoid(x).",
    "l2_norm": "Rows, divided by their Euclidean norm.",
    "leaky_relu": "x if x > 0, else x * negativeSlope.",
    "log": "Natural logarithm.",
    "mean": "The mean of each row.",
    "mul": "a * b, element by element; `b` is repeated to the shape of `a`.",
    "mul_mat": "The matrix product of `b` and the transposed `a`: [k, n] and [k, m] give [n, m] in ggml's order.",
    "mul_mat_id": "`mulMat` with the matrix of `as_` that `ids` selects for each row (mixture of experts).",
    "neg": "-x.",
    "new_tensor_1d": "A new tensor of one dimension.",
    "new_tensor_2d": "A new tensor of two dimensions; `ne0` is the length of a row.",
    "new_tensor_3d": "A new tensor of three dimensions; `ne0` is the length of a row.",
    "new_tensor_4d": "A new tensor of four dimensions; `ne0` is the length of a row.",
    "norm": "Rows, normalized to mean 0 and variance 1.",
    "out_prod": "The matrix product of the transposed `b` and `a`: [n, k] and [m, k] give [n, m] in ggml's order.",
    "pad": "`a` with zeros at the ends.",
    "permute": "A view with the axes in another order: axis `i` becomes `axis_i`.",
    "relu": "max(0, x).",
    "repeat": "`a`, repeated to the shape of `b`.",
    "repeat_4d": "`a`, repeated to a shape.",
    "repeat_back": "The sums of the repetitions in `a`, of the shape of `b`.",
    "reshape_1d": "A view of a contiguous tensor in one dimension.",
    "reshape_2d": "A view of a contiguous tensor in two dimensions.",
    "reshape_3d": "A view of a contiguous tensor in three dimensions.",
    "reshape_4d": "A view of a contiguous tensor in four dimensions.",
    "rms_norm": "Rows, divided by their root mean square.",
    "roll": "Elements shifted along the axes; those that leave at one end come in at the other.",
    "rope": "Rotary position embedding; `b` holds the positions (I32).",
    "round": "Rounded to the nearest integer, halves away from zero.",
    "scale": "a * s.",
    "scale_bias": "a * s + b.",
    "set": "`a` with a part replaced by `b`; strides and offset in bytes.",
    "set_1d": "`a` with a part replaced by `b`; the offset in bytes.",
    "set_2d": "`a` with a part replaced by `b`; stride and offset in bytes.",
    "set_rows": "`a` with its rows of the indices `c` replaced by the rows of `b`; a view of `a`.",
    "sgn": "The sign: -1, 0 or 1.",
    "sigmoid": "1 / (1 + exp(-x)).",
    "silu": "x * sigmoid(x).",
    "sin": "Sine.",
    "soft_max": "Softmax of each row.",
    "soft_max_ext": "Softmax of each row of a * scale + mask.",
    "softplus": "log(1 + exp(x)).",
    "sqr": "Squares.",
    "sqrt": "Square roots.",
    "step": "1 if x > 0, else 0.",
    "sub": "a - b, element by element; `b` is repeated to the shape of `a`.",
    "sum": "The sum of all elements.",
    "sum_rows": "The sum of each row.",
    "tanh": "Hyperbolic tangent.",
    "top_k": "The indices of the `k` largest elements of each row, in any order (I32).",
    "transpose": "A view with the first two axes swapped.",
    "tri": "A triangle of each matrix; the rest is 0.",
    "trunc": "Rounded toward zero.",
    "view_1d": "A view of one dimension; the offset in bytes.",
    "view_2d": "A view of two dimensions; strides and offset in bytes.",
    "view_3d": "A view of three dimensions; strides and offset in bytes.",
    "view_4d": "A view of four dimensions; strides and offset in bytes.",
    "view_tensor": "A view of the whole tensor.",
}


def summary(function: Function) -> str:
    """Return the first sentence of the docstring of a generated method."""
    name = function.name.removeprefix("ggml_")
    base = name.removesuffix("_inplace")
    text = SUMMARIES.get(base, "")
    if base != name:
        text = f"{text} " if text else f"`{naming.camel(base)}`, computed in place. "
        return f"{text}The result overwrites `a`."
    return text


def constructors(api: Api) -> list[Function]:
    """Return the functions that become generated methods of `Ggml.Context`."""
    found = [function for function in policy.bound(api) if naming.is_constructor(function)]
    return [function for function in found if function.name not in BY_HAND]


def integer_range(function: Function, param: Param) -> tuple[int, int]:
    """Return the range of an integer parameter."""
    found = EXCEPTIONS.get((function.name, param.name)) or RANGES.get(param.name)
    if found is None:
        raise CodegenError(
            f"{function.header}: {function.name} takes an integer {param.name}, whose range is not known: add it to "
            "RANGES in codegen/rules/constructors.py"
        )
    return found


def check(api: Api) -> None:
    """Check that every row names something of this header. Raises CodegenError otherwise."""
    known = {function.name: {param.name for param in function.params} for function in api.functions}
    for name in BY_HAND:
        if name not in known:
            raise _misfit("BY_HAND", name)
    for name, param in (*OPTIONAL, *EXCEPTIONS):
        if param not in known.get(name, ()):
            raise _misfit("OPTIONAL or EXCEPTIONS", f"{name}, {param}")
    params = {param.name for function in constructors(api) for param in function.params}
    for name in RANGES:
        if name not in params:
            raise _misfit("RANGES", name)


def _misfit(table: str, row: str) -> CodegenError:
    return CodegenError(
        f"codegen/rules/constructors.py: {table} has a row for {row} that matches nothing in this header: delete it"
    )
