/* What llama.cpp's chat code uses of other libraries, so that it needs none of them.
 *
 * Its log would print to stderr on a thread of its own. A failed assertion becomes an exception, because the thread on
 * which templates run is not inside a guarded call. Models are not used: templates come as text. */
#include "llama.h"
#include "log.h"

#include <cstdarg>
#include <cstdio>
#include <stdexcept>

int common_log_get_verbosity_thold(void) {
    return -1;
}

struct common_log * common_log_main() {
    return nullptr;
}

void common_log_add(struct common_log *, enum ggml_log_level, const char *, ...) {
}

extern "C" void ggml_abort(const char *, int, const char * format, ...) {
    char    text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    throw std::logic_error(text);
}

extern "C" const char * llama_model_chat_template(const struct llama_model *, const char *) {
    return nullptr;
}

extern "C" const struct llama_vocab * llama_model_get_vocab(const struct llama_model *) {
    return nullptr;
}

extern "C" llama_token llama_vocab_bos(const struct llama_vocab *) {
    return LLAMA_TOKEN_NULL;
}

extern "C" llama_token llama_vocab_eos(const struct llama_vocab *) {
    return LLAMA_TOKEN_NULL;
}

extern "C" bool llama_vocab_get_add_bos(const struct llama_vocab *) {
    return false;
}

extern "C" bool llama_vocab_get_add_eos(const struct llama_vocab *) {
    return false;
}

extern "C" int32_t llama_token_to_piece(const struct llama_vocab *, llama_token, char *, int32_t, int32_t, bool) {
    return 0;
}

extern "C" int32_t llama_chat_apply_template(const char *, const struct llama_chat_message *, size_t, bool, char *,
                                             int32_t) {
    return -1;
}
