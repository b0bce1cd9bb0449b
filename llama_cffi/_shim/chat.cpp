/* Calls llama.cpp's chat code, which is in a library of its own: see vendor/build/chat. It is loaded at first use. */
#include "../../vendor/build/chat/chat_api.h"

#include "guard.hpp"
#include "shim.h"

#include <dlfcn.h>

namespace {

/* The functions of the library. */
struct Chat {
    decltype(&chat_make_templates)    make_templates;
    decltype(&chat_free_templates)    free_templates;
    decltype(&chat_call)              call;
    decltype(&chat_apply)             apply;
    decltype(&chat_make_parser)       make_parser;
    decltype(&chat_free_parser)       free_parser;
    decltype(&chat_parse)             parse;
    decltype(&chat_schema_to_grammar) schema_to_grammar;
    decltype(&chat_free_text)         free_text;
};

Chat chat = {};
bool open = false;

template <typename Function> bool find(void * library, const char * name, Function & function) {
    function = reinterpret_cast<Function>(dlsym(library, name));
    return function != nullptr;
}

chat_limits limits_of(const shim_chat_limits & given) {
    return {given.seconds, given.memory, given.stack, shim_abort, nullptr};
}

/* Ends a call: its text becomes the caller's. */
int ended(enum chat_status status, const chat_text & text, struct shim_chat_text * result) {
    result->data = text.data;
    result->size = text.size;
    return status;
}

}  // namespace

extern "C" {

bool shim_chat_open(const char * path) {
    if (open) {
        return true;
    }
    void * library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    open = library != nullptr && find(library, "chat_make_templates", chat.make_templates) &&
           find(library, "chat_free_templates", chat.free_templates) && find(library, "chat_call", chat.call) &&
           find(library, "chat_apply", chat.apply) && find(library, "chat_make_parser", chat.make_parser) &&
           find(library, "chat_free_parser", chat.free_parser) && find(library, "chat_parse", chat.parse) &&
           find(library, "chat_schema_to_grammar", chat.schema_to_grammar) &&
           find(library, "chat_free_text", chat.free_text);
    return open;
}

void * shim_chat_make_templates(const char * source, const char * bos, const char * eos,
                                const struct shim_chat_limits * given, int32_t * status,
                                struct shim_chat_text * error) {
    chat_templates *  found  = nullptr;
    chat_text         text   = {};
    const chat_limits limits = limits_of(*given);
    *status                  = ended(chat.make_templates(source, bos, eos, &limits, &found, &text), text, error);
    return found;
}

void shim_chat_free_templates(void * templates) {
    chat.free_templates(static_cast<chat_templates *>(templates));
}

int shim_chat_call(void * templates, const char * function, const char * json, size_t size,
                   const struct shim_chat_limits * given, struct shim_chat_text * result) {
    chat_text         text   = {};
    const chat_limits limits = limits_of(*given);
    const auto status = chat.call(static_cast<chat_templates *>(templates), function, json, size, &limits, &text);
    return ended(status, text, result);
}

void * shim_chat_apply(void * templates, const char * json, size_t size, const struct shim_chat_limits * given,
                       int32_t * status, struct shim_chat_text * result) {
    chat_parser *     found  = nullptr;
    chat_text         text   = {};
    const chat_limits limits = limits_of(*given);
    const auto ended_as      = chat.apply(static_cast<chat_templates *>(templates), json, size, &limits, &found, &text);
    *status                  = ended(ended_as, text, result);
    return found;
}

void * shim_chat_make_parser(const struct shim_chat_limits * given, int32_t * status, struct shim_chat_text * error) {
    chat_parser *     found  = nullptr;
    chat_text         text   = {};
    const chat_limits limits = limits_of(*given);
    *status                  = ended(chat.make_parser(&limits, &found, &text), text, error);
    return found;
}

void shim_chat_free_parser(void * parser) {
    chat.free_parser(static_cast<chat_parser *>(parser));
}

int shim_chat_parse(void * parser, const char * text, size_t size, bool partial, const struct shim_chat_limits * given,
                    struct shim_chat_text * result) {
    chat_text         message = {};
    const chat_limits limits  = limits_of(*given);
    const auto        status  = chat.parse(static_cast<chat_parser *>(parser), text, size, partial, &limits, &message);
    return ended(status, message, result);
}

int shim_chat_schema_to_grammar(const char * json, size_t size, const struct shim_chat_limits * given,
                                struct shim_chat_text * result) {
    chat_text         text   = {};
    const chat_limits limits = limits_of(*given);
    const auto        status = chat.schema_to_grammar(json, size, &limits, &text);
    return ended(status, text, result);
}

void shim_chat_free_text(struct shim_chat_text * text) {
    if (text->data != nullptr) {
        chat_text given = {text->data, text->size};
        chat.free_text(&given);
    }
    *text = {};
}

}  // extern "C"
