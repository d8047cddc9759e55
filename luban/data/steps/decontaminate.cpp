// Runs of n words of a corpus that stand in a given set, by rolling hashes. Words in lower case, signs left out.
#include "words.hpp"

using namespace luban;

namespace {

const int64_t RING = 64;  // words remembered; n is smaller

inline uint64_t turn(uint64_t value, int64_t by) { return by ? (value << by) | (value >> (64 - by)) : value; }

// The key of the last n words from the exclusive or of their hashes, each turned by its distance from the end.
inline uint64_t key_of(uint64_t rolling, int64_t n) { return mix(rolling ^ n, 0xE7037ED1A0B428DBull); }

// Two bits in one word of the filter: what lacks one of them is no key, at the price of one access to memory.
inline uint64_t bits_of(uint64_t key) { return 1ull << (key >> 58) | 1ull << (key >> 52 & 63); }

struct Remembered {
    uint64_t hash;
    int64_t begin, end;
};

}  // namespace

// How many words each text has.
LUBAN_EXPORT void count_words(const uint8_t* buffer, const int64_t* starts, const int64_t* lengths, int64_t count,
                              int64_t* out) {
    for (int64_t i = 0; i < count; ++i) {
        Words words(buffer + starts[i], lengths[i]);
        Word word;
        for (out[i] = 0; words.next(word);) out[i] += !word.is_sign();
    }
}

// The keys of each text's n-grams, n = `ns[i]` (0: none); how many in all. `out` has room for one per byte.
LUBAN_EXPORT int64_t gram_keys(const uint8_t* buffer, const int64_t* starts, const int64_t* lengths, int64_t count,
                               const int64_t* ns, uint64_t* out) {
    int64_t written = 0;
    uint64_t ring[RING];
    for (int64_t i = 0; i < count; ++i) {
        const int64_t n = ns[i];
        Words words(buffer + starts[i], lengths[i]);
        Word word;
        uint64_t rolling = 0;
        for (int64_t at = 0; n && words.next(word);) {
            if (word.is_sign()) continue;
            const uint64_t hash = hash_lower(word);
            rolling = turn(rolling, 1) ^ hash ^ (at >= n ? turn(ring[(at - n) & (RING - 1)], n) : 0);
            ring[at & (RING - 1)] = hash;
            if (++at >= n) out[written++] = key_of(rolling, n);
        }
    }
    return written;
}

// An open hash table from keys to their index + 1, and a filter of 2^k words before it.
LUBAN_EXPORT void index_keys(const uint64_t* keys, int64_t count, uint32_t* slots, uint64_t mask, uint64_t* filter,
                             uint64_t filter_mask) {
    for (int64_t i = 0; i < count; ++i) {
        uint64_t slot = keys[i] & mask;
        while (slots[slot]) slot = (slot + 1) & mask;
        slots[slot] = (uint32_t)(i + 1);
        filter[(keys[i] >> 20) & filter_mask] |= bits_of(keys[i]);
    }
}

// Every run of n words, for each n of `ns`, that is among the keys, as rows of (text, index of the key, number of its
// first word in the text, begin, end in bytes); how many. `out` has room for one row per byte and n.
LUBAN_EXPORT int64_t find_grams(const uint8_t* buffer, const int64_t* starts, const int64_t* lengths, int64_t count,
                                const int64_t* ns, int64_t n_count, const uint64_t* keys, const uint32_t* slots,
                                uint64_t mask, const uint64_t* filter, uint64_t filter_mask, int64_t* out) {
    int64_t written = 0;
    Remembered ring[RING];
    uint64_t rolling[RING];
    for (int64_t i = 0; i < count; ++i) {
        const uint8_t* text = buffer + starts[i];
        Words words(text, lengths[i]);
        Word word;
        for (int64_t k = 0; k < n_count; ++k) rolling[k] = 0;
        for (int64_t at = 0; words.next(word);) {
            if (word.is_sign()) continue;
            const uint64_t hash = hash_lower(word);
            ++at;
            for (int64_t k = 0; k < n_count; ++k) {
                const int64_t n = ns[k], first = at - 1 - n;
                rolling[k] = turn(rolling[k], 1) ^ hash;
                if (first >= 0) rolling[k] ^= turn(ring[first & (RING - 1)].hash, n);
            }
            ring[(at - 1) & (RING - 1)] = {hash, word.begin - text, word.end - text};
            for (int64_t k = 0; k < n_count; ++k) {
                const int64_t n = ns[k];
                if (at < n) continue;
                const uint64_t key = key_of(rolling[k], n), bits = bits_of(key);
                if ((filter[(key >> 20) & filter_mask] & bits) != bits) continue;
                uint64_t slot = key & mask;
                while (slots[slot] && keys[slots[slot] - 1] != key) slot = (slot + 1) & mask;
                if (!slots[slot]) continue;
                int64_t* row = out + 5 * written++;
                row[0] = i;
                row[1] = slots[slot] - 1;
                row[2] = at - n;
                row[3] = ring[(at - n) & (RING - 1)].begin;
                row[4] = word.end - text;
            }
        }
    }
    return written;
}
