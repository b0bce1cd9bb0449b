/* Parses GBNF as llama.cpp's parser does, and refuses what that one does not survive. Everything takes time and memory in
 * proportion to the text and its repetitions, which are limited. */
#include "gbnf.hpp"

#include "llama.h"

#include <algorithm>
#include <map>

namespace gbnf {

namespace {

constexpr size_t   MAX_DEPTH       = 256;      // parentheses inside each other
constexpr uint64_t MAX_REPETITIONS = 2000;     // llama.cpp's own limit
constexpr size_t   MAX_ELEMENTS    = 1 << 22;  // characters, classes and references, repetitions written out

using Sequence = std::vector<Element>;

/* A rule while it is parsed. Its alternatives are separated by END. */
struct Rule {
    std::string name;  // empty: made for parentheses or a repetition
    Sequence    elements;
    bool        defined = false;
};

class Parser {
  public:
    Parser(const char * text, const llama_vocab * vocab) : text_(text), pos_(text), vocab_(vocab) {}

    Rules parse(const char * root) {
        space(true);
        while (*pos_) {
            rule();
        }
        for (const Rule & rule : rules_) {
            if (!rule.defined) {
                fail("the rule '" + rule.name + "' is not defined", nullptr);
            }
        }
        const auto found = names_.find(root);
        if (found == names_.end()) {
            fail("the grammar does not contain a '" + std::string(root) + "' symbol: name the rule to start from",
                 nullptr);
        }
        return finished(found->second);
    }

  private:
    [[noreturn]] void fail(const std::string & why) const { fail(why, pos_); }

    [[noreturn]] void fail(const std::string & why, const char * at) const {
        if (at == nullptr) {
            throw Error(why);
        }
        const auto   line = 1 + std::count(text_, at, '\n');
        const char * end  = at;
        while (*end && *end != '\n' && (end - at < 40 || (*end & 0xC0) == 0x80)) {
            end++;
        }
        throw Error("line " + std::to_string(line) + ": " + why +
                    (end == at ? ", got the end of the line" : ", got " + std::string(at, end)));
    }

    static bool is_digit(char c) { return '0' <= c && c <= '9'; }

    static bool is_word(char c) { return ('a' <= c && c <= 'z') || ('A' <= c && c <= 'Z') || c == '-' || is_digit(c); }

    /* Skips spaces and comments. */
    void space(bool newlines) {
        while (*pos_ == ' ' || *pos_ == '\t' || *pos_ == '#' || (newlines && (*pos_ == '\r' || *pos_ == '\n'))) {
            if (*pos_ == '#') {
                while (*pos_ && *pos_ != '\r' && *pos_ != '\n') {
                    pos_++;
                }
            } else {
                pos_++;
            }
        }
    }

    std::string word() {
        const char * begin = pos_;
        while (is_word(*pos_)) {
            pos_++;
        }
        if (pos_ == begin) {
            fail("expected the name of a rule");
        }
        return std::string(begin, pos_);
    }

    /* Parses a number; numbers above `limit` are `limit` + 1. */
    uint64_t number(uint64_t limit) {
        if (!is_digit(*pos_)) {
            fail("expected a number");
        }
        uint64_t value = 0;
        for (; is_digit(*pos_); pos_++) {
            value = std::min(value * 10 + static_cast<uint64_t>(*pos_ - '0'), limit + 1);
        }
        return value;
    }

    uint32_t hex(int digits) {
        uint32_t value = 0;
        for (int i = 0; i < digits; i++, pos_++) {
            const char c = *pos_;
            if (!is_digit(c) && !('a' <= c && c <= 'f') && !('A' <= c && c <= 'F')) {
                fail("expected " + std::to_string(digits) + " hexadecimal digits");
            }
            value = value << 4 | static_cast<uint32_t>(is_digit(c) ? c - '0' : (c | 32) - 'a' + 10);
        }
        return value;
    }

    uint32_t character() {
        if (*pos_ == '\0') {
            fail("a literal or a class does not end");
        }
        if (*pos_ == '\\') {
            pos_ += 2;
            switch (pos_[-1]) {
                case 'x':
                    return hex(2);
                case 'u':
                    return hex(4);
                case 'U':
                    return hex(8);
                case 't':
                    return '\t';
                case 'r':
                    return '\r';
                case 'n':
                    return '\n';
                case '\\':
                case '"':
                case '[':
                case ']':
                case '-':
                    return static_cast<uint32_t>(pos_[-1]);
                default:
                    pos_ -= 2;
                    fail("unknown escape");
            }
        }
        const auto first  = static_cast<uint8_t>(*pos_++);
        int        more   = first < 0xC0 ? 0 : first < 0xE0 ? 1 : first < 0xF0 ? 2 : 3;
        uint32_t   result = more == 0 ? first : first & (0x3Fu >> more);
        for (; more > 0 && *pos_; more--, pos_++) {
            result = result << 6 | (static_cast<uint8_t>(*pos_) & 0x3F);
        }
        return result;
    }

