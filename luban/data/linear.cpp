// A linear model over hashed words and pairs of words: features, training, scoring.
#include <algorithm>
#include <cmath>
#include <string>
#include "sentences.hpp"

namespace {

using namespace luban;

// Calls `on_feature(bucket, begin, end)` for each word (lower case, digits as 0) and each pair of neighbours.
template <class OnFeature>
void each_feature(const uint8_t* text, size_t bytes, int bits, std::vector<uint8_t>& work, OnFeature on_feature) {
    bytes = normalise(text, bytes, work);
    Words words(work.data(), bytes);
    Word word;
    uint64_t before = 0;
    const uint8_t* began = nullptr;
    while (words.next(word)) {
        uint64_t key = word_key(word.begin, word.end);
        on_feature((uint32_t)(key >> (64 - bits)), word.begin, word.end);
        if (before) on_feature((uint32_t)(longer_key(key, before) >> (64 - bits)), began, word.end);
        before = key;
        began = word.begin;
    }
}

// What a feature of a text with `count` features weighs.
inline double share(int64_t count) { return count ? 1 / std::sqrt((double)count) : 0; }

inline double sigmoid(double value) { return 1 / (1 + std::exp(-value)); }

struct Counted { uint32_t bucket, times; };

}  // namespace

// The buckets of a text and how often each occurs, sorted; `ends` says where each text's end. `out` has room for two
// per byte.
LUBAN_EXPORT int64_t text_features(const uint8_t* buffer, const int64_t* starts, const int64_t* lengths, int64_t count, int bits,
                                   Counted* out, int64_t* ends) {
    std::vector<uint8_t> work;
    std::vector<uint32_t> found;
    int64_t size = 0;
    for (int64_t i = 0; i < count; i++) {
        found.clear();
        each_feature(buffer + starts[i], lengths[i], bits, work, [&](uint32_t bucket, auto, auto) { found.push_back(bucket); });
        std::sort(found.begin(), found.end());
        for (size_t j = 0; j < found.size(); size++) {
            size_t begin = j;
            while (j < found.size() && found[j] == found[begin]) j++;
            out[size] = {found[begin], (uint32_t)(j - begin)};
        }
        ends[i] = size;
    }
    return size;
}

// One pass of AdaGrad over texts in the given order; weights[buckets] is the bias. Returns the mean loss in nats.
LUBAN_EXPORT double fit(const Counted* features, const int64_t* ends, const int64_t* order, const uint8_t* labels, int64_t count,
                        int bits, double rate, float* weights, float* squares) {
    int64_t bias = (int64_t)1 << bits;
    double loss = 0;
    for (int64_t i = 0; i < count; i++) {
        int64_t text = order[i], begin = text ? ends[text - 1] : 0, end = ends[text], total = 0;
        double sum = 0;
        for (int64_t j = begin; j < end; j++) {
            sum += (double)weights[features[j].bucket] * features[j].times;
            total += features[j].times;
        }
        double each = share(total), logit = weights[bias] + sum * each, wrong = sigmoid(logit) - labels[text];
        loss += std::log1p(std::exp(labels[text] ? -logit : logit));
        auto step = [&](int64_t bucket, double gradient) {
            squares[bucket] += gradient * gradient;
            weights[bucket] -= rate * gradient / std::sqrt(squares[bucket] + 1e-8);
        };
        for (int64_t j = begin; j < end; j++) step(features[j].bucket, wrong * each * features[j].times);
        step(bias, wrong);
    }
    return count ? loss / count : 0;
}

// The probability that each text is good.
LUBAN_EXPORT void score(const uint8_t* buffer, const int64_t* starts, const int64_t* lengths, int64_t count, int bits,
                        const float* weights, double* scores) {
    std::vector<uint8_t> work;
    for (int64_t i = 0; i < count; i++) {
        double sum = 0;
        int64_t total = 0;
        each_feature(buffer + starts[i], lengths[i], bits, work, [&](uint32_t bucket, auto, auto) {
            sum += weights[bucket];
            total++;
        });
        scores[i] = sigmoid(weights[(int64_t)1 << bits] + sum * share(total));
    }
}

// The words and pairs that stand behind some buckets: one "bucket<TAB>feature\n" for each in the order of the texts,
// as many as `room` bytes hold. Returns the bytes written.
LUBAN_EXPORT int64_t spell(const uint8_t* buffer, const int64_t* starts, const int64_t* lengths, int64_t count, int bits,
                           const uint8_t* wanted, uint8_t* out, int64_t room) {
    std::vector<uint8_t> work;
    std::string lines;
    for (int64_t i = 0; i < count; i++)
        each_feature(buffer + starts[i], lengths[i], bits, work, [&](uint32_t bucket, const uint8_t* begin, const uint8_t* end) {
            if (!wanted[bucket] || (int64_t)lines.size() > room) return;
            lines += std::to_string(bucket) + "\t";
            for (; begin < end; begin++) lines += *begin <= ' ' ? ' ' : (char)*begin;  // a line ends at its own sign only
            lines += '\n';
        });
    int64_t size = std::min<int64_t>(lines.size(), room);
    std::copy(lines.begin(), lines.begin() + size, out);
    return size;
}
