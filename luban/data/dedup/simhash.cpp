// Shingles to 64-bit fingerprints that differ in few bits where texts differ in little.
#include "words.hpp"

using namespace luban;

// Bit b of out[text] is set where it is set in more than half of the text's shingles' 64-bit hashes; 0 without any.
LUBAN_EXPORT void simhashes(const uint32_t* items, const int64_t* counts, int64_t texts, uint64_t* out) {
    for (int64_t i = 0; i < texts; items += counts[i++]) {
        int32_t low[32] = {}, high[32] = {};
        for (int64_t k = 0; k < counts[i]; k++) {
            uint64_t hash = mix(items[k] ^ 0xA0761D6478BD642Full, 0xE7037ED1A0B428DBull);
            uint32_t first = (uint32_t)hash, second = (uint32_t)(hash >> 32);
            for (int b = 0; b < 32; b++) low[b] += first >> b & 1;
            for (int b = 0; b < 32; b++) high[b] += second >> b & 1;
        }
        out[i] = 0;
        for (int b = 0; b < 32; b++) out[i] |= (uint64_t)(2 * (int64_t)low[b] > counts[i]) << b;
        for (int b = 0; b < 32; b++) out[i] |= (uint64_t)(2 * (int64_t)high[b] > counts[i]) << (b + 32);
    }
}
