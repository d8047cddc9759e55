// Offensive terms in a text: from every word's start a walk through a trie of terms, seeing through disguises.
#include <initializer_list>
#include "words.hpp"

namespace {
using namespace luban;

struct Trie {
    const int64_t* keys;      // [slots], node << 21 | character, -1 where empty
    const int32_t* children;  // [slots]
    int64_t mask;             // slots - 1
    const int32_t* terms;     // [nodes], -1 where none ends
    const uint8_t* open;      // [terms], whether any ending is allowed

    int32_t child(int32_t node, uint32_t code) const {
        int64_t key = ((int64_t)node << 21) | code;
        for (uint64_t at = mix(key, 0x9E3779B97F4A7C15ull);; at++) {
            int64_t found = keys[at & mask];
            if (found == key) return children[at & mask];
            if (found < 0) return 0;
        }
    }
};

constexpr uint8_t WORDLY = LETTER | DIGIT | MARK;
constexpr int SHORTEST_DISGUISED = 4, SHORTEST_SPACED = 3, SHORTEST_RUN = 3;

inline uint32_t fold(uint32_t code) { return lower_of(code >= 0xFF01 && code <= 0xFF5E ? code - 0xFEE0 : code); }

inline uint32_t disguised(uint32_t code) {
    switch (code) {
        case '0': return 'o';
        case '1': case '!': return 'i';
        case '3': return 'e';
        case '4': case '@': return 'a';
        case '5': case '$': return 's';
        case '7': return 't';
        default: return 0;
    }
}

inline bool is_gap(uint8_t byte) { return byte == ' ' || byte == '.' || byte == '-' || byte == '_' || byte == '*'; }
inline bool is_ascii_word(uint8_t byte) { return byte < 0x80 && (class_of(byte) & WORDLY); }

struct Walk {
    const Trie& trie;
    const uint8_t* begin;
    const uint8_t* end;
    const uint8_t* found_end = nullptr;
    uint8_t found_class = 0;  // of the last character found

    // Whether a word may end before `at`, after a character of class `last`.
    bool border(const uint8_t* at, uint8_t last) const {
        if (at >= end || (last & IDEOGRAPH)) return true;
        uint8_t kind = class_of(next_character(at));
        return !(kind & WORDLY) || (kind & IDEOGRAPH);
    }

    // The longest term that begins at `at`, or -1; letters may be digits in disguise or repeated.
    int32_t plain(const uint8_t* at) {
        int32_t node = 0, best = -1;
        uint32_t previous = 0;
        uint8_t last = 0;
        int letters = 0, disguises = 0, run = 0;
        while (at < end) {
            const uint8_t* next = at;
            uint32_t raw = next_character(next), code = fold(raw);
            if (class_of(raw) & SPACE) code = ' ', next = after_spaces(next);
            int32_t child = trie.child(node, code);
            if (!child && disguised(code)) {
                code = disguised(code);
                child = trie.child(node, code);
                disguises += child != 0;
            }
            if (!child) {
                at = skip(at, code, previous, last, run);
                if (!at) break;
            } else {
                run = code == previous ? run + 1 : 1;
                previous = code, node = child, at = next, last = class_of(raw), letters++;
            }
            int32_t term = trie.terms[node];
            bool open = !disguises || (letters >= SHORTEST_DISGUISED && 2 * disguises <= letters);
            if (term >= 0 && open && (trie.open[term] || border(at, last))) best = term, found_end = at, found_class = last;
        }
        return best;
    }

    const uint8_t* after_spaces(const uint8_t* at) const {
        for (const uint8_t* next = at; next < end && (class_of(next_character(next)) & SPACE);) at = next;
        return at;
    }

    // Past a letter that is drawn out (fuuuck), or one sign between two ideographs; null if neither.
    const uint8_t* skip(const uint8_t* at, uint32_t code, uint32_t previous, uint8_t last, int& run) const {
        const uint8_t* next = at;
        uint8_t kind = class_of(next_character(next));
        if ((last & IDEOGRAPH) && !(kind & WORDLY) && *at != '\n' && next < end) {
            const uint8_t* after = next;
            return class_of(next_character(after)) & IDEOGRAPH ? next : nullptr;
        }
        if (code != previous || !(kind & LETTER) || (kind & IDEOGRAPH)) return nullptr;
        const uint8_t* rest = at;
        for (next = at; next < end && fold(next_character(next)) == code; rest = next) run++;
        return run >= SHORTEST_RUN ? rest : nullptr;
    }

    // A term spelt out in single letters (f u c k, f.u.c.k), the whole row of them; or -1.
    int32_t spaced(const uint8_t* at) {
        if (end - at < 5 || !is_gap(at[1]) || at[3] != at[1] || !is_ascii_word(at[2])) return -1;
        const uint8_t gap = at[1];
        if (at - begin >= 2 && at[-1] == gap && is_ascii_word(at[-2]) && (at - begin == 2 || !is_ascii_word(at[-3]))) {
            return -1;
        }
        int32_t node = 0;
        int letters = 0;
        for (;; at += 2, letters++) {
            if (at >= end || !is_ascii_word(*at)) return -1;
            uint32_t code = fold(*at);
            int32_t child = trie.child(node, code);
            if (!child && disguised(code)) child = trie.child(node, disguised(code));
            if (!child) return -1;
            node = child;
            bool more = end - at > 2 && at[1] == gap && is_ascii_word(at[2]) && (end - at == 3 || !is_ascii_word(at[3]));
            if (more) continue;
            found_end = at + 1, found_class = LETTER;
            return letters + 1 >= SHORTEST_SPACED && border(at + 1, 0) ? trie.terms[node] : -1;
        }
    }
};

}  // namespace

// words [count]: how many words each text has; hits [capacity, 2]: (text, term). Returns how many hits there are.
LUBAN_EXPORT int64_t offences(const uint8_t* buffer, const int64_t* starts, const int64_t* lengths, int64_t count,
                              const int64_t* keys, const int32_t* children, int64_t slots, const int32_t* terms,
                              const uint8_t* open, int64_t* words, int64_t capacity, int64_t* hits) {
    Trie trie{keys, children, slots - 1, terms, open};
    int64_t found = 0;
    for (int64_t i = 0; i < count; i++) {
        const uint8_t* begin = buffer + starts[i];
        const uint8_t* end = begin + lengths[i];
        Walk walk{trie, begin, end};
        uint8_t before = 0;
        words[i] = 0;
        for (const uint8_t* at = begin; at < end;) {
            const uint8_t* next = at;
            uint32_t code = next_character(next);
            uint8_t kind = class_of(code);
            bool starts_word = (kind & IDEOGRAPH) || !(before & WORDLY) || (before & IDEOGRAPH);
            if (starts_word && ((kind & WORDLY) || code == '@' || code == '$')) {
                words[i] += (kind & WORDLY) != 0;
                int32_t term = walk.spaced(at);
                if (term < 0) term = walk.plain(at);
                if (term >= 0) {
                    if (found < capacity) hits[2 * found] = i, hits[2 * found + 1] = term;
                    found++;
                    next = walk.found_end;
                    kind = walk.found_class;
                }
            }
            before = kind;
            at = next;
        }
    }
    return found;
}
