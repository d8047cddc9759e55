// Windows of N words: their anchors (few, chosen by content alone) and the cutting of words out of texts.
#include "words.hpp"

using namespace luban;

namespace {

inline uint64_t turn(uint64_t value, int64_t by) {
    by &= 63;
    return by ? (value << by) | (value >> (64 - by)) : value;
}

// The word hashes of one text; how many.
int64_t hash_words(const uint8_t* text, int64_t bytes, uint64_t* out) {
    Words words(text, bytes);
    Word word;
    int64_t count = 0;
    while (words.next(word)) out[count++] = hash_bytes(word.begin, word.end - word.begin);
    return count;
}

// Each window of `window` words is stood for by the smallest hash among its phrases of `phrase` words (the last
// of equals). Neighbouring windows mostly share it, so one entry is written per change.
int64_t choose(const uint64_t* words, int64_t count, int64_t window, int64_t phrase, uint64_t* scratch,
               uint64_t* hashes, uint32_t* firsts) {
    const int64_t phrases = window - phrase + 1;
    uint64_t rolling = 0;
    int64_t best = 0, last = -1, written = 0;
    for (int64_t i = 0; i < count; ++i) {
        rolling = turn(rolling, 1) ^ words[i] ^ (i >= phrase ? turn(words[i - phrase], phrase) : 0);
        const int64_t at = i - phrase + 1;
        if (at < 0) continue;
        scratch[at] = rolling;
        if (rolling <= scratch[best]) best = at;
        const int64_t first = at - phrases + 1;
        if (first < 0) continue;
        if (best < first) {
            best = first;
            for (int64_t j = first + 1; j <= at; ++j)
                if (scratch[j] <= scratch[best]) best = j;
        }
        if (best == last) continue;
        hashes[written] = scratch[best];
        firsts[written++] = (uint32_t)first;
        last = best;
    }
    return written;
}

bool runs_on(const Word& word) { return (word.classes & (LETTER | DIGIT | MARK)) && !(word.classes & IDEOGRAPH); }

int64_t line_breaks(const uint8_t* begin, const uint8_t* end) {
    int64_t count = 0;
    for (; begin < end; ++begin) count += *begin == '\n';
    return count;
}

uint8_t* copy(const uint8_t* begin, const uint8_t* end, uint8_t* out) {
    __builtin_memcpy(out, begin, end - begin);
    return out + (end - begin);
}

// Writes the white space that stays where words were cut: the side with more line breaks, at an end that end's.
uint8_t* write_gap(const uint8_t* text, const uint8_t* stop, const Word& left, const Word& first, const Word& last,
                   const Word& right, uint8_t* out) {
    const uint8_t* before = left.begin ? left.end : text;
    const uint8_t* after = right.begin ? right.begin : stop;
    if (!left.begin) return copy(before, first.begin, out);
    if (!right.begin) return copy(last.end, after, out);
    if (before == first.begin && last.end == after) {
        if (runs_on(left) && runs_on(right)) *out++ = ' ';
        return out;
    }
    const int64_t lines = line_breaks(last.end, after) - line_breaks(before, first.begin);
    const bool later = lines > 0 || before == first.begin;
    return later ? copy(last.end, after, out) : copy(before, first.begin, out);
}

}  // namespace

// Per text of at least `window` words: its word hashes, and its anchors as (hash, first window it stands for).
// `sizes[2 i]` and `sizes[2 i + 1]` say how many of each; shorter texts leave nothing. All else has room for one
// entry per byte.
LUBAN_EXPORT void anchors(const uint8_t* buffer, const int64_t* starts, const int64_t* lengths, int64_t count,
                          int64_t window, int64_t phrase, uint64_t* scratch, uint64_t* words, uint64_t* hashes,
                          uint32_t* firsts, int64_t* sizes) {
    for (int64_t i = 0; i < count; ++i, sizes += 2) {
        sizes[0] = hash_words(buffer + starts[i], lengths[i], words);
        sizes[1] = 0;
        if (sizes[0] < window) sizes[0] = 0;
        else sizes[1] = choose(words, sizes[0], window, phrase, scratch, hashes, firsts);
        words += sizes[0];
        hashes += sizes[1];
        firsts += sizes[1];
    }
}

// Texts without some of their words. `cuts` are (text, first word, end word), sorted, apart from each other.
// `out` has room for every byte and one more per cut; `out_lengths` says how much of it each text takes.
LUBAN_EXPORT void cut(const uint8_t* buffer, const int64_t* starts, const int64_t* lengths, int64_t count,
                      const int64_t* cuts, int64_t cut_count, uint8_t* out, int64_t* out_lengths) {
    const int64_t* end_of_cuts = cuts + 3 * cut_count;
    for (int64_t i = 0; i < count; ++i) {
        const uint8_t* text = buffer + starts[i];
        const uint8_t* stop = text + lengths[i];
        const uint8_t* from = text;  // what is written next
        uint8_t* begin = out;
        Words words(text, lengths[i]);
        Word word{};
        int64_t read = 0;  // how many words; `word` is the last of them
        auto read_to = [&](int64_t number) {
            for (; read < number && words.next(word); ++read) {}
        };
        for (; cuts < end_of_cuts && cuts[0] == i; cuts += 3) {
            read_to(cuts[1]);
            const Word left = cuts[1] ? word : Word{};
            read_to(cuts[1] + 1);
            const Word first = word;
            read_to(cuts[2]);
            const Word last = word;
            read_to(cuts[2] + 1);
            const Word right = read > cuts[2] ? word : Word{};
            out = copy(from, left.begin ? left.end : from, out);
            out = write_gap(text, stop, left, first, last, right, out);
            from = right.begin ? right.begin : stop;
        }
        out = copy(from, stop, out);
        *out_lengths++ = out - begin;
    }
}
