// Lines of an ARPA file, written and read.
#include <cmath>
#include <cstring>
#include "unicode.hpp"

namespace {

constexpr double SMALLEST = 1e-7;

// "-1.2345678" for numbers above -1000.
uint8_t* write_number(double value, uint8_t* out) {
    if (value < 0) *out++ = '-';
    uint64_t scaled = (uint64_t)(std::fabs(value) / SMALLEST + 0.5), whole = scaled / 10000000, rest = scaled % 10000000;
    uint8_t digits[20];
    int count = 0;
    do digits[count++] = '0' + whole % 10;
    while (whole /= 10);
    while (count) *out++ = digits[--count];
    if (!rest) return out;
    *out++ = '.';
    for (uint64_t unit = 1000000; rest; unit /= 10) {
        *out++ = '0' + rest / unit;
        rest %= unit;
    }
    return out;
}

// A decimal number, perhaps with an exponent; moves `at` behind it. NaN if there is none.
double read_number(const uint8_t*& at, const uint8_t* end) {
    bool negative = at < end && *at == '-';
    if (at < end && (*at == '-' || *at == '+')) at++;
    if (end - at >= 3 && !std::memcmp(at, "inf", 3)) {
        at += 3;
        return negative ? -99 : NAN;
    }
    double value = 0;
    int scale = 0, digits = 0, exponent = 0;
    bool point = false;
    for (; at < end && ((*at >= '0' && *at <= '9') || (*at == '.' && !point)); at++) {
        if (*at == '.') point = true;
        else {
            value = value * 10 + (*at - '0');
            scale -= point;
            digits++;
        }
    }
    if (!digits) return NAN;
    if (at < end && (*at == 'e' || *at == 'E')) {
        at++;
        bool minus = at < end && *at == '-';
        if (at < end && (*at == '-' || *at == '+')) at++;
        for (; at < end && *at >= '0' && *at <= '9'; at++) exponent = exponent < 1000 ? exponent * 10 + *at - '0' : exponent;
        if (minus) exponent = -exponent;
    }
    value *= std::pow(10.0, scale + exponent);
    return negative ? -value : value;
}

bool blank(uint8_t byte) { return byte == ' ' || byte == '\t' || byte == '\r'; }

}  // namespace

// Writes "logp\tw1 w2[\tbackoff]\n" for n-grams until `room` may not do for one more (`longest` bytes a line);
// returns how many were written, and in `bytes` how much.
LUBAN_EXPORT int64_t write_lines(const uint8_t* spelling, const int64_t* ends, const uint32_t* ids, int order, int64_t count,
                                 const float* logp, const float* backoff, int64_t longest, uint8_t* out, int64_t room, int64_t* bytes) {
    uint8_t* begin = out;
    int64_t i = 0;
    for (; i < count && out - begin + longest <= room; i++) {
        out = write_number(logp[i], out);
        for (int n = 0; n < order; n++) {
            *out++ = n ? ' ' : '\t';
            uint32_t id = ids[i * order + n];
            int64_t from = id ? ends[id - 1] : 0;
            std::memcpy(out, spelling + from, ends[id] - from);
            out += ends[id] - from;
        }
        if (backoff && backoff[i] != 0) {
            *out++ = '\t';
            out = write_number(backoff[i], out);
        }
        *out++ = '\n';
    }
    *bytes = out - begin;
    return i;
}

// Reads `count` lines of n-grams of `order` from `text`: where each word stands, the numbers (back-off 0 if none).
// Returns how many lines are good; `used` is where the next one begins.
LUBAN_EXPORT int64_t read_lines(const uint8_t* text, int64_t bytes, int order, int64_t count, int64_t* starts, int64_t* lengths,
                                float* logp, float* backoff, int64_t* used) {
    const uint8_t *at = text, *stop = text + bytes;
    for (int64_t i = 0; i < count; i++) {
        *used = at - text;
        const uint8_t* end = at < stop ? (const uint8_t*)std::memchr(at, '\n', stop - at) : nullptr;
        if (!end) end = stop;
        while (at < end && blank(*at)) at++;
        double number = read_number(at, end);
        if (!(number <= 0)) return i;
        logp[i] = number;
        for (int n = 0; n < order; n++) {
            while (at < end && blank(*at)) at++;
            const uint8_t* begin = at;
            while (at < end && !blank(*at)) at++;
            if (begin == at) return i;
            starts[i * order + n] = begin - text;
            lengths[i * order + n] = at - begin;
        }
        while (at < end && blank(*at)) at++;
        backoff[i] = 0;
        if (at < end) {
            double weight = read_number(at, end);
            while (at < end && blank(*at)) at++;
            if (at < end || weight != weight) return i;
            backoff[i] = weight;
        }
        at = end < stop ? end + 1 : end;
    }
    *used = at - text;
    return count;
}
