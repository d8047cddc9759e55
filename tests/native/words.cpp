// The word rule for its test: as built, and with the quick way left out.
#include "words.hpp"

using namespace luban;

namespace {

template <class Rule>
int64_t spans(const uint8_t* text, int64_t bytes, int64_t* rows) {
    Rule words(text, bytes);
    int64_t count = 0;
    for (Word word; words.next(word); count++) {
        int64_t* row = rows + 4 * count;
        row[0] = word.begin - text;
        row[1] = word.end - text;
        row[2] = word.characters;
        row[3] = word.classes;
    }
    return count;
}

}  // namespace

LUBAN_EXPORT int64_t words_quick(const uint8_t* text, int64_t bytes, int64_t* rows) { return spans<Words>(text, bytes, rows); }
LUBAN_EXPORT int64_t words_careful(const uint8_t* text, int64_t bytes, int64_t* rows) { return spans<CarefulWords>(text, bytes, rows); }
LUBAN_EXPORT uint64_t hash_of(const uint8_t* text, int64_t bytes) { return hash_lower({text, text + bytes, 0, 0}); }
LUBAN_EXPORT uint64_t key_of(const uint8_t* bytes, int64_t count) { return hash_bytes(bytes, count); }
