// A back-off model as one table from the key of an n-gram to its probability and back-off weight.
//
// Four entries to a cache line. Scoring looks a block of positions ahead, so that the memory's answers to all
// orders of many words overlap.
#include <algorithm>
#include "sentences.hpp"

namespace {

using namespace luban;

struct Entry {
    uint64_t key;  // 0: free
    float logp, backoff;
};
constexpr float LINK = 1;  // in place of a log probability: no n-gram of the model, but the suffix of one
constexpr int LINE = 4, LONGEST = 8, AHEAD = 32;

struct Table {
    Entry* entries;
    uint64_t lines;

    Entry* line_of(uint64_t key) const { return entries + LINE * (uint64_t)(((unsigned __int128)key * lines) >> 64); }
    void prefetch(uint64_t key) const { __builtin_prefetch(line_of(key)); }

    // Where `key` is, or the free entry where it would be.
    Entry* find(uint64_t key) const {
        Entry* at = line_of(key);
        const Entry* end = entries + LINE * lines;
        while (at->key && at->key != key) at = at + 1 == end ? entries : at + 1;
        return at;
    }
};

struct Total {
    double logp = 0;
    int64_t words = 0, unknown = 0;
};

// What the model holds of the n-grams that end at one position, from the shortest; the chain breaks at the first
// that is not there, for none of its extensions is either.
struct Found {
    int count, history;  // n-grams found, and words before this one in its sentence, as far as they matter
    uint64_t key;        // of the next longer one
    float logp[LONGEST], backoff[LONGEST];
};

class Scorer {
  public:
    Scorer(Table table, int order) : table_(table), order_(order) {}

    // keys: START, words, END, START, ...; words outside the vocabulary become UNKNOWN_KEY.
    Total score(uint64_t* keys, int64_t count) {
        Total total;
        for (int64_t begin = 0; begin < count; begin += AHEAD) {
            int block = std::min<int64_t>(AHEAD, count - begin);
            find_words(keys, begin, block, total);
            for (int n = 1; n < order_; n++) find_longer(keys, begin, block, n);
            for (int j = 0; j < block; j++) add(keys[begin + j], found_[j], total);
        }
        return total;
    }

  private:
    Table table_;
    int order_;
    int64_t start_ = 0;
    Found found_[AHEAD], before_ = {};

    void find_words(uint64_t* keys, int64_t begin, int block, Total& total) {
        for (int j = 0; j < block; j++) table_.prefetch(keys[begin + j]);
        for (int j = 0; j < block; j++) {
            uint64_t& key = keys[begin + j];
            const Entry* entry = table_.find(key);
            if (!entry->key) entry = table_.find(key = UNKNOWN_KEY);
            if (key == START_KEY) start_ = begin + j;
            Found& found = found_[j];
            found.count = 1;
            found.history = std::min<int64_t>(order_ - 1, begin + j - start_);
            found.logp[0] = entry->logp;
            found.backoff[0] = entry->backoff;
            found.key = key;
            extend(keys, begin, j, 1);
        }
    }

    // The n-grams one word longer than n, where there is one of n.
    void find_longer(const uint64_t* keys, int64_t begin, int block, int n) {
        for (int j = 0; j < block; j++) {
            Found& found = found_[j];
            if (found.count < n || found.history < n) continue;
            const Entry* entry = table_.find(found.key);
            if (!entry->key) continue;
            found.logp[n] = entry->logp;
            found.backoff[n] = entry->backoff;
            found.count = n + 1;
            extend(keys, begin, j, n + 1);
        }
    }

    void extend(const uint64_t* keys, int64_t begin, int j, int n) {
        Found& found = found_[j];
        if (found.history < n) return;
        found.key = longer_key(found.key, keys[begin + j - n]);
        table_.prefetch(found.key);
    }

    void add(uint64_t key, const Found& found, Total& total) {
        if (key != START_KEY) {
            int longest = found.count - 1;
            while (found.logp[longest] == LINK) longest--;
            float logp = found.logp[longest];
            for (int n = longest; n < std::min(found.history, before_.count); n++) logp += before_.backoff[n];
            total.logp += logp;
            total.words++;
            total.unknown += key == UNKNOWN_KEY;
        }
        before_ = found;
    }
};

}  // namespace

