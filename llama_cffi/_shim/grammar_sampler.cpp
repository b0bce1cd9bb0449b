/* The sampler that masks what a GBNF grammar does not allow. It does what llama.cpp's own does, in time that is limited for
 * each token: there, a short grammar can take hours, and nothing can interrupt it. */
#include "grammar.hpp"
#include "guard.hpp"

#include "llama.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <regex>
#include <string>
#include <utility>
#include <vector>

namespace {

using gbnf::Matcher;

struct Pattern {
    std::string text;
    std::regex  regex;

    explicit Pattern(const char * pattern) : text(pattern), regex(text) {}

    /* Returns where the grammar begins in a text, which is the first group that is not empty; npos if nothing matches. */
    size_t find(const std::string & input) const {
        std::smatch match;
        const bool  whole = !text.empty() && text.front() == '^' && text.back() == '$';
        if (!(whole && std::regex_match(input, match, regex)) && !std::regex_search(input, match, regex)) {
            return std::string::npos;
        }
        for (size_t i = 1; i < match.size(); i++) {
            if (match.length(i) > 0) {
                return static_cast<size_t>(match.position(i));
            }
        }
        return static_cast<size_t>(match.position(0));
    }
};

/* What triggers a lazy grammar. */
struct Trigger {
    std::vector<Pattern>     patterns;
    std::vector<llama_token> tokens;
};

class Grammar {
  public:
    Grammar(const llama_vocab * vocab, std::shared_ptr<const gbnf::Rules> rules, std::shared_ptr<const Trigger> trigger)
        : vocab_(vocab), trigger_(std::move(trigger)), matcher_(std::move(rules)), waits_(trigger_ != nullptr) {
        if (matcher_.is_dead()) {
            throw gbnf::Error("no text fits the grammar: the recursion of its first rule never ends");
        }
    }

    void apply(llama_token_data_array & candidates) {
        if (waits_) {
            return;
        }
        matcher_.begin();
        std::string text;
        const bool  may_end = matcher_.may_end();
        for (size_t i = 0; i < candidates.size; i++) {
            llama_token_data & candidate = candidates.data[i];
            if (!(llama_vocab_is_eog(vocab_, candidate.id) ? may_end : allows(candidate.id, text))) {
                candidate.logit = -INFINITY;
            }
        }
    }

    void accept(llama_token token) {
        matcher_.begin();
        std::string text;
        read(token, text);
        if (!waits_) {
            go_on(token, text);
        } else if (std::find(trigger_->tokens.begin(), trigger_->tokens.end(), token) != trigger_->tokens.end()) {
            go_on(token, text);
            start();
        } else {
            ends_.emplace_back(token, seen_.size() + text.size());
            seen_ += text;
            search();
        }
    }

    /* Accepts a text that comes before the first token. */
    bool prefill(const std::string & text) {
        matcher_.begin();
        return matcher_.accept(LLAMA_TOKEN_NULL, text);
    }

    bool waits() const { return waits_; }

    void reset() {
        matcher_.reset();
        waits_ = trigger_ != nullptr;
        seen_.clear();
        ends_.clear();
    }

  private:
    /* Reads the text of a token, up to a NUL. */
    void read(llama_token token, std::string & text) const {
        text.resize(std::max<size_t>(text.capacity(), 64));
        int32_t size = llama_token_to_piece(vocab_, token, &text[0], static_cast<int32_t>(text.size()), 0, true);
        if (size < 0) {
            text.resize(static_cast<size_t>(-size));
            size = llama_token_to_piece(vocab_, token, &text[0], -size, 0, true);
        }
        text.resize(static_cast<size_t>(std::max(size, 0)));
        text.resize(std::min(text.find('\0'), text.size()));
    }

    bool allows(llama_token token, std::string & text) {
        read(token, text);
        return !text.empty() && matcher_.allows(token, text);
    }

