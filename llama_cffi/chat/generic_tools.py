"""Tools for a model whose chat template does not describe any: in the system message, with calls as JSON in tags."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from llama_cffi.chat.native import NativeTemplate

_HOW = """To call a tool, write its name and its arguments as JSON between these tags:
<tool_call>
{"name": "the name", "arguments": {}}
</tool_call>
The result comes in the next message, between <tool_response> and </tool_response>."""

# Not for prompts: llama.cpp's chat code reads from this template how calls look, and makes their grammar and parser.
_TEMPLATE = """{%- for tool in tools or [] %}{{ tool | tojson }}
{% endfor %}
{%- for m in messages %}<|{{ m.role }}|>
{%- if m.role == "assistant" and m.reasoning_content %}THOUGHT{% endif %}{{ m.content }}
{%- for call in m.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|end|>
{% endfor -%}
{%- if add_generation_prompt %}<|assistant|>OPENED{% endif %}"""


def apply(applied: Mapping[str, Any], kept: dict[str, NativeTemplate], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the prompt of a template, with the grammar and the parser of calls that it does not know.

    `applied` is what llama.cpp's chat code returned without tools; `kept` has the templates that were made before.
    """
    start, end = applied["thinking_start"], (applied["thinking_ends"] or [""])[0]
    mark, after = applied["generation_prompt"].rpartition(start)[1:] if start else ("", "")
    source = _source(start, end, f"{mark}{after}" if end not in after else "")
    if source not in kept:
        kept[source] = NativeTemplate(source)
    last = inputs["messages"][-1:] if "continue_final_message" in inputs else []
    asked = {**inputs, "messages": [{"role": "user", "content": ""}, *last]}
    return {**kept[source].apply(asked), "prompt": applied["prompt"], "stops": applied["stops"]}


def _source(start: str, end: str, opened: str) -> str:
    """Return a template with such calls. `start` and `end` mark thoughts; `opened` begins one in the prompt."""
    thought = f"{_text(start)}{{{{ m.reasoning_content }}}}{_text(end)}" if start and end else ""
    return _TEMPLATE.replace("THOUGHT", thought).replace("OPENED", _text(opened))


def _text(text: str) -> str:
    return "{{ " + json.dumps(text) + " }}" if text else ""


def described(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], writes: bool
) -> list[dict[str, Any]]:
    """Return the messages with the tools in the system message. `writes`: calls and results become text, too."""
    lines = ["You can call these tools:", *(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)]
    text = "\n".join(lines + ["", _HOW] * writes)
    found: list[dict[str, Any]] = []
    for message in messages:
        if writes and message["role"] == "tool":
            result = f"<tool_response>\n{_content(message)}\n</tool_response>"
            if found and found[-1].get("tool") is True:  # many templates need a change of roles after each message
                found[-1]["content"] += f"\n{result}"
            else:
                found.append({"role": "user", "content": result, "tool": True})
        elif writes and message.get("tool_calls"):
            whole = "\n".join(filter(None, (_content(message), *map(_call, message["tool_calls"]))))
            found.append({**message, "content": whole})
            del found[-1]["tool_calls"]
        else:
            found.append(dict(message))
    for message in found:
        message.pop("tool", None)
    if found and found[0]["role"] == "system":
        found[0]["content"] = f"{_content(found[0])}\n\n{text}"
    else:
        found.insert(0, {"role": "system", "content": text})
    return found


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _call(call: Any) -> str:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ValueError(f"a tool call needs a function with a name, got {call!r}")
    made = {"name": function["name"], "arguments": function.get("arguments") or {}}
    return f"<tool_call>\n{json.dumps(made, ensure_ascii=False)}\n</tool_call>"
