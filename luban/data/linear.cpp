// A linear model over hashed words and pairs of words: features, training, scoring.
//
// A word is a run of letters and digits, a run of one ASCII sign, or one other sign or ideograph. This is coarser than
// the rule of words.hpp and ranks texts as well, and it can be told of a block of bytes at once: features are found in
// passes that hardly branch, which takes a third of the time.
#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include "sentences.hpp"

namespace {

using namespace luban;

// What a byte is to words: BEGINS is the first one of a sign or ideograph beyond ASCII, INSIDE are its others.
enum Kind : uint8_t { BLANK, RUN, SIGN, BEGINS, INSIDE };

constexpr size_t BLOCK = 64;

inline Kind kind_of_ascii(uint8_t byte) {
    bool run = (uint8_t)(byte - 'a') < 26 || (uint8_t)(byte - '0') < 10;
    bool blank = byte == ' ' || (uint8_t)(byte - 9) < 5 || (uint8_t)(byte - 0x1C) < 4;
    return run ? RUN : blank ? BLANK : SIGN;
}

// Tells the kinds of a block of lower-case text, and of its last character's bytes behind it; returns how many those are.
inline size_t tell_kinds(const uint8_t* text, const uint8_t* stop, uint8_t* kinds) {
    uint8_t any = 0;
    for (size_t i = 0; i < BLOCK; i++) any |= text[i];
    if (any < 0x80) {
        for (size_t i = 0; i < BLOCK; i++) kinds[i] = kind_of_ascii(text[i]);
        return BLOCK;
    }
    const uint8_t* at = text;
    for (stop = std::min(stop, text + BLOCK); at < stop;) {
        const uint8_t* begin = at;
        uint8_t bits = class_of(next_character(at));
        bool run = (bits & (LETTER | DIGIT | MARK)) && !(bits & IDEOGRAPH);
        Kind kind = at == begin + 1 ? kind_of_ascii(*begin) : run ? RUN : bits & SPACE ? BLANK : INSIDE;
        for (const uint8_t* each = begin; each < at; each++) kinds[each - text] = kind;
        if (kind == INSIDE) kinds[begin - text] = BEGINS;
    }
    return at - text;
}

// A bit for each of 64 bytes, all of them 0 or 1.
inline uint64_t to_bits(const uint8_t* bytes) {
    uint64_t bits = 0;
    for (size_t i = 0; i < 64; i += 8) {
        uint64_t eight;
        __builtin_memcpy(&eight, bytes + i, 8);
        bits |= (eight * 0x0102040810204080ull >> 56) << i;
    }
    return bits;
}

// The first `count` of the bytes at `at`, at most 8 of them, as a number; reads 8.
inline uint64_t load(const uint8_t* at, size_t count) {
    uint64_t bytes;
    __builtin_memcpy(&bytes, at, 8);
    return count < 8 ? bytes & ((1ull << 8 * count) - 1) : bytes;
}

// 64 bits that depend on every byte of a word, by one multiplication for up to 16 of them; reads 16.
inline uint64_t key_of(const uint8_t* word, size_t bytes) {
    uint64_t low = load(word, bytes), high = load(word + 8, bytes > 8 ? bytes - 8 : 0);
    uint64_t key = mix(low ^ 0x9E3779B97F4A7C15ull, high ^ bytes ^ 0xE7037ED1A0B428DBull);
    return bytes > 16 ? hash_bytes(word + 16, bytes - 16, key) : key;
}

// The words and features of one text after another.
class Features {
  public:
    // Finds the words (lower case, every digit as 0), and the buckets of the words and of each pair of neighbours.
    void find(const uint8_t* text, size_t bytes, int bits) {
        bytes = normalise(text, bytes, text_);
        tell_all_kinds(bytes);
        cut(bytes);
        hash(64 - bits);
    }
    size_t words() const { return words_; }
    size_t size() const { return words_ ? 2 * words_ - 1 : 0; }
    // Of word i, or of the words i - words() and the next one.
    uint32_t bucket(size_t i) const { return buckets_[i]; }
    const uint8_t* begin(size_t word) const { return text_.data() + begins_[word]; }
    const uint8_t* end(size_t word) const { return text_.data() + ends_[word]; }