// The key of each word of an ARPA file, or of a vocabulary.
LUBAN_EXPORT void spelled_keys(const uint8_t* spelling, const int64_t* starts, const int64_t* lengths, int64_t count, uint64_t* keys) {
    for (int64_t i = 0; i < count; i++) {
        const uint8_t *word = spelling + starts[i], *end = word + lengths[i];
        auto is = [&](const char* special, int64_t length) {
            return lengths[i] == length && std::equal(word, end, (const uint8_t*)special);
        };
        keys[i] = is("<s>", 3)                        ? START_KEY
                  : is("</s>", 4)                     ? END_KEY
                  : is("<unk>", 5) || is("<UNK>", 5) ? UNKNOWN_KEY
                                                      : word_key(word, end);
    }
}

// The keys of a text's words; `keys` has room for two per byte. Returns how many.
LUBAN_EXPORT int64_t text_keys(const uint8_t* text, int64_t bytes, bool spaces, bool normalised, uint64_t* keys) {
    std::vector<uint8_t> work;
    int64_t size = 0;
    read_sentences(
        text, bytes, spaces, normalised, work,
        [&](const uint8_t* begin, const uint8_t* end) { keys[size++] = word_key(begin, end); },
        [&] { keys[size++] = END_KEY; });
    return size;
}

// Adds n-grams [count, order] of ids, shorter orders first; `keys_of` gives each id's key. A suffix that the model
// lacks gets an entry that only links to the longer ones (as KenLM does). `room` is how many entries may still be
// made. Returns how many n-grams were there already; -1 if the room is too small.
LUBAN_EXPORT int64_t insert(Entry* entries, uint64_t lines, const uint64_t* keys_of, const uint32_t* ids, int order, int64_t count,
                            const float* logp, const float* backoff, int64_t* room) {
    Table table{entries, lines};
    uint64_t keys[AHEAD][LONGEST];
    int64_t twice = 0;
    for (int64_t begin = 0; begin < count; begin += AHEAD) {
        int block = std::min<int64_t>(AHEAD, count - begin);
        if (*room < (int64_t)block * order) return -1;
        for (int j = 0; j < block; j++) {
            const uint32_t* gram = ids + (begin + j) * order;
            keys[j][0] = keys_of[gram[order - 1]];
            for (int n = 1; n < order; n++) keys[j][n] = longer_key(keys[j][n - 1], keys_of[gram[order - 1 - n]]);
            for (int n = std::max(0, order - 2); n < order; n++) table.prefetch(keys[j][n]);
        }
        for (int j = 0; j < block; j++) {
            for (int n = order - 2; n > 0; n--) {
                Entry* suffix = table.find(keys[j][n]);
                if (suffix->key) break;
                *suffix = {keys[j][n], LINK, 0};
                --*room;
            }
            Entry* entry = table.find(keys[j][order - 1]);
            if (entry->key) twice++;
            else --*room;
            *entry = {keys[j][order - 1], logp[begin + j], backoff[begin + j]};
        }
    }
    return twice;
}

// Per text: the sum of log10 probabilities, the words scored (sentence ends among them), and how many are unknown.
LUBAN_EXPORT void score_texts(Entry* entries, uint64_t lines, int order, const uint8_t* buffer, const int64_t* starts,
                              const int64_t* lengths, int64_t count, bool spaces, bool normalised, double* logp, int64_t* words,
                              int64_t* unknown) {
    std::vector<uint8_t> work;
    std::vector<uint64_t> keys;
    for (int64_t i = 0; i < count; i++) {
        keys.assign(1, START_KEY);
        read_sentences(
            buffer + starts[i], lengths[i], spaces, normalised, work,
            [&](const uint8_t* begin, const uint8_t* end) { keys.push_back(word_key(begin, end)); },
            [&] {
                keys.push_back(END_KEY);
                keys.push_back(START_KEY);
            });
        Total total = Scorer({entries, lines}, order).score(keys.data(), keys.size());
        logp[i] = total.logp;
        words[i] = total.words;
        unknown[i] = total.unknown;
    }
}
