"""Models from the Hugging Face Hub: the real huggingface_hub client against a server on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gguf
import pytest

from llama_cffi import Model
from llama_cffi.model.hub import HubFile, local_path, parse
from tests.cli.fake_hub import COMMIT, GATED, REPO, FakeHub

ROOT = Path(__file__).resolve().parents[2]
SPLITS = [f"split/tiny-0000{n}-of-00003.gguf" for n in (1, 2, 3)]


def split_model(source: Path, folder: Path) -> list[Path]:
    """Write the model as three files, as llama.cpp's split tool does."""
    reader = gguf.GGUFReader(source)
    tensors = reader.tensors
    third = len(tensors) // 3 + 1
    paths = []
    for number in range(3):
        path = folder / Path(SPLITS[number]).name
        writer = gguf.GGUFWriter(path, "llama")
        if number == 0:
            for field in reader.fields.values():
                if field.name.startswith("GGUF.") or field.name == "general.architecture":
                    continue
                kind = field.types[0]
                inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
                writer.add_key_value(field.name, field.contents(), kind, inner)
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", 3)
        writer.add_int32("split.tensors.count", len(tensors))
        for tensor in tensors[number * third : (number + 1) * third]:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        paths.append(path)
    return paths


@pytest.fixture(scope="module")
def hub(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHub]:
    files = {"tiny.gguf": tiny_path.read_bytes(), "deep/er/tiny.gguf": tiny_path.read_bytes(), "README.md": b"# tiny"}
    for name, path in zip(SPLITS, split_model(tiny_path, tmp_path_factory.mktemp("split")), strict=True):
        files[name] = path.read_bytes()
    with FakeHub(files) as server:
        yield server


@pytest.fixture
def load(hub: FakeHub, tmp_path: Path):  # type: ignore[no-untyped-def]
    """A function that loads a model in a new interpreter with an empty cache, and returns what it printed."""

    def run(name: str, before: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        code = (
            f"{before}\nfrom llama_cffi import Model\n"
            "try:\n    with Model.load(sys.argv[1]) as model: print(model.desc(), model.nParams)\n"
            "except Exception as error: print(type(error).__name__, error, sep=': ')\n"
        )
        hub.requests.clear()
        variables = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path), **environment}
        for unwanted in ("HF_HUB_CACHE", "HF_TOKEN", "GGML_USE_VULKAN"):
            variables.pop(unwanted, None)
        command = [sys.executable, "-c", f"import sys\n{code}", name]
        return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=120)

    return run


def cached(home: Path, repo: str, files: dict[str, bytes]) -> None:
    """Fill a cache in the layout of huggingface_hub."""
    top = home / "hub" / ("models--" + repo.replace("/", "--"))
    (top / "refs").mkdir(parents=True)
    (top / "refs" / "main").write_text(COMMIT)
    for number, (name, data) in enumerate(files.items()):
        blob = top / "blobs" / f"{number:064}"
        blob.parent.mkdir(exist_ok=True)
        blob.write_bytes(data)
        link = top / "snapshots" / COMMIT / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))


def test_a_name_is_taken_apart() -> None:
    assert parse("hf:o/r/f.gguf") == HubFile("o/r", None, "f.gguf")
    assert parse("hf:o-1/r.2_x/a/b/f.gguf") == HubFile("o-1/r.2_x", None, "a/b/f.gguf")
    assert parse("hf:o/r@v1.0/a/f.gguf") == HubFile("o/r", "v1.0", "a/f.gguf")
    assert parse("hf:o/r@refs%2Fpr%2F1/f.gguf").revision == "refs/pr/1"
    assert local_path("./hf:o/r/f.gguf") == "./hf:o/r/f.gguf"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("hf:", "hf:ORG/REPO/FILE.gguf"),
        ("hf:f.gguf", "hf:ORG/REPO/FILE.gguf"),
        ("hf://o/r/f.gguf", "hf:ORG/REPO/FILE.gguf"),
        ("hf:o/../f.gguf", "hf:ORG/REPO/FILE.gguf"),
        ("hf:o/r/../f.gguf", "hf:ORG/REPO/FILE.gguf"),
        ("hf:o/r//f.gguf", "hf:ORG/REPO/FILE.gguf"),
        ("hf:o/r/f.bin", "hf:ORG/REPO/FILE.gguf"),
        ("hf:o/r/f.gguf@main", "revision"),
        ("hf:o/r/m-00002-of-00003.gguf", "m-00001-of-00003.gguf"),
    ],
)
def test_a_malformed_name(name: str, says: str) -> None:
    with pytest.raises(ValueError) as raised:
        Model.load(name)
    assert name in str(raised.value) and says in str(raised.value)


