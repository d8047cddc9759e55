// The one rule for what a word is, used by filters, windows and language models alike.
//
// English rules, so that counts of words agree with spaCy's (which datatrove's filters use): white space parts
// chunks; signs come off a chunk's ends one by one; what is left parts at hyphens between letters and the like,
// unless it is an address; contractions part ("do|n't", "it|'s"), abbreviations stay whole ("e.g."). The words of
// a chunk lie end to end. In a chunk with ideographs each of those, and each sign, is a word of its own.
#pragma once
#include <algorithm>
#include <string>
#include <vector>
#include "affixes.hpp"
#include "english.hpp"
#include "unicode.hpp"

namespace luban {

struct Word {
    const uint8_t* begin;
    const uint8_t* end;
    uint32_t characters;
    uint8_t classes;  // the classes of its characters, or-ed
    bool is_sign() const { return !(classes & (LETTER | DIGIT)); }
};

// Hands out the words of a text in order. Without QUICK every chunk takes the long way, to the same words.
template <bool QUICK>
class WordsBy {
  public:
    WordsBy(const uint8_t* text, size_t bytes) : at_(text), end_(text + bytes) {}

    bool next(Word& word) {
        if (waiting_ < cuts_.size()) return read(word, cuts_[waiting_++]);
        if (!skip_space()) return false;
        if (QUICK && quick(word)) return true;
        split_chunk();
        return read(word, cuts_[waiting_++]);
    }

  private:
    const uint8_t* at_;
    const uint8_t* end_;
    std::vector<const uint8_t*> cuts_;  // ends of the words that wait; the first begins at `at_`
    size_t waiting_ = 0;
    std::vector<Letter> letters_;  // of the chunk being split
    size_t count_ = 0;             // how many of them
    std::vector<uint32_t> starts_;  // of the suffixes, the last one first

    enum Kind : uint8_t { OTHER, BLANK, OPENING, CLOSING, FIGURE_, LETTER_ };
    struct KindTable {
        uint8_t kind[256] = {};
        KindTable() {
            for (int byte = 0; byte < 128; byte++) {
                uint8_t bits = class_of(byte);
                kind[byte] = bits & LETTER ? LETTER_ : bits & DIGIT ? FIGURE_ : bits & SPACE ? BLANK : OTHER;
            }
            for (const char* sign = "([\""; *sign; sign++) kind[(uint8_t)*sign] = OPENING;
            for (const char* sign = ",.;:?!)]"; *sign; sign++) kind[(uint8_t)*sign] = CLOSING;
        }
    };
    static inline const KindTable KINDS;
    static inline const Exceptions EXCEPTIONS;

    uint8_t kind_at(const uint8_t* at) const { return at < end_ ? KINDS.kind[*at] : (uint8_t)BLANK; }

    bool skip_space() {
        while (at_ < end_) {
            if (*at_ < 0x80) {
                if (KINDS.kind[*at_] != BLANK) return true;
                at_++;
            } else {
                const uint8_t* ahead = at_;
                if (!(class_of(next_character(ahead)) & SPACE)) return true;
                at_ = ahead;
            }
        }
        return false;
    }

