// A net of one hidden layer over rows of features: too small for a matrix library, whose threads cost more than it.
#include <algorithm>
#include "unicode.hpp"

// out[i] = relu(rows[i] @ weights + bias) @ last + last_bias; `weights` is [features, hidden], hidden <= 64.
LUBAN_EXPORT void score_rows(const float* rows, int64_t count, int64_t features, const float* weights, const float* bias,
                             const float* last, float last_bias, int64_t hidden, float* out) {
    float sums[64];
    for (int64_t row = 0; row < count; ++row, rows += features) {
        std::copy(bias, bias + hidden, sums);
        for (int64_t feature = 0; feature < features; ++feature) {
            float value = rows[feature];
            if (value == 0) continue;  // most are
            const float* weight = weights + feature * hidden;
            for (int64_t unit = 0; unit < hidden; ++unit) sums[unit] += value * weight[unit];
        }
        out[row] = last_bias;
        for (int64_t unit = 0; unit < hidden; ++unit) out[row] += std::max(sums[unit], 0.0f) * last[unit];
    }
}