    // Puts the buckets in order: by their lower and then by their upper half, where there are enough to pay for it.
    void sort(int bits) {
        int half = (bits + 1) / 2;
        if (size() >> half == 0) return std::sort(buckets_.begin(), buckets_.begin() + size());
        uint32_t digits = 1u << half, mask = digits - 1;
        places_.assign(2 * digits, 0);
        if (sorted_.size() < size()) sorted_.resize(size());
        uint32_t *lower = places_.data(), *upper = lower + digits, before = 0, under = 0;
        for (size_t i = 0; i < size(); i++) {
            lower[buckets_[i] & mask]++;
            upper[buckets_[i] >> half]++;
        }
        for (uint32_t i = 0; i < digits; i++) {
            before += std::exchange(lower[i], before);
            under += std::exchange(upper[i], under);
        }
        for (size_t i = 0; i < size(); i++) sorted_[lower[buckets_[i] & mask]++] = buckets_[i];
        for (size_t i = 0; i < size(); i++) buckets_[upper[sorted_[i] >> half]++] = sorted_[i];
    }

  private:
    std::vector<uint8_t> text_, kinds_;
    std::vector<size_t> begins_, ends_;
    std::vector<uint32_t> buckets_, sorted_, places_;
    size_t words_ = 0;

    void tell_all_kinds(size_t bytes) {
        size_t room = bytes + 2 * BLOCK;  // what reads or writes whole blocks goes beyond the end
        if (text_.size() < room) text_.resize(room);
        if (kinds_.size() < room) kinds_.resize(room);
        for (size_t at = 0; at < bytes;) at += tell_kinds(text_.data() + at, text_.data() + bytes, kinds_.data() + at);
        std::fill_n(kinds_.begin() + bytes, BLOCK + 1, BLANK);
    }
    void cut(size_t bytes) {
        size_t begun = 0, ended = 0;
        for (size_t at = 0; at < bytes; at += BLOCK) {
            if (begins_.size() < begun + BLOCK + 1) {
                begins_.resize(2 * begun + 16 * BLOCK);
                ends_.resize(begins_.size());
            }
            if (!at && kinds_[0] != BLANK) begins_[begun++] = 0;
            uint8_t opens[BLOCK], closes[BLOCK];
            find_edges(text_.data() + at, kinds_.data() + at, opens, closes);
            for (uint64_t bits = to_bits(opens); bits; bits &= bits - 1) begins_[begun++] = at + 1 + __builtin_ctzll(bits);
            for (uint64_t bits = to_bits(closes); bits; bits &= bits - 1) ends_[ended++] = at + 1 + __builtin_ctzll(bits);
        }
        words_ = ended;
    }
    // Whether a word begins behind each byte of a block, and whether one ends there.
    static void find_edges(const uint8_t* text, const uint8_t* kinds, uint8_t* opens, uint8_t* closes) {
        for (size_t i = 0; i < BLOCK; i++) {
            uint8_t here = kinds[i], next = kinds[i + 1];
            bool other = (next != here) | ((next == SIGN) & (text[i + 1] != text[i]));
            bool edge = other & (next != INSIDE);
            opens[i] = edge & (next != BLANK);
            closes[i] = edge & (here != BLANK);
        }
    }
    void hash(int shift) {
        if (buckets_.size() < 2 * words_) buckets_.resize(2 * words_);
        uint64_t before = 0;
        for (size_t i = 0; i < words_; i++) {
            uint64_t key = key_of(text_.data() + begins_[i], ends_[i] - begins_[i]);
            buckets_[i] = key >> shift;
            buckets_[words_ + i - (i > 0)] = longer_key(key, before) >> shift;  // the first word's is written over
            before = key;
        }
    }
};

// What a feature of a text with `count` features weighs.
inline double share(int64_t count) { return count ? 1 / std::sqrt((double)count) : 0; }

inline double sigmoid(double value) { return 1 / (1 + std::exp(-value)); }

struct Counted { uint32_t bucket, times; };

// The sum of `term(i)` in four parts, so that one addition need not wait for the last one.
template <class Term>
double sum_of(size_t count, Term term) {
    double parts[4] = {};
    size_t i = 0;
    for (; i + 4 <= count; i += 4)
        for (size_t part = 0; part < 4; part++) parts[part] += term(i + part);
    for (; i < count; i++) parts[0] += term(i);
    return (parts[0] + parts[1]) + (parts[2] + parts[3]);
}

// A bucket while it learns; side by side, as they are wanted together.
struct Slot {
    float weight, squares;
    void step(float gradient, float rate) {
        squares += gradient * gradient;
        weight -= rate * gradient / std::sqrt(squares + 1e-8f);
    }
};

}  // namespace

