#include "chat_api.h"

#include "chat_limits.hpp"
#include "chat_once.hpp"

#include "chat-auto-parser.h"
#include "chat.h"
#include "json-schema-to-grammar.h"

#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

/* A template, and what has been found out about it. */
struct chat_templates {
    common_chat_templates_ptr all;
    autoparser::autoparser    analysis;  // made when it is first needed
    bool                      analysed = false;
    std::mutex                mutex;  // of these two
};

struct chat_parser {
    common_chat_parser_params params;
};

namespace {

/* What the hooks in llama.cpp's code do in this call: see chat_once.hpp. */
struct Hooks {
    chat_templates * templates;
    bool             render_only;
    Hooks *          before;

    Hooks(chat_templates & templates, bool render_only);
    ~Hooks();
};

thread_local Hooks * hooks = nullptr;

Hooks::Hooks(chat_templates & templates, bool render_only)
    : templates(&templates), render_only(render_only), before(hooks) {
    hooks = this;
}

Hooks::~Hooks() {
    hooks = before;
}

/* Ends a call that only renders. Not a std::exception, since llama.cpp catches these. */
struct Rendered {
    std::string prompt;
};

/* Where llama.cpp keeps the analysis of a template; null where each call makes its own. */
template <typename Template> auto shared(const Template & tmpl, int) -> decltype(tmpl.analysis.get()) {
    return tmpl.analysis.get();
}

template <typename Template> autoparser::autoparser * shared(const Template &, long) {
    return nullptr;
}

}  // namespace

namespace once {

const autoparser::autoparser & analysis(const common_chat_template & tmpl, const autoparser::generation_params & params,
                                        const autoparser::autoparser & empty) {
    if (hooks->render_only) {
        throw Rendered{common_chat_template_direct_apply(tmpl, params)};
    }
    chat_templates &             templates = *hooks->templates;
    std::unique_lock<std::mutex> lock(templates.mutex);
    if (!templates.analysed) {
        lock.unlock();  // a thread that waited for the other would not see its own limits
        autoparser::autoparser found;
        found.analyze_template(tmpl);
        lock.lock();
        if (!templates.analysed) {  // or another thread has made one
            templates.analysis = found;
            if (autoparser::autoparser * place = shared(tmpl, 0)) {
                *place = std::move(found);
            }
            templates.analysed = true;
        }
    }
    if (shared(tmpl, 0) == nullptr) {
        const_cast<autoparser::autoparser &>(empty) = templates.analysis;  // a variable of the caller
    }
    return empty;
}

bool render_only() {
    return hooks != nullptr && hooks->render_only;
}

}  // namespace once