    void push(Sequence & out, Element element) {
        if (++n_elements_ > MAX_ELEMENTS) {
            fail("with its repetitions written out, the grammar has more than " + std::to_string(MAX_ELEMENTS) +
                 " elements: repeat less, or shorter texts");
        }
        out.push_back(element);
    }

    void append(Sequence & out, const Sequence & more) {
        for (const Element & element : more) {
            push(out, element);
        }
    }

    uint32_t add_rule(const std::string & name) {
        rules_.push_back({name, {}, false});
        return static_cast<uint32_t>(rules_.size() - 1);
    }

    uint32_t named(const std::string & name) {
        const auto [place, added] = names_.emplace(name, 0);
        if (added) {
            place->second = add_rule(name);
        }
        return place->second;
    }

    void define(uint32_t id, Sequence elements) {
        rules_[id].elements = std::move(elements);
        rules_[id].defined  = true;
    }

    void rule() {
        const uint32_t id = named(word());
        space(false);
        if (pos_[0] != ':' || pos_[1] != ':' || pos_[2] != '=') {
            fail("expected ::=");
        }
        pos_ += 3;
        space(true);
        define(id, alternatives(0));
        if (*pos_ == '\r') {
            pos_ += pos_[1] == '\n' ? 2 : 1;
        } else if (*pos_ == '\n') {
            pos_++;
        } else if (*pos_) {
            fail("expected the end of the rule");
        }
        space(true);
    }

    Sequence alternatives(size_t depth) {
        Sequence out;
        sequence(out, depth);
        while (*pos_ == '|') {
            push(out, {Type::END, 0});
            pos_++;
            space(true);
            sequence(out, depth);
        }
        push(out, {Type::END, 0});
        return out;
    }

    /* Parses items, and appends them to `out`. */
    void sequence(Sequence & out, size_t depth) {
        const bool nested = depth > 0;
        size_t     last   = out.size();  // where the last item begins
        uint64_t   weight = 1;           // rules that it stands for, as llama.cpp counts
        while (*pos_) {
            const size_t begin = out.size();
            if (*pos_ == '"') {
                for (pos_++; *pos_ != '"';) {
                    push(out, {Type::CHAR, character()});
                }
                pos_++;
            } else if (*pos_ == '[') {
                char_class(out);
            } else if (*pos_ == '<' || *pos_ == '!') {
                token(out);
            } else if (is_word(*pos_)) {
                push(out, {Type::RULE, named(word())});
            } else if (*pos_ == '(') {
                const size_t before = rules_.size();
                push(out, {Type::RULE, parentheses(depth)});
                last   = begin;
                weight = std::max<uint64_t>(1, rules_.size() - before);
                space(nested);
                continue;
            } else if (*pos_ == '.') {
                pos_++;
                push(out, {Type::ANY, 0});
            } else if (*pos_ == '*' || *pos_ == '+' || *pos_ == '?' || *pos_ == '{') {
                repetition(out, last, weight, nested);
                continue;
            } else {
                break;
            }
            last   = begin;
            weight = 1;
            space(nested);
        }
    }

    uint32_t parentheses(size_t depth) {
        if (depth >= MAX_DEPTH) {
            fail("parentheses may be nested " + std::to_string(MAX_DEPTH) + " deep");
        }
        pos_++;
        space(true);
        const uint32_t id = add_rule("");
        define(id, alternatives(depth + 1));
        if (*pos_ != ')') {
            fail("expected )");
        }
        pos_++;
        return id;
    }

    void char_class(Sequence & out) {
        pos_++;
        const bool negative = *pos_ == '^';
        pos_ += negative;
        Class ranges;
        while (*pos_ != ']') {
            const uint32_t low  = character();
            uint32_t       high = low;
            if (pos_[0] == '-' && pos_[1] != ']') {
                pos_++;
                high = character();
            }
            ranges.emplace_back(low, high);
        }
        pos_++;
        if (!ranges.empty()) {  // [] is the empty text, as in llama.cpp
            push(out, {negative ? Type::NOT_CLASS : Type::CLASS, class_id(std::move(ranges))});
        }
    }

    uint32_t class_id(Class ranges) {
        std::sort(ranges.begin(), ranges.end());
        Class merged;
        for (const auto & [low, high] : ranges) {
            if (high < low) {
                continue;  // matches nothing, as in llama.cpp
            }
            if (!merged.empty() && low <= merged.back().second) {
                merged.back().second = std::max(merged.back().second, high);
            } else {
                merged.emplace_back(low, high);
            }
        }
        const auto [place, added] = class_ids_.emplace(std::move(merged), static_cast<uint32_t>(classes_.size()));
        if (added) {
            classes_.push_back(place->first);
        }
        return place->second;
    }

