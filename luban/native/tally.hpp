// How often each 64-bit hash came; emptied at once and grown to the next text's size, so that one serves many texts.
#pragma once
#include <cstdint>
#include <cstddef>
#include <vector>

namespace luban {

class Tally {
  public:
    struct Slot {
        uint64_t key;
        uint32_t count;  // 0: free
        uint32_t first;  // what came with the key's first appearance
    };

    // Forgets everything and makes room for `expected` different keys.
    void reset(size_t expected) {
        size_t size = 64;
        while (size < 2 * expected) size *= 2;
        if (slots_.size() < size) slots_.resize(size);
        for (size_t i = 0; i < size; i++) slots_[i].count = 0;
        used_ = size;
    }
    // Counts `key` once more; its slot tells how often it has come by now.
    Slot& add(uint64_t key, uint32_t first = 0) {
        size_t at = (key ^ key >> 32) & (used_ - 1);
        while (slots_[at].count && slots_[at].key != key) at = (at + 1) & (used_ - 1);
        if (!slots_[at].count) {
            slots_[at].key = key;
            slots_[at].first = first;
        }
        slots_[at].count++;
        return slots_[at];
    }
    const Slot* begin() const { return slots_.data(); }
    const Slot* end() const { return slots_.data() + used_; }

  private:
    std::vector<Slot> slots_;
    size_t used_ = 0;
};

}  // namespace luban
