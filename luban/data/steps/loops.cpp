// Phrases that stand several times in a row within one sentence, as stretches of bytes to cut.
#include "words.hpp"

using namespace luban;

namespace {

const int64_t RING = 64;  // words remembered; phrases are shorter

struct Remembered {
    uint64_t hash;
    int64_t begin, end;
};

struct Finder {
    const uint8_t* text;
    int64_t longest, times;
    bool whole;    // cut whole sentences
    int64_t* out;  // (begin, end) pairs
    int64_t found = 0;
    Remembered ring[RING];
    int64_t runs[RING];     // per phrase length, how many words so far equal the one that much earlier
    int64_t count = 0;      // words of the sentence so far
    int64_t lettered = -1;  // the last of them with a letter
    bool looping = false;

    Remembered& word(int64_t index) { return ring[index & (RING - 1)]; }

    void start_sentence() {
        count = 0;
        lettered = -1;
        looping = false;
        for (int64_t length = 1; length <= longest; ++length) runs[length] = 0;
    }

    // A stretch that ends at or behind the last one's end, joined with those it meets.
    void cut(int64_t begin, int64_t end) {
        while (found && out[2 * found - 1] >= begin) {
            if (out[2 * found - 2] < begin) begin = out[2 * found - 2];
            --found;
        }
        out[2 * found] = begin;
        out[2 * found + 1] = end;
        ++found;
    }

    void add(const Word& next) {
        const int64_t at = count++;
        word(at) = {hash_lower(next), next.begin - text, next.end - text};
        if (next.classes & LETTER) lettered = at;
        for (int64_t length = 1; length <= longest && length <= at; ++length) {
            if (word(at).hash != word(at - length).hash) {
                runs[length] = 0;
                continue;
            }
            const int64_t run = ++runs[length];
            const bool again = run >= length * times && run % length == 0;  // one more whole copy
            if (!again || lettered <= at - length) continue;
            looping = true;
            if (!whole) cut(word(at - length).end, word(at).end);
        }
    }
};

// Whether the sentence may end with this word.
bool ends(const Word& word) {
    const uint8_t* at = word.begin;
    if (!word.is_sign()) return false;
    const uint32_t code = next_character(at);
    return code == '.' || code == '!' || code == '?' || code == 0x3002 || code == 0xFF01 || code == 0xFF1F ||
           code == 0x2026;
}

// Whether this sign, straight behind an end, still belongs to the sentence: another end, or a closing quotation mark.
bool closes(const Word& word) {
    const uint8_t* at = word.begin;
    const uint32_t code = next_character(at);
    return ends(word) || code == ')' || code == '"' || code == '\'' || code == 0x201D || code == 0x2019 ||
           code == 0x300D || code == 0x300F || code == 0xFF09;
}

int64_t find(Finder& finder, const uint8_t* text, int64_t bytes) {
    Words words(text, bytes);
    Word word{};
    bool ended = false;
    int64_t begin = 0;           // of the sentence
    const uint8_t* last = text;  // end of the last word
    auto finish = [&](int64_t end) {
        if (finder.whole && finder.looping) finder.cut(begin, end);
        finder.start_sentence();
        begin = end;
    };
    finder.text = text;
    finder.found = 0;
    finder.start_sentence();
    while (words.next(word)) {
        const void* line = __builtin_memchr(last, '\n', word.begin - last);
        if (line) finish((const uint8_t*)line - text);
        else if (ended && !(last == word.begin && closes(word))) finish(word.begin - text);
        ended = ends(word) || (ended && !line && last == word.begin && closes(word));
        if (!finder.count) begin = word.begin - text;
        finder.add(word);
        last = word.end;
    }
    finish(last - text);
    return finder.found;
}

}  // namespace

// Per text the stretches of bytes to cut: of a phrase of at most `longest` (< 64) words that stands more than `times`
// times in a row, the copies behind those, or the sentence. `out` has room for one pair per byte.
LUBAN_EXPORT void loops(const uint8_t* buffer, const int64_t* starts, const int64_t* lengths, int64_t count,
                        int64_t longest, int64_t times, int whole, int64_t* out, int64_t* out_counts) {
    Finder finder{};
    finder.longest = longest;
    finder.times = times;
    finder.whole = whole;
    for (int64_t i = 0; i < count; ++i) {
        finder.out = out;
        out_counts[i] = find(finder, buffer + starts[i], lengths[i]);
        out += 2 * out_counts[i];
    }
}