    void token(Sequence & out) {
        const bool negative = *pos_ == '!';
        pos_ += negative;
        if (*pos_ != '<') {
            fail("expected <");
        }
        const char * begin = pos_;
        uint32_t     id    = 0;
        if (pos_[1] == '[') {
            pos_ += 2;
            const uint64_t value = number(0x7FFFFFFF);
            if (value > 0x7FFFFFFF || pos_[0] != ']' || pos_[1] != '>') {
                fail("expected the number of a token, as in <[42]>", begin);
            }
            pos_ += 2;
            id = static_cast<uint32_t>(value);
        } else {
            while (*pos_ && *pos_ != '>') {
                pos_++;
            }
            if (*pos_ != '>') {
                fail("expected > after the text of a token", begin);
            }
            pos_++;
            id = vocab_ == nullptr ? 0 : lookup(begin);
        }
        push(out, {negative ? Type::NOT_TOKEN : Type::TOKEN, id});
    }

    uint32_t lookup(const char * begin) const {
        llama_token tokens[2];
        const auto  size = pos_ - begin;
        if (size > 256 || llama_tokenize(vocab_, begin, static_cast<int32_t>(size), tokens, 2, false, true) != 1) {
            fail("expected the text of one token of the vocabulary", begin);
        }
        return static_cast<uint32_t>(tokens[0]);
    }

    /* Repeats the last item of `out`, by rules as in llama.cpp: S{2,4} is S S R with R ::= S Q | and Q ::= S | */
    void repetition(Sequence & out, size_t last, uint64_t & weight, bool nested) {
        const char * begin = pos_;
        const char   mark  = *pos_++;
        uint64_t     least = mark == '+' ? 1 : 0, most = 1;
        bool         no_end = mark != '?';
        space(nested);
        if (mark == '{') {
            bounds(least, most, no_end, nested);
            if (!no_end && most < least) {
                fail("the second number of {" + std::to_string(least) + "," + std::to_string(most) +
                         "} must not be smaller than the first",
                     begin);
            }
        }
        if (last == out.size()) {
            fail("expected an item before the repetition", begin);
        }
        const uint64_t factor = std::max<uint64_t>(1, !no_end && most > 0 ? most : least);
        if (least > MAX_REPETITIONS || weight * factor > MAX_REPETITIONS) {
            fail("an item may be repeated " + std::to_string(MAX_REPETITIONS) +
                     " times at most, and fewer times if it contains repetitions or parentheses",
                 begin);
        }
        weight *= factor;
        const Sequence item(out.begin() + static_cast<std::ptrdiff_t>(last), out.end());
        if (least == 0) {
            out.resize(last);
        }
        for (uint64_t i = 1; i < least; i++) {
            append(out, item);
        }
        if (no_end) {
            const uint32_t id = add_rule("");
            define(id, optional(item, id, true));
            push(out, {Type::RULE, id});
        } else if (most > least) {
            uint32_t id = 0;
            for (uint64_t i = 0; i < most - least; i++) {
                Sequence rule = optional(item, id, i > 0);
                id            = add_rule("");
                define(id, std::move(rule));
            }
            push(out, {Type::RULE, id});
        }
    }

    /* The rule of an item that may be left out, followed by another rule if `more`. */
    Sequence optional(const Sequence & item, uint32_t next, bool more) {
        Sequence rule;
        append(rule, item);
        if (more) {
            push(rule, {Type::RULE, next});
        }
        push(rule, {Type::END, 0});
        push(rule, {Type::END, 0});
        return rule;
    }

    /* Parses the rest of {n}, {n,} or {n,m}. As in llama.cpp, a maximum of more than 2,000 is none. */
    void bounds(uint64_t & least, uint64_t & most, bool & no_end, bool nested) {
        constexpr uint64_t LARGEST = 1ull << 40;
        least                      = number(LARGEST);
        most                       = least;
        no_end                     = false;
        space(nested);
        if (*pos_ == ',') {
            pos_++;
            space(nested);
            no_end = !is_digit(*pos_);
            if (!no_end) {
                most = number(LARGEST);
                space(nested);
            }
        }
        if (*pos_ != '}') {
            fail("expected }");
        }
        pos_++;
        space(nested);
        no_end |= most > MAX_REPETITIONS && most > least;
    }

    Rules finished(uint32_t root) {
        Rules out;
        out.root    = root;
        out.classes = std::move(classes_);
        for (const Rule & rule : rules_) {
            auto & starts = out.alternatives.emplace_back();
            bool   start  = true;
            for (const Element & element : rule.elements) {
                if (start) {
                    starts.push_back(static_cast<uint32_t>(out.elements.size()));
                }
                out.elements.push_back(element);
                start = element.type == Type::END;
            }
        }
        return out;
    }

    const char *                    text_;
    const char *                    pos_;
    const llama_vocab *             vocab_;
    std::vector<Rule>               rules_;
    std::map<std::string, uint32_t> names_;
    std::map<Class, uint32_t>       class_ids_;
    std::vector<Class>              classes_;
    size_t                          n_elements_ = 0;
};

}  // namespace

Rules parse(const char * text, const char * root, const llama_vocab * vocab) {
    Rules rules = Parser(text, vocab).parse(root);
    if (has_left_recursion(rules)) {
        throw Error(
            "left recursion: a rule begins with itself and goes on after that: write the repetition with * or +");
    }
    return rules;
}

}  // namespace gbnf
