"""`Ggml.Gguf`: beside gguf-py's reader, byte for byte, for every type of values and tensors."""

from __future__ import annotations

import os
from array import array
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from llama_cffi import ClosedError, Ggml, Model, NativeError, UnavailableError, ffi, lib
from llama_cffi.ggml.quantization import DTYPES
from tests import tiny_models
from tests.hostile.document import Document, Entry, Tensor

Gguf, Type, MetaType = Ggml.Gguf, Ggml.Type, Ggml.GgufType
TYPES = [kind for kind in Type if kind.name != "COUNT"]
WRITABLE = [kind for kind in TYPES if kind.name not in ("Q8_1", "Q8_K")]
SLOW = ("IQ1_S", "IQ1_M", "IQ2_S", "IQ2_XS")  # ggml takes seconds to prepare these: `tests.gguf_judge` quantizes them
ROWS = np.random.default_rng(1).standard_normal((2, 3, 512)).astype(np.float32)
# The largest error of a number below 4, by the bits of a block's numbers.
ERRORS = {1: 4.5, 2: 2.2, 3: 1.5, 4: 0.9, 5: 0.3, 6: 0.2, 8: 0.05, 16: 0.02}


def imatrix(kind: Type) -> np.ndarray[Any, Any] | None:
    return np.ones(512, np.float32) if lib.ggml_quantize_requires_imatrix(kind) else None


def numbers(kind: Type) -> np.ndarray[Any, Any]:
    """An array that a tensor of this type can be made from."""
    dtype = DTYPES.get(kind, "float32")
    return (ROWS * (1 if dtype.startswith("f") else 50)).astype(dtype)


def of_all_types(quantized: tuple[str, ...] = ()) -> Gguf:
    """A file with a tensor of each type. Those of SLOW that are not named have random blocks."""
    made = Gguf()
    made.metadata["general.architecture"] = "none"
    for kind in WRITABLE:
        if kind.name in SLOW and kind.name not in quantized:
            blocks = np.random.default_rng(kind).bytes(6 * lib.ggml_row_size(kind, 512))
            made.tensors.add(kind.name, blocks, kind, shape=ROWS.shape)
            continue
        made.tensors.add(kind.name, numbers(kind), None if kind in DTYPES else kind, imatrix(kind))
    return made


