"""How long chat templates and answers take: `python -m benchmarks.chat`.

Rendering: a history of 20 turns in llama.cpp's chat code and in jinja2, both with this package's limits, in turns.
Parsing: what the events of an answer cost for each token (4 characters), for answers of 100 B, 1 KB and 10 KB.
Medians of CPU time, since other programs take time too.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

from llama_cffi import ChatTemplate, Model
from llama_cffi.chat import jinja
from llama_cffi.chat.events import EventParser
from llama_cffi.chat.messages import as_message, as_tool, for_native
from vendor.source import fetch

TEMPLATES = {
    "ChatML (SmolLM2)": None,
    "Llama 3.1": "meta-llama-Llama-3.1-8B-Instruct",
    "Qwen 3": "Qwen-Qwen3-0.6B",
    "gpt-oss": "openai-gpt-oss-120b",
    "Mistral Nemo": "mistralai-Mistral-Nemo-Instruct-2407",
}
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helpful assistant<|im_end|>\\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TOOLS = [
    {
        "name": name,
        "description": f"Find the {name} of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "its name"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    }
    for name in ("weather", "population", "mayor")
]
TURNS = 20
CHARACTERS = 4  # of a token


def history() -> list[dict[str, str]]:
    """A conversation of 20 turns, each a question and an answer, and a last question."""
    turns = [
        [
            {"role": "user", "content": f"Question {turn}: what is it like in Bern today, and what should I wear?"},
            {"role": "assistant", "content": "It is cold and it rains. Take a coat and an umbrella with you. " * 3},
        ]
        for turn in range(TURNS)
    ]
    return [message for turn in turns for message in turn] + [{"role": "user", "content": "Thank you."}]


def source(name: str) -> str:
    path = TEMPLATES[name]
    if path is None:
        return CHATML
    return (fetch.chat_tests_dir() / "models" / "templates" / f"{path}.jinja").read_text(encoding="utf-8")


def medians(rounds: int, *calls: Callable[[], Any]) -> list[float]:
    """Return the median CPU time of each call in seconds, all taken in turns."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, found in zip(calls, times, strict=True):
            start = time.process_time()
            call()
            found.append(time.process_time() - start)
    return [statistics.median(found) for found in times]


def rendering(model: Model, rounds: int) -> None:
    print(f"{'rendering 20 turns, ms':26}{'llama.cpp':>12}{'jinja2':>12}{'format':>12}")
    for name in TEMPLATES:
        template = ChatTemplate(model, source(name))
        for tools in [None, TOOLS] if template.takesTools else [None]:
            messages = history()
            own = template._native(template.source)
            given = [for_native(as_message(message)) for message in messages]
            described = [as_tool(tool) for tool in tools or []]
            inputs = {"messages": given, "tools": described, "add_generation_prompt": True, "variables": {}}
            variables: dict[str, Any] = {"messages": given, "add_generation_prompt": True}
            variables |= {"bos_token": "<s>", "eos_token": "</s>"} | ({"tools": described} if tools else {})
            calls = (
                lambda own=own, inputs=inputs: own.render(inputs),
                lambda template=template, variables=variables: jinja.render(template.source, variables),
                lambda template=template, tools=tools, messages=messages: template.format(messages, tools=tools),
            )
            found = medians(rounds, *calls)
            label = f"{name}, 3 tools" if tools else name
            print(f"{label:26}" + "".join(f"{1000 * value:12.2f}" for value in found), flush=True)


def parsing(model: Model, rounds: int) -> None:
    sizes = (100, 1000, 10_000)
    print(f"\n{'parsing, us for a token':36}" + "".join(f"{size:>10} B" for size in sizes))
    question = [{"role": "user", "content": "What is it like in Bern?"}]
    for name in TEMPLATES:
        form = ChatTemplate(model, source(name)).format(question, tools=TOOLS)
        for kind in ("text", "call"):
            row = []
            for size in sizes:
                text = _answer(name, kind, size)
                pieces = [text[at : at + CHARACTERS] for at in range(0, len(text), CHARACTERS)]

                def run(form: Any = form, pieces: list[str] = pieces) -> None:
                    parser = EventParser(form)
                    for piece in pieces:
                        for _ in parser.feed(piece):
                            pass
                    for _ in parser.finish():
                        pass

                (found,) = medians(max(3, rounds * 100 // size), run)
                row.append(1e6 * found / len(pieces))
            print(f"{f'{name}, {kind}':36}" + "".join(f"{value:12.1f}" for value in row), flush=True)


def _answer(name: str, kind: str, size: int) -> str:
    words = ("It is cold in Bern, and it rains. " * (size // 30 + 1))[:size]
    if name == "gpt-oss":
        head = (
            "<|channel|>final<|message|>" if kind == "text" else " to=functions.weather<|channel|>commentary<|message|>"
        )
        return head + (words if kind == "text" else f'{{"city": "{words}"}}')
    if kind == "text":
        return words
    call = f'{{"name": "weather", "arguments": {{"city": "{words}"}}'
    if name == "Llama 3.1":
        return f'{{"name": "weather", "parameters": {{"city": "{words}"}}}}'
    if name == "Mistral Nemo":
        return f'[TOOL_CALLS][{call}, "id": "abcdefghi"}}]'
    return f"<tool_call>\n{call}}}\n</tool_call>"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chat", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=50)
    rounds = parser.parse_args().rounds
    model = Model.load(fetch.vectors_dir() / "ggml-vocab-llama-spm.gguf", Model.Params(vocabOnly=True))
    rendering(model, rounds)
    parsing(model, rounds)


if __name__ == "__main__":
    main()
