// How many of a text's words stand in which list. Words without spaces between them (ideographs) are also looked up
// joined, two to four at a time; what stands before an apostrophe is looked up too.
#include <unordered_map>
#include "words.hpp"

using namespace luban;

namespace {

// The end of the article or pronoun before an apostrophe, as in "l'homme"; null if the word has none.
const uint8_t* elision(const Word& word) {
    for (const uint8_t* at = word.begin + 1; at + 1 < word.end; at++)
        if (*at == '\'' || (*at == 0xE2 && word.end - at > 3 && at[1] == 0x80 && at[2] == 0x99)) return at;
    return nullptr;
}

}  // namespace

// `lists` [entries] has a bit for each list that holds the entry; `counts` [count, 1 + kinds] begins with all words.
LUBAN_EXPORT void luban_listed(const uint8_t* entries, const int64_t* entry_starts, const int64_t* entry_lengths, const int64_t* lists,
                               int64_t entry_count, int64_t kinds, const uint8_t* buffer, const int64_t* starts, const int64_t* lengths,
                               int64_t count, int64_t* counts) {
    std::unordered_map<uint64_t, int64_t> listed;
    uint8_t gate[1 << 16] = {};
    for (int64_t i = 0; i < entry_count; i++) {
        const uint8_t* begin = entries + entry_starts[i];
        uint64_t hash = hash_lower({begin, begin + entry_lengths[i], 0, 0});
        listed[hash] |= lists[i];
        gate[hash >> 48] = 1;
    }
    for (int64_t i = 0; i < count; i++) {
        Words words(buffer + starts[i], lengths[i]);
        int64_t* row = counts + i * (1 + kinds);
        const uint8_t* begins[4] = {};  // of the ideographs that lie end to end up to here
        int run = -1;                   // how many lie before the newest
        const uint8_t* last = nullptr;
        auto look_up = [&](const Word& word) {
            uint64_t hash = hash_lower(word);
            if (!gate[hash >> 48]) return;
            auto found = listed.find(hash);
            if (found == listed.end()) return;
            for (int64_t kind = 0; kind < kinds; kind++) row[1 + kind] += found->second >> kind & 1;
        };
        for (Word word; words.next(word); last = word.end) {
            if (word.is_sign()) continue;
            row[0]++;
            look_up(word);
            if (const uint8_t* behind = elision(word)) look_up({word.begin, behind, 0, 0});
            if (!(word.classes & IDEOGRAPH)) {
                run = -1;
                continue;
            }
            run = word.begin == last ? std::min(run + 1, 3) : 0;
            for (int back = 3; back > 0; back--) begins[back] = begins[back - 1];
            begins[0] = word.begin;
            for (int back = 1; back <= run; back++) look_up({begins[back], word.end, 0, 0});
        }
    }
}
