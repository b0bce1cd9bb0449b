"""`llama-cffi gguf` and `llama-cffi quantize`."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llama_cffi import Ggml, Model, NativeError, __main__
from llama_cffi.cli import quantize
from tests import tiny_models

Captured = pytest.CaptureFixture[str]
Gguf, Type, MetaType = Ggml.Gguf, Ggml.Type, Ggml.GgufType
TARGETS = {"n_layer": 1, "n_embd": 256, "n_head": 2, "n_ff": 256, "n_ctx_train": 64, "quant": "F32"}


@pytest.fixture(scope="module")
def f32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quantize") / "f32.gguf"
    return tiny_models.write_t5(path, replace(tiny_models.T5, **TARGETS))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = Gguf()
    made.metadata["general.architecture"] = "none"
    made.metadata["general.name"] = "before"
    made.metadata.set("small", 5, MetaType.UINT8)
    made.metadata["list"] = list(range(20))
    made.metadata["tokenizer.chat_template"] = "{{ messages }}"
    for i in range(5):
        made.tensors.add(f"blk.{i}.weight", np.full((4, 32), i, np.float32), Type.Q8_0 if i % 2 else None)
    made.write(tmp_path / "a.gguf")
    return tmp_path / "a.gguf"


def main(capsys: Captured, *arguments: object) -> tuple[int, str, str]:
    status = __main__.main(list(map(str, arguments)))
    out, err = capsys.readouterr()
    return status, out, err


def test_show(capsys: Captured, path: Path) -> None:
    status, out, err = main(capsys, "gguf", "show", path)
    assert (status, err) == (0, "")
    for line in (
        r"version +3",
        r"alignment +32",
        r"numbers +640",
        r"Metadata \(5\)",
        r"small +uint8 +5",
        r"list +int32\[\] +20 of int32: 0, 1, 2, 3, 4, 5, 6, 7, \.\.\.",
        r"Tensors \(5\)",
        r"F32 +3 +1\.5 KiB",
        r"Q8_0 +2 +272 B",
    ):
        assert re.search(rf"^ *{line}$", out, re.MULTILINE), (line, out)
    _, out, _ = main(capsys, "gguf", "show", path, "--tensors")
    with Gguf.open(path) as file:
        offset = file.tensors["blk.1.weight"].offset
    assert re.search(rf"blk\.1\.weight +Q8_0 +32 x 4 +136 B +{offset}$", out, re.MULTILINE)
    assert main(capsys, "gguf", "show", path, "general.name", "list")[1] == f"before\n{json.dumps(list(range(20)))}\n"


def test_show_as_json(capsys: Captured, path: Path) -> None:
    document = json.loads(main(capsys, "gguf", "show", path, "--json")[1])
    assert document["metadata"]["list"] == {"type": "int32[]", "value": list(range(20))}
    assert document["tensors"][1]["shape"] == [4, 32] and document["tensors"][1]["type"] == "Q8_0"
    assert json.loads(main(capsys, "gguf", "show", path, "small", "--json")[1]) == 5


@pytest.mark.parametrize(
    ("key", "word", "more", "value", "kind", "item"),
    [
        ("general.name", "after", [], "after", "STRING", None),
        ("general.name", "5", [], "5", "STRING", None),
        ("small", "200", [], 200, "UINT8", None),
        ("small", "300", [], 300, "UINT32", None),
        ("new", "5", [], 5, "UINT32", None),
        ("new", "-5", [], -5, "INT32", None),
        ("new", "5", ["--type", "float32"], 5.0, "FLOAT32", None),
        ("new", "5", ["--type", "string"], "5", "STRING", None),
        ("new", "true", [], True, "BOOL", None),
        ("new", "[1, 2]", [], [1, 2], "ARRAY", "INT32"),
        ("new", "[1, 2]", ["--type", "uint64"], [1, 2], "ARRAY", "UINT64"),
        ("new", '["a", "b"]', ["--type", "string"], ["a", "b"], "ARRAY", "STRING"),
        ("new", "[]", ["--type", "int8"], [], "ARRAY", "INT8"),
        ("new", "{not json", [], "{not json", "STRING", None),
        ("list", "[1.5]", [], [1.5], "ARRAY", "FLOAT32"),
    ],
)
def test_set(
    capsys: Captured, path: Path, key: str, word: str, more: list[str], value: object, kind: str, item: str | None
) -> None:
    status, out, err = main(capsys, "gguf", "set", path, key, word, *more)
    assert (status, out) == (0, "") and err.startswith(f"{key} = ")
    with Gguf.open(path) as file:
        assert file.metadata[key] == value and type(file.metadata[key]) is type(value)
        assert file.metadata.type(key).name == kind
        assert item == getattr(file.metadata.itemType(key), "name", None)
        assert file.tensors["blk.3.weight"].numpy(dequantize=True).max() == pytest.approx(3, rel=0.01)


def test_set_into_another_file(capsys: Captured, path: Path) -> None:
    before, out = path.read_bytes(), path.with_name("out.gguf")
    assert main(capsys, "gguf", "set", path, "general.name", "x", "-o", out)[0] == 0
    assert path.read_bytes() == before
    with Gguf.open(out) as file:
        assert file.metadata["general.name"] == "x"


def test_remove(capsys: Captured, path: Path) -> None:
    assert main(capsys, "gguf", "remove", path, "small", "list") == (0, "", "")
    assert main(capsys, "gguf", "remove", path, "blk.0.weight", "--tensor") == (0, "", "")
    with Gguf.open(path) as file:
        assert list(file.metadata) == ["general.architecture", "general.name", "tokenizer.chat_template"]
        assert list(file.tensors) == [f"blk.{i}.weight" for i in range(1, 5)]
    before = path.read_bytes()
    status, out, err = main(capsys, "gguf", "remove", path, "general.name", "general.nam")
    assert (status, out, path.read_bytes()) == (1, "", before) and "did you mean general.name?" in err
    assert "blk.1.weight" in main(capsys, "gguf", "remove", path, "blk.1.weigh", "--tensor")[2]


def test_copy(capsys: Captured, path: Path) -> None:
    target = path.with_name("b.gguf")
    assert main(capsys, "gguf", "copy", path, target) == (0, "", "")
    assert target.read_bytes() == path.read_bytes()
    main(capsys, "gguf", "remove", target, "small", "list")
    assert main(capsys, "gguf", "copy", path, target, "small", "list") == (0, "", "")
    with Gguf.open(target) as file:
        assert (file.metadata["list"], file.metadata.type("small")) == (list(range(20)), MetaType.UINT8)
    assert main(capsys, "gguf", "copy", path, target, "nothing")[0] == 1


def test_diff(capsys: Captured, path: Path) -> None:
    other = path.with_name("b.gguf")
    main(capsys, "gguf", "copy", path, other)
    assert main(capsys, "gguf", "diff", path, other) == (0, "", "")
    with Gguf.open(path) as file:
        file.metadata["general.name"] = "after"
        file.metadata.set("small", 5, MetaType.INT8)
        file.metadata["list"] = [*range(19), 99]
        del file.metadata["tokenizer.chat_template"]
        file.metadata["new"] = 1
        del file.tensors["blk.0.weight"]
        file.tensors.add("more", [1.0])
        file.tensors["blk.1.weight"] = np.ones((4, 32), np.float32)
        file.tensors["blk.2.weight"] = np.full((4, 32), 9, np.float32)
        file.write(other)
    status, out, err = main(capsys, "gguf", "diff", path, other)
    assert (status, err) == (1, "")
    for line in (
        r"metadata +general\.name +before \(string\) -> after \(string\)",
        r"metadata +small +5 \(uint8\) -> 5 \(int8\)",
        r"metadata +list +later items of the list differ",
        r"metadata +tokenizer\.chat_template +only in the first: .*",
        r"metadata +new +only in the second: 1 \(uint32\)",
        r"tensor +blk\.0\.weight +only in the first",
        r"tensor +more +only in the second",
        r"tensor +blk\.1\.weight +Q8_0 32 x 4 -> F32 32 x 4",
        r"tensor +blk\.2\.weight +the data differ",
    ):
        assert re.search(rf"^ *{line}$", out, re.MULTILINE), (line, out)
    assert len(out.splitlines()) == 9 == len(json.loads(main(capsys, "gguf", "diff", path, other, "--json")[1]))


@pytest.mark.parametrize(
    ("more", "parts"), [((), [5]), (("--max-tensors", 2), [2, 2, 1]), (("--max-size", "1K"), [2, 2, 1]),
                        (("--max-size", "100"), [1] * 5), (("--max-tensors", 2, "--max-size", "700"), [2, 2, 1])]
)  # fmt: skip
def test_split_and_merge(capsys: Captured, path: Path, more: tuple[object, ...], parts: list[int]) -> None:
    prefix, out = path.with_name("part"), path.with_name("merged.gguf")
    status, text, err = main(capsys, "gguf", "split", path, prefix, *more)
    names = [f"{prefix}-{i + 1:05}-of-{len(parts):05}.gguf" for i in range(len(parts))]
    assert (status, err, text.splitlines()) == (0, "", names)
    for number, (name, count) in enumerate(zip(names, parts, strict=True)):
        with Gguf.open(name) as file:
            assert len(file.tensors) == count and file.metadata["split.no"] == number
            assert (file.metadata["split.count"], file.metadata["split.tensors.count"]) == (len(parts), 5)
            kinds = [file.metadata.type(key).name for key in ("split.no", "split.count", "split.tensors.count")]
            assert kinds == ["UINT16", "UINT16", "INT32"] and ("list" in file.metadata) == (number == 0)
    assert main(capsys, "gguf", "merge", names[0], out)[0] == 0
    assert out.read_bytes() == path.read_bytes()
    assert "exists" in main(capsys, "gguf", "merge", names[0], out)[2]
    if len(names) > 1:
        out.unlink()
        assert "first file of a split model" in main(capsys, "gguf", "merge", names[1], out)[2]
        os.remove(names[1])
        assert main(capsys, "gguf", "merge", names[0], out)[0] == 1 and not out.exists()


def test_a_model_that_was_split_loads(capsys: Captured, tmp_path: Path, tiny_path: Path) -> None:
    main(capsys, "gguf", "split", tiny_path, tmp_path / "tiny.gguf", "--max-tensors", 9)
    with Model.load(sorted(tmp_path.iterdir())[0]) as parts, Model.load(tiny_path) as whole:
        assert (parts.size, parts.nParams) == (whole.size, whole.nParams)


def test_parts_that_do_not_belong_together(tmp_path: Path, path: Path) -> None:
    with Gguf.open(path) as file:
        names = file.split(tmp_path / "p", maxTensors=3)
        first, second = (Path(name).read_bytes() for name in names)
        for key, value, words in (("split.no", 0, "split.no"), ("split.count", 3, "split.count")):
            with Gguf.open(names[1]) as part:
                part.metadata[key] = value
                part.write(names[1])
            with pytest.raises(ValueError, match=rf"file 2 of 2.*{words}"):
                Gguf.merge(names[0])
            Path(names[1]).write_bytes(second)
        with Gguf.open(names[1]) as part:
            part.tensors["blk.0.weight"] = part.tensors["blk.4.weight"]
            part.write(names[1])
        with pytest.raises(ValueError, match=r"blk\.0\.weight.*another file"):
            Gguf.merge(names[0])
        with Gguf.open(names[1]) as part:
            del part.tensors["blk.0.weight"], part.tensors["blk.4.weight"]
            part.write(names[1])
        with pytest.raises(ValueError, match=r"5 tensors.*got 4"):
            Gguf.merge(names[0])
        assert Path(names[0]).read_bytes() == first
        for wrong in ({"maxTensors": 0}, {"maxSize": 0}, {"maxTensors": 1 << 64}):
            with pytest.raises(ValueError, match=r"max\w+ must be between 1"):
                file.split(tmp_path / "q", **wrong)
        with pytest.raises(ValueError, match="first file of a split model"):
            Gguf.merge(path)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["gguf"], 2, "ACTION"),
        (["gguf", "sho", "x"], 2, "did you mean show"),
        (["gguf", "set", "x", "key"], 2, "FILE KEY VALUE.*2"),
        (["gguf", "diff", "a", "b", "c"], 2, "FILE FILE.*3"),
        (["gguf", "show"], 2, r"FILE \[KEY"),
        (["gguf", "show", "nothing.gguf"], 1, "nothing.gguf"),
        (["gguf", "split", "PATH", "x", "--max-size", "2X"], 2, "500M or 2G.*'2X'"),
        (["gguf", "set", "PATH", "x", "300", "--type", "uint8"], 1, "0 and 255.*300"),
        (["gguf", "set", "PATH", "x", "5", "--type", "uint"], 2, "uint"),
        (["gguf", "show", "PATH", "general.nam"], 1, "did you mean general.name"),
        (["quantize", "a", "b", "q4_k"], 2, "FORMAT"),
        (["quantize", "PATH", "b", "q4_k_m", "--tensor-type", "q8_0"], 2, "REGEX=TYPE.*q8_0"),
        (["quantize", "PATH", "b", "q4_k_m", "--prune-layers", "a"], 2, "3,7.*'a'"),
        (["quantize", "PATH", "b", "q4_k_m", "--imatrix", "PATH"], 1, "importance matrix.*llama-imatrix"),
        (["quantize", "nothing.gguf", "b", "q4_k_m"], 1, "nothing.gguf"),
    ],
)
def test_wrong(capsys: Captured, path: Path, arguments: list[str], status: int, words: str) -> None:
    before = path.read_bytes()
    found, out, err = main(capsys, *[path if word == "PATH" else word for word in arguments])
    assert (found, out) == (status, "")
    assert err.startswith("error: ") and re.search(words, err)
    assert path.read_bytes() == before


# quantize


def test_quantize(capsys: Captured, f32: Path, tmp_path: Path) -> None:
    out = tmp_path / "q4.gguf"
    status, text, err = main(
        capsys, "quantize", f32, out, "q4_0", "-t", 1, "--pure", "--tensor-type", "attn_k=q8_0", "--output-type", "q6_k"
    )
    assert (status, err) == (0, "") and re.search(r"model size = [\d.]+ MiB.*\nquant size = [\d.]+ MiB", text)
    with Gguf.open(out) as file:
        kinds = {name: tensor.type for name, tensor in file.tensors.items()}
    assert kinds["enc.blk.0.attn_q.weight"] == Type.Q4_0 and kinds["enc.blk.0.attn_k.weight"] == Type.Q8_0
    assert main(capsys, "quantize", f32, tmp_path / "no.gguf", "q8_0", "--dry-run", "-q") == (0, "", "")
    assert os.listdir(tmp_path) == ["q4.gguf"]
    assert "requantizing" in (said := main(capsys, "quantize", out, tmp_path / "no.gguf", "q4_1", "-t", 1)[2])
    assert "F16 file, or pass --allow-requantize" in said and "allowRequantize" not in said
    with pytest.raises(NativeError, match="F16 file, or pass allowRequantize=True"):
        Model.quantize(out, tmp_path / "no.gguf", Model.QuantizeParams(nthread=1))
    upper = ("Q4_0", "-q", "--dry-run", "--output-type", "Q6_K", "--embedding-type", "Q8_0")
    assert main(capsys, "quantize", f32, tmp_path / "no.gguf", *upper) == (0, "", "")
    assert main(capsys, "quantize", out, tmp_path / "r.gguf", "q4_1", "--allow-requantize", "-t", 1)[0] == 0


def imatrix(f32: Path, path: Path) -> dict[str, np.ndarray]:
    """Write an importance matrix as llama-imatrix does, for every matrix of a model; return its weights."""
    made, weights = Gguf(), {}
    made.metadata["general.type"] = "imatrix"
    made.metadata["imatrix.datasets"] = ["text"]
    rng = np.random.default_rng(1)
    with Gguf.open(f32) as file:
        for name, tensor in file.tensors.items():
            if len(tensor.ne) == 2:
                sums, count = rng.random((1, tensor.ne[0]), np.float32) * 50, 7.0
                made.tensors.add(f"{name}.in_sum2", sums)
                made.tensors.add(f"{name}.counts", np.full((1, 1), count, np.float32))
                weights[name] = (sums / np.float32(count)).ravel()
    made.write(path)
    return weights


def test_quantize_with_an_importance_matrix(capsys: Captured, f32: Path, tmp_path: Path) -> None:
    weights = imatrix(f32, tmp_path / "imatrix.gguf")
    params = Model.QuantizeParams(imatrix=tmp_path / "imatrix.gguf")
    assert params.imatrix is not None and params.imatrix.keys() == weights.keys()
    assert all(np.array_equal(params.imatrix[name], weights[name]) for name in weights)
    results = []
    for more in ([], ["--imatrix", tmp_path / "imatrix.gguf"]):
        assert main(capsys, "quantize", f32, tmp_path / "out.gguf", "iq4_nl", "-q", "-t", 1, *more) == (0, "", "")
        results.append((tmp_path / "out.gguf").read_bytes())
    assert results[0] != results[1]
    name = "enc.blk.0.attn_q.weight"
    with Gguf.open(tmp_path / "out.gguf") as file, Gguf.open(f32) as plain:
        ours = Gguf().tensors
        kind = file.tensors[name].type
        ours.add("x", plain.tensors[name].numpy(), kind, weights[name])
        assert kind == Type.IQ4_NL and bytes(ours["x"].data) == bytes(file.tensors[name].data)


def test_experts_that_were_never_used_count_as_one(tmp_path: Path) -> None:
    from llama_cffi.model.imatrix import read_imatrix

    made = Gguf()
    made.metadata["general.type"] = "imatrix"
    made.tensors.add("x.in_sum2", np.full((2, 3), 6, np.float32))
    made.tensors.add("x.counts", np.array([[2], [0]], np.float32))
    made.write(tmp_path / "i.gguf")
    assert read_imatrix(tmp_path / "i.gguf")["x"].tolist() == [3, 3, 3, 1, 1, 1]
    for change in (
        lambda: made.tensors.set("x.counts", np.zeros((3, 1), np.float32)),
        lambda: made.tensors.remove("x.counts"),
        lambda: made.tensors.remove("x.in_sum2"),
    ):
        change()
        made.write(tmp_path / "i.gguf")
        with pytest.raises(ValueError, match="damaged.*(counts|in_sum2)"):
            read_imatrix(tmp_path / "i.gguf")


def test_progress_of_quantize(f32: Path, tmp_path: Path) -> None:
    seen: list[float] = []
    Model.quantize(f32, tmp_path / "a.gguf", Model.QuantizeParams(nthread=1), seen.append)
    assert seen == sorted(seen) and seen[-1] == 1.0 and all(0 <= share <= 1 for share in seen)

    def stop(done: float) -> None:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        Model.quantize(f32, tmp_path / "b.gguf", Model.QuantizeParams(nthread=1), stop)
    assert os.listdir(tmp_path) == ["a.gguf"]
    with pytest.raises(TypeError, match="progress.*int"):
        Model.quantize(f32, tmp_path / "b.gguf", None, 5)  # type: ignore[arg-type]


def test_formats_and_types_of_the_command() -> None:
    assert {"f32", "f16", "bf16", "q4_k_m", "q8_0", "iq2_xxs", "tq1_0"} <= quantize.FORMATS.keys()
    assert "guessed" not in quantize.FORMATS
    assert {"q4_k", "q8_0", "f16", "iq4_nl"} <= quantize.TENSOR_TYPES.keys()
    assert not {"q8_k", "i32", "f64", "count"} & quantize.TENSOR_TYPES.keys()
