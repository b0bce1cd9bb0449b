"""Tables and messages of the how-tos are those of the package: samplers, types to quantize to, the first errors."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llama_cffi import DEFAULT_SEED, Context, Ftype, Ggml, Model, Sampler, lib
from llama_cffi._host.vulkan import NO_MODULE
from tests.cli.commands import environment
from tests.docs.test_howtos import blocks
from vendor.tools import BuildError, require

ROOT = Path(__file__).resolve().parents[2]
HOWTO = ROOT / "docs" / "howto"


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table after a heading, without its two first lines."""
    text = (HOWTO / page).read_text(encoding="utf-8").split(f"## {heading}\n", 1)[1]
    table = re.search(r"^\|.*\n\| ---.*\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert table is not None
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table[1].splitlines()]


# Samplers


def _signature(name: str) -> str:
    def shown(parameter: inspect.Parameter) -> str:
        if parameter.default is parameter.empty:
            return parameter.name
        return f"{parameter.name}={'DEFAULT_SEED' if parameter.default == DEFAULT_SEED else repr(parameter.default)}"

    function = getattr(Sampler, name)
    return f"{name}({', '.join(map(shown, inspect.signature(function).parameters.values()))})"


def test_the_table_of_samplers_is_the_class() -> None:
    makers = {
        name: found[1]
        for name in dir(Sampler)
        if (found := re.search(r"Maps to `(llama_sampler_init(?:_\w+)?)`", getattr(Sampler, name).__doc__ or ""))
    }
    assert len(makers) >= 20 and "initTopK" in makers
    found = {row[0].strip("`"): row for row in rows("sampling.md", "All samplers")}
    assert set(found) == {_signature(name) for name in makers}
    for name, c_name in makers.items():
        row = found[_signature(name)]
        assert row[1] and row[-1].strip("`| ") == c_name.removeprefix("llama_sampler_init_"), name


# Types to quantize to


def test_the_types_to_quantize_to_have_the_bits_of_the_table() -> None:
    seen = 0
    for row in rows("quantize.md", "Which type"):
        names, bits = re.findall(r"MOSTLY_\w+", row[0]), [float(number) for number in row[1].split(", ")]
        for name, each in zip(names, bits * len(names) if len(bits) == 1 else bits, strict=True):
            assert name in Ftype.__members__, name
            kind = Ggml.Type[re.sub(r"_[SML]$", "", name.removeprefix("MOSTLY_")) if "_K_" in name else name[7:]]
            assert lib.ggml_type_size(kind) * 8 / lib.ggml_blck_size(kind) == each, name
            seen += 1
    assert seen > 10


def test_the_fields_of_the_table_are_those_of_the_parameters() -> None:
    fields = [name for row in rows("quantize.md", "Parameters") for name in re.findall(r"`(\w+)`", row[0])]
    assert len(fields) > 8 and set(fields) <= set(Model.QuantizeParams._fields())


def test_the_parameters_for_gpus_exist() -> None:
    named = [name for row in rows("gpu.md", "How many layers") for name in re.findall(r"`(\w+)`", row[0])]
    model = [name for name in named if name in Model.Params._fields()]
    assert len(model) == 5 and set(named) - set(model) == {"offloadKqv"} <= set(Context.Params._fields())


# The first errors