namespace {

using Json = common_json;

void put(chat_text & text, const std::string & value) {
    text.data = static_cast<char *>(malloc(value.size() + 1));
    text.size = text.data != nullptr ? value.size() : 0;
    if (text.data != nullptr) {
        memcpy(text.data, value.data(), value.size());
    }
}

/* Runs a call, and turns its exception into a status and a text. */
enum chat_status guarded(bool nests, const chat_limits * given, chat_text * text, const std::function<void()> & call) {
    *text = {};
    try {
        (nests ? limits::run_with_nesting : limits::run)(*given, call);
        return CHAT_OK;
    } catch (const limits::Exceeded & error) {
        put(*text, error.what());
        return error.status;
    } catch (const std::bad_alloc &) {
        return CHAT_MEMORY;
    } catch (const std::exception & error) {
        put(*text, error.what());
        return CHAT_ERROR;
    } catch (...) {
        put(*text, "an exception of an unknown type");
        return CHAT_ERROR;
    }
}

common_chat_templates_inputs inputs_of(const Json & given) {
    common_chat_templates_inputs inputs;
    inputs.messages              = common_chat_msgs_parse_oaicompat(given.at("messages"));
    inputs.tools                 = common_chat_tools_parse_oaicompat(given.value("tools", Json::array()));
    inputs.tool_choice           = common_chat_tool_choice_parse_oaicompat(given.value("tool_choice", "auto"));
    inputs.parallel_tool_calls   = given.value("parallel_tool_calls", false);
    inputs.json_schema           = given.value("json_schema", "");
    inputs.grammar               = given.value("grammar", "");
    inputs.add_generation_prompt = given.value("add_generation_prompt", true);
    inputs.enable_thinking       = given.value("enable_thinking", true);
    inputs.reasoning_format      = common_reasoning_format_from_name(given.value("reasoning_format", "auto"));
    if (given.contains("continue_final_message")) {
        inputs.continue_final_message = common_chat_continuation_parse(given.at("continue_final_message"));
    }
    if (!inputs.add_generation_prompt) {  // some templates add it where the variable is undefined
        inputs.chat_template_kwargs["add_generation_prompt"] = "false";
    }
    if (given.contains("variables")) {
        for (const auto & item : given.at("variables").items()) {
            inputs.chat_template_kwargs[item.key()] = item.value().dump();
        }
    }
    return inputs;
}

Json info(chat_templates & templates) {
    Hooks here(templates, false);
    Json  caps = Json::object();
    for (const auto & [name, value] : common_chat_templates_get_caps(templates.all.get())) {
        caps[name] = value;
    }
    Json found      = Json::object();
    found["caps"]   = caps;
    found["source"] = common_chat_templates_source(templates.all.get());
    try {
        found["supports_thinking"] = common_chat_templates_support_enable_thinking(templates.all.get());
    } catch (const std::runtime_error &) {  // it rejects the messages of this test
        found["supports_thinking"] = false;
    } catch (const std::logic_error &) {
        found["supports_thinking"] = false;
    }
    return found;
}

Json render(chat_templates & templates, const Json & given) {
    Hooks here(templates, true);
    auto  inputs       = inputs_of(given);
    inputs.tool_choice = COMMON_CHAT_TOOL_CHOICE_NONE;  // no prompt depends on it, and a grammar takes time
    Json found         = Json::object();
    try {
        found["prompt"] = common_chat_templates_apply(templates.all.get(), inputs).prompt;
    } catch (const Rendered & done) {
        found["prompt"] = done.prompt;
    }
    return found;
}

Json triggers_of(const common_chat_params & params) {
    Json found = Json::array();
    for (const auto & trigger : params.grammar_triggers) {
        const char * type = "";
        switch (trigger.type) {
            case COMMON_GRAMMAR_TRIGGER_TYPE_TOKEN:
                type = "token";
                break;
            case COMMON_GRAMMAR_TRIGGER_TYPE_WORD:
                type = "word";
                break;
            case COMMON_GRAMMAR_TRIGGER_TYPE_PATTERN:
                type = "pattern";
                break;
            case COMMON_GRAMMAR_TRIGGER_TYPE_PATTERN_FULL:
                type = "pattern_full";
                break;
        }
        found.push_back(Json::object({{"type", type}, {"value", trigger.value}}));
    }
    return found;
}

/* Text as llama.cpp's parsers take it: a string or, in newer versions, with the tokens that it came from. */
using Input = decltype(common_chat_parser_params::generation_prompt);

template <typename Rules> void load(Rules & rules, const std::string & json) {
    rules.load(json);
}

/* The rules of a parser, which "apply" returns as such or, in older versions, as JSON. */
template <typename Rules> void set_rules(Rules & rules, const common_chat_params & params) {
    if constexpr (std::is_same_v<std::decay_t<decltype(params.parser)>, Rules>) {
        rules = params.parser;
    } else if (!params.parser.empty()) {
        load(rules, params.parser);
    }
}

/* The rules of a sequence, without those that take no text. */
std::vector<const common_peg_parser_variant *> flat(const common_peg_arena & rules) {
    std::vector<const common_peg_parser_variant *> found;
    std::vector<common_peg_parser_id>              next = {rules.root()};
    while (!next.empty()) {
        const auto & row = rules.get(next.back());
        next.pop_back();
        if (const auto * sequence = std::get_if<common_peg_sequence_parser>(&row)) {
            next.insert(next.end(), sequence->children.rbegin(), sequence->children.rend());
        } else if (!std::holds_alternative<common_peg_epsilon_parser>(row) &&
                   !std::holds_alternative<common_peg_end_parser>(row)) {
            found.push_back(&row);
        }
    }
    return found;
}

/* Returns "all" if a parser takes any text as content, "tail" if it takes all after a beginning, or else "". */
const char * content_of(const common_peg_arena & rules, const std::string & generation_prompt) {
    if (rules.empty()) {
        return "";
    }
    const auto   rows = flat(rules);
    const auto * tag  = rows.empty() ? nullptr : std::get_if<common_peg_tag_parser>(rows.back());
    const auto * rest = tag == nullptr ? nullptr : std::get_if<common_peg_until_parser>(&rules.get(tag->child));
    if (rest == nullptr || !rest->delimiters.empty() || tag->tag != "content") {
        return "";
    }
    for (size_t id = 0; id < rules.size(); id++) {
        const auto * other = std::get_if<common_peg_tag_parser>(&rules.get(id));
        if (other != nullptr && other != tag && other->tag == "content") {
            return "";
        }
    }
    const auto * before = rows.size() != 2 ? nullptr : std::get_if<common_peg_literal_parser>(rows[0]);
    return before != nullptr && before->literal == generation_prompt ? "all" : "tail";
}

Json apply(chat_templates & templates, const Json & given, chat_parser & parser) {
    Hooks      here(templates, false);
    const auto params               = common_chat_templates_apply(templates.all.get(), inputs_of(given));
    parser.params.format            = params.format;
    parser.params.generation_prompt = Input(params.generation_prompt);
    set_rules(parser.params.parser, params);
    Json found                 = Json::object();
    found["prompt"]            = params.prompt;
    found["format"]            = common_chat_format_name(params.format);
    found["grammar"]           = params.grammar;
    found["grammar_lazy"]      = params.grammar_lazy;
    found["triggers"]          = triggers_of(params);
    found["preserved_tokens"]  = params.preserved_tokens;
    found["stops"]             = params.additional_stops;
    found["supports_thinking"] = params.supports_thinking;
    found["thinking_start"]    = params.thinking_start_tag;
    found["thinking_ends"]     = params.thinking_end_tags;
    found["generation_prompt"] = params.generation_prompt;
    found["content"]           = content_of(parser.params.parser, params.generation_prompt);
    found["rules"]             = parser.params.parser.size();
    return found;
}

}  // namespace

