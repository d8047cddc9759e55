// Where personal data may stand: one pass over the bytes, a few windows out; clean text has almost none.
#include <initializer_list>
#include "unicode.hpp"

namespace {

enum Group : int8_t { AT, NUMBER, COLONS, IBAN, TOKEN, PEM };  // as in candidates.py
enum Kind : uint8_t { NUMERAL = 1, CAPITAL = 2, SMALL = 4, JOINT = 8, INSIDE = 16, HEX = 32, TRIGGER = 64 };
constexpr int LONGEST_GAP = 3, FEWEST_DIGITS = 7, SHORTEST_TOKEN = 16, BEGIN_BYTES = 10;

struct Kinds {
    uint8_t of[256] = {};
    Kinds() {
        for (int byte = 0; byte < 256; byte++) {
            if (byte >= '0' && byte <= '9') of[byte] = NUMERAL | INSIDE | HEX | TRIGGER;
            if (byte >= 'A' && byte <= 'Z') of[byte] = CAPITAL | INSIDE | (byte <= 'F' ? HEX : 0);
            if (byte >= 'a' && byte <= 'z') of[byte] = SMALL | INSIDE | (byte <= 'f' ? HEX : 0);
        }
        for (const char* at = " -./()"; *at; at++) of[(uint8_t)*at] |= JOINT;
        for (const char* at = "_+/=.-"; *at; at++) of[(uint8_t)*at] |= INSIDE;
        for (int byte : {0xC2, 0xA0, 0xE2, 0x80}) of[byte] |= JOINT;  // bytes of no-break space and dashes
        for (int byte = 0x90; byte <= 0x95; byte++) of[byte] |= JOINT;
        for (const char* at = "@:-"; *at; at++) of[(uint8_t)*at] |= TRIGGER;
    }
};
const Kinds kinds;
constexpr uint8_t ALNUM = NUMERAL | CAPITAL | SMALL;

inline bool is(const uint8_t* at, uint8_t kind) { return kinds.of[*at] & kind; }

struct Scan {
    const uint8_t* begin;
    const uint8_t* end;
    int64_t document;
    int64_t capacity, found;
    int64_t* out;  // [capacity, 4]: document, group, start, end (bytes within the document)
    const uint8_t* number_end = nullptr;
    const uint8_t* colons_end = nullptr;

    void emit(Group group, const uint8_t* from, const uint8_t* to) {
        if (found < capacity) {
            int64_t* row = out + 4 * found;
            row[0] = document, row[1] = group, row[2] = from - begin, row[3] = to - begin;
        }
        found++;
    }

    // Digits with short gaps; four digits are enough for an address with three dots.
    void number(const uint8_t* from) {
        int digits = 0, dots = 0;
        const uint8_t* last = from;
        for (const uint8_t* at = from; at < end && at - last <= 2 * LONGEST_GAP + 1; at++) {
            if (is(at, NUMERAL)) {
                digits++;
                last = at;
            } else if (!is(at, JOINT) || (*at < 0x80 && at - last > LONGEST_GAP)) {
                break;
            } else {
                dots += *at == '.' && at + 1 < end && is(at + 1, NUMERAL);
            }
        }
        number_end = last + 1;
        if (digits >= FEWEST_DIGITS || (dots >= 3 && digits >= 4)) emit(NUMBER, from, number_end);
    }

    // A run of hexadecimal groups with "::" or seven colons.
    void colons(const uint8_t* colon) {
        const uint8_t* from = colon;
        const uint8_t* floor = colons_end && colons_end > begin ? colons_end : begin;
        while (from > floor && (is(from - 1, HEX) || from[-1] == ':')) from--;
        const uint8_t* to = colon;
        int count = 0, digits = 0;
        bool gap = false;
        for (; to < end && (is(to, HEX) || *to == ':' || *to == '.'); to++) {
            count += *to == ':';
            gap |= *to == ':' && to + 1 < end && to[1] == ':';
        }
        for (const uint8_t* at = from; at < to; at++) digits += is(at, NUMERAL);
        colons_end = to;
        bool bordered = (from == begin || !is(from - 1, ALNUM)) && (to == end || !is(to, ALNUM));
        if (bordered && digits && (gap || count == 7)) emit(COLONS, from, to);
    }

    void trigger(const uint8_t* at) {
        if (is(at, NUMERAL)) {
            if (at >= number_end) number(at);
            bool code = at - begin >= 2 && at + 1 < end && is(at + 1, NUMERAL) && is(at - 1, CAPITAL);
            if (code && is(at - 2, CAPITAL) && (at - begin == 2 || !is(at - 3, ALNUM))) emit(IBAN, at - 2, at + 2);
        } else if (*at == '@') {
            if (at > begin && at + 1 < end && is(at + 1, ALNUM)) emit(AT, at, at + 1);
        } else if (*at == ':') {
            if (at >= colons_end) colons(at);
        } else if (end - at > BEGIN_BYTES && !__builtin_memcmp(at, "-----BEGIN", BEGIN_BYTES)) {
            emit(PEM, at, at + BEGIN_BYTES);
        }
    }

    void run() {
        number_end = colons_end = begin;
        const uint8_t* token = begin;
        uint8_t seen = 0;
        for (const uint8_t* at = begin; at < end; at++) {
            uint8_t kind = kinds.of[*at];
            if (kind & TRIGGER) trigger(at);
            if (kind & INSIDE) {
                seen |= kind;
                continue;
            }
            finish(token, at, seen);
            token = at + 1;
            seen = 0;
        }
        finish(token, end, seen);
    }

    void finish(const uint8_t* from, const uint8_t* to, uint8_t seen) {
        bool mixed = (seen & NUMERAL) && (seen & (CAPITAL | SMALL));
        if (mixed && to - from >= SHORTEST_TOKEN) emit(TOKEN, from, to);
    }
};

}  // namespace

// Fills `out` and returns how many rows there are, which may be more than fit.
LUBAN_EXPORT int64_t candidates(const uint8_t* buffer, const int64_t* starts, const int64_t* lengths, int64_t count,
                                int64_t capacity, int64_t* out) {
    int64_t found = 0;
    for (int64_t i = 0; i < count; i++) {
        const uint8_t* begin = buffer + starts[i];
        Scan scan{begin, begin + lengths[i], i, capacity, found, out};
        scan.run();
        found = scan.found;
    }
    return found;
}
