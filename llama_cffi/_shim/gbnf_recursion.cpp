#include "gbnf.hpp"

#include <algorithm>

namespace gbnf {

namespace {

/* Looks for left recursion: a rule that comes back to itself before any character, with something left to do after it. It
 * would go on forever. (A rule that only ends in itself, as repetitions of something empty do, is harmless.) */
class LeftRecursion {
  public:
    explicit LeftRecursion(const Rules & rules) : rules_(rules), empty_(find_empty()) {}

    bool found() {
        const size_t n = rules_.alternatives.size();
        order_.assign(n, 0);
        low_.assign(n, 0);
        group_.assign(n, 0);
        edges_.resize(n);
        visit(rules_.root);
        for (uint32_t rule = 0; rule < n; rule++) {
            for (const auto & [next, grows] : edges_[rule]) {
                if (grows && group_[rule] == group_[next]) {
                    return true;
                }
            }
        }
        return false;
    }

  private:
    /* Which rules can be the empty text. */
    std::vector<bool> find_empty() const {
        const size_t                       n = rules_.alternatives.size();
        std::vector<bool>                  empty(n);
        std::vector<std::vector<uint32_t>> waiting(
            n);  // alternatives that continue once this rule is known to be empty
        std::vector<std::pair<uint32_t, uint32_t>> todo;  // rule, position
        std::vector<std::pair<uint32_t, uint32_t>> paused;
        for (uint32_t rule = 0; rule < n; rule++) {
            for (const uint32_t start : rules_.alternatives[rule]) {
                todo.emplace_back(rule, start);
            }
        }
        while (!todo.empty()) {
            auto [rule, pos] = todo.back();
            todo.pop_back();
            while (rules_.elements[pos].type == Type::RULE && empty[rules_.elements[pos].value]) {
                pos++;
            }
            const Element & element = rules_.elements[pos];
            if (element.type == Type::RULE) {
                waiting[element.value].push_back(static_cast<uint32_t>(paused.size()));
                paused.emplace_back(rule, pos);
            } else if (element.type == Type::END && !empty[rule]) {
                empty[rule] = true;
                for (const uint32_t index : waiting[rule]) {
                    todo.push_back(paused[index]);
                }
            }
        }
        return empty;
    }

    /* The rules that a rule can begin with, and whether something of it is left after them. */
    void find_edges(uint32_t rule) {
        for (uint32_t pos : rules_.alternatives[rule]) {
            for (; rules_.elements[pos].type == Type::RULE; pos++) {
                const uint32_t next = rules_.elements[pos].value;
                edges_[rule].emplace_back(next, rules_.elements[pos + 1].type != Type::END);
                if (!empty_[next]) {
                    break;
                }
            }
        }
    }

    /* Tarjan's algorithm, without recursion: rules that begin with each other get the same group. */
    void visit(uint32_t root) {
        std::vector<std::pair<uint32_t, size_t>> path{{root, 0}};
        std::vector<uint32_t>                    open;
        uint32_t                                 count = 0, groups = 0;
        while (!path.empty()) {
            const auto [rule, index] = path.back();
            if (index == 0) {
                find_edges(rule);
                order_[rule] = low_[rule] = ++count;
                open.push_back(rule);
            }
            if (index < edges_[rule].size()) {
                path.back().second++;
                const uint32_t next = edges_[rule][index].first;
                if (order_[next] == 0) {
                    path.emplace_back(next, 0);
                } else if (group_[next] == 0) {
                    low_[rule] = std::min(low_[rule], order_[next]);
                }
                continue;
            }
            path.pop_back();
            if (!path.empty()) {
                low_[path.back().first] = std::min(low_[path.back().first], low_[rule]);
            }
            if (low_[rule] == order_[rule]) {
                groups++;
                uint32_t member;
                do {
                    member = open.back();
                    open.pop_back();
                    group_[member] = groups;
                } while (member != rule);
            }
        }
    }

    const Rules &                                       rules_;
    std::vector<bool>                                   empty_;
    std::vector<uint32_t>                               order_, low_, group_;
    std::vector<std::vector<std::pair<uint32_t, bool>>> edges_;
};

}  // namespace

bool has_left_recursion(const Rules & rules) {
    return LeftRecursion(rules).found();
}

}  // namespace gbnf