    // Reads what most text is made of, with the same result as `split_chunk`: ASCII letters or figures, an opening
    // sign before them, closing signs behind.
    bool quick(Word& word) {
        const uint8_t* run = at_;
        uint8_t kind = KINDS.kind[*at_], classes = kind == LETTER_ ? LETTER : kind == FIGURE_ ? DIGIT : 0;
        if (kind == OPENING && kind_at(at_ + 1) == LETTER_ && at_[1] != 'o') return take(word, at_ + 1, class_of(*at_));
        if (kind == LETTER_) run = letters_end(classes);
        else if (kind == FIGURE_)
            while (kind_at(run) == FIGURE_) run++;
        else if (kind != CLOSING && kind != OPENING) return false;
        if (!closes(run)) return false;
        if (kind == CLOSING || kind == OPENING) return take(word, at_ + 1, class_of(*at_));
        if (kind == FIGURE_) return run - at_ == 1 && kind_at(run) == CLOSING ? false : take(word, run, classes);
        if (EXCEPTIONS.find(at_, run - at_)) return false;
        if (run < end_ && *run == '.' && (run[-1] < 'a' || EXCEPTIONS.find(at_, run + 1 - at_))) return false;
        return take(word, run, classes);
    }
    bool take(Word& word, const uint8_t* end, uint8_t classes) {
        word = {at_, end, (uint32_t)(end - at_), classes};
        at_ = end;
        return true;
    }
    // Whether from `at` on there are only a few closing signs that come off one by one.
    bool closes(const uint8_t* at) const {
        for (int signs = 0; signs < 5; signs++, at++) {
            uint8_t kind = kind_at(at);
            if (kind == BLANK) return true;
            if (kind != CLOSING && *at != '"') return false;
            if (*at == '.' && at + 1 < end_ && at[1] == '.') return false;
            if (*at == ':' || *at == ';') return signs == 0 && kind_at(at + 1) == BLANK;
        }
        return false;
    }
    // The end of the ASCII letters at `at_`, eight at a time.
    const uint8_t* letters_end(uint8_t& classes) const {
        constexpr uint64_t ones = 0x0101010101010101ull, high = 0x80 * ones;
        const uint8_t* run = at_;
        for (; end_ - run >= 8; run += 8) {
            uint64_t bytes;
            __builtin_memcpy(&bytes, run, 8);
            uint64_t small = (bytes | 0x20 * ones) & ~high;
            uint64_t others = (~((small + 0x1F * ones) & ~(small + 0x05 * ones)) | bytes) & high;
            uint64_t inside = others ? (others & -others) / 0x80 - 1 : ~0ull;
            if (~bytes & inside & 0x20 * ones) classes |= UPPER;
            if (others) return run + __builtin_ctzll(others) / 8;
        }
        for (; kind_at(run) == LETTER_; run++)
            if (*run < 'a') classes |= UPPER;
        return run;
    }
    bool read(Word& word, const uint8_t* end) {
        word = {at_, end, 0, 0};
        while (at_ < end) {
            word.classes |= class_of(next_character(at_));
            word.characters++;
        }
        return true;
    }

    void split_chunk() {
        cuts_.clear();
        waiting_ = count_ = 0;
        uint8_t seen = 0;
        const uint8_t* ahead = at_;
        while (ahead < end_) {
            const uint8_t* begin = ahead;
            uint32_t code = next_character(ahead);
            uint8_t kind = class_of(code);
            if (kind & SPACE) {
                ahead = begin;
                break;
            }
            seen |= kind;
            if (count_ + 2 > letters_.size()) letters_.resize(2 * count_ + 64);
            letters_[count_++] = {begin, code, affix_kind(code, kind), kind};
        }
        letters_[count_] = {ahead, ' ', 0, SPACE};  // past the end: no kind, so no rule holds there
        if (seen & IDEOGRAPH) cut_each_sign();
        else cut_affixes();
    }
    void cut_at(size_t index) { cuts_.push_back(letters_[index].begin); }

    void cut_each_sign() {
        auto belongs = [](const Letter& letter) { return (letter.unicode & (LETTER | DIGIT | MARK)) && !(letter.unicode & IDEOGRAPH); };
        for (size_t i = 1; i <= count_; i++)
            if (!belongs(letters_[i - 1]) || !belongs(letters_[i])) cut_at(i);
    }

