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

// Fewer than 8 letters as a number, the first one lowest.
constexpr uint64_t number_of(const char* letters) {
    uint64_t number = 0;
    for (int i = 0; letters[i]; i++) number |= (uint64_t)letters[i] << 8 * i;
    return number;
}
uint64_t number_of(const Word& word, const uint8_t* end) {
    size_t bytes = word.end - word.begin;
    if (end - word.begin < 8) return load_few(word.begin, bytes);
    uint64_t loaded;
    __builtin_memcpy(&loaded, word.begin, 8);
    return loaded & ((1ull << 8 * bytes) - 1);
}

// Which of Gopher's eight this word is, as a bit; 0 for none.
unsigned stop_word(uint64_t number) {
    constexpr uint64_t words[] = {number_of("the"), number_of("be"),   number_of("to"),   number_of("of"),
                                  number_of("and"), number_of("that"), number_of("have"), number_of("with")};
    unsigned found = 0;
    if (number > number_of("\x7f\x7f\x7f\x7f")) return 0;
    for (unsigned i = 0; i < 8; i++) found |= (unsigned)(words[i] == number) << i;
    return found;
}

}  // namespace

// For each word, in order: its hash, its characters, and its kinds: 1 plain, 2 with a letter, 4 << i the i-th stop word.
// The arrays have room for one word per byte. `counts[i]` is how many text i has.
LUBAN_EXPORT void luban_words(const uint8_t* buffer, const int64_t* starts, const int64_t* lengths, int64_t texts,
                              uint64_t* hashes, uint32_t* characters, uint16_t* kinds, int64_t* counts) {
    int64_t written = 0;
    for (int64_t i = 0; i < texts; i++) {
        int64_t first = written;
        const uint8_t* end = buffer + starts[i] + lengths[i];
        Words words(buffer + starts[i], lengths[i]);
        for (Word word; words.next(word); written++) {
            size_t bytes = word.end - word.begin;
            uint64_t number = bytes < 8 ? number_of(word, end) : 0;
            hashes[written] = bytes < 8 ? hash_few(number, bytes) : hash_bytes(word.begin, bytes);
            characters[written] = word.characters;
            kinds[written] = !is_plain(word) ? 0 : 1 | (word.classes & LETTER ? 2 : 0) | stop_word(number) << 2;
        }
        counts[i] = written - first;
    }
}
