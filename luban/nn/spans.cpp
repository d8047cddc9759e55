// Causal attention in float32 where each query sees a span of keys that ends with its own, forward and backward.
//
// One task is one key head of one row. Its keys and values are packed once, then queries go through in blocks:
// their scores against the whole span lie in a buffer that stays in the second-level cache, so what no query of a
// block sees is never computed. All products are one register tile: rows of numbers times rows of vectors.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "unicode.hpp"
#include "vectors.hpp"

namespace {

#if defined(__AVX512F__)
constexpr int ROWS = 6, VECTORS = 4;
#elif defined(__AVX2__)
constexpr int ROWS = 6, VECTORS = 2;
#else
constexpr int ROWS = 4, VECTORS = 4;
#endif
constexpr int64_t BLOCK = 64;  // queries at a time

// A matrix whose rows lie `row` numbers apart, and its columns `column`.
struct Matrix {
    const float* at;
    int64_t row, column;
};

// c[R, V vectors] (+)= a[R, depth] b[depth, V vectors].
template <int R, int V>
void tile(int64_t depth, Matrix a, const float* b, int64_t b_row, float* c, int64_t c_row, bool add) {
    Vector sums[R][V] = {};
    if (add)
        for (int r = 0; r < R; r++)
            for (int v = 0; v < V; v++) sums[r][v] = load(c + r * c_row + v * LANES);
    for (int64_t d = 0; d < depth; d++, b += b_row) {
        Vector row[V];
        for (int v = 0; v < V; v++) row[v] = load(b + v * LANES);
        for (int r = 0; r < R; r++) {
            float number = a.at[r * a.row + d * a.column];
            for (int v = 0; v < V; v++) sums[r][v] += number * row[v];
        }
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) store(c + r * c_row + v * LANES, sums[r][v]);
}

template <int V>
void column_of_tiles(int64_t rows, int64_t depth, Matrix a, const float* b, int64_t b_row, float* c, int64_t c_row, bool add) {
    for (; rows >= ROWS; rows -= ROWS, a.at += ROWS * a.row, c += ROWS * c_row) tile<ROWS, V>(depth, a, b, b_row, c, c_row, add);
    for (; rows >= 2; rows -= 2, a.at += 2 * a.row, c += 2 * c_row) tile<2, V>(depth, a, b, b_row, c, c_row, add);
    if (rows) tile<1, V>(depth, a, b, b_row, c, c_row, add);
}

// c[rows, columns] (+)= a[rows, depth] b[depth, columns]; `columns` is a multiple of LANES.
void product(int64_t rows, int64_t columns, int64_t depth, Matrix a, const float* b, int64_t b_row, float* c, int64_t c_row, bool add) {
    for (; columns >= VECTORS * LANES; columns -= VECTORS * LANES, b += VECTORS * LANES, c += VECTORS * LANES)
        column_of_tiles<VECTORS>(rows, depth, a, b, b_row, c, c_row, add);
    for (; columns > 0; columns -= LANES, b += LANES, c += LANES) column_of_tiles<1>(rows, depth, a, b, b_row, c, c_row, add);
}

// One query's scores: of `size`, it sees those from `first` to before `last`.
struct Row {
    float* scores;
    int64_t size, first, last;
    int64_t begin() const { return first / LANES * LANES; }
    int64_t end() const { return (last + LANES - 1) / LANES * LANES; }

    // The largest that is seen; what is hidden in its vectors becomes as good as minus infinity.
    float hide_and_find_top() {
        std::fill(scores + begin(), scores + first, -1e30f);
        std::fill(scores + last, scores + end(), -1e30f);
        Vector top = load(scores + begin());
        for (int64_t j = begin() + LANES; j < end(); j += LANES) top = load(scores + j) > top ? load(scores + j) : top;
        float largest = top[0];
        for (int lane = 1; lane < LANES; lane++) largest = std::max(largest, top[lane]);
        return largest;
    }

