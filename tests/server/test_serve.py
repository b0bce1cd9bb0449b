"""`python -m llama_cffi serve`: its options, its end by signals, and what it refuses."""

from __future__ import annotations

import json
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from tests import tiny_models
from tests.cli.commands import ROOT, environment, run
from tests.server.serving import wait_for

SECONDS = 60


class Command:
    """A server in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        wait_for(lambda: self.url or process.poll() is not None)
        assert self.url, self.lines

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)

    @property
    def url(self) -> str:
        found = re.search(r"serving .* at (\S+)", "".join(self.lines))
        return found[1] if found else ""

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        status = self.process.wait(SECONDS)
        self._reader.join(SECONDS)
        return status


@contextmanager
def command(*arguments: object, **more: str) -> Iterator[Command]:
    process = subprocess.Popen(
        [sys.executable, "-m", "llama_cffi", "serve", "--port", "0", "-t", "1", *map(str, arguments)],
        cwd=ROOT,
        env=environment(**more),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield Command(process)
    finally:
        process.kill()
        process.wait()


def test_a_server_with_several_models(tiny_path: Path, tmp_path: Path) -> None:
    tiny_models.write_lora(tmp_path / "own.gguf")
    tiny_models.write_bert(tmp_path / "bert.gguf")
    models = ("-m", f"first={tiny_path}", "--lora", f"own={tmp_path / 'own.gguf'}", "-m", tiny_path)
    with command(
        *models, "--embedding-model", tmp_path / "bert.gguf", "-c", 256, "-p", 2, "--template", "chatml", "--lookup"
    ) as made:
        with httpx.Client(base_url=made.url, timeout=SECONDS) as client:
            names = [model["id"] for model in client.get("/v1/models").json()["data"]]
            assert names == ["first", "first:own", "tiny", "bert"]
            body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
            assert client.post("/v1/chat/completions", json=body).status_code == 200
            vectors = client.post("/v1/embeddings", json={"model": "bert", "input": "hello"})
            assert len(vectors.json()["data"][0]["embedding"]) == tiny_models.BERT.n_embd
            assert client.get("/v1/models", headers={"Host": "evil.example"}).status_code == 403
        assert made.end() == 0
    rows = [json.loads(line) for line in made.lines if line.startswith("{")]
    assert [row["path"] for row in rows][:2] == ["/v1/models", "/v1/chat/completions"]


def test_a_long_prompt_comes_from_disk_after_a_restart(tiny_path: Path, tmp_path: Path) -> None:
    body = {"messages": [{"role": "user", "content": "Be brief. " * 250}], "max_tokens": 3, "temperature": 0}
    answers, counts = [], []
    time.sleep(max(0, 2.1 - (time.time() - tiny_path.stat().st_ctime)))  # until then, its digest is not remembered
    for _ in range(2):
        with command("-m", tiny_path, "-c", 1024, "-p", 2, "--template", "chatml", "--prompt-cache", tmp_path) as made:
            with httpx.Client(base_url=made.url, timeout=SECONDS) as client:
                answers.append(client.post("/v1/chat/completions", json=body).json())
                found = re.search(r"^llama_cffi_disk_tokens_total\S* (\d+)$", client.get("/metrics").text, re.MULTILINE)
                assert found is not None
                counts.append(int(found[1]))
            assert made.end() == 0
    assert answers[0]["choices"][0]["message"] == answers[1]["choices"][0]["message"]
    assert counts == [0, answers[0]["usage"]["prompt_tokens"] - 1]
    assert answers[1]["usage"]["prompt_tokens_details"]["cached_tokens"] == counts[1]


def test_the_commands_of_the_readme(smol_path: Path) -> None:
    """`make serve`, or the command itself, and curl: they end with an answer."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    recipe = subprocess.run(["make", "--dry-run", "serve"], cwd=ROOT, capture_output=True, text=True, timeout=SECONDS)
    asked = re.search(r"^curl (\S+/v1/chat/completions).*?}'$", text, re.MULTILINE | re.DOTALL)
    assert "`make serve`" in text and "`llama-cffi serve -m model.gguf`" in text and asked is not None
    assert '-m llama_cffi serve -m "$model"' in recipe.stdout and "vendor.source.chat_model" in recipe.stdout
    with command("-m", smol_path, "-c", 512) as made:
        line = asked[0].replace("http://127.0.0.1:8080", made.url).replace("}]}", '}], "max_tokens": 4}')
        found = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=SECONDS)
        assert json.loads(found.stdout)["choices"][0]["message"]["content"], found.stderr
        assert made.end() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_middle(tiny_path: Path, number: int) -> None:
    with command("-m", tiny_path, "-c", 2048, "-p", 2, "--shutdown-timeout", 60) as made:
        body = {"prompt": "Once", "max_tokens": 200, "stream": True}
        with httpx.stream("POST", f"{made.url}/v1/completions", json=body, timeout=SECONDS) as answer:
            lines = answer.iter_lines()
            next(lines)
            made.process.send_signal(number)
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]" and '"finish_reason":"length"' in rest[-2]
        assert made.process.wait(SECONDS) == 0


