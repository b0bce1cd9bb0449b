/* Tokenizes long texts in pieces. llama.cpp's SentencePiece tokenizer keeps a queue of all possible merges, which no
 * longer fits into the CPU's caches if the text is long. A text may be cut wherever no token contains both the byte before
 * and the byte after the cut: no merge crosses it, and the merges on one side do not depend on the other side. */
#include "shim.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "guard.h"  // from here on llama.cpp's functions are the guarded ones

namespace {

constexpr int32_t PIECE = 1 << 14;  // bytes

/* Returns the end of the piece that begins at `begin`: after a newline that no token continues, or the end of the text. */
int32_t end_of_piece(const char * text, int32_t begin, int32_t size, const bool * goes_on) {
    if (size - begin <= PIECE) {
        return size;
    }
    const auto may_cut = [&](int32_t at) {
        return text[at - 1] == '\n' && !goes_on[static_cast<unsigned char>(text[at])];
    };
    for (int32_t at = begin + PIECE; at > begin + PIECE / 2; at--) {
        if (may_cut(at)) {
            return at;
        }
    }
    for (int32_t at = begin + PIECE; at < size; at++) {
        if (may_cut(at)) {
            return at;
        }
    }
    return size;
}

}  // namespace

extern "C" {

bool shim_after_newline(const struct llama_vocab * vocab, bool * goes_on) {
    for (int32_t i = 0; i < 256; i++) {
        goes_on[i] = i == 0;  // C shows the text of a token up to a NUL
    }
    const int32_t n = llama_vocab_n_tokens(vocab);
    for (int32_t token = 0; token < n; token++) {
        if ((llama_vocab_get_attr(vocab, token) & (LLAMA_TOKEN_ATTR_LSTRIP | LLAMA_TOKEN_ATTR_RSTRIP)) != 0) {
            return false;  // this token strips spaces next to it
        }
        const char * text = llama_vocab_get_text(vocab, token);
        if (text == nullptr || shim_failed()) {
            return false;
        }
        for (; *text != 0; text++) {
            if (*text == '\n') {
                goes_on[static_cast<unsigned char>(text[1])] = true;
            }
        }
    }
    goes_on[static_cast<unsigned char>(' ')] |= goes_on[0xE2];  // a space is spelled U+2581 in most tokens
    goes_on[0xE2] |= goes_on[static_cast<unsigned char>(' ')];
    return true;
}

int32_t shim_longest_text(const struct llama_vocab * vocab) {
    size_t        longest = 0;
    const int32_t n       = llama_vocab_n_tokens(vocab);
    for (int32_t token = 0; token < n; token++) {
        const char * text = llama_vocab_get_text(vocab, token);
        longest           = std::max(longest, text == nullptr ? 0 : strlen(text));
    }
    return static_cast<int32_t>(std::min<size_t>(longest, INT32_MAX));
}

int32_t shim_tokenize(const struct llama_vocab * vocab, const char * text, int32_t size, int32_t * tokens, int32_t room,
                      bool add_special, bool parse_special, const bool * goes_on) {
    int32_t n = 0;
    for (int32_t begin = 0; begin < size;) {
        const int32_t end   = end_of_piece(text, begin, size, goes_on);
        const int32_t added = llama_tokenize(vocab, text + begin, end - begin, tokens + n, room - n,
                                             add_special && begin == 0, parse_special);
        if (added < 0 || shim_failed()) {
            return -1;
        }
        n += added;
        begin = end;
    }
    return n;
}

}  // extern "C"
