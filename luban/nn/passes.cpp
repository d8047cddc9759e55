// Chains of element-wise arithmetic in float32, each as one pass over memory: RMSNorm, the gated MLP's bend, the
// softmax of a loss. A row, or a piece of a flat tensor, is one task; no sum depends on how many threads there are.
#include <algorithm>
#include <atomic>
#include <cmath>

#include "unicode.hpp"
#include "vectors.hpp"

extern "C" struct Pass {
    int64_t rows, width, part, period;
    float number;
    const int64_t* targets;
    const float* given[4];
    float* made[2];
    std::atomic<int64_t> next;
};

namespace {

constexpr int64_t ROWS = 64;     // of a task
constexpr int64_t PIECE = 4096;  // numbers of a flat tensor, of a task

// Calls `each(at, count)` for every vector of a row, the last of which may be part of one.
template <class Each>
void across(int64_t width, Each each) {
    int64_t at = 0;
    for (; at + LANES <= width; at += LANES) each(at, std::integral_constant<int, LANES>{});
    if (at < width) each(at, width - at);
}
Vector read(const float* at, std::integral_constant<int, LANES>) { return load(at); }
Vector read(const float* at, int64_t count) { return load(at, count); }
void write(float* at, Vector value, std::integral_constant<int, LANES>) { store(at, value); }
void write(float* at, Vector value, int64_t count) { store(at, value, count); }

template <class Each>
void share_out(Pass& of, int64_t size, int64_t step, Each each) {
    for (int64_t begin; (begin = of.next.fetch_add(step)) < size;) each(begin, std::min(begin + step, size));
}

// y = x * scale * weight with scale = 1 / sqrt(mean(x^2) + eps).
void norm_row(const float* x, const float* weight, float eps, int64_t width, float* y, float* scale) {
    Vector squares = {};
    across(width, [&](int64_t at, auto count) {
        const Vector value = read(x + at, count);
        squares += value * value;
    });
    const float found = 1.0f / std::sqrt(sum(squares) / static_cast<float>(width) + eps);
    *scale = found;
    across(width, [&](int64_t at, auto count) { write(y + at, read(x + at, count) * found * read(weight + at, count), count); });
}

// grad_x = scale * (g - x * scale^2 * mean(g * x)) with g = grad * weight; grad * x * scale is added to `grad_weight`.
void norm_row_backward(const float* grad, const float* x, const float* weight, float scale, int64_t width, float* grad_x, float* grad_weight) {
    Vector products = {};
    across(width, [&](int64_t at, auto count) {
        const Vector slope = read(grad + at, count) * read(x + at, count);
        products += slope * read(weight + at, count);
        write(grad_weight + at, read(grad_weight + at, count) + slope * scale, count);
    });
    const float mean = sum(products) / static_cast<float>(width) * scale * scale;
    across(width, [&](int64_t at, auto count) {
        write(grad_x + at, (read(grad + at, count) * read(weight + at, count) - read(x + at, count) * mean) * scale, count);
    });
}

Vector logistic(Vector x) {
    const Vector small = exponential(x < 0.0f ? x : -x), large = 1.0f / (1.0f + small);
    return x < 0.0f ? small * large : large;
}

// The row's loss; the logits become their gradient if that is asked for.
float softmax_row(float* logits, int64_t target, int64_t width, float smoothing, bool gradient) {
    Vector tops = logits[0] - Vector{}, sums = {}, total = {};
    across(width, [&](int64_t at, auto count) {
        Vector value = read(logits + at, count);
        total += value;
        for (int lane = count; lane < LANES; lane++) value[lane] = logits[0];
        tops = value > tops ? value : tops;
    });
    float top = tops[0];
    for (int lane = 1; lane < LANES; lane++) top = std::max(top, tops[lane]);
    const float chosen = logits[target];
    across(width, [&](int64_t at, auto count) {
        Vector value = exponential(read(logits + at, count) - top);
        if (gradient) write(logits + at, value, count);
        for (int lane = count; lane < LANES; lane++) value[lane] = 0;
        sums += value;
    });
    const float whole = sum(sums), even = smoothing / static_cast<float>(width);
    if (gradient) {
        across(width, [&](int64_t at, auto count) { write(logits + at, read(logits + at, count) * (1.0f / whole) - even, count); });
        logits[target] -= 1.0f - smoothing;
    }
    return top + std::log(whole) - (1.0f - smoothing) * chosen - even * sum(total);
}

}  // namespace

