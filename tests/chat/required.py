"""Calls that `toolChoice="required"` forces, with random seeds. `make chat-required` runs 200 of each format."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from llama_cffi import ChatTemplate, Engine, Model, StopReason, defaultSampler
from tests import tiny_models
from tests.chat import cases
from vendor.source import chat_model, fetch

# Formats, and a template of each; None is the own template of the chat model, which describes no tools.
TEMPLATES = {
    "generic": None,
    "Hermes": "models/templates/NousResearch-Hermes-3-Llama-3.1-8B-tool_use.jinja",
    "Qwen 3": "models/templates/Qwen-Qwen3-0.6B.jinja",
    "Llama 3": "models/templates/meta-llama-Llama-3.1-8B-Instruct.jinja",
    "Mistral": "models/templates/mistralai-Mistral-Nemo-Instruct-2407.jinja",
    "gpt-oss": "models/templates/openai-gpt-oss-120b.jinja",
}
# Formats that write arguments between tags.
TAGGED = {
    "GLM": "models/templates/GLM-4.6.jinja",
    "Qwen 3 Coder": "models/templates/Qwen3-Coder.jinja",
    "MiniMax": "models/templates/MiniMax-M2.jinja",
    "DeepSeek": "models/templates/deepseek-ai-DeepSeek-V3.2.jinja",
    "Ling": "models/templates/inclusionai-ling-3.0-flash.jinja",
}
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VOCAB = fetch.vectors_dir() / "ggml-vocab-llama-spm.gguf"
CITIES = ["Bern", "Rome", "Oslo"]
TOOLS: list[dict[str, Any]] = [
    {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"enum": CITIES},
                "days": {"type": "integer"},
                "units": {"type": "array", "items": {"enum": ["C", "F"]}, "maxItems": 2},
                "note": {"type": "string", "maxLength": 20},
            },
            "required": ["city", "units"],
        },
    },
    {"name": "clock", "description": "The time", "parameters": {"type": "object", "properties": {}}},
]


def source(name: str) -> str:
    """The template of a format, for a model without one."""
    path = {**TEMPLATES, **TAGGED}[name]
    return CHATML if path is None else cases.template_source(path)


def problem(request: Any) -> str:
    """Return what is wrong with an answer; "" if it is one valid call."""
    if request.stopReason not in (StopReason.END, StopReason.STOP_STRING):  # the stop strings of the format
        return f"ended by {request.stopReason}"
    calls = request.toolCalls
    if len(calls) != 1 or request.problems or request.content.strip():
        return f"{len(calls)} calls, {request.problems}"
    arguments = calls[0].arguments
    if calls[0].name == "clock":
        return "" if arguments == {} else "arguments of clock"
    known = {"city": CITIES.__contains__, "days": lambda days: type(days) is int}
    known |= {"units": lambda units: len(units) <= 2 and set(units) <= {"C", "F"}, "note": lambda note: len(note) <= 20}
    if not {"city", "units"} <= arguments.keys() <= known.keys():
        return f"the keys {sorted(arguments)}"
    wrong = [key for key, value in arguments.items() if not known[key](value)]  # type: ignore[no-untyped-call]
    return f"the value of {wrong[0]}" if wrong else ""


def run(model: Model, template: str | None, seeds: range) -> Counter[str]:
    """Return how many answers had which problem."""
    found: Counter[str] = Counter()
    made = ChatTemplate(model, template)
    with Engine(model, nCtx=4096 * 8, nSeqMax=8) as engine:
        requests = [
            engine.chat(
                [{"role": "user", "content": f"What is the weather like in {CITIES[seed % 3]}?"}],
                template=made,
                tools=TOOLS,
                toolChoice="required",
                parallelToolCalls=False,
                sampler=defaultSampler(0.8, seed=seed),
                maxTokens=800,
            )
            for seed in seeds
        ]
        for request in requests:
            request.result()
            found[problem(request)] += 1
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200)
    seeds = range(parser.parse_args().seeds)
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        tiny = Model.load(tiny_models.write_llama(Path(folder) / "tiny.gguf", VOCAB))
        runs = [("a random model", tiny, name, source(name)) for name in (*TEMPLATES, *TAGGED)]
        for label, model, name, text in [("SmolLM2", Model.load(chat_model.path()), "generic", None), *runs]:
            found = run(model, text, seeds)
            print(
                f"{label}, {name}: {found['']} of {len(seeds)} valid",
                *(f"{n} {why}" for why, n in found.items() if why),
            )
            failed |= found[""] != len(seeds)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
