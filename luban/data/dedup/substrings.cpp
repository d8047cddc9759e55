// Which windows of a corpus stand in it more than once: anchors seen twice, then fingerprints of their windows.
#include "words.hpp"

using namespace luban;

namespace {

const int64_t AHEAD = 16;  // how far memory is asked for before it is needed

struct Slot {
    uint64_t word;
    int bit;
};

// Two bits per slot: 0 never, 1 once, 2 more often. `shift` leaves as many bits as the table has slots.
inline Slot slot_of(uint64_t hash, int shift) {
    const uint64_t slot = (hash * 0x9E3779B97F4A7C15ull) >> shift;
    return {slot >> 5, (int)(slot & 31) * 2};
}

// Arithmetic modulo the prime 2^61 - 1: two sequences of n words meet with a chance of n / 2^61.
const uint64_t PRIME = (1ull << 61) - 1;

inline uint64_t reduce(uint64_t value) {
    value = (value & PRIME) + (value >> 61);
    return value >= PRIME ? value - PRIME : value;
}

inline uint64_t times(uint64_t a, uint64_t b) {
    const __uint128_t product = (__uint128_t)a * b;
    return reduce(((uint64_t)product & PRIME) + (uint64_t)(product >> 61));
}

// The polynomial of the last `window` words in `base`.
struct Rolling {
    uint64_t base, leaving, value = 0;
    Rolling(uint64_t base, int64_t window) : base(base), leaving(1) {
        for (int64_t i = 0; i < window; ++i) leaving = times(leaving, base);
    }
    void add(uint64_t word) { value = reduce(times(value, base) + word); }
    void roll(uint64_t word, uint64_t gone) {
        value = reduce(times(value, base) + word + PRIME - times(gone, leaving));
    }
};

struct Record {
    uint64_t high, low, place;
};

}  // namespace

LUBAN_EXPORT void count_anchors(const uint64_t* hashes, int64_t count, uint64_t* table, int shift) {
    for (int64_t i = 0; i < count; ++i) {
        if (i + AHEAD < count) __builtin_prefetch(&table[slot_of(hashes[i + AHEAD], shift).word], 1);
        const Slot slot = slot_of(hashes[i], shift);
        const uint64_t state = (table[slot.word] >> slot.bit) & 3;
        if (state < 2) table[slot.word] += 1ull << slot.bit;
    }
}

LUBAN_EXPORT void is_shared(const uint64_t* hashes, int64_t count, const uint64_t* table, int shift, uint8_t* out) {
    for (int64_t i = 0; i < count; ++i) {
        if (i + AHEAD < count) __builtin_prefetch(&table[slot_of(hashes[i + AHEAD], shift).word]);
        const Slot slot = slot_of(hashes[i], shift);
        out[i] = ((table[slot.word] >> slot.bit) & 3) == 2;
    }
}

// Fingerprint and place (`offset` + index of its first word) of all windows in the stretches [starts, ends).
LUBAN_EXPORT void fingerprints(const uint64_t* words, const int64_t* starts, const int64_t* ends, int64_t count,
                               int64_t window, uint64_t offset, Record* out) {
    Rolling high(0x0B4C1D6F2E93A587ull % PRIME, window), low(0x1397F2C5A4D8E06Bull % PRIME, window);
    int64_t next = -1;
    for (int64_t i = 0; i < count; ++i) {
        for (int64_t at = starts[i]; at < ends[i]; ++at) {
            if (at == next) {
                const uint64_t word = reduce(words[at + window - 1]), gone = reduce(words[at - 1]);
                high.roll(word, gone);
                low.roll(word, gone);
            } else {
                high.value = low.value = 0;
                for (int64_t j = at; j < at + window; ++j) {
                    high.add(reduce(words[j]));
                    low.add(reduce(words[j]));
                }
            }
            next = at + 1;
            *out++ = {high.value, low.value, offset + (uint64_t)at};
        }
    }
}

// Sets the bit of each place whose window stood before; unless `keep_first`, that of the first one too.
// `records` come in the order of their places; `slots` is all 0 and at least twice as long.
LUBAN_EXPORT void mark_repeats(const Record* records, int64_t count, uint32_t* slots, uint64_t mask, int keep_first,
                               uint8_t* marks) {
    for (int64_t i = 0; i < count; ++i) {
        if (i + AHEAD < count) __builtin_prefetch(&slots[records[i + AHEAD].low & mask], 1);
        const Record& here = records[i];
        uint64_t slot = here.low & mask;
        for (; slots[slot]; slot = (slot + 1) & mask) {
            const Record& first = records[slots[slot] - 1];
            if (first.low != here.low || first.high != here.high) continue;
            marks[here.place >> 3] |= 1 << (here.place & 7);
            if (!keep_first) marks[first.place >> 3] |= 1 << (first.place & 7);
            break;
        }
        if (!slots[slot]) slots[slot] = (uint32_t)(i + 1);
    }
}

// The marked windows of each text, joined where they touch, as (text, first word, end word); how many.
// `offset` is the place of the first text's first word.
LUBAN_EXPORT int64_t joined(const uint8_t* marks, uint64_t offset, const int64_t* sizes, int64_t count, int64_t window,
                            int64_t* out) {
    int64_t written = 0;
    for (int64_t i = 0; i < count; ++i) {
        const uint64_t stop = offset + (sizes[i] < window ? 0 : sizes[i] - window + 1);
        int64_t* last = nullptr;
        for (uint64_t at = offset; at < stop;) {
            if (!(at & 7) && !marks[at >> 3]) {
                at += 8;
                continue;
            }
            if (marks[at >> 3] >> (at & 7) & 1) {
                const int64_t first = (int64_t)(at - offset);
                if (!last || first > last[2]) {
                    last = out + 3 * written++;
                    last[0] = i;
                    last[1] = first;
                }
                last[2] = first + window;
            }
            ++at;
        }
        offset += sizes[i];
    }
    return written;
}
