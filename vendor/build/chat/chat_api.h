/* llama.cpp's chat code (common/chat*, common/jinja, the PEG parser, JSON Schema to GBNF) behind a C interface with JSON.
 *
 * It is a library of its own, which the extension loads when it is first used (llama_cffi/_shim/chat.cpp). No C++ object and
 * no exception crosses this interface. A call ends with CHAT_LIMIT or CHAT_MEMORY if a template or a text takes more time,
 * stack or memory than `struct chat_limits` allows: both may come from strangers. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CHAT_API __attribute__((visibility("default")))

enum chat_status {
    CHAT_OK      = 0,
    CHAT_ERROR   = 1, /* the text is the message of an exception */
    CHAT_LIMIT   = 2, /* too much time or stack; the text says which */
    CHAT_MEMORY  = 3,
    CHAT_STOPPED = 4, /* `stop` returned true */
};

struct chat_limits {
    double seconds; /* of CPU time */
    size_t memory;  /* bytes that a call may allocate at a time */
    size_t stack;   /* bytes of the stack on which templates run */
    bool (*stop)(void * data);
    void * data;
};

/* What a call returns; to free with chat_free_text. UTF-8, without a closing NUL. */
struct chat_text {
    char * data;
    size_t size;
};

struct chat_templates;
struct chat_parser;

/* Makes a template of its text in Jinja. `bos` and `eos` are the texts of these tokens, or empty. */
CHAT_API enum chat_status chat_make_templates(const char * source, const char * bos, const char * eos,
                                              const struct chat_limits * limits, struct chat_templates ** made,
                                              struct chat_text * error);
CHAT_API void chat_free_templates(struct chat_templates * templates);

/* Calls one of these functions, with JSON both ways:
 *
 * - "info": what the templates can do
 * - "render": messages, tools and variables to the text of a prompt */
CHAT_API enum chat_status chat_call(struct chat_templates * templates, const char * function, const char * json,
                                    size_t size, const struct chat_limits * limits, struct chat_text * result);

/* From JSON as for "render", with tool_choice, response format, ..., to a prompt, a grammar, triggers and stops as JSON, and
 * the parser of the answer. */
CHAT_API enum chat_status chat_apply(struct chat_templates * templates, const char * json, size_t size,
                                     const struct chat_limits * limits, struct chat_parser ** made,
                                     struct chat_text * result);

/* Makes a parser for which all text is content. */
CHAT_API enum chat_status chat_make_parser(const struct chat_limits * limits, struct chat_parser ** made,
                                           struct chat_text * error);
CHAT_API void chat_free_parser(struct chat_parser * parser);

/* Parses an answer, from its beginning: to a message as JSON. `partial`: more text may follow. */
CHAT_API enum chat_status chat_parse(struct chat_parser * parser, const char * text, size_t size, bool partial,
                                     const struct chat_limits * limits, struct chat_text * result);

/* Converts a JSON Schema to a GBNF grammar. */
CHAT_API enum chat_status chat_schema_to_grammar(const char * json, size_t size, const struct chat_limits * limits,
                                                 struct chat_text * result);

CHAT_API void chat_free_text(struct chat_text * text);

#ifdef __cplusplus
}
#endif
