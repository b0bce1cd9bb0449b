"""Other programs that speak the protocol, each doing one real thing: `make serve-clients`.

They run in an environment of their own, whose interpreter is the argument. lm-eval's score is compared with the one
that is computed directly.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llama_cffi import Batch, Context, Engine, Ggml, Model, tokenize
from llama_cffi.server import Limits, ServedModel
from tests.server.serving import Running, running
from vendor.source import chat_model

_PROGRAMS = Path(__file__).with_name("client_programs")
_SECONDS = 900
_QUESTIONS = [
    {"question": "The capital of France is", "choices": [" Paris", " Berlin", " Madrid"], "answer": 0},
    {"question": "The opposite of hot is", "choices": [" warm", " cold", " red"], "answer": 1},
    {"question": "Two plus two is", "choices": [" five", " seven", " four"], "answer": 2},
    {"question": "A cat is an", "choices": [" animal", " idea", " engine"], "answer": 0},
]


def _direct(model: Model) -> list[list[float]]:
    """The log-probability of each answer, by a context that does nothing else."""
    rows = []
    with Context.initFromModel(model, Context.Params(nCtx=256)) as ctx:
        for question in _QUESTIONS:
            row = []
            for choice in question["choices"]:  # type: ignore[attr-defined]
                tokens = tokenize(model.vocab, str(question["question"]) + choice)
                known = len(tokenize(model.vocab, str(question["question"])))
                ctx.getMemory().clear()
                batch = Batch.init(len(tokens), 0, 1)
                for at, token in enumerate(tokens):
                    batch.add(token, at, [0], True)
                ctx.decode(batch)
                row.append(sum(_logprob(ctx.getLogitsIth(at - 1), tokens[at]) for at in range(known, len(tokens))))
            rows.append(row)
    return rows


def _logprob(logits: Any, token: int) -> float:
    values = [float(value) for value in logits]
    most = max(values)
    return values[token] - most - math.log(sum(math.exp(value - most) for value in values))


def _run(python: str, program: str, server: Running, *arguments: str) -> str:
    command = [python, str(_PROGRAMS / f"{program}.py"), server.url, *arguments]
    found = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
    print(f"{program}: {'ok' if found.returncode == 0 else 'FAILED'}", flush=True)
    if found.returncode:
        print(found.stdout[-2000:], found.stderr[-4000:])
    return found.stdout if found.returncode == 0 else ""


def main(argv: Sequence[str]) -> int:
    """Run all programs. Returns the number of those that failed."""
    (python,) = argv
    Ggml.Backend.cpuLoad()
    failed = 0
    with Model.load(chat_model.path()) as model, Engine(model, nCtx=4096, nSeqMax=4) as engine:
        direct = _direct(model)
        with running({"smol": ServedModel(engine)}, limits=Limits(maxWaiting=100)) as server:
            for program in ("with_langchain", "with_llama_index", "with_instructor"):
                failed += not _run(python, program, server)
            with tempfile.TemporaryDirectory() as folder:
                data = Path(folder) / "questions.json"
                data.write_text("\n".join(json.dumps(question) for question in _QUESTIONS))
                text = _run(python, "with_lm_eval", server, folder)
            if not text:
                return failed + 1
            given = json.loads(text.splitlines()[-1])
    worst = max(
        abs(a - b) for one, other in zip(given["scores"], direct, strict=True) for a, b in zip(one, other, strict=True)
    )
    right = sum(row.index(max(row)) == q["answer"] for row, q in zip(direct, _QUESTIONS, strict=True)) / len(direct)
    same = worst < 0.05 and given["accuracy"] == right
    print(f"lm-eval: accuracy {given['accuracy']}, directly {right}; log-probabilities differ by at most {worst:.4f}")
    return failed + (not same)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
