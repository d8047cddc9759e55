// Disjoint sets of documents, and the pairs within buckets that join them.
#include <vector>
#include <algorithm>
#include <vector>
#include "unicode.hpp"

namespace {

uint32_t find(uint32_t* parent, uint32_t item) {
    while (parent[item] != item) {
        parent[item] = parent[parent[item]];
        item = parent[item];
    }
    return item;
}

// The smaller root stays one, so that a set is always named by its first member.
void unite(uint32_t* parent, uint32_t left, uint32_t right) {
    left = find(parent, left);
    right = find(parent, right);
    if (left < right) parent[right] = left;
    else parent[left] = right;
}

// The shingles of all documents, wherever their parts are mapped.
struct Sets {
    const uint64_t* addresses;
    const int64_t* counts;
    const uint32_t* items(int64_t document) const { return (const uint32_t*)addresses[document]; }
};

// Compares two sets by a hash table that a new round number empties.
class Comparison {
  public:
    double jaccard(const Sets& sets, int64_t left, int64_t right) {
        if (++round_ >> 31) {
            slots_.assign(SLOTS, 0);
            round_ = 1;
        }
        int64_t larger = std::max(sets.counts[left], sets.counts[right]);
        // More items than the table holds: those of the same part of the range of hashes, from both sets.
        uint32_t most = larger <= MOST ? ~0u : (uint32_t)((double)MOST / larger * 4294967295.0);
        size_t size = 64;
        while (size < SLOTS && (int64_t)size < 4 * larger) size *= 2;
        shift_ = 64 - __builtin_ctzll(size);
        int64_t all = 0, shared = 0;
        for (int64_t i = 0; i < sets.counts[left]; i++) {
            uint32_t item = sets.items(left)[i];
            if (item > most) continue;
            uint64_t& slot = place(item, size);
            all += slot >> 33 != round_;
            slot = (uint64_t)round_ << 33 | item;
        }
        for (int64_t i = 0; i < sets.counts[right]; i++) {
            uint32_t item = sets.items(right)[i];
            if (item > most) continue;
            uint64_t& slot = place(item, size);
            if (slot >> 33 != round_) all++;
            else if (!(slot >> 32 & 1)) shared++;
            slot = (uint64_t)round_ << 33 | 1ull << 32 | item;  // seen from the right
        }
        return all ? (double)shared / all : 0;
    }

  private:
    static constexpr int64_t MOST = 1 << 18, SLOTS = 1 << 20;
    std::vector<uint64_t> slots_ = std::vector<uint64_t>(SLOTS, 0);  // round, side, item
    uint32_t round_ = 0;
    int shift_ = 0;

    uint64_t& place(uint32_t item, size_t size) {
        size_t at = item * 0x9E3779B97F4A7C15ull >> shift_;
        while (slots_[at] >> 33 == round_ && (uint32_t)slots_[at] != item) at = (at + 1) & (size - 1);
        return slots_[at];
    }
};

}  // namespace

// Joins what shares a bucket.
LUBAN_EXPORT void unite_all(uint32_t* parent, const int64_t* rows, const int64_t* starts, int64_t buckets) {
    for (int64_t b = 0; b < buckets; b++)
        for (int64_t i = starts[b] + 1; i < starts[b + 1]; i++) unite(parent, rows[starts[b]], rows[i]);
}

// Joins what shares a bucket and has at least this Jaccard similarity. Each row is compared with the bucket's first
// and with the `window` before it, if they are not one already. Returns the number of comparisons.
LUBAN_EXPORT int64_t unite_similar(uint32_t* parent, const int64_t* rows, const int64_t* starts, int64_t buckets,
                                   const uint64_t* addresses, const int64_t* counts, double threshold, int64_t window) {
    Sets sets{addresses, counts};
    Comparison comparison;
    int64_t compared = 0;
    for (int64_t b = 0; b < buckets; b++) {
        const int64_t* bucket = rows + starts[b];
        for (int64_t i = 1; i < starts[b + 1] - starts[b]; i++)
            for (int64_t back = 0; back <= std::min(window, i - 1); back++) {
                int64_t other = bucket[back ? i - back : 0];
                if (find(parent, other) == find(parent, bucket[i])) continue;
                compared++;
                if (comparison.jaccard(sets, other, bucket[i]) >= threshold) unite(parent, other, bucket[i]);
            }
    }
    return compared;
}

// Joins what shares a bucket and differs in at most `distance` of 64 bits: all pairs.
LUBAN_EXPORT void unite_close(uint32_t* parent, const int64_t* rows, const int64_t* starts, int64_t buckets,
                              const uint64_t* fingerprints, int64_t distance) {
    for (int64_t b = 0; b < buckets; b++)
        for (int64_t i = starts[b]; i < starts[b + 1]; i++)
            for (int64_t j = starts[b]; j < i; j++)
                if (__builtin_popcountll(fingerprints[rows[i]] ^ fingerprints[rows[j]]) <= distance)
                    unite(parent, rows[i], rows[j]);
}

// For each row outside `marked` the first row within it that shares a bucket (and has the similarity, if above 0), out
// of the `window` first ones; rows that have a match already are left alone.
LUBAN_EXPORT void match_marked(int64_t* match, const uint8_t* marked, const int64_t* rows, const int64_t* starts,
                               int64_t buckets, const uint64_t* addresses, const int64_t* counts, double threshold,
                               int64_t window) {
    Sets sets{addresses, counts};
    Comparison comparison;
    std::vector<int64_t> inside;
    for (int64_t b = 0; b < buckets; b++) {
        inside.clear();
        for (int64_t i = starts[b]; i < starts[b + 1] && (int64_t)inside.size() < window; i++)
            if (marked[rows[i]]) inside.push_back(rows[i]);
        for (int64_t i = starts[b]; i < starts[b + 1] && !inside.empty(); i++) {
            int64_t row = rows[i];
            if (marked[row]) continue;
            for (size_t k = 0; k < inside.size() && match[row] < 0; k++)
                if (threshold <= 0 || comparison.jaccard(sets, inside[k], row) >= threshold) match[row] = inside[k];
        }
    }
}

// best[i]: of i's set the member with the highest rank, the first of equals.
LUBAN_EXPORT void keepers(uint32_t* parent, const double* ranks, int64_t count, uint32_t* best) {
    for (int64_t i = 0; i < count; i++) best[i] = i;
    for (int64_t i = 0; i < count; i++) {
        uint32_t root = find(parent, i);
        if (ranks[i] > ranks[best[root]]) best[root] = i;
    }
    for (int64_t i = count - 1; i >= 0; i--) best[i] = best[find(parent, i)];
}
