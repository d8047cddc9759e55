// Texts as hashes of n words in a row: what near-duplicates share.
#include "words.hpp"

using namespace luban;

namespace {

constexpr uint64_t BASE = 0x9E3779B97F4A7C15ull;  // odd, so that no word of a window is lost modulo 2^64

// Up to 8 bytes from `at`, the first one lowest; reads no further than `end`.
uint64_t load_bytes(const uint8_t* at, size_t bytes, const uint8_t* end) {
    uint64_t loaded = 0;
    if (end - at >= 8) {
        __builtin_memcpy(&loaded, at, 8);
        return bytes < 8 ? loaded & ((1ull << (8 * bytes)) - 1) : loaded;
    }
    __builtin_memcpy(&loaded, at, bytes < 8 ? bytes : 8);
    return loaded;
}

constexpr uint64_t ONES = 0x0101010101010101ull, HIGH = 0x80 * ONES;

// Bytes with their top bit where `low` <= byte <= `high`, of bytes below 128.
constexpr uint64_t between(uint64_t bytes, uint8_t low, uint8_t high) {
    return (bytes + (0x80 - low) * ONES) & ~(bytes + (0x7F - high) * ONES) & HIGH;
}

// hash_lower's job, 8 letters at a time where all of them are ASCII.
uint64_t hash_word(const Word& word, const uint8_t* end) {
    uint64_t state = word.end - word.begin;
    for (const uint8_t* at = word.begin; at < word.end; at += 8) {
        uint64_t letters = load_bytes(at, word.end - at, end);
        if (letters & HIGH) return hash_lower(word);
        state = mix(state ^ (letters | between(letters, 'A', 'Z') >> 2), 0xE7037ED1A0B428DBull);
    }
    return mix(state, 0x589965CC75374CC3ull);
}

struct Table {
    bool joins[128] = {};
    Table() {
        for (int byte = 0; byte < 128; byte++) joins[byte] = class_of(byte) & (LETTER | DIGIT);
    }
};
const Table ASCII;

// Hands out the hashes of runs of letters, figures and marks; all else parts them, and an ideograph is a word of its
// own. Simpler than `Words`: "os.path.join", "well-known" and "don't" are read alike whatever stands around them.
class Runs {
  public:
    Runs(const uint8_t* text, size_t bytes) : at_(text), end_(text + bytes) {}

    bool next(uint64_t& hash) {
        while (at_ < end_ && *at_ < 0x80 && !ASCII.joins[*at_]) at_++;
        return quick(hash) || careful(hash);
    }

  private:
    const uint8_t *at_, *end_;

    // Reads what most words are: up to seven ASCII letters and figures with an ASCII sign behind.
    bool quick(uint64_t& hash) {
        if (end_ - at_ < 8) return false;
        uint64_t bytes;
        __builtin_memcpy(&bytes, at_, 8);
        uint64_t low = bytes & ~HIGH, small = low | 0x20 * ONES;
        uint64_t others = ~(between(small, 'a', 'z') | between(low, '0', '9')) & HIGH;
        if (!others || bytes & others & -others) return false;
        int bits = __builtin_ctzll(others) - 7;
        uint64_t letters = bytes & ((1ull << bits) - 1);
        if (!bits || letters & HIGH) return false;
        at_ += bits / 8;
        uint64_t state = mix(bits / 8 ^ (letters | between(letters, 'A', 'Z') >> 2), 0xE7037ED1A0B428DBull);
        hash = mix(state, 0x589965CC75374CC3ull);
        return true;
    }
    bool careful(uint64_t& hash) {
        const uint8_t *begin = at_, *after = at_;
        uint8_t kind = 0;
        while (!kind) {
            if (at_ == end_) return false;
            begin = after = at_;
            kind = read(after);
            at_ = after;
        }
        while (kind != IDEOGRAPH && at_ < end_ && read(after) == LETTER) at_ = after;
        hash = hash_word({begin, at_, 0, kind}, end_);
        return true;
    }

    // Moves past a character; LETTER if it joins others to a word, IDEOGRAPH if it is one, 0 if it parts words.
    static uint8_t read(const uint8_t*& at) {
        if (*at < 0x80) return ASCII.joins[*at++] ? LETTER : 0;
        uint8_t bits = class_of(next_character(at));
        return bits & IDEOGRAPH ? IDEOGRAPH : bits & (LETTER | DIGIT | MARK) ? LETTER : 0;
    }
};

uint64_t power(uint64_t base, int64_t exponent) {
    uint64_t result = 1;
    while (exponent--) result *= base;
    return result;
}

}  // namespace

// Writes 32 bits per window of `size` words, in order. A text of fewer words is one window.
// `out` has room for one per byte of text. `counts[i]` is how many text i has; returns how many there are in all.
LUBAN_EXPORT int64_t shingles(const uint8_t* buffer, const int64_t* starts, const int64_t* lengths, int64_t texts,
                              int64_t size, uint64_t* ring, uint32_t* out, int64_t* counts) {
    const uint64_t leaving = power(BASE, size);
    int64_t written = 0;
    for (int64_t i = 0; i < texts; i++) {
        Runs words(buffer + starts[i], lengths[i]);
        uint64_t window = 0, hash;
        int64_t seen = 0, slot = 0, first = written;
        while (words.next(hash)) {
            window = window * BASE + hash;
            if (seen >= size) window -= ring[slot] * leaving;
            ring[slot] = hash;
            slot = slot + 1 == size ? 0 : slot + 1;
            if (++seen >= size) out[written++] = mix(window, BASE) >> 32;
        }
        if (seen && seen < size) out[written++] = mix(window, BASE) >> 32;
        counts[i] = written - first;
    }
    return written;
}