@pytest.fixture(scope="module")
def every_type(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "types.gguf"
    of_all_types().write(path)
    return path


# Beside gguf-py


def same_as_gguf_py(path: Path) -> None:
    reader = gguf.GGUFReader(path)
    with Gguf.open(path) as file:
        fields = {key: field for key, field in reader.fields.items() if not key.startswith("GGUF.")}
        assert list(file.metadata) == list(fields)
        for key, field in fields.items():
            assert [kind.value for kind in field.types[:2]] == [
                kind.value for kind in (file.metadata.type(key), file.metadata.itemType(key)) if kind is not None
            ]
            assert file.metadata[key] == field.contents(), key
        assert [tensor.name for tensor in file.tensors.values()] == [tensor.name for tensor in reader.tensors]
        for other in reader.tensors:
            tensor = file.tensors[other.name]
            facts = (tensor.type, tensor.ne, tensor.offset, tensor.size)
            assert facts == (other.tensor_type, tuple(map(int, other.shape)), other.data_offset, other.n_bytes)
            assert np.array_equal(tensor.numpy().view(np.uint8).ravel(), other.data.view(np.uint8).ravel())


@pytest.mark.parametrize("name", ["bert-bge", "llama-spm"])
def test_vocabularies_as_gguf_py_reads_them(vectors: Path, name: str) -> None:
    """`make gguf-judge` compares all of them: gguf-py takes minutes."""
    same_as_gguf_py(vectors / f"ggml-vocab-{name}.gguf")


def test_a_model_as_gguf_py_reads_it(tmp_path: Path) -> None:
    tiny_models.write_lora(tmp_path / "adapter.gguf", tiny_models.LLAMA)
    same_as_gguf_py(tmp_path / "adapter.gguf")


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_dequantized_as_gguf_py_and_c_do(every_type: Path, kind: Type) -> None:
    with Gguf.open(every_type) as file:
        if kind not in WRITABLE:
            tensor = Gguf().tensors
            tensor.add("x", bytes(lib.ggml_row_size(kind, 512)), kind, shape=(512,))
            with pytest.raises(UnavailableError, match=rf"x.*{kind.name}"):
                tensor["x"].numpy(dequantize=True)
            return
        tensor = file.tensors[kind.name]
        assert (tensor.type, tensor.shape, tensor.ne) == (kind, (2, 3, 512), (512, 3, 2))
        found = tensor.numpy(dequantize=True)
        assert found.shape == ROWS.shape
        traits = lib.ggml_get_type_traits(kind)
        if traits.to_float != ffi.NULL:
            out = np.empty(ROWS.size, np.float32)
            blocks = ffi.new("char[]", bytes(tensor.data))
            traits.to_float(blocks, ffi.cast("float *", out.ctypes.data), ROWS.size)
            assert found.dtype == np.float32 and np.array_equal(found.ravel(), out, equal_nan=True)
            known = {item.value for item in GGMLQuantizationType}
            if kind in known and GGMLQuantizationType(kind) in gguf.quants._type_traits:
                theirs = gguf.quants.dequantize(tensor.numpy().view(np.uint8), GGMLQuantizationType(kind))
                assert np.array_equal(theirs.reshape(ROWS.shape), found, equal_nan=True)
            if kind.name in SLOW:
                return
            bits = 8 * traits.type_size / traits.blck_size
            limit = next(error for whole, error in ERRORS.items() if bits < whole + 1)
            assert np.abs(found - ROWS).max() < limit
        else:
            assert kind in DTYPES and np.array_equal(found, numbers(kind))


def test_blocks_have_the_sizes_of_gguf_py() -> None:
    known = {item.value for item in GGMLQuantizationType}
    compared = [kind for kind in TYPES if kind in known and kind.name != "Q8_1"]  # which has shrunk in ggml
    assert len(compared) > 30
    for kind in compared:
        assert (lib.ggml_blck_size(kind), lib.ggml_type_size(kind)) == GGML_QUANT_SIZES[GGMLQuantizationType(kind)]


# Round trips


def test_every_vocabulary_byte_for_byte(vectors: Path, tmp_path: Path) -> None:
    paths = sorted(vectors.glob("ggml-vocab-*.gguf"))
    assert len(paths) > 15
    for path in paths:
        with Gguf.open(path) as file:
            file.write(tmp_path / "copy.gguf")
            assert (tmp_path / "copy.gguf").read_bytes() == path.read_bytes()
            file.metadata["general.name"] = file.metadata["general.name"]
            file.write(tmp_path / "again.gguf")
            assert (tmp_path / "again.gguf").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("alignment", [None, 1, 8, 64, 4096])
def test_a_model_byte_for_byte(tmp_path: Path, alignment: int | None) -> None:
    made = of_all_types()
    if alignment is not None:
        made.metadata["general.alignment"] = alignment
    made.tensors.add("odd", np.arange(7, dtype=np.int8))
    made.write(tmp_path / "a.gguf")
    with Gguf.open(tmp_path / "a.gguf") as file:
        assert file.alignment == (alignment or 32) and len(file.tensors) == len(made.tensors)
        assert all(tensor.offset % file.alignment == 0 for tensor in file.tensors.values() if tensor.offset)
        for name, tensor in made.tensors.items():
            assert bytes(file.tensors[name].data) == bytes(tensor.data)
        file.metadata.set("x", 1)
        file.metadata.remove("x")
        file.write(tmp_path / "b.gguf")
    assert (tmp_path / "b.gguf").read_bytes() == (tmp_path / "a.gguf").read_bytes()


def test_numbers_of_dimensions_and_strange_texts_survive(tmp_path: Path) -> None:
    document = Document(
        [
            Entry(b"nul", 8, b"a\0b"),
            Entry(b"bytes", 8, b"\xff\xfe"),
            Entry(b"list", 9, [b"\0", b"", b"\xff", "é".encode()], 8),
            Entry(b"empty", 9, [], 4),
        ],
        [Tensor(b"one", [4], 0, bytes(16)), Tensor(b"three", [4, 1, 1], 0, bytes(16))],
    )
    (tmp_path / "a.gguf").write_bytes(document.encoded())
    with Gguf.open(tmp_path / "a.gguf") as file:
        assert dict(file.metadata) == {
            "nul": "a\0b",
            "bytes": "\udcff\udcfe",
            "list": ["\0", "", "\udcff", "é"],
            "empty": [],
        }
        assert [tensor.shape for tensor in file.tensors.values()] == [(4,), (1, 1, 4)]
        file.metadata["x"] = file.metadata["bytes"]
        assert bytes(file.metadata._values["x"].data) == b"\xff\xfe"
        del file.metadata["x"]
        file.write(tmp_path / "b.gguf")
    assert (tmp_path / "b.gguf").read_bytes() == (tmp_path / "a.gguf").read_bytes()


def test_a_model_that_was_changed_computes_as_before(tmp_path: Path, tiny_path: Path) -> None:
    with Gguf.open(tiny_path) as file:
        file.metadata["general.name"] = "another name, which is longer than the one before"
        file.write(tmp_path / "changed.gguf")
    with Model.load(tmp_path / "changed.gguf") as model, Model.load(tiny_path) as before:
        assert model.metaValStr("general.name") == "another name, which is longer than the one before"
        assert (model.size, model.nParams) == (before.size, before.nParams)


# Metadata


@pytest.mark.parametrize(
    ("value", "type", "item"),
    [
        (True, MetaType.BOOL, None),
        (5, MetaType.UINT32, None),
        (-5, MetaType.INT32, None),
        (1 << 40, MetaType.UINT64, None),
        (-(1 << 40), MetaType.INT64, None),
        (0.5, MetaType.FLOAT32, None),
        ("é", MetaType.STRING, None),
        ([1, -2], MetaType.ARRAY, MetaType.INT32),
        ([1, 1 << 31], MetaType.ARRAY, MetaType.UINT32),
        ([1, -(1 << 40)], MetaType.ARRAY, MetaType.INT64),
        ([1, 0.5], MetaType.ARRAY, MetaType.FLOAT32),
        ([True, False], MetaType.ARRAY, MetaType.BOOL),
        (["a", ""], MetaType.ARRAY, MetaType.STRING),
        (np.uint8(7), MetaType.UINT8, None),
        (np.float64(0.1), MetaType.FLOAT64, None),
        (np.arange(3, dtype=np.int16), MetaType.ARRAY, MetaType.INT16),
        (np.arange(3, dtype=">u8"), MetaType.ARRAY, MetaType.UINT64),
        (array("d", [0.1]), MetaType.ARRAY, MetaType.FLOAT64),
        (bytearray(b"ab"), MetaType.ARRAY, MetaType.UINT8),
        ([np.uint16(1), np.uint16(2)], MetaType.ARRAY, MetaType.UINT16),
    ],
    ids=str,
)
def test_the_type_of_a_new_value(tmp_path: Path, value: Any, type: MetaType, item: MetaType | None) -> None:
    made = Gguf()
    made.metadata["key"] = value
    made.write(tmp_path / "a.gguf")
    with Gguf.open(tmp_path / "a.gguf") as file:
        assert (file.metadata.type("key"), file.metadata.itemType("key")) == (type, item)
        expected = value if isinstance(value, (str, list)) or not hasattr(value, "__len__") else list(value)
        assert file.metadata["key"] == expected
    field = gguf.GGUFReader(tmp_path / "a.gguf").fields["key"]
    assert field.contents() == expected and field.types[0].value == type


@pytest.mark.parametrize("kind", [kind for kind in MetaType if kind.name not in ("COUNT", "ARRAY")])
def test_an_assignment_keeps_the_type(tmp_path: Path, kind: MetaType) -> None:
    value: Any = "a" if kind == MetaType.STRING else 1
    made = Gguf()
    made.metadata.set("scalar", value, kind)
    made.metadata.set("list", [value] * 2, itemType=kind)
    made.metadata.set("none", [], MetaType.ARRAY, kind)
    made.metadata["last"] = 1
    for key, new in (("scalar", value), ("list", [value] * 3), ("none", [value])):
        made.metadata[key] = new
        assert made.metadata[key] == new
    assert [made.metadata.type("scalar"), made.metadata.itemType("list"), made.metadata.itemType("none")] == [kind] * 3
    assert list(made.metadata) == ["scalar", "list", "none", "last"] and made.metadata.length("list") == 3
    assert made.metadata.first("list", 2) == [value] * 2
    made.write(tmp_path / "a.gguf")
    with Gguf.open(tmp_path / "a.gguf") as file:
        assert dict(file.metadata) == dict(made.metadata)


def test_a_value_that_does_not_fit_gets_another_type() -> None:
    metadata = Gguf().metadata
    metadata.set("n", 5, MetaType.UINT8)
    metadata["n"] = 300
    assert metadata.type("n") == MetaType.UINT32
    metadata["n"] = "text"
    assert metadata.type("n") == MetaType.STRING


@pytest.mark.parametrize(
    ("key", "value", "more", "error", "words"),
    [
        ("", 1, {}, ValueError, "key.*65535.*got 0"),
        ("k" * 65536, 1, {}, ValueError, "key.*65535.*got 65536"),
        ("a\0b", 1, {}, ValueError, "key.*NUL"),
        (5, 1, {}, TypeError, "key.*str.*int"),
        ("k", None, {}, TypeError, "k.*NoneType"),
        ("k", {}, {}, TypeError, "k.*dict"),
        ("k", "a\0b", {}, ValueError, "NUL"),
        ("k", ["a", "b\0"], {}, ValueError, r"\[1\].*NUL"),
        ("k", [], {}, ValueError, "itemType"),
        ("k", [1, "a"], {}, TypeError, "numbers only or strings only"),
        ("k", [[1]], {}, TypeError, "k"),
        ("k", 1 << 64, {}, ValueError, str(1 << 64)),
        ("k", [1, 1 << 64], {}, ValueError, str(1 << 64)),
        ("k", 256, {"type": MetaType.UINT8}, ValueError, "0 and 255.*UINT8.*256"),
        ("k", -129, {"type": MetaType.INT8}, ValueError, "-128 and 127.*-129"),
        ("k", 1.5, {"type": MetaType.INT8}, TypeError, "integer.*INT8.*1.5"),
        ("k", 2, {"type": MetaType.BOOL}, TypeError, "True or False.*2"),
        ("k", "a", {"type": MetaType.FLOAT32}, TypeError, "number.*FLOAT32.*'a'"),
        ("k", 1e300, {"type": MetaType.FLOAT32}, ValueError, "FLOAT64"),
        ("k", 5, {"type": MetaType.STRING}, TypeError, "str or bytes.*int"),
        ("k", 5, {"type": MetaType.ARRAY}, TypeError, "list.*int"),
        ("k", [5], {"type": MetaType.UINT8, "itemType": MetaType.UINT8}, ValueError, "itemType"),
        ("k", [5], {"itemType": MetaType.ARRAY}, ValueError, "ARRAY"),
        ("k", 5, {"type": 99}, ValueError, "GgufType.*99"),
        ("k", 5, {"type": MetaType.COUNT}, ValueError, "GgufType"),
        ("k", np.zeros((2, 2)), {}, ValueError, "one dimension.*2"),
        ("k", np.zeros(2, np.complex64), {}, TypeError, "complex64"),
        ("general.alignment", 24, {}, ValueError, "power of two.*24"),
        ("general.alignment", 1 << 21, {}, ValueError, "power of two.*1048576.*2097152"),
        ("general.alignment", 32, {"type": MetaType.INT32}, TypeError, "UINT32.*INT32"),
    ],
)
def test_wrong_metadata(key: Any, value: Any, more: Any, error: type[Exception], words: str) -> None:
    made = Gguf()
    with pytest.raises(error, match=words):
        made.metadata.set(key, value, **more)
    assert not made.metadata


# Tensors


def test_what_numpy_knows_is_a_view(every_type: Path) -> None:
    with Gguf.open(every_type) as file:
        for kind in DTYPES:
            found = file.tensors[kind.name].numpy()
            assert found.dtype == DTYPES[kind] and np.array_equal(found, numbers(kind))
            assert not found.flags.owndata and not found.flags.writeable
        assert file.tensors["F32"].numpy(dequantize=True).dtype == np.float32
        assert file.tensors["F16"].numpy(dequantize=True).dtype == np.float32
        assert file.tensors["Q4_K"].numpy().shape == (2, 3, 2 * 144)
        kept = file.tensors["F32"].numpy()
    assert np.array_equal(kept, ROWS), "views outlive the file"
    with pytest.raises(ClosedError):
        file.tensors["F32"].numpy()
    with pytest.raises(ClosedError):
        file.tensors["Q4_K"].numpy(dequantize=True)
    for change in (lambda: file.metadata.set("a", 1), lambda: file.tensors.remove("F32"), lambda: file.write("x")):
        with pytest.raises(ClosedError):
            change()


def test_add_replace_and_remove_keep_the_order(tmp_path: Path) -> None:
    made = Gguf()
    for name in "abc":
        made.tensors[name] = [1.0, 2.0]
    made.tensors.set("b", np.ones((3, 32)), Type.Q8_0)
    made.tensors.remove("a")
    made.tensors.add("f16", np.ones(3, np.float16))
    made.tensors.add("view", np.arange(64, dtype=np.float32).reshape(8, 8).T[::2])
    made.tensors["big-endian"] = np.arange(3, dtype=">i4")
    made.tensors.add("array", array("f", [0.5]), Type.BF16)
    made.write(tmp_path / "a.gguf")
    with Gguf.open(tmp_path / "a.gguf") as file:
        assert list(file.tensors) == ["b", "c", "f16", "view", "big-endian", "array"]
        kinds = [tensor.type.name for tensor in file.tensors.values()]
        assert kinds == ["Q8_0", "F64", "F16", "F32", "I32", "BF16"]
        assert np.array_equal(file.tensors["view"].numpy(), np.arange(64).reshape(8, 8).T[::2])
        assert file.tensors["big-endian"].numpy().tolist() == [0, 1, 2]
        assert file.tensors["array"].numpy(dequantize=True).tolist() == [0.5]
        other = Gguf()
        other.tensors["copied"] = file.tensors["b"]
        other.tensors.add("converted", file.tensors["b"], Type.F16)
        other.write(tmp_path / "b.gguf")
    with Gguf.open(tmp_path / "b.gguf") as file:
        assert file.tensors["copied"].type == Type.Q8_0 and file.tensors["converted"].type == Type.F16
        assert np.allclose(file.tensors["converted"].numpy(dequantize=True), 1)


def test_an_importance_matrix_changes_the_blocks() -> None:
    tensors = Gguf().tensors
    weights = np.linspace(0, 9, 512, dtype=np.float32)
    for name, matrix in (("plain", None), ("one", weights), ("each", np.stack([weights, weights[::-1]]))):
        tensors.add(name, ROWS, Type.IQ4_XS, matrix)
    plain, one, each = (bytes(tensors[name].data) for name in ("plain", "one", "each"))
    half = len(one) // 2
    assert plain != one and one[:half] == each[:half] and one[half:] != each[half:]
    expected = bytearray(half)
    matrix = np.ascontiguousarray(ROWS[0])
    lib.ggml_quantize_chunk(
        Type.IQ4_XS, ffi.from_buffer("float[]", matrix), ffi.from_buffer(expected), 0, 3, 512,
        ffi.from_buffer("float[]", weights),
    )  # fmt: skip
    assert one[:half] == expected


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("", ROWS), ValueError, "name.*63.*got 0"),
        (("n" * 64, ROWS), ValueError, "name.*63.*got 64"),
        (("a\0b", ROWS), ValueError, "NUL"),
        ((5, ROWS), TypeError, "str.*int"),
        (("n", ROWS, 99), ValueError, "Ggml.Type.*99"),
        (("n", ROWS, Type.COUNT), ValueError, "COUNT"),
        (("n", ROWS, Type.Q8_K), ValueError, "Q8_K"),
        (("n", ROWS, Type.I32), ValueError, "I32"),
        (("n", ROWS[:, :, :500], Type.Q4_K), ValueError, "256.*Q4_K.*500"),
        (("n", ROWS, Type.IQ2_XXS), ValueError, "IQ2_XXS.*imatrix"),
        (("n", ROWS, Type.IQ2_XXS, np.ones(511)), ValueError, "512.*1024.*511"),
        (("n", ROWS, Type.IQ2_XXS, np.full(512, np.nan)), ValueError, "finite"),
        (("n", ROWS, Type.IQ2_XXS, np.full(512, -1.0)), ValueError, "at least 0"),
        (("n", ROWS, Type.IQ2_XXS, "ones"), TypeError, "imatrix.*str"),
        (("n", 5.0), ValueError, "dimensions.*0"),
        (("n", np.zeros((1, 1, 1, 1, 1))), ValueError, "4.*got 5"),
        (("n", np.zeros(2, np.uint8)), TypeError, "uint8"),
        (("n", np.zeros(2, np.complex64)), TypeError, "complex64"),
        (("n", ["a"]), TypeError, "numbers"),
        (("n", None), TypeError, "n"),
        (("n", b"abcd"), TypeError, "shape and type"),
        (("n", b"abcd", None, None, (1,)), TypeError, "type"),
        (("n", b"abcd", Type.F32, None, (2,)), ValueError, "8 bytes.*got 4"),
        (("n", b"abcd", Type.F32, None, (-1,)), ValueError, "shape.*-1"),
        (("n", b"abcd", Type.F32, None, (1 << 62, 1 << 62)), ValueError, "got 4"),
        (("n", [1.0], Type.F32, None, (1,)), TypeError, "buffer.*list"),
    ],
)
def test_wrong_tensors(arguments: Any, error: type[Exception], words: str) -> None:
    made = Gguf()
    with pytest.raises(error, match=words):
        made.tensors.add(*arguments)
    assert not made.tensors