def test_a_second_signal_ends_at_once(tiny_path: Path) -> None:
    with command("-m", tiny_path, "-c", 4096, "-p", 1, "--shutdown-timeout", 60) as made:
        body = {"prompt": "Once", "max_tokens": 4000, "stream": True}
        with httpx.stream("POST", f"{made.url}/v1/completions", json=body, timeout=SECONDS) as answer:
            next(answer.iter_lines())
            made.process.send_signal(signal.SIGTERM)
            assert made.end() == 0


def test_keys_by_option_file_and_variable(tiny_path: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("from-file\n\n")
    for arguments, more, key in (
        (["--api-key", "given", "--api-key-file", tmp_path / "keys"], {}, "from-file"),
        ([], {"LLAMA_CFFI_API_KEY": "variable"}, "variable"),
    ):
        with command("-m", tiny_path, "-c", 256, "--host", "0.0.0.0", "-q", *arguments, **more) as made:
            url = made.url.replace("0.0.0.0", "127.0.0.1")
            assert httpx.get(f"{url}/v1/models").status_code == 401
            assert httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 200
            assert made.end() == 0


def test_https_with_a_certificate_of_its_own(tiny_path: Path, tmp_path: Path) -> None:
    """A client that trusts the certificate gets an answer, any other one a refused handshake."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    authority = _certify(key, certificate)
    with command(
        *("-m", tiny_path, "-c", 256, "-q", "--template", "chatml"),
        *("--tls-certificate", certificate, "--tls-key", key),
    ) as made:
        assert made.url.startswith("https://127.0.0.1:")
        body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
        trusted = ssl.create_default_context(cafile=str(authority))
        with httpx.Client(base_url=made.url, verify=trusted, timeout=SECONDS) as client:
            answer = client.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] == 3
            lines = client.post("/v1/chat/completions", json={**body, "stream": True}).text.split()
            assert lines[-1] == "[DONE]"
        with pytest.raises(httpx.ConnectError, match="(?i)certificate"):
            httpx.get(f"{made.url}/health", verify=ssl.create_default_context(), timeout=SECONDS)
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(f"http{made.url.removeprefix('https')}/health", timeout=SECONDS)
        assert httpx.get(f"{made.url}/health", verify=trusted, timeout=SECONDS).status_code == 200
        assert made.end() == 0


@pytest.mark.parametrize("spoil", ["another key", "a password", "no certificate"])
def test_a_certificate_that_cannot_be_used(tmp_path: Path, spoil: str) -> None:
    """It is refused before a model is loaded, and asks for no password."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    _certify(key, certificate)
    if spoil == "another key":
        _certify(key, tmp_path / "other.pem")
    elif spoil == "a password":
        plain = serialization.load_pem_private_key(key.read_bytes(), None)
        sealed = serialization.BestAvailableEncryption(b"secret")
        form = serialization.PrivateFormat.TraditionalOpenSSL
        key.write_bytes(plain.private_bytes(serialization.Encoding.PEM, form, sealed))
    else:
        certificate.write_text("certificate")
    found = run("serve", "-m", "none.gguf", "--port", "0", "--tls-certificate", certificate, "--tls-key", key)
    assert found.returncode == 1 and len(found.stderr.splitlines()) == 1
    assert f"--tls-certificate {certificate}" in found.stderr and f"--tls-key {key}" in found.stderr


def _certify(key: Path, certificate: Path) -> Path:
    """Make a key and a certificate of 127.0.0.1. Returns the certificate of its authority, which a client trusts."""
    authority = trustme.CA()
    made = authority.issue_cert("127.0.0.1", "localhost")
    made.private_key_pem.write_to_path(str(key))
    certificate.write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))
    trusted = certificate.with_name("authority.pem")
    authority.cert_pem.write_to_path(str(trusted))
    return trusted


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no model given"),
        (["-m", "none.gguf"], "none.gguf"),
        (["-m", "MODEL", "--host", "0.0.0.0"], "--api-key"),
        (["-m", "MODEL", "--tls-key", "key.pem"], "--tls-certificate"),
        (["-m", "MODEL", "-m", "MODEL"], "NAME=FILE"),
        (["-m", "MODEL", "--lora", "x"], "NAME=FILE"),
        (["-m", "MODEL", "--lora", "other:x=y.gguf"], "other"),
        (["-m", "NAME=MODEL", "--lora", "other:x=y.gguf"], "there is NAME\n"),
        (["--embedding-model", "MODEL", "--lora", "x=y.gguf"], "no -m was given"),
        (["-m", "MODEL", "--api-key-file", "/dev/null"], "--api-key-file"),
        # These are found before a model is loaded.
        (["-m", "none.gguf", "--tls-key", "key.pem", "--tls-certificate", "c.pem"], "--tls-certificate c.pem"),
        (["-m", "none.gguf", "--host", "host.invalid", "--api-key", "a"], "host.invalid port 8080"),
    ],
)
def test_what_it_refuses(tiny_path: Path, arguments: list[str], words: str) -> None:
    found = run("serve", *[word.replace("MODEL", str(tiny_path)) for word in arguments])
    assert found.returncode in (1, 2) and words in found.stderr and "Traceback" not in found.stderr


