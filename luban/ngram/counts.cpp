// n-grams of integer ids as 128-bit keys: sorted, counted, merged, and read off order by order.
//
// A key holds the n-gram backwards, 25 bits per id, its last word highest: so an n-gram's suffixes are prefixes
// of its key, and one sorted array holds all orders. 0 stands where there is no word (before the sentence).
#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>
#include "unicode.hpp"

namespace {

typedef unsigned __int128 Key;
constexpr int BITS = 25, TOP = 128 - BITS;
constexpr uint32_t START = 2, END = 3;

inline uint32_t field(Key key, int index) { return (uint32_t)(key >> (TOP - BITS * index)) & ((1u << BITS) - 1); }
inline Key first_fields(Key key, int count) { return key & ~(((Key)1 << (128 - BITS * count)) - 1); }

// How many leading fields two different keys share.
inline int shared_fields(Key a, Key b) {
    uint64_t high = (uint64_t)((a ^ b) >> 64), low = (uint64_t)(a ^ b);
    return (high ? __builtin_clzll(high) : 64 + __builtin_clzll(low)) / BITS;
}

// Sorts keys by their ids' digits. The last word parts the keys as they are made; a part that does not fit the
// cache is parted again by the next digit, one that does is sorted there from its last digit on.
class Sorter {
  public:
    Sorter(int order, uint32_t largest) : bits_(32 - __builtin_clz(largest | 1)), digits_((bits_ + 10) / 11) {
        int width = (bits_ + digits_ - 1) / digits_;
        radix_ = 1u << width;
        for (int index = 0; index < order; index++)
            for (int digit = digits_; digit-- > 0;) shifts_[places_++] = TOP - BITS * index + digit * width;
    }

    // Writes the keys of the n-grams that end at each id, sorted.
    void sort(const uint32_t* ids, int64_t count, int order, Key* keys) {
        int shift = std::max(0, bits_ - WIDEST);
        std::vector<int64_t> ends((size_t)1 << (bits_ - shift), 0);
        for (int64_t i = 0; i < count; i++) ends[ids[i] >> shift]++;
        spare_.resize(*std::max_element(ends.begin(), ends.end()));
        to_starts(ends);  // and to ends as the parts fill
        Key key = (Key)START << TOP;
        for (int64_t i = 0; i < count; i++) {
            key = first_fields((key >> BITS) | ((Key)ids[i] << TOP), order);
            keys[ends[ids[i] >> shift]++] = key;
            if (ids[i] == END) key = (Key)START << TOP;
        }
        sort_parts(keys, ends, shift ? 0 : digits_);
    }

  private:
    static constexpr int64_t FEW = 192, CACHED = 1 << 14;
    static constexpr int LONGEST = 5, DIGITS = 3, WIDEST = 20;
    int bits_, digits_;  // of an id
    uint32_t radix_;
    int shifts_[LONGEST * DIGITS], places_ = 0;
    std::vector<Key> spare_;
    std::vector<uint32_t> histograms_;

    uint32_t digit(Key key, int place) const { return (uint32_t)(key >> shifts_[place]) & (radix_ - 1); }

    static void to_starts(std::vector<int64_t>& sizes) {
        int64_t sum = 0;
        for (int64_t& size : sizes) sum += std::exchange(size, sum);
    }

    void sort_parts(Key* keys, const std::vector<int64_t>& ends, int place) {
        int64_t begin = 0;
        for (int64_t end : ends) {
            if (end - begin > 1) sort_from(keys + begin, end - begin, place);
            begin = end;
        }
    }

    void sort_from(Key* keys, int64_t count, int place) {
        if (place == places_) return;
        if (count <= FEW) return std::sort(keys, keys + count);
        if (count <= CACHED) return sort_cached(keys, count, place);
        std::vector<int64_t> ends(radix_, 0);
        for (int64_t i = 0; i < count; i++) ends[digit(keys[i], place)]++;
        to_starts(ends);
        for (int64_t i = 0; i < count; i++) spare_[ends[digit(keys[i], place)]++] = keys[i];
        std::memcpy(keys, spare_.data(), count * sizeof(Key));
        sort_parts(keys, ends, place + 1);
    }

    void sort_cached(Key* keys, int64_t count, int first) {
        histograms_.assign((size_t)radix_ * places_, 0);
        for (int64_t i = 0; i < count; i++)
            for (int place = first; place < places_; place++) histograms_[radix_ * place + digit(keys[i], place)]++;
        Key *from = keys, *to = spare_.data();
        for (int place = places_; place-- > first;) {
            uint32_t *at = &histograms_[(size_t)radix_ * place], sum = 0;
            for (uint32_t i = 0; i < radix_; i++) sum += std::exchange(at[i], sum);
            for (int64_t i = 0; i < count; i++) to[at[digit(from[i], place)]++] = from[i];
            std::swap(from, to);
        }
        if (from != keys) std::memcpy(keys, from, count * sizeof(Key));
    }
};

}  // namespace

