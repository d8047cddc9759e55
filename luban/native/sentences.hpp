// A text as the sentences (lines) that a word model reads: normalised words, each with a 64-bit key.
#pragma once
#include <vector>
#include "words.hpp"

namespace luban {

// The keys of what is not a word; a word's own key hashes its bytes.
constexpr uint64_t UNKNOWN_KEY = 0xA24BAED4963EE407ull, START_KEY = 0x9FB21C651E98DF25ull, END_KEY = 0xD6E8FEB86659FD93ull;

inline uint64_t word_key(const uint8_t* begin, const uint8_t* end) { return hash_bytes(begin, end - begin) | 1; }

// The key of an n-gram grows from its last word backwards: an n-gram's key follows from its suffix's.
inline uint64_t longer_key(uint64_t suffix, uint64_t older) {
    return mix(suffix ^ 0x2D358DCCAA6C78A5ull, older ^ (suffix >> 7) ^ 0x8BB84B93962EACC9ull) | 1;
}

inline void append(uint32_t code, uint8_t*& out) {
    auto rest = [&](int shift) { *out++ = 0x80 | (code >> shift & 0x3F); };
    if (code < 0x80) *out++ = code;
    else if (code < 0x800) *out++ = 0xC0 | code >> 6, rest(0);
    else if (code < 0x10000) *out++ = 0xE0 | code >> 12, rest(6), rest(0);
    else *out++ = 0xF0 | code >> 18, rest(12), rest(6), rest(0);
}

inline uint8_t fold(uint8_t byte) {
    byte |= (uint8_t)(byte - 'A') < 26 ? 32 : 0;
    return (uint8_t)(byte - '0') < 10 ? '0' : byte;
}

// Lower case, and every ASCII digit as 0; `out` only grows. Returns the new number of bytes.
inline size_t normalise(const uint8_t* text, size_t bytes, std::vector<uint8_t>& out) {
    constexpr ptrdiff_t BLOCK = 32;
    if (out.size() < bytes + bytes / 2 + BLOCK) out.resize(bytes + bytes / 2 + BLOCK);
    const uint8_t* end = text + bytes;
    uint8_t* to = out.data();
    while (text < end) {
        uint8_t any = 0x80;
        if (end - text >= BLOCK) {
            any = 0;
            for (ptrdiff_t i = 0; i < BLOCK; i++) any |= text[i];
        }
        if (any < 0x80) {
            for (ptrdiff_t i = 0; i < BLOCK; i++) to[i] = fold(text[i]);
            text += BLOCK;
            to += BLOCK;
            continue;
        }
        const uint8_t* stop = end - text > BLOCK ? text + BLOCK : end;
        while (text < stop) {
            uint32_t code = next_character(text);
            if (code < 0x80) *to++ = fold(code);
            else append(lower_of(code), to);
        }
    }
    return to - out.data();
}

// Words between white space, as they stand.
class SpacedWords {
  public:
    SpacedWords(const uint8_t* text, size_t bytes) : at_(text), end_(text + bytes) {}
    bool next(Word& word) {
        const uint8_t* begin = at_;
        while (at_ < end_ && space(at_)) begin = at_;
        if (begin >= end_) return false;
        word.begin = begin;
        word.end = at_;
        while (at_ < end_ && !space(at_)) word.end = at_;
        return word.end > word.begin;
    }

  private:
    const uint8_t* at_;
    const uint8_t* end_;
    static bool space(const uint8_t*& at) { return class_of(next_character(at)) & SPACE; }
};

// Calls `on_word(begin, end)` for each word of each line, and `on_end()` after a line that has any.
template <class Splitter, class OnWord, class OnEnd>
void each_word(const uint8_t* text, size_t bytes, OnWord on_word, OnEnd on_end) {
    const uint8_t* stop = text + bytes;
    while (text < stop) {
        const uint8_t* newline = (const uint8_t*)__builtin_memchr(text, '\n', stop - text);
        const uint8_t* end = newline ? newline : stop;
        Splitter words(text, end - text);
        bool any = false;
        for (Word word; words.next(word); any = true) on_word(word.begin, word.end);
        if (any) on_end();
        text = end + 1;
    }
}

template <class OnWord, class OnEnd>
void read_sentences(const uint8_t* text, size_t bytes, bool spaces, bool normalised, std::vector<uint8_t>& work,
                    OnWord on_word, OnEnd on_end) {
    if (normalised) {
        bytes = normalise(text, bytes, work);
        text = work.data();
    }
    if (spaces) each_word<SpacedWords>(text, bytes, on_word, on_end);
    else each_word<Words>(text, bytes, on_word, on_end);
}

}  // namespace luban
