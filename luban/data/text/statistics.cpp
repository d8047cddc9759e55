// One pass over each text: its characters, then its lines and paragraphs, then its words.
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

bool among(uint32_t code, const char32_t* sorted, size_t count) { return std::binary_search(sorted, sorted + count, code); }

// What ends a sentence in any script (Unicode's Sentence_Terminal).
bool is_terminal(uint32_t code) {
    static const char32_t signs[] = {
        '!', '.', '?', 0x589, 0x61D, 0x61E, 0x61F, 0x6D4, 0x700, 0x701, 0x702, 0x7F9, 0x837, 0x839, 0x83D, 0x83E, 0x964, 0x965, 0x104A,
        0x104B, 0x1362, 0x1367, 0x1368, 0x166E, 0x1735, 0x1736, 0x17D4, 0x17D5, 0x17D9, 0x17DA, 0x1803, 0x1809, 0x1944, 0x1945, 0x1AA8,
        0x1AA9, 0x1AAA, 0x1AAB, 0x1B5A, 0x1B5B, 0x1B5E, 0x1B5F, 0x1B7D, 0x1B7E, 0x1C3B, 0x1C3C, 0x1C7E, 0x1C7F, 0x203C, 0x203D, 0x2047,
        0x2048, 0x2049, 0x2E2E, 0x2E3C, 0x2E53, 0x2E54, 0x3002, 0xA4FF, 0xA60E, 0xA60F, 0xA6F3, 0xA6F7, 0xA876, 0xA877, 0xA8CE, 0xA8CF,
        0xA92F, 0xA9C8, 0xA9C9, 0xAA5D, 0xAA5E, 0xAA5F, 0xAAF0, 0xAAF1, 0xABEB, 0xFE52, 0xFE56, 0xFE57, 0xFF01, 0xFF0E, 0xFF1F, 0xFF61};
    return code < 128 ? code == '.' || code == '!' || code == '?' : among(code, signs, sizeof signs / sizeof *signs);
}

// Signs that make no word, beside ASCII's and those that end sentences: datatrove's list.
bool is_mere_sign(uint32_t code) {
    static const char32_t signs[] = {0xAB, 0xB4, 0xBB, 0x2013, 0x2014, 0x2019, 0x201C, 0x201D, 0x201E, 0x2026, 0x2236, 0x2501, 0x25BA,
                                     0x3001, 0x3002, 0x3008, 0x3009, 0x300A, 0x300B, 0x300C, 0x300D, 0x3010, 0x3011, 0xFF01, 0xFF05,
                                     0xFF08, 0xFF09, 0xFF0C, 0xFF0E, 0xFF11, 0xFF1A, 0xFF1B, 0xFF1F, 0xFF5E};
    if (code < 0xA0) return !(class_of(code) & (LETTER | DIGIT));
    return among(code, signs, sizeof signs / sizeof *signs) || is_terminal(code);
}

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

// Which of Gopher's eight this word is, as a bit; 0 for none.
unsigned stop_word(const Word& word) {
    static const char* const words[] = {"the", "be", "to", "of", "and", "that", "have", "with"};
    size_t bytes = word.end - word.begin;
    if (bytes < 2 || bytes > 4) return 0;
    for (unsigned i = 0; i < 8; i++)
        if (*words[i] == *word.begin && strlen(words[i]) == bytes && !memcmp(words[i], word.begin, bytes)) return 1u << i;
    return 0;
}

bool is_plain(const Word& word) {
    if (word.classes & (LETTER | DIGIT)) return true;
    for (const uint8_t* at = word.begin; at < word.end;)
        if (!is_mere_sign(next_character(at))) return true;
    return false;
}

void count_words(const uint8_t* begin, const uint8_t* end, int64_t* row) {
    Words words(begin, end - begin);
    unsigned stops = 0;
    for (Word word; words.next(word);) {
        row[WORDS]++;
        if (!is_plain(word)) continue;
        row[PLAIN_WORDS]++;
        row[PLAIN_WORD_CHARACTERS] += word.characters;
        row[ALPHABETIC_WORDS] += (word.classes & LETTER) != 0;
        stops |= stop_word(word);
    }
    row[STOP_WORDS] = __builtin_popcount(stops);
}

}  // namespace

// `rows`: [count, COLUMNS], zeroed.
LUBAN_EXPORT void luban_statistics(const uint8_t* buffer, const int64_t* starts, const int64_t* lengths, int64_t count, int64_t* rows) {
    Tally seen;
    for (int64_t i = 0; i < count; i++) {
        const uint8_t *begin = buffer + starts[i], *end = begin + lengths[i];
        int64_t* row = rows + i * COLUMNS;
        count_characters(begin, end, row);
        count_lines(begin, end, seen, row);
        count_paragraphs(begin, end, seen, row);
        count_words(begin, end, row);
    }
}
