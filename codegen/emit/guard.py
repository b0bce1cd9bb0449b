"""Emits the guard: guard.h redirects every C call to a wrapper, and guard.cpp holds the wrappers.

A wrapper acquires the handles of the call, catches C++ exceptions and ggml's failed assertions, and records the error
for the extension to raise.
"""

from __future__ import annotations

import re

from codegen.api.c_text import argument, declare_function, definitions, prototype
from codegen.api.model import Api, Function
from codegen.read.exports import MODULE_OF_HEADER
from codegen.rules import policy

_HEADER_TOP = """
/* llama.cpp's headers. From here on, a call by the C name calls its wrapper. The macros take arguments because some
 * names are both a function and an enum (`llama_pooling_type`). */
#pragma once

"""


def emit_header(api: Api) -> str:
    """Return the text of `_generated/guard.h` without its banner."""
    functions = [f for f in policy.bound(api) if policy.guarded(f)]
    includes = "".join(f'#include "{name}"\n' for name in api.headers)
    prototypes = "".join(f"{prototype(f, _wrapper_name(f))};\n" for f in functions)
    macros = "".join(_macro(api, f) for f in functions)
    added = definitions(api)
    if added:
        added = f"/* The facade needs these types and constants, and the headers lack them. */\n{added}\n"
    return (
        f'{_HEADER_TOP}{includes}\n{added}#ifdef __cplusplus\nextern "C" {{\n#endif\n\n{prototypes}\n'
        f"#ifdef __cplusplus\n}}\n#endif\n\n#ifndef LLAMA_CFFI_GUARD_WRAPPERS\n{macros}#endif\n"
    )


def emit_source(api: Api) -> str:
    """Return the text of `_generated/guard.cpp` without its banner."""
    wrappers = "\n".join(_wrapper(api, f) for f in policy.bound(api) if policy.guarded(f))
    return (
        '\n#define LLAMA_CFFI_GUARD_WRAPPERS\n#include "guard.h"\n#include "../_shim/guard.hpp"\n\n'
        "#include <stdlib.h>\n\n"
        # Wrapping a deprecated function does not use it: users of the facade are warned when they call it.
        '#pragma GCC diagnostic ignored "-Wdeprecated-declarations"\n\n'
        f"{wrappers}"
    )


def _macro(api: Api, function: Function) -> str:
    """Return the macro that redirects calls to the wrapper. It replaces a macro of the same name."""
    undef = f"#undef {function.name}\n" if function.name in api.macros_left_out else ""
    return f"{undef}#define {function.name}(...) {_wrapper_name(function)}(__VA_ARGS__)\n"


def _wrapper_name(function: Function) -> str:
    return f"guard_{function.name}"


def _wrapper(api: Api, function: Function) -> str:
    if function.absent:
        return _absent(function)
    arguments = ", ".join(argument(function, i) for i in range(len(function.params)))
    suspects = ", ".join(argument(function, i) for i in policy.suspects(function))
    nothing = "return;" if function.returns == "void" else "return {};"
    call = _adapted(api, function) if function.body else f"{function.name}({arguments})"
    lines = [f'extern "C" {prototype(function, _wrapper_name(function), named=True)} {{']
    module = policy.module_of(function)
    if module:
        pointer = declare_function(function.returns, "(*)", ", ".join(p.type for p in function.params) or "void")
        lines += [
            f'    static guard::ModuleFunction guard_module("{module}", "{function.name}");',
            f"    const auto guard_target = guard_module.find<{pointer}>();",
            *_if("guard_target == nullptr", nothing),
        ]
        call = f"guard_target({arguments})"
    lines.append(f'    guard::Call guard_call("{function.name}");')
    if function.deprecated:
        lines.append(f'    guard::note_deprecated("{function.name}");')
    lifetime = _lifetime(function)
    if lifetime:
        lines += _if(f"!{lifetime}", nothing)
    lines += [
        "    try {",
        *(f"        {line};" for line in policy.preconditions(function)),
        *(f"        {line};".replace("\n", "\n        ") for line in _body(function, call)),
        "    } catch (...) {",
        f"        guard_call.record_exception({{{suspects}}});",
        *([] if function.returns == "void" else ["        return {};"]),
        "    }",
        "}",
    ]
    return "\n".join(lines) + "\n"


def _absent(function: Function) -> str:
    """Return the wrapper of a function that the facade calls and the header lacks."""
    lines = [
        f'extern "C" {prototype(function, _wrapper_name(function))} {{',
        f'    guard::record_absent("{function.name}", "{function.absent}");',
        *([] if function.returns == "void" else ["    return {};"]),
        "}",
    ]
    return "\n".join(lines) + "\n"


def _adapted(api: Api, function: Function) -> str:
    """Return a call of the adapter's body, which calls functions that the header has.

    Functions of a module are not linked: a pointer of the same name stands for each.
    """
    lines = function.body.split("\n")
    for name in dict.fromkeys(re.findall(r"\w+(?=\()", function.body)):
        module = MODULE_OF_HEADER.get(_header_of(api, name), "")
        if module:
            lines.insert(0, f'static guard::ModuleFunction {name}_module("{module}", "{name}");')
            lines.insert(1, f"const auto {name} = {name}_module.find<decltype(&::{name})>();")
            lines.insert(2, f"if ({name} == nullptr) {{")
            lines.insert(3, "    return {};")
            lines.insert(4, "}")
    body = "\n    ".join(lines)
    return f"[&]() -> {function.returns} {{\n    {body}\n}}()"


def _header_of(api: Api, name: str) -> str:
    return next((f.header for f in api.functions if f.name == name), "")


def _if(condition: str, then: str) -> list[str]:
    return [f"    if ({condition}) {{", f"        {then}", "    }"]


def _lifetime(function: Function) -> str:
    """Return the call that acquires the handles, or removes the one that is freed; empty without handles."""
    found = policy.handles(function)
    if not found:
        return ""
    if policy.frees_handle(function):
        return f"guard_call.remove({argument(function, found[0])})"
    optional = ", ".join(argument(function, i) for i in found if policy.nullable(function, i))
    required = ", ".join(argument(function, i) for i in found if not policy.nullable(function, i))
    return f"guard_call.acquire({{{required}}}{f', {{{optional}}}' if optional else ''})"


def _body(function: Function, call: str) -> list[str]:
    """Return the statements of the try block. A returned handle, or a pointer into one, is registered.

    A call that only frees does not check for lost RPC workers: the worker's part is gone, and the rest is freed.
    """
    if function.returns == "void":
        return [call] if policy.only_frees(function) else [call, "guard_call.check_workers()"]
    fields = policy.RETURNED_HANDLES.get(function.returns.removeprefix("struct "), ())
    if fields:
        members = ", ".join(f"&{function.returns.removeprefix('struct ')}::{field}" for field in fields)
        return [f"return guard_call.new_handles<{members}>({call})"]
    if policy.makes_handle(function):
        return [f"return guard_call.new_handle({call})"]
    if policy.returns_part(function):
        return [f"return guard::part_of({argument(function, policy.handles(function)[0])}, guard_call.checked({call}))"]
    return [f"return guard_call.checked({call})"]