    // exp(scale * score - top) where it is seen, 0 elsewhere; returns the sum.
    float exponentiate(float scale, float top) {
        std::fill(scores, scores + begin(), 0.0f);
        std::fill(scores + end(), scores + size, 0.0f);
        Vector sums = {};
        for (int64_t j = begin(); j < end(); j += LANES) {
            Vector value = exponential(load(scores + j) * scale - top);
            store(scores + j, value);
            sums += value;
        }
        float sum = 0;
        for (int lane = 0; lane < LANES; lane++) sum += sums[lane];
        return sum;
    }
};

// Where rows, heads and tokens of a tensor [batch, heads, seq, dim] lie; the numbers of a token lie side by side.
struct Place {
    float* at;
    int64_t batch, head, token;
    float* of(int64_t b, int64_t h, int64_t t = 0) const { return at + b * batch + h * head + t * token; }
};

}  // namespace

extern "C" struct Attention {
    int64_t batch, heads, kv_heads, seq, dim;
    float scale;
    const int64_t* starts;  // [batch, seq]: the first key each query sees
    float* logs;            // [batch, heads, seq]: of the sums that probabilities were divided by
    Place q, k, v, out, grad_out, grad_q, grad_k, grad_v;
    std::atomic<int64_t> next;
};

namespace {

int64_t padded(int64_t size) { return (size + BLOCK - 1) / BLOCK * BLOCK; }

void pack(const Attention& of, const float* from, int64_t step, float* rows, float* columns) {
    const int64_t width = padded(of.seq);
    for (int64_t t = 0; t < of.seq; t++)
        if (rows) std::memcpy(rows + t * of.dim, from + t * step, of.dim * sizeof(float));
    if (!columns) return;
    for (int64_t begin = 0; begin < of.seq; begin += LANES)
        for (int64_t d = 0; d < of.dim; d++)
            for (int64_t t = begin; t < std::min(begin + LANES, of.seq); t++) columns[d * width + t] = from[t * step + d];
}

// A block of queries and the keys that any of them sees, from a whole vector on.
struct Block {
    int64_t begin, rows, low, size;
    Block(const Attention& of, int64_t b, int64_t begin) : begin(begin), rows(std::min(BLOCK, of.seq - begin)) {
        const int64_t* starts = of.starts + b * of.seq + begin;
        low = *std::min_element(starts, starts + rows) / LANES * LANES;
        size = (begin + rows - low + LANES - 1) / LANES * LANES;
    }
};

struct Buffers {
    std::vector<float> keys, values, keys_across, values_across, scores, slopes, grad_keys, grad_values, queries, upstream;
    explicit Buffers(const Attention& of, bool backward) {
        const int64_t all = padded(of.seq) * of.dim;
        keys_across.resize(all);
        values.resize(all);
        scores.resize(BLOCK * padded(of.seq));
        if (!backward) return;
        for (auto* buffer : {&keys, &values_across, &grad_keys, &grad_values}) buffer->resize(all);
        slopes.resize(BLOCK * padded(of.seq));
        queries.resize(BLOCK * of.dim);
        upstream.resize(BLOCK * of.dim);
    }
};

void forward_block(const Attention& of, int64_t b, int64_t h, const Block& block, Buffers& use) {
    const int64_t width = padded(of.seq), dim = of.dim;
    float* out = of.out.of(b, h, block.begin);
    product(block.rows, block.size, dim, {of.q.of(b, h, block.begin), of.q.token, 1}, use.keys_across.data() + block.low, width,
            use.scores.data(), width, false);
    float sums[BLOCK];
    for (int64_t r = 0; r < block.rows; r++) {
        const int64_t query = block.begin + r, start = of.starts[b * of.seq + query] - block.low, end = query + 1 - block.low;
        Row row{use.scores.data() + r * width, block.size, start, end};
        const float top = row.hide_and_find_top() * of.scale;
        sums[r] = row.exponentiate(of.scale, top);
        of.logs[(b * of.heads + h) * of.seq + query] = top + std::log(sums[r]);
    }
    product(block.rows, dim, block.size, {use.scores.data(), width, 1}, use.values.data() + block.low * dim, dim, out, of.out.token, false);
    for (int64_t r = 0; r < block.rows; r++)
        for (int64_t d = 0; d < dim; d++) out[r * of.out.token + d] /= sums[r];
}

void backward_block(const Attention& of, int64_t b, int64_t h, const Block& block, Buffers& use) {
    const int64_t width = padded(of.seq), dim = of.dim, at = block.low * dim;
    const float *out = of.out.of(b, h, block.begin), *up = use.upstream.data();
    for (int64_t r = 0; r < block.rows; r++) {
        std::memcpy(use.queries.data() + r * dim, of.q.of(b, h, block.begin + r), dim * sizeof(float));
        std::memcpy(use.upstream.data() + r * dim, of.grad_out.of(b, h, block.begin + r), dim * sizeof(float));
    }
    product(block.rows, block.size, dim, {use.queries.data(), dim, 1}, use.keys_across.data() + block.low, width, use.scores.data(), width, false);
    product(block.rows, block.size, dim, {up, dim, 1}, use.values_across.data() + block.low, width, use.slopes.data(), width, false);
    for (int64_t r = 0; r < block.rows; r++) {
        const int64_t query = block.begin + r, start = of.starts[b * of.seq + query] - block.low;
        float *scores = use.scores.data() + r * width, *slopes = use.slopes.data() + r * width, mean = 0;
        Row row{scores, block.size, start, query + 1 - block.low};
        row.hide_and_find_top();
        row.exponentiate(of.scale, of.logs[(b * of.heads + h) * of.seq + query]);
        for (int64_t d = 0; d < dim; d++) mean += up[r * dim + d] * out[r * of.out.token + d];
        for (int64_t j = 0; j < block.size; j += LANES)
            store(slopes + j, load(scores + j) * (load(slopes + j) - mean) * of.scale);
    }
    const Matrix scores{use.scores.data(), 1, width}, slopes{use.slopes.data(), 1, width};
    const int64_t seen = std::min(block.size, of.seq - block.low);
    product(seen, dim, block.rows, scores, up, dim, use.grad_values.data() + at, dim, true);
    product(seen, dim, block.rows, slopes, use.queries.data(), dim, use.grad_keys.data() + at, dim, true);
    product(block.rows, dim, block.size, {use.slopes.data(), width, 1}, use.keys.data() + at, dim, of.grad_q.of(b, h, block.begin),
            of.grad_q.token, false);
}

template <bool BACKWARD>
void work(void* shared) {
    Attention& of = *static_cast<Attention*>(shared);
    Buffers use(of, BACKWARD);
    const int64_t group = of.heads / of.kv_heads;
    for (int64_t task; (task = of.next++) < of.batch * of.kv_heads;) {
        const int64_t b = task / of.kv_heads, kv = task % of.kv_heads;
        pack(of, of.k.of(b, kv), of.k.token, BACKWARD ? use.keys.data() : nullptr, use.keys_across.data());
        pack(of, of.v.of(b, kv), of.v.token, use.values.data(), BACKWARD ? use.values_across.data() : nullptr);
        std::fill(use.grad_keys.begin(), use.grad_keys.end(), 0.0f);
        std::fill(use.grad_values.begin(), use.grad_values.end(), 0.0f);
        for (int64_t h = kv * group; h < (kv + 1) * group; h++)
            for (int64_t begin = 0; begin < of.seq; begin += BLOCK)
                (BACKWARD ? backward_block : forward_block)(of, b, h, Block(of, b, begin), use);
        for (int64_t t = 0; BACKWARD && t < of.seq; t++) {
            std::memcpy(of.grad_k.of(b, kv, t), use.grad_keys.data() + t * of.dim, of.dim * sizeof(float));
            std::memcpy(of.grad_v.of(b, kv, t), use.grad_values.data() + t * of.dim, of.dim * sizeof(float));
        }
    }
}

}  // namespace

LUBAN_EXPORT void luban_spans_forward(void* attention) { work<false>(attention); }
LUBAN_EXPORT void luban_spans_backward(void* attention) { work<true>(attention); }
