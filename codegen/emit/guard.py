"""The guard: `guard.h` sends every call through a wrapper, `guard.cpp` holds the wrappers."""

from __future__ import annotations

from codegen.api.model import Api, Function
from codegen.emit.cdef import argument, declare_function, definitions, prototype
from codegen.rules import policy

_HEADER_TOP = """
/* llama.cpp's headers. From here on a call by the C name is a call of its wrapper. The macros take arguments because
 * some names are both a function and an enum (`llama_pooling_type`). */
#pragma once

"""


def emit_header(api: Api) -> str:
    """The text of `_generated/guard.h`, without its banner."""
    functions = [f for f in policy.bound(api) if policy.guarded(f)]
    includes = "".join(f'#include "{name}"\n' for name in api.headers)
    prototypes = "".join(f"{prototype(f, _wrapper_name(f))};\n" for f in functions)
    macros = "".join(_macro(api, f) for f in functions)
    added = definitions(api)
    if added:
        added = f"/* What the facade needs and these headers lack. */\n{added}\n"
    return (
        f'{_HEADER_TOP}{includes}\n{added}#ifdef __cplusplus\nextern "C" {{\n#endif\n\n{prototypes}\n'
        f"#ifdef __cplusplus\n}}\n#endif\n\n#ifndef LLAMA_CFFI_GUARD_WRAPPERS\n{macros}#endif\n"
    )


def emit_source(api: Api) -> str:
    """The text of `_generated/guard.cpp`, without its banner."""
    wrappers = "\n".join(_wrapper(f) for f in policy.bound(api) if policy.guarded(f))
    return (
        '\n#define LLAMA_CFFI_GUARD_WRAPPERS\n#include "guard.h"\n#include "../_shim/guard.hpp"\n\n'
        "#include <stdlib.h>\n\n"
        # Wrapping a deprecated function is no use of it; users of the facade are warned when it is called.
        '#pragma GCC diagnostic ignored "-Wdeprecated-declarations"\n\n'
        f"{wrappers}"
    )


def _macro(api: Api, function: Function) -> str:
    """What sends a call to the wrapper, and takes the place of a macro of that name."""
    undef = f"#undef {function.name}\n" if function.name in api.macros_left_out else ""
    return f"{undef}#define {function.name}(...) {_wrapper_name(function)}(__VA_ARGS__)\n"


def _wrapper_name(function: Function) -> str:
    return f"guard_{function.name}"


def _wrapper(function: Function) -> str:
    if function.absent:
        return _absent(function)
    arguments = ", ".join(argument(function, i) for i in range(len(function.params)))
    suspects = ", ".join(argument(function, i) for i in policy.suspects(function))
    nothing = "return;" if function.returns == "void" else "return {};"
    call = _adapted(function) if function.body else f"{function.name}({arguments})"
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
        lines.append(f'    guard::deprecated("{function.name}");')
    lifetime = _lifetime(function)
    if lifetime:
        lines += _if(f"!{lifetime}", nothing)
    lines += [
        "    try {",
        *(f"        {line};".replace("\n", "\n        ") for line in _body(function, call)),
        "    } catch (...) {",
        f"        guard_call.caught({{{suspects}}});",
        *([] if function.returns == "void" else ["        return {};"]),
        "    }",
        "}",
    ]
    return "\n".join(lines) + "\n"


def _absent(function: Function) -> str:
    """A function that the facade calls, for a header without it."""
    lines = [
        f'extern "C" {prototype(function, _wrapper_name(function))} {{',
        f'    guard::absent("{function.name}", "{function.absent}");',
        *([] if function.returns == "void" else ["    return {};"]),
        "}",
    ]
    return "\n".join(lines) + "\n"


def _adapted(function: Function) -> str:
    """A call that makes do with what the header has."""
    body = function.body.replace("\n", "\n    ")
    return f"[&]() -> {function.returns} {{\n    {body}\n}}()"


def _if(condition: str, then: str) -> list[str]:
    return [f"    if ({condition}) {{", f"        {then}", "    }"]


def _lifetime(function: Function) -> str:
    """What holds the handles of a call alive, or ends one."""
    handles = ", ".join(argument(function, i) for i in policy.handles(function))
    if not handles:
        return ""
    return f"guard_call.ends({handles})" if policy.ends(function) else f"guard_call.holds({{{handles}}})"


def _body(function: Function, call: str) -> list[str]:
    """The call, its result noted where it is a handle or a part of one. A call that frees tells of no lost worker: what
    that had is gone, and the rest is freed.
    """
    if function.returns == "void":
        return [call] if policy.frees(function) else [call, "guard_call.settle()"]
    if policy.begins(function):
        return [f"return guard_call.begun({call})"]
    if policy.is_part(function):
        return [f"return guard::part_of({argument(function, policy.handles(function)[0])}, guard_call.settled({call}))"]
    return [f"return guard_call.settled({call})"]
