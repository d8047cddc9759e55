// C4's rules on lines: which stay, which page goes. Lines that stay are written out without citation marks.
#include "words.hpp"

using namespace luban;

namespace {

enum Verdict { STAYS, LOREM_IPSUM, CURLY_BRACKET };
enum Removed { LONG_WORD, NO_END, FEW_WORDS, JAVASCRIPT, POLICY, KINDS };

bool has(const std::string& text, const char* phrase) { return text.find(phrase) != std::string::npos; }

// "[", figures, "]" and two of Wikipedia's notes.
size_t citation_length(const std::string& line, size_t at) {
    for (const char* note : {"[edit]", "[citation needed]"})
        if (!line.compare(at, strlen(note), note)) return strlen(note);
    const uint8_t *begin = (const uint8_t*)line.data() + at, *behind = begin + 1, *end = (const uint8_t*)line.data() + line.size();
    while (behind < end) {
        const uint8_t* ahead = behind;
        uint8_t kind = class_of(next_character(ahead));
        if (*behind == ']') return ahead - begin;
        if (!(kind & DIGIT)) return 0;
        behind = ahead;
    }
    return 0;
}

void remove_citations(std::string& line) {
    size_t from = line.find('['), kept = from;
    if (from == std::string::npos) return;
    while (from < line.size()) {
        size_t length = line[from] == '[' ? citation_length(line, from) : 0;
        if (length) from += length;
        else line[kept++] = line[from++];
    }
    line.resize(kept);
}

void strip(const uint8_t*& begin, const uint8_t*& end) {
    for (const uint8_t* ahead = begin; begin < end && (class_of(next_character(ahead)) & SPACE);) begin = ahead;
    for (const uint8_t *at = begin, *last = begin; at < end;) {
        bool blank = class_of(next_character(at)) & SPACE;
        if (!blank) last = at;
        if (at == end) end = last;
    }
}

// What white space parts, and the longest of it in characters.
void count_chunks(const std::string& line, int64_t& chunks, int64_t& longest) {
    const uint8_t *at = (const uint8_t*)line.data(), *end = at + line.size();
    int64_t length = 0;
    chunks = longest = 0;
    while (at < end) {
        bool blank = class_of(next_character(at)) & SPACE;
        chunks += !blank && !length;
        length = blank ? 0 : length + 1;
        longest = std::max(longest, length);
    }
}

bool ends_sentence(const std::string& line) {
    if (line.empty() || !strchr(".?!\"'", line.back())) return false;
    return line.size() < 3 || line.compare(line.size() - 3, 3, "...");
}

// A sentence begins with the first word that is no punctuation after a point, question or exclamation mark.
int64_t count_sentences(const std::string& line) {
    Words words((const uint8_t*)line.data(), line.size());
    int64_t sentences = 1;
    bool ended = false;
    for (Word word; words.next(word);) {
        uint32_t code = 0;
        if (word.characters == 1) {
            const uint8_t* at = word.begin;
            code = next_character(at);
        }
        bool ends = code == '.' || code == '!' || code == '?' || code == 0x3002 || code == 0xFF01 || code == 0xFF1F || code == 0xFF61;
        if (ends) ended = true;
        else if (ended && word.classes != PUNCTUATION) {
            sentences++;
            ended = false;
        }
    }
    return sentences;
}

struct Rules {
    int64_t min_words, max_word;
};

// Whether the line stays; else why not, or what befalls the page.
bool stays(std::string& line, std::string& small, const Rules& rules, int64_t* removed, int64_t& verdict) {
    int64_t chunks, longest;
    count_chunks(line, chunks, longest);
    if (longest > rules.max_word) return removed[LONG_WORD]++, false;
    remove_citations(line);
    if (!ends_sentence(line)) return removed[NO_END]++, false;
    if (chunks < rules.min_words) return removed[FEW_WORDS]++, false;
    small = line;
    for (char& byte : small) byte += byte >= 'A' && byte <= 'Z' ? 32 : 0;
    if (has(small, "lorem ipsum")) return verdict = LOREM_IPSUM, false;
    if (has(small, "javascript")) return removed[JAVASCRIPT]++, false;
    if (has(small, "{")) return verdict = CURLY_BRACKET, false;
    bool policy = has(small, "terms of use") || has(small, "privacy policy") || has(small, "cookie policy");
    policy = policy || (has(small, "cookies") && (has(small, "uses cookies") || has(small, "use of cookies") || has(small, "use cookies")));
    return policy ? removed[POLICY]++, false : true;
}

}  // namespace

// `out` is as large as the buffer: text i is written from `starts[i]` on, `out_lengths[i]` bytes.
LUBAN_EXPORT void luban_c4(const uint8_t* buffer, const int64_t* starts, const int64_t* lengths, int64_t count, int64_t min_words,
                           int64_t max_word, int64_t* verdicts, int64_t* sentences, int64_t* removed, uint8_t* out, int64_t* out_lengths) {
    std::string line, small;
    for (int64_t i = 0; i < count; i++) {
        const uint8_t *at = buffer + starts[i], *end = at + lengths[i];
        uint8_t* written = out + starts[i];
        bool first = true;
        for (verdicts[i] = STAYS; at < end && verdicts[i] == STAYS;) {
            const uint8_t* stop = (const uint8_t*)memchr(at, '\n', end - at);
            const uint8_t *inner = at, *outer = stop ? stop : end;
            at = outer + 1;
            strip(inner, outer);
            line.assign((const char*)inner, outer - inner);
            if (!stays(line, small, {min_words, max_word}, removed + i * KINDS, verdicts[i])) continue;
            sentences[i] += count_sentences(line);
            if (!first) *written++ = '\n';
            first = false;
            memcpy(written, line.data(), line.size());
            written += line.size();
        }
        out_lengths[i] = written - (out + starts[i]);
    }
}
