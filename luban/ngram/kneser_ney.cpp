// Kneser-Ney's sums over n-grams, each with its adjusted count and the index of its context.
#include <algorithm>
#include "unicode.hpp"

namespace {

// What is taken off a count: `discounts` for 0, 1, 2, and 3 or more.
inline double taken(uint32_t count, const double* discounts) { return discounts[std::min(count, 3u)]; }

}  // namespace

// Per context the sum of its counts, and the share of it that goes to the order below: what is taken off its kept
// n-grams, and all of the others. Where there is nothing to share out, all of it.
LUBAN_EXPORT void share(const uint32_t* adjusted, const uint8_t* kept, const uint32_t* contexts, int64_t count, const double* discounts,
                        uint32_t* totals, double* backoffs, int64_t context_count) {
    for (int64_t i = 0; i < count; i++) {
        totals[contexts[i]] += adjusted[i];
        backoffs[contexts[i]] += kept[i] ? taken(adjusted[i], discounts) : adjusted[i];
    }
    for (int64_t i = 0; i < context_count; i++) backoffs[i] = totals[i] > 0 ? backoffs[i] / totals[i] : 1.0;
}

// Each n-gram's probability: its own discounted share, and its context's back-off times its suffix's probability.
LUBAN_EXPORT void interpolate(const uint32_t* adjusted, const uint32_t* contexts, const uint32_t* suffixes, int64_t count,
                              const double* discounts, const uint32_t* totals, const double* backoffs, const double* shorter,
                              double* out) {
    for (int64_t i = 0; i < count; i++) {
        double own = (adjusted[i] - taken(adjusted[i], discounts)) / totals[contexts[i]];
        out[i] = own + backoffs[contexts[i]] * shorter[suffixes[i]];
    }
}