def test_a_port_in_use_is_named_before_a_model_is_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        found = run("serve", "-m", "none.gguf", "--port", str(port))
    lines = found.stderr.splitlines()
    assert found.returncode == 1 and len(lines) == 1
    assert f"127.0.0.1 port {port}" in lines[0] and "another port" in lines[0]


def test_a_key_need_not_be_ascii(tiny_path: Path) -> None:
    key = "schl\u00fcssel\udcff"  # \xff among the arguments of a process
    with command("-m", tiny_path, "-c", 256, "-q", "--api-key", key) as made:
        headers = {"Authorization": b"Bearer " + key.encode("utf-8", "surrogateescape")}
        assert httpx.get(f"{made.url}/v1/models", headers=headers).status_code == 200
        assert httpx.get(f"{made.url}/v1/models", headers={"Authorization": b"Bearer a\xff"}).status_code == 401
        assert made.end() == 0
        assert "ssel" not in "".join(made.lines)


def test_without_the_libraries_it_names_the_extra(tiny_path: Path) -> None:
    for library in ("starlette", "uvicorn", "pydantic"):
        code = f"import sys; sys.modules[{library!r}] = None\nfrom llama_cffi.__main__ import main\n"
        code += f"sys.exit(main(['serve', '-m', {str(tiny_path)!r}]))"
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=SECONDS)
        assert found.returncode == 1 and "pip install starlette uvicorn pydantic" in found.stderr, found.stderr