    const Exceptions::Entry* exception(size_t from, size_t to) const {
        return EXCEPTIONS.find(letters_[from].begin, letters_[to].begin - letters_[from].begin);
    }
    void cut_affixes() {
        size_t from = 0, to = count_;
        starts_.clear();
        while (from < to && !exception(from, to)) {
            size_t prefix = prefix_length(letters_.data(), from, to);
            if (prefix && from + prefix < to && exception(from + prefix, to)) {
                cut_at(from += prefix);
                break;
            }
            size_t suffix = suffix_length(letters_.data(), from + prefix, to);
            if (suffix && from + suffix < to && exception(from, to - suffix)) {
                starts_.push_back(to -= suffix);
                break;
            }
            if (!prefix && !suffix) break;
            if (prefix) cut_at(from += prefix);
            if (suffix) starts_.push_back(to -= suffix);
        }
        if (from < to) cut_middle(from, to);
        for (size_t i = starts_.size(); i-- > 0;) cut_at(i ? starts_[i - 1] : count_);
        join_faces();
    }
    void cut_middle(size_t from, size_t to) {
        if (const Exceptions::Entry* found = exception(from, to)) {
            for (int i = 0; i < found->cuts; i++) cuts_.push_back(letters_[from].begin + found->cut[i]);
        } else if (!is_address(letters_.data(), from, to)) {
            for (size_t i = from + 1; i < to;) {
                size_t infix = infix_length(letters_.data(), from, i, to);
                if (infix) {
                    if (cuts_.empty() || cuts_.back() != letters_[i].begin) cut_at(i);
                    if (i + infix < to) cut_at(i + infix);
                }
                i += std::max<size_t>(infix, 1);
            }
        }
        cut_at(to);
    }
    // Signs that came apart and are a face or an abbreviation together, as in "word:)".
    void join_faces() {
        size_t kept = 0;
        for (size_t i = 0; i < cuts_.size(); i++) {
            const uint8_t* begin = kept ? cuts_[kept - 1] : at_;
            size_t last = i;
            for (size_t ahead = i + 1; ahead < cuts_.size() && ahead < i + 5; ahead++) {
                const Exceptions::Entry* found = EXCEPTIONS.find(begin, cuts_[ahead] - begin);
                if (found && !found->cuts) last = ahead;
            }
            i = last;
            cuts_[kept++] = cuts_[last];
        }
        cuts_.resize(kept);
    }
};

using Words = WordsBy<true>;
using CarefulWords = WordsBy<false>;

// 64 bits that depend on every byte; fast on the short strings that words are. Source: wyhash's mixing step.
inline uint64_t mix(uint64_t a, uint64_t b) {
    __uint128_t product = (__uint128_t)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

// Fewer than 8 bytes as a number, without a loop over them: loads that overlap agree where they do.
inline uint64_t load_few(const uint8_t* bytes, size_t count) {
    if (count >= 4) {
        uint32_t first, last;
        __builtin_memcpy(&first, bytes, 4);
        __builtin_memcpy(&last, bytes + count - 4, 4);
        return first | (uint64_t)last << 8 * (count - 4);
    }
    if (!count) return 0;
    return bytes[0] | (uint64_t)bytes[count / 2] << 8 * (count / 2) | (uint64_t)bytes[count - 1] << 8 * (count - 1);
}

inline uint64_t hash_bytes(const uint8_t* bytes, size_t count, uint64_t seed = 0x9E3779B97F4A7C15ull) {
    uint64_t state = seed ^ (count * 0xA0761D6478BD642Full);
    for (; count >= 8; bytes += 8, count -= 8) {
        uint64_t block;
        __builtin_memcpy(&block, bytes, 8);
        state = mix(state ^ block, 0xE7037ED1A0B428DBull);
    }
    return mix(state ^ load_few(bytes, count) ^ 0x8EBC6AF09C88C6E3ull, 0x589965CC75374CC3ull);
}

// `hash_bytes` of fewer than 8 bytes that are loaded already.
inline uint64_t hash_few(uint64_t loaded, size_t count, uint64_t seed = 0x9E3779B97F4A7C15ull) {
    return mix(seed ^ (count * 0xA0761D6478BD642Full) ^ loaded ^ 0x8EBC6AF09C88C6E3ull, 0x589965CC75374CC3ull);
}

// The hash of a word in lower case.
inline uint64_t hash_lower(const Word& word) {
    uint64_t state = 0x9E3779B97F4A7C15ull;
    for (const uint8_t* at = word.begin; at < word.end;) state = mix(state ^ lower_of(next_character(at)), 0xE7037ED1A0B428DBull);
    return state;
}

}  // namespace luban
