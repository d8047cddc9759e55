// What comes off the ends of a chunk, and what parts its middle. The rules follow spaCy's English ones
// (MIT, explosion.ai); scripts are told apart by Unicode class instead of lists of ranges.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include "unicode.hpp"

namespace luban {

enum Affix : uint16_t {
    ALPHABETIC = 1, LOWERCASE = 2, UPPERCASE = 4, FIGURE = 8, QUOTE = 16, MARKER = 32, ICON = 64, MONEY = 128, LEADS = 256, TRAILS = 512,
    HYPHEN = 1024
};

struct Letter {
    const uint8_t* begin;
    uint32_t code;
    uint16_t affix;   // Affix bits
    uint8_t unicode;  // Class bits
};

namespace detail {

inline bool one_of(uint32_t code, const char32_t* signs) {
    for (; *signs; signs++)
        if (*signs == code) return true;
    return false;
}

// Scripts without upper and lower case count as both.
inline bool caseless(uint32_t code) {
    return (code >= 0x590 && code < 0x1C80) || (code >= 0x2E80 && code < 0xA640) || (code >= 0xA800 && code < 0xFF00);
}

// Mathematical signs, which unlike other symbols do not come off.
inline bool mathematical(uint32_t code) {
    return code == 0xAC || code == 0xB1 || code == 0xD7 || code == 0xF7 || code == 0x3F6 || (code >= 0x2044 && code <= 0x208C) ||
           (code >= 0x2190 && code <= 0x2194) || code == 0x21D2 || code == 0x21D4 || (code >= 0x2200 && code < 0x2300) ||
           code == 0x25B7 || code == 0x25C1 || code == 0x266F || (code >= 0x27C0 && code < 0x2800) || (code >= 0x2900 && code < 0x2B00) ||
           (code >= 0x2C2 && code < 0x370) || code == 0xA8 || code == 0xAF || code == 0xB4 || code == 0xB8 || code < 0x80;
}

inline uint16_t compute_affix(uint32_t code, uint8_t kind) {
    uint16_t bits = 0;
    if ((kind & LETTER) && (code < 128 || (code >= 0xC0 && !(code >= 0x2B0 && code < 0x370)))) {
        bool both = caseless(code);
        bits |= ALPHABETIC | (both || !(kind & UPPER) ? LOWERCASE : 0) | (both || (kind & UPPER) ? UPPERCASE : 0);
    }
    if (code >= '0' && code <= '9') bits |= FIGURE;
    if (one_of(code, U"'\"”“`‘´’‚,„»«「」『』（）〔〕【】《》〈〉⟦⟧")) bits |= QUOTE;
    if (one_of(code, U"…,:;!?¿؟¡()[]{}<>_#*&。？！，、；：～·।،۔؛٪")) bits |= MARKER;
    if (code == '$' || code == 0xA3 || code == 0xA5 || code == 0xE3F || (code >= 0x20A0 && code <= 0x20BF) || code == 0xFDFC) bits |= MONEY;
    if ((kind & SYMBOL) && !(bits & MONEY) && !mathematical(code)) bits |= ICON;
    if (one_of(code, U"-–—~")) bits |= HYPHEN;
    if ((bits & (QUOTE | MARKER | ICON)) || code == 0x2013 || code == 0x2014) bits |= LEADS | TRAILS;
    if ((bits & MONEY) || one_of(code, U"§%=")) bits |= LEADS;
    return bits;
}

struct AffixTable {
    uint16_t bits[0x2100];
    AffixTable() {
        for (uint32_t code = 0; code < 0x2100; code++) bits[code] = compute_affix(code, class_of(code));
    }
};
inline const AffixTable AFFIXES;

// What may follow a figure and come off it: units, and money of a country.
inline bool is_unit(const Letter* letters, size_t from, size_t to) {
    static const char* units =
        " km km² km³ m m² m³ dm dm² dm³ cm cm² cm³ mm mm² mm³ ha µm nm yd in ft kg g mg µg t lb oz m/s km/h kmh mph hPa Pa mbar"
        " mb MB kb KB gb GB tb TB T G M K % км км² км³ м м² м³ дм дм² дм³ см см² см³ мм мм² мм³ нм кг г мг м/с км/ч кПа Па мбар"
        " Кб КБ кб Мб МБ мб Гб ГБ гб Тб ТБ тб US$ C$ A$ ";
    bool begins = (letters[from].affix & (ALPHABETIC | MONEY)) || letters[from].code == '%' || letters[from].code == 0xB5;
    if (!begins || to - from > 4) return false;
    if (to - from == 1 && (letters[from].affix & MONEY)) return true;
    size_t bytes = letters[to].begin - letters[from].begin;
    for (const char* at = units; (at = strchr(at, ' ')) && at[1];) {
        at++;
        if (!strncmp(at, (const char*)letters[from].begin, bytes) && at[bytes] == ' ') return true;
    }
    return false;
}

inline bool is_dot(const Letter& letter) { return letter.code == '.'; }

}  // namespace detail

inline uint16_t affix_kind(uint32_t code, uint8_t kind) {
    return code < 0x2100 ? detail::AFFIXES.bits[code] : detail::compute_affix(code, kind);
}

// The number of characters that come off the front of [from, to).
inline size_t prefix_length(const Letter* letters, size_t from, size_t to) {
    if (letters[from].affix & LEADS) return 1;
    uint32_t code = letters[from].code;
    if (code == '+') return from + 1 < to && (letters[from + 1].affix & FIGURE) ? 0 : 1;
    if (code == '.') {
        size_t end = from;
        while (end < to && detail::is_dot(letters[end])) end++;
        return end - from > 1 ? end - from : 0;
    }
    if ((code == 'C' || code == 'A') && from + 1 < to && letters[from + 1].code == '$') return 2;
    if (code == 'U' && from + 2 < to && letters[from + 1].code == 'S' && letters[from + 2].code == '$') return 3;
    return 0;
}

// The number of characters that come off the back of [from, to).
inline size_t suffix_length(const Letter* letters, size_t from, size_t to) {
    if (from >= to) return 0;
    const Letter& last = letters[to - 1];
    const Letter* before = to - from > 1 ? &letters[to - 2] : nullptr;
    if (to - from > 1) {
        size_t figure = to - 1;
        for (size_t back = 1; back <= 4 && to - back > from; back++)
            if (letters[to - back - 1].affix & FIGURE) {
                figure = to - back;
                if (detail::is_unit(letters, figure, to)) return back;
                break;
            }
    }
    if ((last.code == 's' || last.code == 'S') && before && (before->code == '\'' || before->code == 0x2019)) return 2;
    if (last.affix & TRAILS) return 1;
    if (last.code == '+') return before && (before->affix & FIGURE) ? 1 : 0;
    if (last.code != '.' || !before) return 0;
    if (before->code == '.') {
        size_t start = to;
        while (start > from && detail::is_dot(letters[start - 1])) start--;
        return to - start;
    }
    if (before->affix & (FIGURE | LOWERCASE | QUOTE | MARKER)) return 1;
    if (detail::one_of(before->code, U"%²-+|")) return 1;
    if (to - from < 3) return 0;
    if ((before->affix & UPPERCASE) && (letters[to - 3].affix & UPPERCASE)) return 1;
    return letters[to - 3].code == 0xB0 && detail::one_of(before->code, U"FCK") ? 1 : 0;
}

// The number of characters at `at`, inside [from, to), that part what stands before and behind them; 0: none.
inline size_t infix_length(const Letter* letters, size_t from, size_t at, size_t to) {
    const Letter& here = letters[at];
    if ((here.affix & ALPHABETIC) || (here.affix & FIGURE)) return 0;
    if (here.code == 0x2026 || (here.affix & ICON)) return 1;
    if (here.code == '.') {
        size_t end = at;
        while (end < to && detail::is_dot(letters[end])) end++;
        if (end - at > 1) return end - at;
    }
    if (at == from || at + 1 >= to) return 0;
    uint16_t before = letters[at - 1].affix, behind = letters[at + 1].affix;
    uint32_t code = here.code;
    bool figure = (before & FIGURE) != 0, word = (before & (ALPHABETIC | FIGURE)) != 0;
    bool sum = figure && (code == '+' || code == '-' || code == '*' || code == '^');
    if (sum && ((behind & FIGURE) || letters[at + 1].code == '-')) return 1;
    if (code == '.') return (before & (LOWERCASE | QUOTE)) && (behind & (UPPERCASE | QUOTE)) ? 1 : 0;
    if (code == ',') return (before & ALPHABETIC) && (behind & ALPHABETIC) ? 1 : 0;
    if (!word) return 0;
    if ((code == ':' || code == '<' || code == '>' || code == '=' || code == '/') && (behind & ALPHABETIC)) return 1;
    if (!(here.affix & HYPHEN)) return 0;
    size_t end = at + 1;  // one hyphen, or "--", "---" and two dashes
    while (end < to && letters[end].code == code && (code == '-' || code == 0x2014)) end++;
    if (end >= to || !(letters[end].affix & ALPHABETIC)) return 0;
    return end - at <= (code == '-' ? 3u : 2u) ? end - at : 0;
}

namespace detail {

// A dotted name from `at`: where it ends if it is a host (labels, then two or more small letters) or IPv4, else 0.
inline size_t host_end(const Letter* letters, size_t at, size_t to) {
    auto inner = [](const Letter& letter) {
        if (letter.code < 128) return (letter.affix & (ALPHABETIC | FIGURE)) != 0;
        return letter.code >= 0xA1 && letter.code <= 0xFFFF;
    };
    size_t end = at, label = at, dots = 0, figures = 0;
    bool sound = true;
    for (; end < to; end++) {
        const Letter& letter = letters[end];
        if (letter.code == '.') {
            sound = sound && end > label && inner(letters[end - 1]) && inner(letters[label]) && end - label <= 64;
            label = end + 1;
            dots++;
        } else if (!inner(letter) && letter.code != '-' && letter.code != '_') break;
        figures += (letter.affix & FIGURE) != 0;
    }
    if (!dots || !sound || end == label) return 0;
    if (dots == 3 && figures + dots == end - at) return end - label <= 3 && letters[at].code != '0' ? end : 0;
    for (size_t i = label; i < end; i++)
        if (!(letters[i].affix & LOWERCASE)) return 0;
    return end - label >= 2 && end - label <= 63 ? end : 0;
}

inline bool is_address_from(const Letter* letters, size_t at, size_t to) {
    size_t end = host_end(letters, at, to);
    if (!end) return false;
    if (end < to && letters[end].code == ':') {
        size_t port = end + 1;
        while (port < to && (letters[port].affix & FIGURE)) port++;
        if (port - end - 1 < 2 || port - end - 1 > 5) return false;
        end = port;
    }
    return end == to || letters[end].code == '/' || letters[end].code == '?' || letters[end].code == '#';
}

}  // namespace detail

// Whether [from, to) is a host, a URL or a mail address, which stay whole.
inline bool is_address(const Letter* letters, size_t from, size_t to) {
    bool dotted = false;
    for (size_t i = from; i < to && !dotted; i++) dotted = letters[i].code == '.';
    if (!dotted) return false;
    if (detail::is_address_from(letters, from, to)) return true;
    int tries = 0;  // a chunk of nothing but @ must not take quadratic time
    bool scheme = true;
    for (size_t i = from; i < to && tries < 8; i++) {
        uint32_t code = letters[i].code;
        if (scheme && code == ':' && i - from >= 2 && i + 3 < to && letters[i + 1].code == '/' && letters[i + 2].code == '/') {
            tries++;
            if (detail::is_address_from(letters, i + 3, to)) return true;
        }
        if (!(letters[i].unicode & (LETTER | DIGIT)) && code != '+' && code != '-' && code != '.' && code != '_') scheme = false;
        if (code == '@' && i > from) {
            tries++;
            if (detail::is_address_from(letters, i + 1, to)) return true;
        }
    }
    return false;
}

}  // namespace luban
