// Shingles to MinHash signatures, and signatures to one key per band.
#include <cstdint>
#include "words.hpp"

using namespace luban;

namespace {

// As many hash functions at once as fill the registers that this machine has: wider vectors than that are slow.
#if defined(__AVX512F__)
constexpr int64_t WIDE = 16;
#elif defined(__AVX2__)
constexpr int64_t WIDE = 8;
#else
constexpr int64_t WIDE = 4;
#endif
constexpr int64_t GROUPS = 4, LANES = WIDE * GROUPS;
typedef uint32_t Vector __attribute__((vector_size(WIDE * 4)));

Vector load_vector(const uint32_t* from) {
    Vector vector;
    __builtin_memcpy(&vector, from, sizeof vector);
    return vector;
}

template <int64_t groups>
void minima(const uint32_t* items, int64_t count, const uint32_t* masks, const uint32_t* factors, uint32_t* out) {
    Vector mask[groups], factor[groups], least[groups];
    for (int64_t g = 0; g < groups; g++) {
        mask[g] = load_vector(masks + g * WIDE);
        factor[g] = load_vector(factors + g * WIDE);
        least[g] = Vector{} - 1;
    }
    for (int64_t i = 0; i < count; i++) {
        Vector item = Vector{} + items[i];
        for (int64_t g = 0; g < groups; g++) {
            Vector hash = (item ^ mask[g]) * factor[g];
            least[g] = hash < least[g] ? hash : least[g];
        }
    }
    for (int64_t g = 0; g < groups; g++) __builtin_memcpy(out + g * WIDE, &least[g], sizeof(Vector));
}

}  // namespace

// out[text, h] = min over the text's shingles s of (s ^ masks[h]) * factors[h], for `hashes`, a multiple of 16.
LUBAN_EXPORT void signatures(const uint32_t* items, const int64_t* counts, int64_t texts, const uint32_t* masks,
                             const uint32_t* factors, int64_t hashes, uint32_t* out) {
    for (int64_t i = 0; i < texts; items += counts[i++]) {
        int64_t h = 0;
        for (; h + LANES <= hashes; h += LANES) minima<GROUPS>(items, counts[i], masks + h, factors + h, out + i * hashes + h);
        for (; h < hashes; h += WIDE) minima<1>(items, counts[i], masks + h, factors + h, out + i * hashes + h);
    }
}

// out[text, band] = 64 bits of `rows` values; 0 where the text has no shingle, and nowhere else.
LUBAN_EXPORT void band_keys(const uint32_t* signatures, const int64_t* counts, int64_t texts, int64_t hashes, int64_t bands,
                            int64_t rows, uint64_t* out) {
    for (int64_t i = 0; i < texts; i++)
        for (int64_t band = 0; band < bands; band++) {
            uint64_t key = hash_bytes((const uint8_t*)(signatures + i * hashes + band * rows), rows * 4);
            out[i * bands + band] = counts[i] ? key + !key : 0;
        }
}
