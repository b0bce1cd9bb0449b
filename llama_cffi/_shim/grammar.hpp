/* A text that follows a grammar: which tokens may come next. */
#pragma once

#include "gbnf.hpp"

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

namespace gbnf {

/* A character of UTF-8 that a token has begun. */
struct Partial {
    uint32_t value  = 0;
    int      remain = 0;  // bytes that are missing; -1: not UTF-8
};

/* The places that a text has reached in the rules. A place is a stack: a position in a rule, and where to go on after it.
 * Stacks share what they have in common (nodes), and sets of them are numbered (states), so that the work for a token
 * depends on the number of different stacks and not on the number of ways to reach them. */
class Matcher {
  public:
    explicit Matcher(std::shared_ptr<const Rules> rules);
    Matcher(const Matcher & other);
    Matcher & operator=(const Matcher &) = delete;

    /* Returns to the beginning. */
    void reset();

    /* Begins a mask or a token: the work for it is limited. */
    void begin();

    /* Returns true if no text fits the grammar. */
    bool is_dead() const { return now_ == DEAD; }

    /* Returns true if the text may end here. */
    bool may_end() const { return has_end(now_); }

    /* Returns true if a token may come next. `text` must not be empty. Throws Error if that takes too long. */
    bool allows(int32_t token, const std::string & text);

    /* Goes on after a token. Returns false, without a change, if it may not come next. Throws Error as `allows` does. */
    bool accept(int32_t token, const std::string & text);

  private:
    using Nodes = std::vector<uint32_t>;  // sorted

    /* The top of a stack. Node 0 is the empty stack. */
    struct Node {
        uint32_t pos;
        uint32_t parent;
    };

    struct State {
        Nodes                                      nodes;
        std::vector<std::pair<uint32_t, uint32_t>> chars;    // code point, node; sorted
        std::vector<std::pair<uint32_t, uint32_t>> classes;  // position of the first such element, node; sorted
        std::vector<uint32_t>                      tokens;   // nodes
        std::array<int32_t, 128>                   ascii;    // the next states, -1 if not known yet
        std::unordered_map<uint64_t, uint32_t>     next;     // likewise, by what matches
    };

    static constexpr uint32_t DEAD = 0;  // the state without a stack: the text cannot go on

    void start();
    void compact();
    void spend(size_t work);
    uint32_t node(uint32_t pos, uint32_t parent);
    uint32_t after(uint32_t node);
    Nodes close(Nodes todo);
    uint32_t state(Nodes nodes);
    uint32_t step(uint32_t from, uint32_t character);
    bool matches(uint32_t pos, uint32_t character) const;
    bool matches_partial(uint32_t pos, Partial partial) const;
    bool ends_well(uint32_t state, Partial partial) const;
    bool has_end(uint32_t state) const { return !states_[state]->nodes.empty() && states_[state]->nodes[0] == 0; }
    uint32_t walk(const std::string & text, Partial & partial);

    std::shared_ptr<const Rules>              rules_;
    std::vector<Node>                         nodes_;
    std::unordered_map<uint64_t, uint32_t>    node_ids_;
    std::vector<uint32_t>                     seen_;  // for each node, the last `close` that found it
    uint32_t                                  closes_ = 0;
    std::vector<std::unique_ptr<State>>       states_;
    std::unordered_map<std::string, uint32_t> state_ids_;  // by the bytes of its nodes
    size_t                                    size_ = 0;   // numbers in all states
    uint32_t                                  now_  = 0;
    Partial                                   partial_;
    size_t                                    work_ = 0;
    size_t limit_ = SIZE_MAX;  // nodes and numbers from which on old ones are forgotten
};

}  // namespace gbnf