@pytest.mark.parametrize("kind", [kind for kind in WRITABLE if kind not in DTYPES or kind.name == "F16"])
def test_numbers_that_a_type_cannot_hold(tmp_path: Path, kind: Type) -> None:
    """Raised when they are quantized; the file of before stays."""
    path = tmp_path / "a.gguf"
    path.write_bytes(b"old")
    for bad in (np.nan, np.inf, -np.inf, 3e38):
        made = Gguf()
        array = ROWS.copy()
        array[1, 1, 7] = bad
        made.tensors.add("x", array, kind, imatrix(kind))
        if bad == 3e38 and kind.name in ("BF16", "MXFP4", "NVFP4"):
            continue  # these have the range of F32, or clamp
        with pytest.raises((ValueError, NativeError), match="x |GGML_ASSERT"):
            made.write(path)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.gguf"]


def test_a_tensor_twice_and_one_that_is_missing() -> None:
    made = Gguf()
    made.tensors.add("x", [1.0])
    with pytest.raises(ValueError, match="'x'.*set"):
        made.tensors.add("x", [1.0])
    for call in (made.tensors.remove, made.metadata.remove, made.metadata.type, made.tensors.__getitem__):
        with pytest.raises(KeyError):
            call("nothing")


# Files


def test_files_that_are_not_gguf(tmp_path: Path) -> None:
    for data in (b"", b"GGUF", b"not a file of this kind" * 9):
        (tmp_path / "x").write_bytes(data)
        with pytest.raises(NativeError, match=r"x cannot be read as a GGUF file"):
            Gguf.open(tmp_path / "x")
    with pytest.raises(FileNotFoundError):
        Gguf.open(tmp_path / "nothing")
    with pytest.raises(IsADirectoryError):
        Gguf.open(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="FIFO"):
        Gguf.open(tmp_path / "fifo")