// Sorts the n-grams that end at each id (sentences end with END; <s> is understood before each) and joins equal
// ones. `keys` and `counts` have room for one per id. Returns how many there are.
LUBAN_EXPORT int64_t sort_ngrams(const uint32_t* ids, int64_t count, int order, Key* keys, uint32_t* counts) {
    uint32_t largest = START;
    for (int64_t i = 0; i < count; i++) largest = std::max(largest, ids[i]);
    Sorter(order, largest).sort(ids, count, order, keys);
    int64_t size = 0;
    for (int64_t i = 0; i < count; size++) {
        int64_t begin = i;
        Key key = keys[begin];
        while (i < count && keys[i] == key) i++;
        keys[size] = key;
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

// How many leading ids each key shares with the one before it, and how many different n-grams there are per order.
LUBAN_EXPORT void compare_neighbours(const Key* keys, int64_t count, int order, uint8_t* shared, int64_t* sizes) {
    for (int64_t i = 0; i < count; i++) {
        shared[i] = i ? shared_fields(keys[i], keys[i - 1]) : 0;
        for (int n = shared[i]; n < order && field(keys[i], n); n++) sizes[n]++;
    }
}

// The n-grams of order n: first word, index of the suffix among those of the order below (of one word: id - 1),
// adjusted count (how many different words stand before it; occurrences for the highest order and after <s>), and
// whether it occurs more than `limit` times.
LUBAN_EXPORT void read_order(const Key* keys, const uint32_t* counts, const uint8_t* shared, int64_t count, int n, bool highest,
                             uint32_t limit, uint32_t* firsts, uint32_t* suffixes, uint32_t* adjusted, uint8_t* kept) {
    int64_t size = 0, suffix = -1, occurrences = 0;
    for (int64_t i = 0; i < count; i++) {
        if (n == 2) suffix = (int64_t)field(keys[i], 0) - 1;
        else if (n > 2 && shared[i] < n - 1 && field(keys[i], n - 2)) suffix++;
        uint32_t word = field(keys[i], n - 1);
        if (!word) continue;
        if (shared[i] < n) {
            if (size) kept[size - 1] = occurrences > limit;
            firsts[size] = word;
            suffixes[size] = n > 1 ? suffix : 0;
            adjusted[size++] = 0;
            occurrences = 0;
        }
        occurrences += counts[i];
        if (highest || word == START) adjusted[size - 1] += counts[i];
        else adjusted[size - 1] += shared[i] <= n;
    }
    if (size) kept[size - 1] = occurrences > limit;
}

// The index of each n-gram's context (all but its last word) among those of the order below. The context extends
// that of the n-gram's suffix by the same first word, and what extends an n-gram stands together, sorted.
LUBAN_EXPORT void find_contexts(const uint32_t* firsts, const uint32_t* suffixes, int64_t count, const uint32_t* suffix_contexts,
                                const uint32_t* shorter_firsts, const uint32_t* shorter_suffixes, int64_t shorter_count,
                                int64_t lower_count, uint32_t* contexts) {
    std::vector<uint32_t> begins(lower_count + 1);
    for (int64_t i = 0, lower = 0; lower <= lower_count; begins[lower++] = i)
        while (i < shorter_count && shorter_suffixes[i] < lower) i++;
    constexpr int64_t AHEAD = 24;
    for (int64_t i = 0, at = 0; i < count; i++) {
        if (i + AHEAD < count) __builtin_prefetch(&begins[suffix_contexts[suffixes[i + AHEAD]]]);
        if (i + AHEAD / 2 < count) __builtin_prefetch(&shorter_firsts[begins[suffix_contexts[suffixes[i + AHEAD / 2]]]]);
        uint32_t lower = suffix_contexts[suffixes[i]];
        if (!i || suffixes[i] != suffixes[i - 1]) at = begins[lower];
        int64_t step = 1, end = begins[lower + 1];
        while (at + step < end && shorter_firsts[at + step] <= firsts[i]) {
            at += step;
            step *= 2;
        }
        for (; step; step /= 2)
            if (at + step < end && shorter_firsts[at + step] <= firsts[i]) at += step;
        contexts[i] = at;
    }
}

// The ids of the last words of the n-grams of order n that are kept, as many as asked for, the very last one last.
LUBAN_EXPORT void unpack(const Key* keys, const uint8_t* shared, int64_t count, int n, int words, const uint8_t* kept, uint32_t* ids) {
    for (int64_t i = 0; i < count; i++)
        if (shared[i] < n && field(keys[i], n - 1) && *kept++)
            for (int index = words; index-- > 0;) *ids++ = field(keys[i], index);
}
