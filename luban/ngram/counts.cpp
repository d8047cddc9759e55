// n-grams of integer ids as 128-bit keys: sorted, counted, merged, and split into the counts of each order.
//
// A key holds the n-gram backwards, 25 bits per id, its last word highest: so an n-gram's suffixes are prefixes
// of its key, and one sorted array holds all orders. 0 stands where there is no word (before the sentence).
#include <algorithm>
#include <cstdlib>
#include <vector>
#include "words.hpp"

namespace {

typedef unsigned __int128 Key;
constexpr int BITS = 25, TOP = 128 - BITS;
constexpr uint32_t START = 2, END = 3;

inline uint32_t field(Key key, int index) { return (uint32_t)(key >> (TOP - BITS * index)) & ((1u << BITS) - 1); }
inline Key first_fields(Key key, int count) { return key & ~(((Key)1 << (128 - BITS * count)) - 1); }
inline uint64_t key_hash(Key key) { return luban::mix((uint64_t)key ^ 0x9E3779B97F4A7C15ull, (uint64_t)(key >> 64) ^ 0xE7037ED1A0B428DBull); }

// Least significant digit first; returns which of the two arrays holds the result.
Key* radix_sort(Key* keys, Key* spare, int64_t count, int order, uint32_t largest) {
    int bits = 32 - __builtin_clz(largest | 1), digits = (bits + 10) / 11, width = (bits + digits - 1) / digits;
    std::vector<int64_t> at((size_t)1 << width);
    uint32_t mask = (1u << width) - 1;
    for (int index = order - 1; index >= 0; index--)
        for (int digit = 0; digit < digits; digit++) {
            int shift = TOP - BITS * index + digit * width;
            std::fill(at.begin(), at.end(), 0);
            for (int64_t i = 0; i < count; i++) at[(uint32_t)(keys[i] >> shift) & mask]++;
            int64_t sum = 0;
            for (int64_t& place : at) {
                int64_t size = place;
                place = sum;
                sum += size;
            }
            for (int64_t i = 0; i < count; i++) spare[at[(uint32_t)(keys[i] >> shift) & mask]++] = keys[i];
            std::swap(keys, spare);
        }
    return keys;
}

}  // namespace

// Sorts the n-grams that end at each id (sentences end with END; <s> is understood before each) and joins equal
// ones. `work` has room for 2 * count keys; the result is written to `keys` and `counts`. Returns how many.
LUBAN_EXPORT int64_t sort_ngrams(const uint32_t* ids, int64_t count, int order, Key* work, Key* keys, uint32_t* counts) {
    Key key = (Key)START << TOP;
    uint32_t largest = START;
    for (int64_t i = 0; i < count; i++) {
        largest = std::max(largest, ids[i]);
        key = first_fields((key >> BITS) | ((Key)ids[i] << TOP), order);
        work[i] = key;
        if (ids[i] == END) key = (Key)START << TOP;
    }
    const Key* sorted = radix_sort(work, work + count, count, order, largest);
    int64_t size = 0;
    for (int64_t i = 0; i < count; size++) {
        int64_t begin = i;
        while (i < count && sorted[i] == sorted[begin]) i++;
        keys[size] = sorted[begin];
        counts[size] = i - begin;
    }
    return size;
}

// Joins sorted runs into one; returns its size.
LUBAN_EXPORT int64_t merge_runs(const Key* const* keys, const uint32_t* const* counts, const int64_t* sizes, int64_t runs,
                                Key* out_keys, uint32_t* out_counts) {
    std::vector<int64_t> at(runs, 0), heap;
    auto later = [&](int64_t a, int64_t b) { return keys[a][at[a]] > keys[b][at[b]]; };
    for (int64_t run = 0; run < runs; run++)
        if (sizes[run]) heap.push_back(run);
    std::make_heap(heap.begin(), heap.end(), later);
    int64_t size = 0;
    while (!heap.empty()) {
        std::pop_heap(heap.begin(), heap.end(), later);
        int64_t run = heap.back();
        Key key = keys[run][at[run]];
        if (!size || out_keys[size - 1] != key) {
            out_keys[size] = key;
            out_counts[size++] = 0;
        }
        out_counts[size - 1] += counts[run][at[run]++];
        if (at[run] < sizes[run]) std::push_heap(heap.begin(), heap.end(), later);
        else heap.pop_back();
    }
    return size;
}

