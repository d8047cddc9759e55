// One pass over each text: its characters, then its lines and paragraphs; and sums over its words.
#include "signs.hpp"
#include "tally.hpp"
#include "words.hpp"

using namespace luban;

namespace {

// The columns of `Statistics`, in its order.
enum Column {
    CHARACTERS, LETTERS, UPPERS, DIGITS, IDEOGRAPHS, SPECIALS, SOLID, HASHES, ELLIPSES, NEWLINES,
    LINES, BULLET_LINES, ELLIPSIS_LINES, FILLED_LINES, TERMINAL_LINES, SHORT_LINES, LONGEST_LINE,
    PIECES, REPEATED_PIECES, REPEATED_PIECE_CHARACTERS, REPEATED_FILLED_CHARACTERS,
    PARAGRAPHS, REPEATED_PARAGRAPHS, REPEATED_PARAGRAPH_CHARACTERS,
    WORDS, PLAIN_WORDS, PLAIN_WORD_CHARACTERS, ALPHABETIC_WORDS, STOP_WORDS, COLUMNS
};

const int64_t SHORT_LINE = 30;

int64_t characters_in(const uint8_t* begin, const uint8_t* end) {
    int64_t count = 0;
    for (; begin < end; begin++) count += (*begin & 0xC0) != 0x80;
    return count;
}

const uint8_t* character_before(const uint8_t* begin, const uint8_t* end) {
    do end--;
    while (end > begin && (*end & 0xC0) == 0x80);
    return end;
}

uint32_t character_at(const uint8_t* at) { return next_character(at); }

void strip(const uint8_t*& begin, const uint8_t*& end) {
    for (const uint8_t* ahead = begin; begin < end && (class_of(next_character(ahead)) & SPACE);) begin = ahead;
    while (begin < end) {
        const uint8_t* last = character_before(begin, end);
        if (!(class_of(character_at(last)) & SPACE)) return;
        end = last;
    }
}

bool ends_with(const uint8_t* begin, const uint8_t* end, const char* sign) {
    size_t bytes = strlen(sign);
    return (size_t)(end - begin) >= bytes && !memcmp(end - bytes, sign, bytes);
}

void count_class(uint8_t kind, int64_t times, int64_t* row) {
    row[LETTERS] += kind & LETTER ? times : 0;
    row[UPPERS] += kind & UPPER ? times : 0;
    row[DIGITS] += kind & DIGIT ? times : 0;
    row[IDEOGRAPHS] += kind & IDEOGRAPH ? times : 0;
    row[SPECIALS] += kind & (DIGIT | SPACE | PUNCTUATION | SYMBOL) ? times : 0;
    row[SOLID] += kind & (SPACE | PUNCTUATION | SYMBOL) ? 0 : times;
    row[CHARACTERS] += times;
}

void count_characters(const uint8_t* begin, const uint8_t* end, int64_t* row) {
    uint32_t times[128] = {};
    for (const uint8_t* at = begin; at < end;) {
        if (*at < 0x80) {
            times[*at++]++;
        } else {
            uint32_t code = next_character(at);
            count_class(class_of(code), 1, row);
            row[ELLIPSES] += code == 0x2026;
        }
    }
    for (int byte = 0; byte < 128; byte++)
        if (times[byte]) count_class(class_of(byte), times[byte], row);
    row[HASHES] = times['#'];
    row[NEWLINES] = times['\n'];
    if (times['.'] < 3) return;
    for (const uint8_t* at = begin; (at = (const uint8_t*)memchr(at, '.', end - at)); at++)
        if (end - at >= 3 && at[1] == '.' && at[2] == '.') row[ELLIPSES]++, at += 2;
}

void count_line(const uint8_t* begin, const uint8_t* end, Tally& seen, int64_t* row) {
    int64_t length = characters_in(begin, end);
    row[LINES]++;
    row[LONGEST_LINE] = std::max(row[LONGEST_LINE], length);
    if (begin == end) return;
    const uint8_t *inner = begin, *outer = end;
    strip(inner, outer);
    bool filled = inner < outer;
    row[PIECES]++;
    bool repeated = seen.add(hash_bytes(begin, end - begin)).count > 1;
    row[REPEATED_PIECES] += repeated;
    row[REPEATED_PIECE_CHARACTERS] += repeated ? length : 0;
    if (!filled) return;
    row[REPEATED_FILLED_CHARACTERS] += repeated ? length : 0;
    row[FILLED_LINES]++;
    row[TERMINAL_LINES] += is_terminal(character_at(character_before(begin, end)));
    row[SHORT_LINES] += length <= SHORT_LINE;
    row[BULLET_LINES] += *inner == '-' || character_at(inner) == 0x2022;
    row[ELLIPSIS_LINES] += ends_with(inner, outer, "...") || ends_with(inner, outer, "…");
}

void count_lines(const uint8_t* begin, const uint8_t* end, Tally& seen, int64_t* row) {
    if (begin == end) return;
    seen.reset(row[NEWLINES] + 1);
    for (const uint8_t* at = begin; at < end;) {
        const uint8_t* stop = (const uint8_t*)memchr(at, '\n', end - at);
        if (!stop) stop = end;
        count_line(at, stop, seen, row);
        at = stop + 1;
    }
    bool leads = *begin == '\n', trails = end[-1] == '\n';  // an empty piece stands before and behind them
    row[PIECES] += leads + trails;
    row[REPEATED_PIECES] += leads && trails;
}

void count_paragraphs(const uint8_t* begin, const uint8_t* end, Tally& seen, int64_t* row) {
    strip(begin, end);
    row[PARAGRAPHS] = begin == end;  // one, without text
    seen.reset(row[NEWLINES] / 2 + 1);
    for (const uint8_t* at = begin; at < end;) {
        const uint8_t* stop = at;
        while ((stop = (const uint8_t*)memchr(stop, '\n', end - stop)) && stop[1] != '\n') stop++;
        if (!stop) stop = end;
        row[PARAGRAPHS]++;
        if (seen.add(hash_bytes(at, stop - at)).count > 1) {
            row[REPEATED_PARAGRAPHS]++;
            row[REPEATED_PARAGRAPH_CHARACTERS] += characters_in(at, stop);
        }
        if (stop == end) return;
        for (at = stop; *at == '\n';) at++;
    }
}

// `words` words by their kinds (words.cpp) and characters.
void count_words(const uint16_t* kinds, const uint32_t* characters, int64_t words, int64_t* row) {
    unsigned seen = 0;
    int64_t plain = 0, plain_characters = 0, alphabetic = 0;
    for (int64_t i = 0; i < words; i++) {
        plain += kinds[i] & 1;
        plain_characters += kinds[i] & 1 ? characters[i] : 0;
        alphabetic += kinds[i] >> 1 & 1;
        seen |= kinds[i];
    }
    row[PLAIN_WORDS] = plain;
    row[PLAIN_WORD_CHARACTERS] = plain_characters;
    row[ALPHABETIC_WORDS] = alphabetic;
    row[WORDS] = words;
    row[STOP_WORDS] = __builtin_popcount(seen >> 2);
}

}  // namespace

// `kinds` and `characters` of text i's words begin at `first_words[i]`. `rows`: [count, COLUMNS], zeroed.
LUBAN_EXPORT void luban_statistics(const uint8_t* buffer, const int64_t* starts, const int64_t* lengths, int64_t count,
                                   const uint16_t* kinds, const uint32_t* characters, const int64_t* first_words,
                                   const int64_t* words, int64_t* rows) {
    Tally seen;
    for (int64_t i = 0; i < count; i++) {
        const uint8_t *begin = buffer + starts[i], *end = begin + lengths[i];
        int64_t* row = rows + i * COLUMNS;
        count_characters(begin, end, row);
        count_lines(begin, end, seen, row);
        count_paragraphs(begin, end, seen, row);
        count_words(kinds + first_words[i], characters + first_words[i], words[i], row);
    }
}
