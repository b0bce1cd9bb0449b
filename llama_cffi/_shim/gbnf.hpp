/* GBNF, llama.cpp's language for grammars: from the text to rules. */
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

struct llama_vocab;

namespace gbnf {

/* A grammar that cannot be used, or that needs more work than its limit. The guard makes it a GrammarError. */
struct Error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

enum class Type : uint8_t {
    END,       /* the end of an alternative */
    RULE,      /* `value`: the rule */
    CHAR,      /* `value`: the code point */
    ANY,       /* any code point */
    CLASS,     /* `value`: the class */
    NOT_CLASS, /* likewise */
    TOKEN,     /* `value`: the token */
    NOT_TOKEN, /* likewise */
};

struct Element {
    Type     type;
    uint32_t value;

    bool operator==(const Element & other) const { return type == other.type && value == other.value; }
};

/* Ranges of code points, sorted and disjoint. */
using Class = std::vector<std::pair<uint32_t, uint32_t>>;

struct Rules {
    std::vector<Element>               elements;      // all alternatives, each with its END
    std::vector<std::vector<uint32_t>> alternatives;  // for each rule, where its alternatives begin in `elements`
    std::vector<Class>                 classes;
    uint32_t                           root;
};

/* Parses a grammar. `text` must be valid UTF-8. Without a vocabulary, texts of tokens (`<think>`) are not looked up.
 * Throws Error with the line and the reason. */
Rules parse(const char * text, const char * root, const llama_vocab * vocab);

/* Returns true if a rule begins with itself and goes on after that. */
bool has_left_recursion(const Rules & rules);

}  // namespace gbnf