# Prints a line for each error: its type and its message. `model.gguf` and `base.gguf` are in the working directory.
_ERRORS = """\
import os, sys, threading, time, warnings
import llama_cffi
from llama_cffi import *

def warned(message, kind, *where, **more):
    print(f"{kind.__name__}: {message}")

warnings.showwarning = warned
warnings.simplefilter("always")

def show(call):
    try:
        call()
    except BaseException as error:
        print(f"{type(error).__name__}: {error}")
    else:
        print("no error:", call)
    sys.stdout.flush()

class Missing:
    name = ""
    def find_spec(self, name, path=None, target=None):
        if name == self.name:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

missing = Missing()
sys.meta_path.insert(0, missing)

def without(name, call):
    for module in [m for m in sys.modules if m.split(".")[0] == name]:
        del sys.modules[module]
    missing.name = name
    show(call)

model = Model.load("model.gguf")
llm = LLM(model, nCtx=256)
open("page.gguf", "w").write("<html>no such file</html>")
open("cut.gguf", "wb").write(open("model.gguf", "rb").read(1 << 20))
for path in ("modle.gguf", "page.gguf", "cut.gguf", "future.gguf"):
    show(lambda: llama_cffi.load(path))
show(lambda: llama_cffi.load("org/repo"))
show(lambda: Generation(llm.context, "word " * 5000))
show(lambda: llm.complete("word " * 500))
show(lambda: llm.session().send("word " * 5000))
show(lambda: Context.initFromModel(model, Context.Params(nCtx=1 << 30)))
show(lambda: llama_cffi.load("base.gguf").chat("Hi"))

inside, leave = threading.Event(), threading.Event()
class Wait:
    def apply(self, candidates):
        inside.set()
        leave.wait(60)
        candidates.selected = 0
sampler = Sampler.init(Wait())
llm.context.decode(Batch.getOne([1]))
thread = threading.Thread(target=lambda: sampler.sample(llm.context))
thread.start()
inside.wait(60)
show(lambda: llm.context.decode(Batch.getOne([1])))
leave.set()
thread.join()

child = os.fork()
if child == 0:
    show(lambda: model.desc())
    os._exit(0)
os.waitpid(child, 0)

llm.session().send("Hello")
Ggml.Backend.available = classmethod(lambda cls: ["vulkan"])
model_2 = llama_cffi.load("model.gguf", nGpuLayers=99)

without("llguidance", lambda: llm.complete("x", responseFormat={"type": "integer"}))
without("huggingface_hub", lambda: llama_cffi.load("hf:a/b/c.gguf"))
without("starlette", lambda: __import__('llama_cffi.server').server.create_app({}))
without("numpy", lambda: llm.embed("x"))
"""

_UNBUILT = """\
import sys
sys.modules["llama_cffi._native"] = None
try:
    from llama_cffi import Model
except ImportError as error:
    print(f"ImportError: {error}")
"""


def _printed(code: str, folder: Path) -> str:
    env = environment(PYTHONPATH=str(ROOT), PYTHONIOENCODING="utf-8")
    command = [sys.executable, "-W", "ignore", "-c", code]
    result = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=180)
    assert result.returncode == 0, result.stderr
    return result.stdout


def _write_future_model(path: Path) -> None:
    import gguf

    writer = gguf.GGUFWriter(path, "future")
    writer.add_uint32("future.attention.head_count", 2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.slow
def test_the_messages_are_those_that_users_see(smol_path: Path, gemma_path: Path, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").symlink_to(smol_path)
    (tmp_path / "base.gguf").symlink_to(gemma_path)
    _write_future_model(tmp_path / "future.gguf")
    said = _printed(_ERRORS, tmp_path) + _printed(_UNBUILT, tmp_path) + f"RuntimeWarning: {NO_MODULE}\n"
    assert "no error" not in said, said
    plain: Callable[[str], str] = lambda text: re.sub(r"\d+", "N", text)  # noqa: E731
    shown = [line for _, text in blocks(HOWTO / "troubleshooting.md", "text") for line in text.splitlines()]
    assert len(shown) >= 16
    assert [line for line in shown if plain(line) not in plain(said)] == []


def test_the_messages_of_a_build() -> None:
    text = (HOWTO / "troubleshooting.md").read_text(encoding="utf-8")
    with pytest.raises(BuildError) as caught:
        require(["a-program-that-nobody-has"])
    first = str(caught.value).partition(":")[0]
    assert f"| `{first}` |" in text
    commands = (ROOT / "vendor" / "build" / "commands.py").read_text(encoding="utf-8")
    assert "| `error: Python.h is missing` |" in text and '"error: Python.h is missing:' in commands


# Deployment


def test_the_files_of_a_deployment_fit_the_command() -> None:
    from llama_cffi.cli.serve import make_parser

    page = HOWTO / "deployment.md"
    unit, container, proxy = (
        "".join(text for _, text in blocks(page, kind)) for kind in ("ini", "dockerfile", "nginx")
    )
    started = re.search(r"^ExecStart=\S+/bin/llama-cffi serve (.*)$", unit, re.MULTILINE)
    command = re.search(r'^CMD \["llama-cffi", "serve", (.*)\]$', container, re.MULTILINE)
    assert started is not None and command is not None
    args = make_parser().parse_args(started[1].split())
    assert args.shutdown_timeout < int(re.search(r"TimeoutStopSec=(\d+)", unit)[1])  # type: ignore[index]
    assert f"proxy_read_timeout {args.timeout:.0f}s;" in proxy
    assert f"client_max_body_size {args.max_body >> 20}m;" in proxy and args.max_body % (1 << 20) == 0
    assert f"http://{args.host}:{args.port};" in proxy
    inside = make_parser().parse_args(re.findall(r'"([^"]*)"', command[1]))
    assert inside.host == "0.0.0.0" and f"EXPOSE {inside.port}" in container