// The buckets of a text and how often each occurs, sorted; `ends` says where each text's end. `out` has room for two
// per byte.
LUBAN_EXPORT int64_t text_features(const uint8_t* buffer, const int64_t* starts, const int64_t* lengths, int64_t count, int bits,
                                   Counted* out, int64_t* ends) {
    Features found;
    int64_t size = 0;
    for (int64_t i = 0; i < count; i++) {
        found.find(buffer + starts[i], lengths[i], bits);
        found.sort(bits);
        uint32_t before = ~0u, times = 0;
        for (size_t j = 0; j < found.size(); j++) {
            uint32_t bucket = found.bucket(j);
            times = bucket == before ? times + 1 : 1;
            size += times == 1;
            out[size - 1] = {before = bucket, times};
        }
        ends[i] = size;
    }
    return size;
}

// One pass of AdaGrad over texts in the given order; slots[buckets] is the bias. Returns the mean loss in nats.
LUBAN_EXPORT double fit(const Counted* features, const int64_t* ends, const int64_t* order, const uint8_t* labels, int64_t count,
                        int bits, double rate, Slot* slots) {
    Slot& bias = slots[(int64_t)1 << bits];
    double loss = 0;
    for (int64_t i = 0; i < count; i++) {
        int64_t text = order[i], begin = text ? ends[text - 1] : 0, total = 0;
        const Counted* own = features + begin;
        size_t size = ends[text] - begin;
        for (size_t j = 0; j < size; j++) total += own[j].times;
        double sum = sum_of(size, [&](size_t j) { return slots[own[j].bucket].weight * own[j].times; });
        double each = share(total), logit = bias.weight + sum * each, wrong = sigmoid(logit) - labels[text];
        loss += std::log1p(std::exp(labels[text] ? -logit : logit));
        for (size_t j = 0; j < size; j++) slots[own[j].bucket].step(wrong * each * own[j].times, rate);
        bias.step(wrong, rate);
    }
    return count ? loss / count : 0;
}

// The probability that each text is good.
LUBAN_EXPORT void score(const uint8_t* buffer, const int64_t* starts, const int64_t* lengths, int64_t count, int bits,
                        const float* weights, double* scores) {
    Features features;
    for (int64_t i = 0; i < count; i++) {
        features.find(buffer + starts[i], lengths[i], bits);
        double sum = sum_of(features.size(), [&](size_t j) { return weights[features.bucket(j)]; });
        scores[i] = sigmoid(weights[(int64_t)1 << bits] + sum * share(features.size()));
    }
}

// The words and pairs that stand behind some buckets: one "bucket<TAB>feature\n" for each in the order of the texts,
// as many as `room` bytes hold; the last line may be cut. Returns the bytes written.
LUBAN_EXPORT int64_t spell(const uint8_t* buffer, const int64_t* starts, const int64_t* lengths, int64_t count, int bits,
                           const uint8_t* wanted, uint8_t* out, int64_t room) {
    Features features;
    std::string lines;
    for (int64_t i = 0; i < count && (int64_t)lines.size() <= room; i++) {
        features.find(buffer + starts[i], lengths[i], bits);
        for (size_t j = 0; j < features.size(); j++) {
            if (!wanted[features.bucket(j)]) continue;
            size_t first = j % features.words(), last = first + (j >= features.words());
            lines += std::to_string(features.bucket(j)) + "\t";
            for (const uint8_t* at = features.begin(first); at < features.end(last); at++)
                lines += *at <= ' ' ? ' ' : (char)*at;  // a line ends at its own sign only
            lines += '\n';
        }
    }
    int64_t size = std::min<int64_t>(lines.size(), room);
    std::copy(lines.begin(), lines.begin() + size, out);
    return size;
}
