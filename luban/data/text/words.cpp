// The words of many texts, once for all that is counted on them.
#include "signs.hpp"
#include "words.hpp"

using namespace luban;

namespace {

bool is_plain(const Word& word) {
    if (word.classes & (LETTER | DIGIT)) return true;
    for (const uint8_t* at = word.begin; at < word.end;)
        if (!is_mere_sign(next_character(at))) return true;
    return false;
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

}  // namespace

// For each word, in order: its hash, its characters, and its kinds: 1 plain, 2 with a letter, 4 << i the i-th stop word.
// The arrays have room for one word per byte. `counts[i]` is how many text i has.
LUBAN_EXPORT void luban_words(const uint8_t* buffer, const int64_t* starts, const int64_t* lengths, int64_t texts,
                              uint64_t* hashes, uint32_t* characters, uint16_t* kinds, int64_t* counts) {
    int64_t written = 0;
    for (int64_t i = 0; i < texts; i++) {
        int64_t first = written;
        Words words(buffer + starts[i], lengths[i]);
        for (Word word; words.next(word); written++) {
            bool plain = is_plain(word);
            hashes[written] = hash_bytes(word.begin, word.end - word.begin);
            characters[written] = word.characters;
            kinds[written] = !plain ? 0 : 1 | (word.classes & LETTER ? 2 : 0) | stop_word(word) << 2;
        }
        counts[i] = written - first;
    }
}
