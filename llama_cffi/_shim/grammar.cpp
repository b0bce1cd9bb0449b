#include "grammar.hpp"

#include <algorithm>
#include <limits>

namespace gbnf {

namespace {

constexpr size_t MAX_WORK = 1 << 25;  // steps for one mask or token: less than a second
constexpr size_t MAX_LIVE = 1 << 20;  // nodes that the text itself needs
constexpr size_t KEEP     = 1 << 18;  // nodes and numbers that are kept, those of earlier tokens included

/* The work of each kind of step, as its share of MAX_WORK. */
constexpr size_t TRY_CLASS = 1, TRY_ALTERNATIVE = 4, VISIT = 16;

uint64_t pair_of(uint32_t a, uint32_t b) {
    return static_cast<uint64_t>(a) << 32 | b;
}

/* Reads the next character of `text`, from `pos` on, after what `partial` has begun. Returns false at the end, and where
 * the text is not UTF-8, which `partial` then says. */
bool next_character(const std::string & text, size_t & pos, Partial & partial, uint32_t & out) {
    if (partial.remain <= 0) {
        if (partial.remain < 0 || pos >= text.size()) {
            return false;
        }
        const auto first = static_cast<uint8_t>(text[pos++]);
        if (first < 0x80) {
            out = first;
            return true;
        }
        if (first < 0xC0) {
            partial = {0, -1};
            return false;
        }
        const int more = first < 0xE0 ? 1 : first < 0xF0 ? 2 : 3;
        partial        = {first & (0x3Fu >> more), more};
    }
    while (partial.remain > 0) {
        if (pos >= text.size()) {
            return false;
        }
        const auto byte = static_cast<uint8_t>(text[pos++]);
        if (byte >> 6 != 2) {
            partial = {0, -1};
            return false;
        }
        partial.value = partial.value << 6 | (byte & 0x3F);
        partial.remain--;
    }
    out     = partial.value;
    partial = {};
    return true;
}

}  // namespace

Matcher::Matcher(std::shared_ptr<const Rules> rules) : rules_(std::move(rules)) {
    reset();
}

Matcher::Matcher(const Matcher & other)
    : rules_(other.rules_), nodes_(other.nodes_), now_(0), partial_(other.partial_) {
    const Nodes live = other.states_[other.now_]->nodes;
    seen_.assign(nodes_.size(), 0);
    state({});
    now_ = state(live);
    compact();
}

/* Forgets all nodes and states but the empty ones. */
void Matcher::start() {
    nodes_.assign(1, {0, 0});
    seen_.assign(1, 0);
    node_ids_.clear();
    states_.clear();
    state_ids_.clear();
    size_   = 0;
    closes_ = 0;
    state({});
}

void Matcher::reset() {
    work_ = 0;
    start();
    Nodes todo;
    for (const uint32_t pos : rules_->alternatives[rules_->root]) {
        todo.push_back(rules_->elements[pos].type == Type::END ? 0 : node(pos, 0));
    }
    now_     = state(close(std::move(todo)));
    partial_ = {};
    limit_   = KEEP;
}

void Matcher::begin() {
    work_ = 0;
    if (nodes_.size() + size_ > limit_) {
        compact();
    }
}

/* Keeps the nodes and the state of the text itself. */
void Matcher::compact() {
    const Nodes           live = states_[now_]->nodes;
    std::vector<uint32_t> kept;  // parents first
    std::vector<uint32_t> moved(nodes_.size(), 0);
    for (const uint32_t top : live) {
        const size_t begin = kept.size();
        for (uint32_t id = top; id != 0 && moved[id] == 0; id = nodes_[id].parent) {
            kept.push_back(id);
            moved[id] = 1;
        }
        std::reverse(kept.begin() + static_cast<std::ptrdiff_t>(begin), kept.end());
    }
    if (kept.size() > MAX_LIVE) {
        throw Error("the text is inside of more than " + std::to_string(MAX_LIVE) +
                    " rules that go on after it: make the grammar simpler");
    }
    const std::vector<Node> old = std::move(nodes_);
    start();
    for (const uint32_t id : kept) {
        moved[id] = node(old[id].pos, moved[old[id].parent]);
    }
    Nodes nodes;
    for (const uint32_t top : live) {
        nodes.push_back(moved[top]);
    }
    std::sort(nodes.begin(), nodes.end());
    now_   = state(std::move(nodes));
    limit_ = std::max(KEEP, 2 * (nodes_.size() + size_));
}

void Matcher::spend(size_t work) {
    work_ += work;
    if (work_ > MAX_WORK) {
        throw Error("the grammar needs more than " + std::to_string(MAX_WORK) +
                    " steps for one token, because the text can be read in too many ways at once: make it simpler");
    }
}

uint32_t Matcher::node(uint32_t pos, uint32_t parent) {
    const auto [place, added] = node_ids_.emplace(pair_of(pos, parent), static_cast<uint32_t>(nodes_.size()));
    if (added) {
        nodes_.push_back({pos, parent});
        seen_.push_back(0);
    }
    return place->second;
}

/* The stack after the element on top. */
uint32_t Matcher::after(uint32_t id) {
    const Node top = nodes_[id];
    return rules_->elements[top.pos + 1].type == Type::END ? top.parent : node(top.pos + 1, top.parent);
}

/* Replaces references to rules on top of stacks by the alternatives of the rules. */
Matcher::Nodes Matcher::close(Nodes todo) {
    Nodes          found;
    const uint32_t mark = ++closes_;
    while (!todo.empty()) {
        const uint32_t id = todo.back();
        todo.pop_back();
        if (seen_[id] == mark) {
            continue;
        }
        seen_[id] = mark;
        spend(VISIT);
        const Element * element = id == 0 ? nullptr : &rules_->elements[nodes_[id].pos];
        if (element == nullptr || element->type != Type::RULE) {
            found.push_back(id);
            continue;
        }
        const uint32_t rest = after(id);
        for (const uint32_t pos : rules_->alternatives[element->value]) {
            spend(TRY_ALTERNATIVE);
            todo.push_back(rules_->elements[pos].type == Type::END ? rest : node(pos, rest));
        }
    }
    std::sort(found.begin(), found.end());
    return found;
}

/* The number of a set of stacks. */
uint32_t Matcher::state(Nodes nodes) {
    const std::string key(reinterpret_cast<const char *>(nodes.data()), nodes.size() * sizeof(uint32_t));
    const auto [place, added] = state_ids_.emplace(key, static_cast<uint32_t>(states_.size()));
    if (!added) {
        return place->second;
    }
    auto made = std::make_unique<State>();
    made->ascii.fill(-1);
    for (const uint32_t id : nodes) {
        if (id == 0) {
            continue;
        }
        const uint32_t  pos     = nodes_[id].pos;
        const Element & element = rules_->elements[pos];
        if (element.type == Type::CHAR) {
            made->chars.emplace_back(element.value, id);
        } else if (element.type == Type::TOKEN || element.type == Type::NOT_TOKEN) {
            made->tokens.push_back(id);
        } else {
            made->classes.emplace_back(pos, id);
        }
    }
    std::sort(made->chars.begin(), made->chars.end());
    const auto & elements = rules_->elements;
    const auto   order    = [&](const auto & a, const auto & b) {
        const Element &x = elements[a.first], &y = elements[b.first];
        return x.type != y.type ? x.type < y.type : x.value < y.value;
    };
    std::stable_sort(made->classes.begin(), made->classes.end(), order);
    for (size_t i = 1; i < made->classes.size(); i++) {  // equal classes are tried once
        if (!order(made->classes[i - 1], made->classes[i])) {
            made->classes[i].first = made->classes[i - 1].first;
        }
    }
    size_ += sizeof(State) / sizeof(uint32_t) + 4 * nodes.size();
    made->nodes = std::move(nodes);
    states_.push_back(std::move(made));
    return place->second;
}

bool Matcher::matches(uint32_t pos, uint32_t character) const {
    const Element & element = rules_->elements[pos];
    if (element.type == Type::ANY) {
        return true;
    }
    const Class & ranges = rules_->classes[element.value];
    const auto    above =
        std::upper_bound(ranges.begin(), ranges.end(), std::make_pair(character, std::numeric_limits<uint32_t>::max()));
    const bool inside = above != ranges.begin() && character <= std::prev(above)->second;
    return inside == (element.type == Type::CLASS);
}

/* Whether a character of which only the first bytes are known may match, as llama.cpp decides it. */
bool Matcher::matches_partial(uint32_t pos, Partial partial) const {
    if (partial.remain < 0 || (partial.remain == 1 && partial.value < 2)) {
        return false;
    }
    uint32_t       low  = partial.value << (partial.remain * 6);
    const uint32_t high = low | ((1u << (partial.remain * 6)) - 1);
    if (low == 0) {
        low = partial.remain == 2 ? 1 << 11 : partial.remain == 3 ? 1 << 16 : 0;
    }
    const Element & element = rules_->elements[pos];
    switch (element.type) {
        case Type::ANY:
            return true;
        case Type::CHAR:
            return low <= element.value && element.value <= high;
        case Type::CLASS:
        case Type::NOT_CLASS: {
            const Class & ranges  = rules_->classes[element.value];
            const auto    above   = std::upper_bound(ranges.begin(), ranges.end(),
                                                     std::make_pair(high, std::numeric_limits<uint32_t>::max()));
            const bool    overlap = above != ranges.begin() && low <= std::prev(above)->second;
            return overlap == (element.type == Type::CLASS);
        }
        default:
            return false;
    }
}

/* The state after a character. */
uint32_t Matcher::step(uint32_t from, uint32_t character) {
    if (character < 128 && states_[from]->ascii[character] >= 0) {
        return static_cast<uint32_t>(states_[from]->ascii[character]);
    }
    State &    here = *states_[from];
    Nodes      matched;
    const auto first = std::lower_bound(here.chars.begin(), here.chars.end(), std::make_pair(character, 0u));
    uint32_t   bits  = 0;
    uint32_t   group = 0;
    bool       match = false;
    for (auto it = first; it != here.chars.end() && it->first == character; ++it) {
        matched.push_back(it->second);
    }
    const uint32_t which = matched.empty() ? 0 : static_cast<uint32_t>(first - here.chars.begin()) + 1;
    for (size_t i = 0; i < here.classes.size(); i++) {
        if (i == 0 || here.classes[i].first != here.classes[i - 1].first) {
            match = matches(here.classes[i].first, character);
            bits |= match && group < 32 ? 1u << group : 0;
            group++;
            spend(TRY_CLASS);
        }
        if (match) {
            matched.push_back(here.classes[i].second);
        }
    }
    spend(TRY_CLASS * matched.size());
    const uint64_t key   = group <= 32 ? pair_of(which, bits) : character;
    const auto     known = here.next.find(key);
    uint32_t       to;
    if (known != here.next.end()) {
        to = known->second;
    } else {
        for (uint32_t & id : matched) {
            id = after(id);
        }
        to = matched.empty() ? DEAD : state(close(std::move(matched)));
        here.next.emplace(key, to);
        size_ += 8;
    }
    if (character < 128) {
        here.ascii[character] = static_cast<int32_t>(to);
    }
    return to;
}

/* The state after a text. `partial` becomes the character that the text ends in. */
uint32_t Matcher::walk(const std::string & text, Partial & partial) {
    uint32_t at        = now_;
    uint32_t character = 0;
    for (size_t pos = 0; at != DEAD && next_character(text, pos, partial, character);) {
        at = step(at, character);
    }
    return at;
}

bool Matcher::ends_well(uint32_t at, Partial partial) const {
    const Nodes & nodes = states_[at]->nodes;
    if (partial.remain == 0) {
        return !nodes.empty();
    }
    return std::any_of(nodes.begin(), nodes.end(),
                       [&](uint32_t id) { return id != 0 && matches_partial(nodes_[id].pos, partial); });
}

bool Matcher::allows(int32_t token, const std::string & text) {
    for (const uint32_t id : states_[now_]->tokens) {
        const Element & element = rules_->elements[nodes_[id].pos];
        if ((element.value == static_cast<uint32_t>(token)) == (element.type == Type::TOKEN)) {
            return true;
        }
    }
    Partial        partial = partial_;
    const uint32_t at      = walk(text, partial);
    return at != DEAD && ends_well(at, partial);
}

bool Matcher::accept(int32_t token, const std::string & text) {
    Nodes todo;
    for (const uint32_t id : states_[now_]->tokens) {
        const Element & element = rules_->elements[nodes_[id].pos];
        if ((element.value == static_cast<uint32_t>(token)) == (element.type == Type::TOKEN)) {
            todo.push_back(id);
        }
    }
    for (uint32_t & id : todo) {
        id = after(id);
    }
    Partial        partial = partial_;
    const uint32_t at      = walk(text, partial);
    if (at != DEAD && ends_well(at, partial)) {
        const Nodes & nodes = states_[at]->nodes;
        const bool    open  = partial.remain != 0 && has_end(at);  // the text cannot end inside a character
        todo.insert(todo.end(), nodes.begin() + open, nodes.end());
    } else {
        partial = {};
    }
    Nodes next = close(std::move(todo));
    if (next.empty()) {
        return false;
    }
    now_     = state(std::move(next));
    partial_ = partial;
    return true;
}

}  // namespace gbnf
