"""`import llama_cpp` after `install()`, and `python -m llama_cffi.compat`; each in a new interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from llama_cffi import UnavailableError
from llama_cffi._generated.names import FUNCTIONS
from llama_cffi.compat import Llama
from tests.cli.commands import environment
from tests.cli.fake_hub import FakeHub

ROOT = Path(__file__).resolve().parents[2]


def _run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment(PYTHONPATH=str(ROOT), **more),
        capture_output=True,
        text=True,
        timeout=120,
    )


def _installed(code: str) -> str:
    """Run code after `install()`, and return what it prints."""
    result = _run("-c", f"from llama_cffi.compat import install\ninstall()\n{code}")
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_the_names_that_programs_import() -> None:
    code = """
import llama_cpp, llama_cpp.llama_chat_format, llama_cpp.llama_cpp as low
from llama_cpp import Llama, LlamaGrammar, LlamaState, LlamaRAMCache, LlamaCache, LogitsProcessorList, \\
    StoppingCriteriaList, LogitsProcessor, StoppingCriteria, ChatCompletionTool, ChatCompletionMessageToolCall, \\
    CreateChatCompletionResponse, llama_chat_format
from llama_cpp.llama import Llama as Same, LogitsProcessorList, StoppingCriteriaList, LlamaGrammar
from llama_cpp.llama_cache import LlamaRAMCache
from llama_cpp.llama_chat_format import Llava15ChatHandler, Jinja2ChatFormatter, register_chat_format
from llama_cpp.llama_grammar import LlamaGrammar as Grammar, JSON_GBNF, JSON_ARR_GBNF, json_schema_to_gbnf
from llama_cpp.llama_tokenizer import LlamaTokenizer, LlamaHFTokenizer, BaseLlamaTokenizer
from llama_cpp.llama_types import ChatCompletionRequestMessage, CreateCompletionResponse
from llama_cffi import compat
assert Llama is Same is compat.Llama and Grammar is LlamaGrammar
assert ChatCompletionTool(type="function") == {"type": "function"}
assert low.LLAMA_POOLING_TYPE_MEAN == llama_cpp.LLAMA_POOLING_TYPE_MEAN == 1
assert llama_cpp.LLAMA_SPLIT_MODE_NONE == 0 and llama_cpp.GGML_TYPE_Q8_0 == 8
names = {}
exec("from llama_cpp import *", names)
assert names["Llama"] is Llama and "install" not in names and "Any" not in names
print(llama_cpp.__version__)
"""
    assert _installed(code) == "0.3.36"


def test_installing_twice_is_harmless_and_too_late_is_an_error() -> None:
    assert _installed("install()\nimport llama_cpp\ninstall()\nprint(llama_cpp.Llama.__name__)") == "Llama"
    result = _run(
        "-c",
        "import sys, types\nsys.modules['llama_cpp'] = types.ModuleType('llama_cpp')\n"
        "from llama_cffi.compat import install\ninstall()",
    )
    assert result.returncode == 1 and "RuntimeError" in result.stderr and "before the first import" in result.stderr


# Statement -> the exception, and words of its message.
MISSING = {
    "llama_cpp.llama_backend_init()": ["AttributeError", "llama_cpp.llama_backend_init", "backendInit", "lib."],
    "from llama_cpp import llama_decode": ["ImportError", "llama_decode", "Context.decode"],
    "from llama_cpp.llama_cpp import ggml_abs": ["ImportError", "Ggml.Context.abs", "lib.ggml_abs"],
    "from llama_cpp.llama_cpp import ggml_backend_unload": ["ImportError", "use llama_cffi.lib.ggml_backend_unload"],
    "llama_cpp.Llamas": ["AttributeError", "Llamas"],
    "import llama_cpp.server.app": ["ModuleNotFoundError", "llama_cpp.server", "llama_cffi serve"],
    "import llama_cpp.mtmd_cpp": ["ModuleNotFoundError", "mtmd_cpp", "images"],
    "from llama_cpp.llama_chat_format import Llava15ChatHandler as H; H('x')": [
        "UnavailableError",
        "Llava15ChatHandler",
    ],
    "llama_cpp.llama_chat_format.format_chatml": ["AttributeError", "format_chatml", "ChatTemplate"],
}


def test_what_is_not_there_names_ours() -> None:
    code = f"""
import json, llama_cpp
found = []
for statement in {list(MISSING)!r}:
    try:
        exec(statement)
    except Exception as error:
        found.append(f"{{type(error).__name__}}: {{error}}")
    else:
        found.append("nothing")
print(json.dumps(found))
"""
    for message, words in zip(json.loads(_installed(code)), MISSING.values(), strict=True):
        assert all(word in message for word in words), message


def test_every_function_of_c_raises_with_a_name() -> None:
    code = """
import llama_cpp
from llama_cffi import UnavailableError
from llama_cffi._generated.names import FUNCTIONS
from llama_cffi.compat import Llama
import llama_cffi
from operator import attrgetter

def is_there(path):
    try:
        return attrgetter(path)(llama_cffi) is not None
    except AttributeError:
        return False

