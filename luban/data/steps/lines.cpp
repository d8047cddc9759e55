// Which lines of web pages are no text: capitals, figures, counters, single words, buttons. They are left out.
#include "words.hpp"

using namespace luban;

namespace {

enum Rule { CAPITALS, FIGURES, COUNTER, ONE_WORD, NAVIGATION, RULES, STAYS = RULES };
enum Place { BEGINS, ENDS, ANYWHERE };

struct Line {
    int64_t words = 0, letters = 0, uppers = 0, figures = 0;
    bool plain_figures = true;  // nothing but figures, white space and signs
};

Line measure(const uint8_t* begin, const uint8_t* end) {
    Line line;
    for (const uint8_t* at = begin; at < end;) {
        uint8_t kind = class_of(next_character(at));
        line.letters += (kind & LETTER) != 0;
        line.uppers += (kind & UPPER) != 0;
        line.figures += (kind & DIGIT) != 0;
    }
    line.plain_figures = line.figures && !line.letters;
    Words words(begin, end - begin);
    for (Word word; words.next(word);) line.words += !word.is_sign();
    return line;
}

std::string lowered(const uint8_t* begin, const uint8_t* end) {
    std::string text((const char*)begin, end - begin);
    for (char& byte : text) byte += byte >= 'A' && byte <= 'Z' ? 32 : 0;
    size_t from = text.find_first_not_of(" \t"), to = text.find_last_not_of(" \t");
    return from == std::string::npos ? "" : text.substr(from, to - from + 1);
}

// A number, perhaps with K or M, and what is counted.
bool is_counter(const std::string& line) {
    size_t at = line.find_first_not_of("0123456789.,");
    if (!at || at == std::string::npos) return false;
    if (line[at] == 'k' || line[at] == 'm') at++;
    size_t noun = line.find_first_not_of(" +", at);
    if (noun == std::string::npos || noun == at) return false;
    static const char* const counted[] = {"like", "share", "comment", "retweet", "tweet", "repost", "quote", "bookmark", "upvote",
                                          "downvote", "download", "view", "follower", "repl", "reaction", "vote", "save", "subscriber"};
    for (const char* word : counted) {
        if (line.compare(noun, strlen(word), word)) continue;
        std::string rest = line.substr(noun + strlen(word));
        if (rest.empty() || rest == "s" || rest == "ies" || rest == "y") return true;
    }
    return false;
}

bool is_alphanumeric(char byte) { return (byte >= '0' && byte <= '9') || (byte >= 'a' && byte <= 'z'); }

struct Phrases {
    const uint8_t* buffer;
    const int64_t *starts, *lengths, *places;
    int64_t count;
};

bool is_navigation(const std::string& line, const Phrases& phrases) {
    for (int64_t i = 0; i < phrases.count; i++) {
        size_t length = phrases.lengths[i], at = std::string::npos;
        if (length > line.size()) continue;
        const char* phrase = (const char*)phrases.buffer + phrases.starts[i];
        if (phrases.places[i] == BEGINS) at = line.compare(0, length, phrase, length) ? at : 0;
        else if (phrases.places[i] == ANYWHERE) at = line.find(phrase, 0, length);
        else at = line.compare(line.size() - length, length, phrase, length) ? at : line.size() - length;
        if (at == std::string::npos || (at && is_alphanumeric(line[at - 1]))) continue;
        bool goes_on = at + length < line.size() && is_alphanumeric(line[at + length]) && is_alphanumeric(phrase[length - 1]);
        if (!goes_on) return true;
    }
    return false;
}

int judge(const Line& line, const uint8_t* begin, const uint8_t* end, double max_upper, int64_t short_words,
          const Phrases& phrases) {
    if (line.words == 0 && !line.figures) return STAYS;  // empty, or a rule drawn with signs
    if (line.plain_figures) return FIGURES;
    if (line.uppers > max_upper * line.letters && line.letters > 1) return CAPITALS;
    if (line.words > short_words) return STAYS;
    std::string small = lowered(begin, end);
    if (is_counter(small)) return COUNTER;
    if (is_navigation(small, phrases)) return NAVIGATION;
    return line.words == 1 ? ONE_WORD : STAYS;
}

}  // namespace

// `out` is as large as the buffer: text i is written from `starts[i]` on, `out_lengths[i]` bytes. `removed` [count, RULES]
// counts lines; `words` [count, 2] all words and those of removed lines.
LUBAN_EXPORT void luban_lines(const uint8_t* buffer, const int64_t* starts, const int64_t* lengths, int64_t count,
                              const uint8_t* phrase_buffer, const int64_t* phrase_starts, const int64_t* phrase_lengths,
                              const int64_t* phrase_places, int64_t phrase_count, double max_upper, int64_t short_words,
                              int64_t* removed, int64_t* words, uint8_t* out, int64_t* out_lengths) {
    Phrases phrases{phrase_buffer, phrase_starts, phrase_lengths, phrase_places, phrase_count};
    for (int64_t i = 0; i < count; i++) {
        const uint8_t *at = buffer + starts[i], *end = at + lengths[i];
        uint8_t *written = out + starts[i], *first = written;
        while (at < end) {
            const uint8_t* stop = (const uint8_t*)memchr(at, '\n', end - at);
            const uint8_t* outer = stop ? stop : end;
            const uint8_t* next = stop ? stop + 1 : end;
            Line line = measure(at, outer);
            int rule = judge(line, at, outer, max_upper, short_words, phrases);
            words[2 * i] += line.words;
            if (rule == STAYS) {
                memcpy(written, at, next - at);
                written += next - at;
            } else {
                removed[i * RULES + rule]++;
                words[2 * i + 1] += line.words;
            }
            at = next;
        }
        out_lengths[i] = written - first;
    }
}