def test_a_file_is_fetched_once(hub: FakeHub, load, tiny: Model) -> None:  # type: ignore[no-untyped-def]
    name, expected = f"hf:{REPO}/tiny.gguf", f"{tiny.desc()} {tiny.nParams}\n"
    assert load(name).stdout == expected
    assert hub.bodies == ["tiny.gguf"]
    assert load(name).stdout == expected
    assert hub.bodies == [] and hub.requests  # it asks whether the file changed
    assert load(name, HF_HUB_OFFLINE="1").stdout == expected
    assert hub.requests == []


def test_folders_and_revisions(hub: FakeHub, load) -> None:  # type: ignore[no-untyped-def]
    assert "llama" in load(f"hf:{REPO}@v1/deep/er/tiny.gguf").stdout
    assert f"HEAD /{REPO}/resolve/v1/deep/er/tiny.gguf" in hub.requests


def test_all_parts_of_a_split_model(hub: FakeHub, load, tiny: Model) -> None:  # type: ignore[no-untyped-def]
    assert load(f"hf:{REPO}/{SPLITS[0]}").stdout == f"{tiny.desc()} {tiny.nParams}\n"
    assert sorted(hub.bodies) == SPLITS


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (f"hf:{REPO}/tinny.gguf", [REPO, " tinny.gguf", "deep/er/tiny.gguf", SPLITS[0], " tiny.gguf"]),
        (f"hf:{REPO}@v2/tiny.gguf", [REPO, "commit v2"]),
        ("hf:acme/none-GGUF/tiny.gguf", ["acme/none-GGUF", "private"]),
        (f"hf:{GATED}/tiny.gguf", [GATED, "terms", "HF_TOKEN"]),
    ],
)
def test_what_is_not_there(load, name: str, words: list[str]) -> None:  # type: ignore[no-untyped-def]
    out = load(name).stdout
    assert out.startswith("ModelLoadError: ") and [word for word in words if word not in out] == []
    assert "README.md" not in out


def test_a_repository_without_a_file(load) -> None:  # type: ignore[no-untyped-def]
    out = load(f"hf:{REPO}").stdout
    assert out.startswith("ValueError: ") and "deep/er/tiny.gguf, " in out


def test_a_cache_that_was_filled_elsewhere(load, tmp_path: Path, tiny: Model, tiny_path: Path) -> None:  # type: ignore[no-untyped-def]
    cached(tmp_path, REPO, {"sub/tiny.gguf": tiny_path.read_bytes()})
    assert load(f"hf:{REPO}/sub/tiny.gguf", HF_HUB_OFFLINE="1").stdout.startswith(tiny.desc())
    out = load(f"hf:{REPO}/other.gguf", HF_HUB_OFFLINE="1").stdout
    assert out.startswith("ModelLoadError: ") and "HF_HUB_OFFLINE=1" in out and "sub/tiny.gguf" in out


def test_a_part_that_is_not_in_the_cache(load, hub: FakeHub, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    cached(tmp_path, REPO, {name: hub.files[name] for name in SPLITS[:2]})
    out = load(f"hf:{REPO}/{SPLITS[0]}", HF_HUB_OFFLINE="1").stdout
    assert out.startswith(f"ModelLoadError: hf:{REPO}/{SPLITS[2]} ")


def test_a_repository_that_cannot_be_listed(load) -> None:  # type: ignore[no-untyped-def]
    before = "import huggingface_hub.utils._http as http, time; time.sleep = lambda seconds: None"
    out = load(f"hf:{REPO}", before, HF_ENDPOINT="http://127.0.0.1:9").stdout
    assert out.startswith("ValueError: ") and "could not be listed (" in out and out.count("\n") == 1


def test_without_a_connection(load) -> None:  # type: ignore[no-untyped-def]
    before = "import huggingface_hub.utils._http as http, time; time.sleep = lambda seconds: None"
    out = load(f"hf:{REPO}/tiny.gguf", before, HF_ENDPOINT="http://127.0.0.1:9").stdout
    assert out.startswith("ModelLoadError: ") and "http://127.0.0.1:9 " in out


def test_without_huggingface_hub(load) -> None:  # type: ignore[no-untyped-def]
    out = load(f"hf:{REPO}/tiny.gguf", "import sys; sys.modules['huggingface_hub'] = None").stdout
    assert out.startswith("ImportError: ") and "pip install huggingface_hub" in out
