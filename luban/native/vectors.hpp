// float32 numbers a register at a time, and their exponential.
#pragma once
#include <cstdint>
#include <cstring>

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef float Vector __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t Integers __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

[[maybe_unused]] Vector load(const float* at) { return *reinterpret_cast<const Vector*>(at); }
[[maybe_unused]] void store(float* at, Vector value) { *reinterpret_cast<Vector*>(at) = value; }

// The first `count` numbers of a vector; the others are 0 where read and left alone where written.
[[maybe_unused]] Vector load(const float* at, int64_t count) {
    Vector value = {};
    std::memcpy(&value, at, count * sizeof(float));
    return value;
}
[[maybe_unused]] void store(float* at, Vector value, int64_t count) { std::memcpy(at, &value, count * sizeof(float)); }

[[maybe_unused]] float sum(Vector value) {
    float total = 0;
    for (int lane = 0; lane < LANES; lane++) total += value[lane];
    return total;
}

// e^x for x <= 0 to two units in the last place, 0 below -87: 2^n times a polynomial of the rest (Cephes).
[[maybe_unused]] Vector exponential(Vector x) {
    const float magic = 12582912.0f;  // adding it rounds to a whole number, in the low bits
    Vector shifted = x * 1.44269504088896341f + magic;
    Vector whole = shifted - magic;
    Vector rest = x - whole * 0.693359375f;
    rest = rest + whole * 2.12194440e-4f;
    Vector sum = rest * 1.9875691500e-4f + 1.3981999507e-3f;
    sum = sum * rest + 8.3334519073e-3f;
    sum = sum * rest + 4.1665795894e-2f;
    sum = sum * rest + 1.6666665459e-1f;
    sum = sum * rest + 5.0000001201e-1f;
    sum = sum * rest * rest + rest + 1.0f;
    Integers power = (reinterpret_cast<Integers>(shifted) - 0x4B400000 + 127) << 23;
    return x < -87.0f ? Vector{} : sum * reinterpret_cast<Vector>(power);  // so that NaN stays NaN
}

}  // namespace
