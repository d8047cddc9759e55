// How much of a text is n-grams said before: Gopher's measures on words, ROOTS's on words and characters.
#include <cmath>
#include <functional>
#include "tally.hpp"
#include "words.hpp"

using namespace luban;

namespace {

const uint64_t BASE = 0xD1342543DE82EF95ull;  // odd, so no word's bits are lost

// Hashes of all n-grams of a sequence in constant time each, from hashes of its prefixes.
class Sequence {
  public:
    void clear() {
        hashes_.assign(1, 0);
        lengths_.assign(1, 0);
    }
    void assign(const uint64_t* hashes, const uint32_t* characters, int64_t count) {
        hashes_.resize(count + 1);
        lengths_.resize(count + 1);
        uint64_t hash = hashes_[0] = 0;
        int64_t length = lengths_[0] = 0;
        for (int64_t i = 0; i < count; i++) {
            hashes_[i + 1] = hash = hash * BASE + hashes[i];
            lengths_[i + 1] = length += characters[i];
        }
    }
    void push(uint64_t hash, int64_t characters) {
        hashes_.push_back(hashes_.back() * BASE + hash);
        lengths_.push_back(lengths_.back() + characters);
    }
    int64_t size() const { return (int64_t)hashes_.size() - 1; }
    int64_t characters(int64_t from, int64_t to) const { return lengths_[to] - lengths_[from]; }
    uint64_t sum(int64_t from, int64_t n, uint64_t power) const { return hashes_[from + n] - hashes_[from] * power; }
    uint64_t hash(int64_t from, int64_t n, uint64_t power) const {
        uint64_t one = sum(from, n, power);
        return mix(one, 0xE7037ED1A0B428DBull) ^ one;
    }
    static uint64_t power(int64_t n) {
        uint64_t result = 1;
        while (n-- > 0) result *= BASE;
        return result;
    }

  private:
    std::vector<uint64_t> hashes_;
    std::vector<int64_t> lengths_;
};

// Where n-grams begin that come more than once, or at least might; an n-gram that repeats begins with a shorter one
// that does, so each n leaves less to look at. Most of a text is gone before the first is counted.
struct Candidates {
    std::vector<uint32_t> at;
    std::vector<uint32_t> slots;
    std::vector<uint8_t> met;
    int64_t n = 0;  // they are right for n-grams of this length and more

    void begin(const Sequence& words, int64_t length) {
        n = length;
        at.resize(std::max<int64_t>(words.size() - length + 1, 0));
        for (size_t i = 0; i < at.size(); i++) at[i] = (uint32_t)i;
        narrow(words, length);
    }
    // Forgets most of those n-grams that come once: no other has their place among eight times as many.
    void narrow(const Sequence& words, int64_t length) {
        int bits = 6;
        while ((1ull << bits) < 8 * at.size()) bits++;
        met.assign(1ull << bits, 0);
        slots.resize(at.size());
        const uint64_t power = Sequence::power(length);
        for (size_t i = 0; i < at.size(); i++) {
            uint32_t place = slots[i] = (uint32_t)(words.sum(at[i], length, power) * 0x9E3779B97F4A7C15ull >> (64 - bits));
            met[place] += met[place] < 2;
        }
        size_t kept = 0;
        for (size_t i = 0; i < at.size(); i++) {
            at[kept] = at[i];
            kept += met[slots[i]] > 1;
        }
        at.resize(kept);
    }
    // Forgets beginnings too near to the end of `words`.
    void shorten(const Sequence& words, int64_t length) {
        while (!at.empty() && at.back() + length > words.size()) at.pop_back();
    }
    void keep_repeated(const Tally& tally) {
        size_t kept = 0;
        for (size_t i = 0; i < at.size(); i++) {
            at[kept] = at[i];
            kept += tally.begin()[slots[i]].count > 1;
        }
        at.resize(kept);
    }
};

// Characters of the n-gram that comes most often (the first of several), spaces between its words included.
int64_t top_characters(const Sequence& words, int64_t n, Candidates& candidates, Tally& tally) {
    if (words.size() < n) return 0;
    uint64_t power = Sequence::power(n);
    candidates.shorten(words, n);
    if (n > candidates.n) candidates.narrow(words, n);
    candidates.slots.resize(candidates.at.size());
    candidates.n = n;
    tally.reset(candidates.at.size());
    uint32_t best = 1, best_at = 0;
    for (size_t i = 0; i < candidates.at.size(); i++) {
        uint32_t at = candidates.at[i];
        const Tally::Slot& slot = tally.add(words.hash(at, n, power), at);
        candidates.slots[i] = (uint32_t)(&slot - tally.begin());
        if (slot.count > best || (slot.count == best && slot.first < best_at)) {
            best = slot.count;
            best_at = slot.first;
        }
    }
    candidates.keep_repeated(tally);
    return best * (words.characters(best_at, best_at + n) + n - 1);
}

// Characters of n-grams that came before, each counted once: reading goes on behind a repeated one.
int64_t repeated_characters(const Sequence& words, int64_t n, Candidates& candidates, Tally& tally) {
    int64_t repeated = 0, next = 0;
    uint64_t power = Sequence::power(n);
    candidates.shorten(words, n);
    tally.reset(candidates.at.size());
    for (uint32_t at : candidates.at) {
        if (at < next || tally.add(words.hash(at, n, power)).count == 1) continue;
        repeated += words.characters(at, at + n);
        next = at + n;
    }
    return repeated;
}

// The share of n-grams that come more than once.
double repeated_share(const Sequence& words, int64_t n, Tally& tally) {
    int64_t grams = words.size() - n + 1, often = 0;
    if (grams <= 0) return 0;
    uint64_t power = Sequence::power(n);
    tally.reset(grams);
    for (int64_t i = 0; i < grams; i++) {
        uint32_t count = tally.add(words.hash(i, n, power)).count;
        often += count == 2 ? 2 : count > 2;
    }
    return (double)often / grams;
}

// The share that the sqrt(different) most frequent n-grams have among all, not counting those that come once.
// A long text is counted in slices of its hashes, so that memory stays small.
double top_share(const Sequence& letters, int64_t n, Tally& tally) {
    int64_t grams = letters.size() - n + 1, different = 0, top = 0;
    if (grams <= 0) return 0;
    uint64_t power = Sequence::power(n), slices = grams / (1 << 22) + 1;
    std::vector<uint32_t> often;
    for (uint64_t slice = 0; slice < slices; slice++) {
        tally.reset(slices > 1 ? (1 << 23) : grams);
        for (int64_t i = 0; i < grams; i++) {
            uint64_t hash = letters.hash(i, n, power);
            if (slices == 1 || (hash >> 40) % slices == slice) tally.add(hash);
        }
        for (const Tally::Slot& slot : tally) {
            different += slot.count > 0;
            if (slot.count > 1) often.push_back(slot.count);
        }
    }
    size_t taken = std::min((size_t)std::sqrt((double)different), often.size());
    std::nth_element(often.begin(), often.begin() + taken, often.end(), std::greater<>());
    for (size_t i = 0; i < taken; i++) top += often[i];
    return (double)top / grams;
}

}  // namespace

