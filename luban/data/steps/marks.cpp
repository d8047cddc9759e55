// Which normalising rules may have something to do in a text, found in one pass over its bytes.
//
// A bit that is set says "look"; a bit that is not set is a promise. The rules themselves are Python.
#include "unicode.hpp"

using namespace luban;

namespace {

// The same bits as in normalise.py.
enum Mark : uint8_t { MOJIBAKE = 1, ENTITY = 2, NEWLINE = 4, INVISIBLE = 8, NFC = 16, FULL_WIDTH = 32, TRAILING = 64, BLANK = 128 };

struct AsciiMarks {
    uint8_t of[128] = {};
    constexpr AsciiMarks() {
        for (int code = 0; code < 32; ++code) of[code] = INVISIBLE;
        of['\t'] = 0;
        of['\n'] = BLANK | TRAILING;  // looked at more closely
        of['\v'] = of['\f'] = of['\r'] = NEWLINE;
        of[127] = INVISIBLE;
        of['&'] = ENTITY;
    }
};
constexpr AsciiMarks ASCII;

// Composed text below U+0300 is in NFC by itself; so are Cyrillic, signs, kana, Han and full-width forms. Others
// are asked of Python.
constexpr uint32_t COMPOSED[][2] = {
    {0, 0x2FF}, {0x400, 0x482}, {0x2010, 0x20CF}, {0x2130, 0x2328}, {0x232B, 0x2ADB}, {0x3001, 0x3029},
    {0x3030, 0x3098}, {0x309B, 0x9FFF}, {0xFF00, 0xFFEF},
};
bool surely_composed(uint32_t code) {
    for (auto& range : COMPOSED) if (code <= range[1]) return code >= range[0];
    return false;
}

uint8_t marks_beyond_ascii(uint32_t code, uint32_t before) {
    uint8_t found = 0;
    if (code < 0x100) {
        if (before >= 0xC2 && before <= 0xF4 && code < 0xC0) found |= MOJIBAKE;
        if (code == 0x85) found |= NEWLINE;
        else if (code < 0xA0 || code == 0xAD) found |= INVISIBLE;
    } else if (before >= 0xC2 && before <= 0xF4) {
        found |= MOJIBAKE;
    }
    if (code == 0x2028 || code == 0x2029) found |= NEWLINE;
    if (code == 0x180E || code == 0x200B || code == 0x2060 || code == 0xFEFF) found |= INVISIBLE;
    if (code == 0x3000 || (code >= 0xFF10 && code <= 0xFF5A)) found |= FULL_WIDTH;
    return surely_composed(code) ? found : found | NFC;
}

uint8_t marks_of(const uint8_t* at, const uint8_t* end) {
    if (at == end) return 0;
    uint8_t found = *at == '\n' ? BLANK : 0;
    uint32_t before = 0, earlier = 0;
    const uint8_t* high_end = nullptr;
    int high_run = 0;  // characters of U+00A1 to U+00FE in a row: GB18030 read as Latin-1 has eight or more
    while (at < end) {
        uint8_t byte = *at;
        if (byte != '\n' && byte < 128) {  // the common way is short
            found |= ASCII.of[byte];
            earlier = before;
            before = byte;
            ++at;
            continue;
        }
        uint32_t code = next_character(at);
        if (code == '\n') {
            if (class_of(before) & SPACE && before != '\n') found |= TRAILING;
            if (before == '\n' && earlier == '\n') found |= BLANK;
        } else {
            found |= marks_beyond_ascii(code, before);
            high_run = code < 0xA1 || code > 0xFE ? 0 : high_end == at - 2 ? high_run + 1 : 1;
            high_end = at;
            if (high_run >= 8) found |= MOJIBAKE;
        }
        earlier = before;
        before = code;
    }
    if (before == '\n') found |= BLANK;
    else if (class_of(before) & SPACE) found |= TRAILING;
    return found;
}

}  // namespace

LUBAN_EXPORT void find_marks(const uint8_t* buffer, const int64_t* starts, const int64_t* lengths, int64_t count, uint8_t* marks) {
    for (int64_t i = 0; i < count; ++i) marks[i] = marks_of(buffer + starts[i], buffer + starts[i] + lengths[i]);
}