extern "C" {

enum chat_status chat_make_templates(const char * source, const char * bos, const char * eos,
                                     const struct chat_limits * given, struct chat_templates ** made,
                                     struct chat_text * error) {
    *made = nullptr;
    return guarded(true, given, error, [&] {
        jinja::lexer lexer;
        jinja::parse_from_tokens(lexer.tokenize(source));  // common_chat_templates_init loses the message of an error
        auto found = std::make_unique<chat_templates>();
        found->all = common_chat_templates_init(nullptr, source, bos, eos);
        *made      = found.release();
    });
}

void chat_free_templates(struct chat_templates * templates) {
    delete templates;
}

enum chat_status chat_call(struct chat_templates * templates, const char * function, const char * json, size_t size,
                           const struct chat_limits * given, struct chat_text * result) {
    return guarded(true, given, result, [&] {
        const std::string name = function;
        const Json        in   = Json::parse(std::string(json, size));
        put(*result, (name == "info" ? info(*templates) : render(*templates, in)).dump());
    });
}

enum chat_status chat_apply(struct chat_templates * templates, const char * json, size_t size,
                            const struct chat_limits * given, struct chat_parser ** made, struct chat_text * result) {
    *made = nullptr;
    return guarded(true, given, result, [&] {
        auto found = std::make_unique<chat_parser>();
        put(*result, apply(*templates, Json::parse(std::string(json, size)), *found).dump());
        *made = found.release();
    });
}

enum chat_status chat_make_parser(const struct chat_limits * given, struct chat_parser ** made,
                                  struct chat_text * error) {
    *made = nullptr;
    return guarded(true, given, error, [&] { *made = new chat_parser; });
}

void chat_free_parser(struct chat_parser * parser) {
    delete parser;
}

enum chat_status chat_parse(struct chat_parser * parser, const char * text, size_t size, bool partial,
                            const struct chat_limits * given, struct chat_text * result) {
    return guarded(false, given, result, [&] {
        const auto message = common_chat_parse(Input(std::string(text, size)), partial, parser->params);
        Json       calls   = Json::array();
        for (const auto & call : message.tool_calls) {
            calls.push_back(Json::object({{"name", call.name}, {"arguments", call.arguments}, {"id", call.id}}));
        }
        Json found         = Json::object();
        found["content"]   = message.content;
        found["reasoning"] = message.reasoning_content;
        found["calls"]     = calls;
        put(*result, found.dump_safe());
    });
}

enum chat_status chat_schema_to_grammar(const char * json, size_t size, const struct chat_limits * given,
                                        struct chat_text * result) {
    return guarded(false, given, result,
                   [&] { put(*result, json_schema_to_grammar(Json::parse(std::string(json, size)))); });
}

void chat_free_text(struct chat_text * text) {
    free(text->data);
    *text = {};
}

}  // extern "C"