    void go_on(llama_token token, const std::string & text) {
        if (llama_vocab_is_eog(vocab_, token) ? !matcher_.may_end() : !matcher_.accept(token, text)) {
            throw std::runtime_error("the grammar does not allow token " + std::to_string(token));
        }
    }

    void start() {
        waits_ = false;
        seen_.clear();
        ends_.clear();
    }

    /* Looks for the trigger in all the text so far. The tokens from there on must then fit the grammar. */
    void search() {
        for (const Pattern & pattern : trigger_->patterns) {
            const size_t found = pattern.find(seen_);
            if (found == std::string::npos) {
                continue;
            }
            size_t begin = 0;
            for (const auto & [token, end] : ends_) {
                if (end > found) {
                    const size_t from = std::max(begin, found);
                    go_on(token, seen_.substr(from, end - from));
                }
                begin = end;
            }
            start();
            return;
        }
    }

    const llama_vocab *                         vocab_;
    std::shared_ptr<const Trigger>              trigger_;  // null: the grammar is not lazy
    Matcher                                     matcher_;
    bool                                        waits_;
    std::string                                 seen_;  // the text since the beginning, while it waits
    std::vector<std::pair<llama_token, size_t>> ends_;  // its tokens, and where each ends in it
};

Grammar & grammar_of(const llama_sampler * sampler) {
    return *static_cast<Grammar *>(sampler->ctx);
}

llama_sampler * make(std::unique_ptr<Grammar> grammar);

llama_sampler_i * interface() {
    static llama_sampler_i table = [] {
        llama_sampler_i out{};
        out.name   = [](const llama_sampler *) { return "grammar"; };
        out.accept = [](llama_sampler * sampler, llama_token token) { grammar_of(sampler).accept(token); };
        out.apply  = [](llama_sampler * sampler, llama_token_data_array * cand) { grammar_of(sampler).apply(*cand); };
        out.reset  = [](llama_sampler * sampler) { grammar_of(sampler).reset(); };
        out.clone  = [](const llama_sampler * sampler) { return make(std::make_unique<Grammar>(grammar_of(sampler))); };
        out.free   = [](llama_sampler * sampler) { delete &grammar_of(sampler); };
        return out;
    }();
    return &table;
}

llama_sampler * make(std::unique_ptr<Grammar> grammar) {
    llama_sampler * sampler = llama_sampler_init(interface(), grammar.get());
    grammar.release();
    return sampler;
}

}  // namespace

extern "C" struct llama_sampler * shim_grammar(const struct llama_vocab * vocab, const char * text, const char * root,
                                               bool lazy, const char ** patterns, size_t n_patterns,
                                               const int32_t * tokens, size_t n_tokens) {
    guard::Call call(lazy ? "llama_sampler_init_grammar_lazy_patterns" : "llama_sampler_init_grammar");
    if (!call.acquire({vocab})) {
        return nullptr;
    }
    try {
        auto                     rules = std::make_shared<const gbnf::Rules>(gbnf::parse(text, root, vocab));
        std::shared_ptr<Trigger> trigger;
        if (lazy) {
            trigger = std::make_shared<Trigger>();
            trigger->tokens.assign(tokens, tokens + n_tokens);
            for (size_t i = 0; i < n_patterns; i++) {
                trigger->patterns.emplace_back(patterns[i]);
            }
        }
        return make(std::make_unique<Grammar>(vocab, std::move(rules), std::move(trigger)));
    } catch (...) {
        call.record_exception({});
        return nullptr;
    }
}

extern "C" bool shim_grammar_waits(const struct llama_sampler * sampler) {
    return grammar_of(sampler).waits();
}

extern "C" bool shim_grammar_prefill(struct llama_sampler * sampler, const char * text, size_t size) {
    guard::Call call("llama_sampler_accept");
    try {
        return grammar_of(sampler).prefill(std::string(text, size));
    } catch (...) {
        call.record_exception({});
        return false;
    }
}