named = 0
for name, ours in FUNCTIONS.items():
    try:
        getattr(llama_cpp, name)
    except AttributeError as error:
        assert (f"use {ours} of llama_cffi" in str(error)) == is_there(ours), name
        assert f"llama_cffi.lib.{name}" in str(error), name
        named += is_there(ours)
    else:
        raise AssertionError(name)
print(len(FUNCTIONS), named)
"""
    count, named = map(int, _installed(code).split())
    assert count == len(FUNCTIONS) > 500 and named > 400


SCRIPT = """\
import sys
from llama_cpp import Llama
import helper
llm = Llama(model_path=sys.argv[1], n_ctx=256, verbose=False)
print(__name__, helper.NAME, llm("Once", max_tokens=2)["usage"]["completion_tokens"], sys.argv[2:])
"""


def test_a_script_runs_unchanged(tiny_path: Path, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "helper.py").write_text("NAME = 'helped'\n")
    script = str(tmp_path / "script.py")
    result = _run("-m", "llama_cffi.compat", script, str(tiny_path), "--flag", "x")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "__main__ helped 2 ['--flag', 'x']"
    by_name = subprocess.run(
        [sys.executable, "-m", "llama_cffi.compat", "-m", "script", str(tiny_path)],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert by_name.stdout.strip() == "__main__ helped 2 []", by_name.stderr


def test_the_exit_status_and_the_traceback_are_the_scripts(tmp_path: Path) -> None:
    (tmp_path / "leave.py").write_text("raise SystemExit(7)\n")
    assert _run("-m", "llama_cffi.compat", str(tmp_path / "leave.py")).returncode == 7
    (tmp_path / "fail.py").write_text("import llama_cpp\nllama_cpp.llama_free\n")
    failed = _run("-m", "llama_cffi.compat", str(tmp_path / "fail.py"))
    assert failed.returncode == 1 and "fail.py" in failed.stderr and "llama_free" in failed.stderr


def test_usage() -> None:
    assert _run("-m", "llama_cffi.compat").returncode == 2
    asked = _run("-m", "llama_cffi.compat", "--help")
    assert asked.returncode == 0 and "SCRIPT" in asked.stdout
    missing = _run("-m", "llama_cffi.compat", "no-such-script.py")
    assert missing.returncode == 2 and "no-such-script.py" in missing.stderr


@pytest.mark.parametrize(
    ("filename", "words", "where"),
    [
        ("tiny-Q8_0.gguf", "", ""),
        ("*Q8_0.gguf", "", ""),
        ("*Q8_0.gguf", "", "local_dir"),
        ("tiny-Q8_0.gguf", "", "cache_dir"),
        ("*.gguf", "2 files", ""),
        ("*Q2_K.gguf", "no file", ""),
    ],
)
def test_from_pretrained(filename: str, words: str, where: str, tiny_path: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom llama_cffi.compat import Llama\n"
        f"where = {{{where!r}: sys.argv[1]}} if {where!r} else {{}}\n"
        f"llm = Llama.from_pretrained('org/tiny', {filename!r}, n_ctx=256, verbose=False, **where)\n"
        "print(llm.model_path, llm.n_vocab())"
    )
    data = tiny_path.read_bytes()
    with FakeHub({"tiny-Q8_0.gguf": data, "tiny-F16.gguf": data}, "org/tiny") as hub:
        folder = tmp_path / "here"
        result = _run("-c", code, str(folder), HF_ENDPOINT=hub.endpoint, HF_HOME=str(tmp_path / "home"))
    if words:
        assert result.returncode == 1 and "ValueError" in result.stderr and words in result.stderr
        assert "tiny-Q8_0.gguf" in result.stderr
        return
    assert result.returncode == 0, result.stderr
    path, n_vocab = result.stdout.split()
    assert path.endswith("tiny-Q8_0.gguf") and n_vocab == "32000"
    assert Path(path).is_relative_to(folder if where else tmp_path / "home")


def test_an_attribute_that_is_not_supported_is_not_there(llama: Llama) -> None:
    """`hasattr`, `getattr` with a default and tools that look at every attribute do not fail."""
    for name in ("ctx", "model"):
        assert not hasattr(llama, name) and getattr(llama, name, 7) == 7
        with pytest.raises(UnavailableError, match="llama_cffi.lib"):
            getattr(llama, name)


@pytest.mark.parametrize("where", ["", ", local_dir='.'", ", cache_dir='.'"])
@pytest.mark.parametrize("filename", ["tiny.gguf", "*.gguf"])
def test_a_hub_that_cannot_be_reached(filename: str, where: str, tmp_path: Path) -> None:
    code = f"""
from llama_cffi import ModelLoadError
from llama_cpp import Llama
from huggingface_hub import HfApi, hf_hub_download
import huggingface_hub, httpx
def refuse(*_, **__): raise httpx.ConnectError("no route")
HfApi.list_repo_files = huggingface_hub.hf_hub_download = refuse
try:
    Llama.from_pretrained("org/tiny", {filename!r}{where})
except ModelLoadError as error:
    assert isinstance(error, OSError) and "org/tiny/{filename}" in str(error) and "no route" in str(error)
    print("ok")
"""
    assert _installed(code) == "ok"
