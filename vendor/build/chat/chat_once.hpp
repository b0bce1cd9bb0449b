/* Hooks in llama.cpp's chat code, so that it does nothing twice and nothing in vain. Its text stays as it is: CMakeLists.txt
 * includes this file at the beginning of some of its files, where macros put the hooks into calls.
 *
 * - chat.cpp analyses a template for each prompt or, in newer versions, when it is loaded: here, once, when an analysis is
 *   needed.
 * - Its files render a conversation three times, for the prompt and for what `add_generation_prompt` adds to it: a call that
 *   needs the prompt alone renders once.
 * - The interpreter of templates copies a map of functions at each name, and all variables for each item of a loop: here, it
 *   refers to the map, and copies variables only for a loop with a condition, which needs the copy. */
#pragma once

#ifdef CHAT_ONCE_RUNTIME
#include "jinja/runtime.h"

#include <optional>

namespace once {

/* Stands for a map, without copying it. */
struct Functions {
    const jinja::func_builtins & map;

    auto find(const std::string & name) const { return map.find(name); }
    auto end() const { return map.end(); }
    const auto & at(const std::string & name) const { return map.at(name); }
};

struct Refer {};

inline Functions operator|(const jinja::func_builtins & map, Refer) {
    return {map};
}

}  // namespace once

#define global_builtins() (global_builtins() | once::Refer())
#define get_builtins() get_builtins() | once::Refer()
/* In `context loop_scope(scope);` */
#define loop_scope(scope)              \
    *none = nullptr;                   \
    std::optional<jinja::context> own; \
    if (select_expr != nullptr) {      \
        own.emplace(scope);            \
    }                                  \
    context & loop_scope = own ? *own : (static_cast<void>(none), scope)
#else
#include "chat-auto-parser.h"
#include "parsers/parsers.h"

namespace once {

/* Puts the analysis of a template into `empty`, which it returns. In a call that only renders, it renders, and does not
 * return. */
const autoparser::autoparser & analysis(const common_chat_template & tmpl, const autoparser::generation_params & params,
                                        const autoparser::autoparser & empty);

/* True in a call that only renders. */
bool render_only();

}  // namespace once

#ifdef CHAT_ONCE_CHAT
/* In `autoparser.analyze_template(tmpl);`, which does nothing now. */
#define analyze_template(tmpl) assistant_start.clear()
/* In `generate_parser(tmpl, params, autoparser);` */
#define generate_parser(tmpl, params, empty) generate_parser(tmpl, params, once::analysis(tmpl, params, empty))
#endif
#ifdef CHAT_ONCE_PARSERS
#define common_chat_template_generation_prompt_impl(...) \
    (once::render_only() ? std::string() : common_chat_template_generation_prompt_impl(__VA_ARGS__))
#endif
#endif
