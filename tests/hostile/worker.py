"""A process that uses one hostile file after the other: `python -m tests.hostile.worker MODELS`.

Reads a case a line, as JSON, and answers with what it raised. Where a file kills it, there is no answer.
"""

from __future__ import annotations

import json
import resource
import sys
import traceback
from pathlib import Path

from llama_cffi import Ggml, Model
from tests.hostile import exercise

MEMORY = 4 << 30  # bytes of address space: a size from a file must not take the machine with it


def main() -> None:
    folder = Path(sys.argv[1])
    pages = int(Path("/proc/self/statm").read_text().split()[0])  # few, unless a sanitizer is at work
    limit = MEMORY + pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    Ggml.Backend.cpuLoad()

    models: dict[str, Model] = {}

    def good(base: str) -> Model:
        if base not in models or models[base].closed:  # a failed assertion closes the model that it could write to
            models[base] = Model.load(folder / f"{base}.gguf")
        return models[base]

    for line in sys.stdin:
        case = json.loads(line)
        answer: dict[str, object] = {}
        try:
            files = [Path(file) for file in case["files"]]
            answer["errors"] = exercise.run(case["kind"], case["base"], files, good)
        except Exception:
            answer["accident"] = traceback.format_exc()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