// x, weight -> y, scales [rows]; `number` is eps.
LUBAN_EXPORT void luban_norm(void* pass) {
    Pass& of = *static_cast<Pass*>(pass);
    share_out(of, of.rows, ROWS, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++)
            norm_row(of.given[0] + row * of.width, of.given[1], of.number, of.width, of.made[0] + row * of.width, of.made[1] + row);
    });
}

// grad, x, weight, scales -> grad_x, the weight's gradient by tasks [ceil(rows / ROWS), width].
LUBAN_EXPORT void luban_norm_backward(void* pass) {
    Pass& of = *static_cast<Pass*>(pass);
    share_out(of, of.rows, ROWS, [&](int64_t begin, int64_t end) {
        float* grad_weight = of.made[1] + begin / ROWS * of.width;
        std::fill(grad_weight, grad_weight + of.width, 0.0f);
        for (int64_t row = begin; row < end; row++)
            norm_row_backward(of.given[0] + row * of.width, of.given[1] + row * of.width, of.given[2], of.given[3][row], of.width,
                              of.made[0] + row * of.width, grad_weight);
    });
}

// gate, up -> silu(gate) * up.
LUBAN_EXPORT void luban_bend(void* pass) {
    Pass& of = *static_cast<Pass*>(pass);
    share_out(of, of.rows * of.width, PIECE, [&](int64_t begin, int64_t end) {
        const float *gates = of.given[0] + begin, *ups = of.given[1] + begin;
        across(end - begin, [&](int64_t at, auto count) {
            const Vector gate = read(gates + at, count);
            write(of.made[0] + begin + at, gate * logistic(gate) * read(ups + at, count), count);
        });
    });
}

// grad, gate, up -> grad_gate, grad_up.
LUBAN_EXPORT void luban_bend_backward(void* pass) {
    Pass& of = *static_cast<Pass*>(pass);
    share_out(of, of.rows * of.width, PIECE, [&](int64_t begin, int64_t end) {
        const float *grads = of.given[0] + begin, *gates = of.given[1] + begin, *ups = of.given[2] + begin;
        across(end - begin, [&](int64_t at, auto count) {
            const Vector grad = read(grads + at, count), gate = read(gates + at, count), share = logistic(gate), bent = gate * share;
            write(of.made[0] + begin + at, grad * read(ups + at, count) * (share + bent * (1.0f - share)), count);
            write(of.made[1] + begin + at, grad * bent, count);
        });
    });
}

// x, cosines, sines -> every `part` numbers turned, those of row r by the tables' row r % period; `number` 1 turns back.
LUBAN_EXPORT void luban_turn(void* pass) {
    Pass& of = *static_cast<Pass*>(pass);
    const int64_t half = of.part / 2, first = of.number ? half : 0;  // turning back takes the sines crosswise
    share_out(of, of.rows, ROWS, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++) {
            const float *cos = of.given[1] + row % of.period * of.part, *sin = of.given[2] + row % of.period * of.part;
            for (int64_t from = row * of.width; from < (row + 1) * of.width; from += of.part)
                across(half, [&](int64_t at, auto count) {
                    const Vector left = read(of.given[0] + from + at, count), right = read(of.given[0] + from + half + at, count);
                    write(of.made[0] + from + at, left * read(cos + at, count) + right * read(sin + first + at, count), count);
                    write(of.made[0] + from + half + at, right * read(cos + half + at, count) + left * read(sin + half - first + at, count), count);
                });
        }
    });
}

// logits in `made`, which become their gradient where `given[0]` is not null -> losses [rows]; `number` is the smoothing.
LUBAN_EXPORT void luban_softmax(void* pass) {
    Pass& of = *static_cast<Pass*>(pass);
    share_out(of, of.rows, 1, [&](int64_t row, int64_t) {
        of.made[1][row] = softmax_row(of.made[0] + row * of.width, of.targets[row], of.width, of.number, of.given[0] != nullptr);
    });
}
