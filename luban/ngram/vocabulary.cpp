// Words to ids in the order they come, each spelled once in one buffer.
#include "sentences.hpp"

namespace {

constexpr uint32_t UNKNOWN = 1, END = 3, FIRST = 4;

struct Vocabulary {
    struct Slot { uint64_t key; uint32_t id; };
    std::vector<Slot> slots = std::vector<Slot>(1 << 16, Slot{0, 0});
    std::vector<uint8_t> spelling, work;
    std::vector<int64_t> ends;
    uint32_t largest;

    uint32_t id_of(const uint8_t* begin, const uint8_t* end) {
        if (end - begin == 1 && *begin < 32) return UNKNOWN;  // a control character cannot stand in an ARPA file
        uint64_t key = luban::word_key(begin, end);
        size_t mask = slots.size() - 1, at = key >> 8 & mask;
        while (slots[at].key && slots[at].key != key) at = (at + 1) & mask;
        if (slots[at].key) return slots[at].id;
        if (FIRST + ends.size() > largest) return UNKNOWN;
        uint32_t id = FIRST + ends.size();
        slots[at] = {key, id};
        spelling.insert(spelling.end(), begin, end);
        ends.push_back(spelling.size());
        if (ends.size() * 2 > slots.size()) grow();
        return id;
    }

    void grow() {
        std::vector<Slot> old(slots.size() * 2, Slot{0, 0});
        old.swap(slots);
        size_t mask = slots.size() - 1;
        for (const Slot& slot : old) {
            if (!slot.key) continue;
            size_t at = slot.key >> 8 & mask;
            while (slots[at].key) at = (at + 1) & mask;
            slots[at] = slot;
        }
    }
};

}  // namespace

LUBAN_EXPORT Vocabulary* vocabulary_new(uint32_t largest) {
    Vocabulary* made = new Vocabulary();
    made->largest = largest;
    return made;
}
LUBAN_EXPORT void vocabulary_free(Vocabulary* vocabulary) { delete vocabulary; }
LUBAN_EXPORT int64_t vocabulary_size(const Vocabulary* vocabulary) { return vocabulary->ends.size(); }
LUBAN_EXPORT int64_t vocabulary_bytes(const Vocabulary* vocabulary) { return vocabulary->spelling.size(); }
LUBAN_EXPORT void vocabulary_spelling(const Vocabulary* vocabulary, uint8_t* spelling, int64_t* ends) {
    std::copy(vocabulary->spelling.begin(), vocabulary->spelling.end(), spelling);
    std::copy(vocabulary->ends.begin(), vocabulary->ends.end(), ends);
}

// The ids of the words of all texts, END after each sentence. `ids` has room for one per byte and text.
LUBAN_EXPORT int64_t vocabulary_encode(Vocabulary* vocabulary, const uint8_t* buffer, const int64_t* starts, const int64_t* lengths,
                                       int64_t count, bool spaces, bool normalised, uint32_t* ids) {
    int64_t size = 0;
    for (int64_t i = 0; i < count; i++)
        luban::read_sentences(
            buffer + starts[i], lengths[i], spaces, normalised, vocabulary->work,
            [&](const uint8_t* begin, const uint8_t* end) { ids[size++] = vocabulary->id_of(begin, end); },
            [&] { ids[size++] = END; });
    return size;
}
