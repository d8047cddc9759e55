// UTF-8 in, characters and their classes out. Input must be valid UTF-8 (Python's `str.encode` is).
#pragma once
#include <cstddef>
#include <cstdint>
#include "unicode_tables.hpp"

#define LUBAN_EXPORT extern "C" __attribute__((visibility("default")))

namespace luban {

// The same bits as in unicode.py.
enum Class : uint8_t {
    LETTER = 1, DIGIT = 2, SPACE = 4, PUNCTUATION = 8, SYMBOL = 16, IDEOGRAPH = 32, UPPER = 64, MARK = 128
};

inline uint8_t class_of(uint32_t code) { return class_value[(class_block[code >> 8] << 8) | (code & 255)]; }

inline uint32_t lower_of(uint32_t code) {
    if (code < 128) return code - 'A' < 26u ? code + 32 : code;
    return code + lower_value[(lower_block[code >> 8] << 8) | (code & 255)];
}

// Reads the character at `at` and moves past it.
inline uint32_t next_character(const uint8_t*& at) {
    uint32_t first = *at++;
    if (first < 0x80) return first;
    if (first < 0xE0) return ((first & 0x1F) << 6) | (*at++ & 0x3F);
    if (first < 0xF0) {
        uint32_t code = ((first & 0x0F) << 12) | ((at[0] & 0x3F) << 6) | (at[1] & 0x3F);
        at += 2;
        return code;
    }
    uint32_t code = ((first & 7) << 18) | ((at[0] & 0x3F) << 12) | ((at[1] & 0x3F) << 6) | (at[2] & 0x3F);
    at += 3;
    return code;
}

}  // namespace luban
