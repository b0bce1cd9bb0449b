"""Plans the build of `libllama-chat-cffi.so`: llama.cpp's chat code with the C interface of `chat_api.h`.

It is built separately, so that the other libraries keep their digests. Where the chat code of llama.cpp has another
interface, it is not built, and chat templates run in jinja2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from vendor.build.cmake import Build
from vendor.build.recipe import SUFFIX, Backend
from vendor.source import fetch

FOLDER = Path(__file__).resolve().parent
_INPUTS = {".cpp", ".h", ".hpp", ".map", ".txt"}
ROW = Backend("chat", {}, f"libllama-chat{SUFFIX}.so")

# What of llama.cpp's chat code the C interface was written for: the files, and names in them.
NEEDS = {
    "common/chat.h": (
        "common_chat_templates_init",
        "common_chat_templates_apply",
        "common_chat_templates_source",
        "common_chat_templates_get_caps",
        "common_chat_templates_support_enable_thinking",
        "common_chat_template_direct_apply",
        "common_chat_msgs_parse_oaicompat",
        "common_chat_tools_parse_oaicompat",
        "common_chat_tool_choice_parse_oaicompat",
        "common_chat_continuation_parse",
        "common_chat_parse",
        "common_chat_format_name",
        "common_reasoning_format_from_name",
        "continue_final_message",
        "thinking_end_tags",
        "generation_prompt",
    ),
    "common/json.h": ("common_json", "dump_safe"),
    "common/json-schema-to-grammar.h": ("json_schema_to_grammar",),
    "common/chat-auto-parser.h": ("analyze_template",),
    "common/chat.cpp": ("analyze_template(", "generate_parser(tmpl, params, autoparser)"),
    "common/peg-parser.h": ("common_peg_parser_variant & get(", "common_peg_until_parser", "common_peg_tag_parser"),
    "common/parsers/parsers.h": ("common_chat_template_generation_prompt_impl",),
    "common/jinja/value.h": ("global_builtins()", "get_builtins()"),
    "common/common.h": ("COMMON_GRAMMAR_TRIGGER_TYPE_PATTERN_FULL",),
}


def lacking(tree: Path) -> str | None:
    """Return what a tree of llama.cpp lacks of the chat code that the interface needs; None if it has all."""
    for file, names in NEEDS.items():
        path = tree / file
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        missing = [name for name in names if name not in text]
        if not text or missing:
            return f"{file}" if not text else f"{missing[0]} in {file}"
    return None


def plan(tree: Path, identity: str, options: Sequence[str], digest: Callable[[Sequence[str]], str]) -> Build:
    """The build, with further options of CMake. `identity` stands for the sources in `tree` in its digest."""
    arguments = ("-DCMAKE_BUILD_TYPE=Release", *options)
    ours = [path.read_text(encoding="utf-8") for path in sorted(FOLDER.iterdir()) if path.suffix in _INPUTS]
    return Build(
        source=FOLDER,
        backends=(ROW,),
        expected=(ROW.modules,),
        arguments=arguments,
        places=(("LLAMA_CPP", str(tree)),),
        targets=(),
        sanitized=False,
        digest=digest([identity, *arguments, *ours]),
    )


def identity(tree: Path) -> str:
    """A digest of the files of a tree that the library is built of."""
    found = hashlib.sha256()
    for part in fetch.CHAT_PARTS:
        top = tree / part
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            if path.is_file():
                found.update(str(path.relative_to(tree)).encode() + b"\0" + path.read_bytes())
    return found.hexdigest()