// How many different n-grams there are of each order.
LUBAN_EXPORT void count_orders(const Key* keys, int64_t count, int order, int64_t* sizes) {
    for (int64_t i = 0; i < count; i++)
        for (int n = 0; n < order && field(keys[i], n); n++)
            if (!i || first_fields(keys[i], n + 1) != first_fields(keys[i - 1], n + 1)) sizes[n]++;
}

// Per order and n-gram: the row where it begins, its occurrences, its adjusted count (how many different words
// stand before it; occurrences for the highest order and after <s>), and the index of its suffix in the order below.
LUBAN_EXPORT void split_orders(const Key* keys, const uint32_t* counts, int64_t count, int order, uint32_t* const* rows,
                               uint32_t* const* occurrences, uint32_t* const* adjusted, uint32_t* const* suffixes) {
    int64_t size[8] = {0};
    for (int64_t i = 0; i < count; i++) {
        bool fresh = !i;
        for (int n = 0; n < order; n++) {
            uint32_t word = field(keys[i], n);
            if (!word) break;
            fresh = fresh || word != field(keys[i - 1], n);
            if (fresh) {
                int64_t at = size[n]++;
                rows[n][at] = i;
                occurrences[n][at] = adjusted[n][at] = 0;
                suffixes[n][at] = n ? size[n - 1] - 1 : 0;
                if (n) adjusted[n - 1][size[n - 1] - 1]++;
            }
            occurrences[n][size[n] - 1] += counts[i];
            if (n == order - 1 || word == START) adjusted[n][size[n] - 1] += counts[i];
        }
    }
}

// The index of each n-gram's context (all but its last word) among those of the order below.
LUBAN_EXPORT void find_contexts(const Key* keys, int order, const uint32_t* rows, int64_t count, const uint32_t* shorter,
                                int64_t shorter_count, uint32_t* contexts) {
    struct Slot { uint64_t hash; uint64_t index; };
    uint64_t size = shorter_count + shorter_count / 2 + 16;
    std::vector<Slot> slots(size, Slot{0, 0});
    auto place = [&](uint64_t hash) { return (uint64_t)(((Key)hash * size) >> 64); };
    constexpr int64_t AHEAD = 32;
    uint64_t hashes[AHEAD];
    auto in_blocks = [&](int64_t total, auto key_at, auto act) {
        for (int64_t begin = 0; begin < total; begin += AHEAD) {
            int64_t block = std::min(AHEAD, total - begin);
            for (int64_t j = 0; j < block; j++) {
                hashes[j] = key_hash(key_at(begin + j)) | 1;
                __builtin_prefetch(&slots[place(hashes[j])]);
            }
            for (int64_t j = 0; j < block; j++) {
                uint64_t at = place(hashes[j]);
                while (slots[at].hash && slots[at].hash != hashes[j]) at = at + 1 == size ? 0 : at + 1;
                act(begin + j, slots[at], hashes[j]);
            }
        }
    };
    in_blocks(
        shorter_count, [&](int64_t i) { return first_fields(keys[shorter[i]], order - 1); },
        [](int64_t i, Slot& slot, uint64_t hash) { slot = {hash, (uint64_t)i}; });
    in_blocks(
        count, [&](int64_t i) { return first_fields(keys[rows[i]] << BITS, order - 1); },
        [&](int64_t i, Slot& slot, uint64_t) { contexts[i] = slot.index; });
}

// The ids of n-grams, first word first.
LUBAN_EXPORT void unpack(const Key* keys, int order, const uint32_t* rows, int64_t count, uint32_t* ids) {
    for (int64_t i = 0; i < count; i++)
        for (int n = 0; n < order; n++) ids[i * order + n] = field(keys[rows[i]], order - 1 - n);
}