// Text i's words begin at `hashes[starts[i]]`. `tops` [count, top_kinds] and `repeats` [count, repeat_kinds]: characters, for each n of `top_n` and `repeat_n`,
// both rising. A text in which no n-gram repeats has no longer one that does, so the rest is 0 unseen.
LUBAN_EXPORT void luban_gopher_repetition(const uint64_t* hashes, const uint32_t* characters, const int64_t* starts,
                                          const int64_t* words, int64_t count, const int64_t* top_n, int64_t top_kinds,
                                          const int64_t* repeat_n, int64_t repeat_kinds, int64_t* tops, int64_t* repeats) {
    Tally tally;
    Sequence sequence;
    Candidates candidates;
    for (int64_t i = 0; i < count; i++) {
        sequence.assign(hashes + starts[i], characters + starts[i], words[i]);
        if (top_kinds) candidates.begin(sequence, top_n[0]);
        for (int64_t k = 0; k < top_kinds; k++) tops[i * top_kinds + k] = top_characters(sequence, top_n[k], candidates, tally);
        if (repeat_kinds && (!top_kinds || repeat_n[0] < candidates.n)) candidates.begin(sequence, repeat_n[0]);
        for (int64_t k = 0; k < repeat_kinds; k++)
            if (!(repeats[i * repeat_kinds + k] = repeated_characters(sequence, repeat_n[k], candidates, tally))) break;
    }
}

// `shares` [count, 2]: of character n-grams and of word n-grams (lower case, no signs), by each text's own n.
LUBAN_EXPORT void luban_roots_repetition(const uint8_t* buffer, const int64_t* starts, const int64_t* lengths, int64_t count,
                                         const int64_t* character_n, const int64_t* word_n, double* shares) {
    Tally tally;
    Sequence sequence;
    for (int64_t i = 0; i < count; i++) {
        const uint8_t *at = buffer + starts[i], *end = at + lengths[i];
        sequence.clear();
        while (at < end) sequence.push(next_character(at) + 1, 1);
        shares[2 * i] = top_share(sequence, character_n[i], tally);
        sequence.clear();
        Words words(buffer + starts[i], lengths[i]);
        for (Word word; words.next(word);)
            if (!word.is_sign()) sequence.push(hash_lower(word), word.characters);
        shares[2 * i + 1] = repeated_share(sequence, word_n[i], tally);
    }
}