def test_an_incomplete_file(every_type: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.gguf").write_bytes(every_type.read_bytes()[:-200])
    with pytest.raises(NativeError, match=r"incomplete.*tensor \w+ ends \d+ bytes"):
        Gguf.open(tmp_path / "cut.gguf")


def test_a_file_that_is_truncated_while_it_is_open(every_type: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(every_type.read_bytes())
    with Gguf.open(path) as file:
        os.truncate(path, 5000)
        for use in (
            lambda: file.tensors["BF16"].numpy(dequantize=True),
            lambda: file.tensors["F32"].numpy(),
            lambda: file.write(tmp_path / "b.gguf"),
        ):
            with pytest.raises(OSError, match="shorter.*5000"):
                use()
    assert os.listdir(tmp_path) == ["a.gguf"]


def test_a_file_is_written_over_itself(every_type: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(every_type.read_bytes())
    seen: list[float] = []
    with Gguf.open(path) as file:
        view = file.tensors["F32"].numpy()
        file.metadata["new"] = "x" * 10_000
        file.write(path, seen.append)
        assert np.array_equal(view, ROWS), "the mapping is of the file that was opened"
        file.write(path)
    with Gguf.open(path) as file:
        assert file.metadata["new"] == "x" * 10_000 and np.array_equal(file.tensors["F32"].numpy(), ROWS)
    assert seen == sorted(seen) and seen[-1] == 1.0


def test_an_exception_in_progress_leaves_the_old_file(every_type: Path, tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"old")

    def stop(done: float) -> None:
        raise RuntimeError("stop")

    with Gguf.open(every_type) as file, pytest.raises(RuntimeError, match="stop"):
        file.write(tmp_path / "a.gguf", stop)
    assert (tmp_path / "a.gguf").read_bytes() == b"old" and os.listdir(tmp_path) == ["a.gguf"]


def test_shown(every_type: Path) -> None:
    assert repr(Gguf()) == "<Gguf without a file: 0 keys, 0 tensors>"
    with Gguf.open(every_type) as file:
        assert repr(file) == f"<Gguf {every_type}: 1 keys, {len(WRITABLE)} tensors>"
        assert repr(file.tensors["Q4_K"]) == "<GgufTensor Q4_K: Q4_K 2x3x512>"
        assert (repr(file.metadata), repr(file.tensors)) == (
            "<GgufMetadata of 1 keys>",
            f"<GgufTensors: {len(WRITABLE)}>",
        )
        assert (file.path, file.version, file.closed, Gguf().path) == (str(every_type), 3, False, None)
    assert repr(file).endswith("(closed)>")
