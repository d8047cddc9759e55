// What tells text from navigation: a row of numbers for each block of a page, from the tables that html.cpp wrote.
//
// A container is the range of blocks it covers, so its sums are two look-ups in a running sum; a parent comes before
// its children, so what holds of any element around a block is found in one pass.
#include <algorithm>
#include <array>
#include <cmath>
#include <unordered_map>
#include <vector>
#include "unicode.hpp"

using std::max;
using std::min;
using std::vector;

namespace {

// Rows of the tables; the columns' order is that of `COLUMNS` and `NODE_COLUMNS` in blocks.py.
struct Block {
    int32_t start, end, chars, words, link_chars, links, commas, stops, digits, uppers, bold_chars, node, indent, row, last,
        copyright, hash;
    double linked() const { return link_chars / (double)chars; }
    double plain() const { return chars - link_chars; }
    bool paragraph() const { return chars >= 25 && linked() < 0.5; }
};
struct Node {
    int32_t parent, tag, hints, first, last;
};

// The order is that of `TAGS` in blocks.py.
enum Tag { ROOT, DIV, P, H1, H2, H3, H4, H5, H6, LI, UL, OL, DL, DT, DD, TABLE, TR, TD, PRE, QUOTE, FIGURE, CAPTION, ARTICLE,
           MAIN, SECTION, NAV, HEADER, FOOTER, ASIDE, FORM, DETAILS };
constexpr Tag OWN_TAGS[] = {DIV, P, H1, H2, H3, LI, TD, PRE, QUOTE, CAPTION, DD, DT};
constexpr Tag AROUND_TAGS[] = {ARTICLE, MAIN, NAV, HEADER, FOOTER, ASIDE, FORM, TABLE, UL, OL, SECTION, FIGURE, QUOTE, DETAILS};
constexpr int HINTS = 15;
constexpr uint32_t TERMINAL[] = {'.', '!', '?', ':', '"', 0x201D, 0x2019, 0xBB, 0x3002, 0xFF01, 0xFF1F, 0x2026, 0x300D, ')'};
constexpr int RADII[] = {1, 3, 8}, SHIFTS[] = {-2, -1, 1, 2};
// Blocks, characters and blocks beyond which more is the same: a book's chapter is judged like an article.
constexpr int FAR = 30;
constexpr double LONG = 5000, MANY = 60;
constexpr double BLOCK_COST = 40;  // in characters: what a block has to bring to the densest run

double distance(int64_t blocks) {
    static const vector<double> LOGS = [] {
        vector<double> logs;
        for (int i = 0; i <= FAR; ++i) logs.push_back(log1p(i));
        return logs;
    }();
    return LOGS[min<int64_t>(max<int64_t>(blocks, 0), FAR)];
}

// sums[j] - sums[i] is the sum of `value` over the blocks i to j - 1.
template <class Value>
vector<double> running(const Block* blocks, int64_t count, Value value) {
    vector<double> sums(count + 1);
    for (int64_t i = 0; i < count; ++i) sums[i + 1] = sums[i] + value(blocks[i]);
    return sums;
}

class Features {
  public:
    Features(const Block* blocks, int64_t count, const Node* nodes, int64_t node_count)
        : blocks_(blocks), nodes_(nodes), count_(count), node_count_(node_count),
          text_(running(blocks, count, [](const Block& b) { return b.chars; })),
          own_(running(blocks, count, [](const Block& b) { return b.plain(); })),
          stops_(running(blocks, count, [](const Block& b) { return b.stops > 0; })),
          sentences_(running(blocks, count, [](const Block& b) { return b.stops > 0 ? b.plain() : 0; })),
          total_(max(own_[count], 1.0)) {
        look_around();
        measure_containers();
        score_candidates();
        find_densest();
        for (int64_t i = 0; i < count; ++i) {
            sizes_.push_back(log1p(blocks[i].chars));
            ++times_[blocks[i].hash];
        }
    }

    // All features of one block, in the order of the net's weights; returns where the next block's begin.
    float* write(int64_t index, float* out) {
        out_ = out;
        int32_t levels[4] = {blocks_[index].node};
        for (int level = 1; level < 4; ++level) levels[level] = up(levels[level - 1]);
        own(blocks_[index], sizes_[index]);
        tags(levels[0]);
        hints(levels);
        place(index);
        neighbours(index);
        for (int level = 1; level < 4; ++level)
            for (double value : containers_[levels[level]]) put(value);
        candidates(index, levels);
        put(times_[blocks_[index].hash] > 1);
        whole_page();
        return out_;
    }

  private:
    const Block* blocks_;
    const Node* nodes_;
    int64_t count_, node_count_;
    vector<double> text_, own_, stops_, sentences_;
    double total_;
    vector<int32_t> tags_around_, hints_around_;
    vector<std::array<double, 6>> containers_;
    vector<double> sizes_, scores_;
    int32_t best_ = 0;
    int64_t dense_begin_ = 0, dense_end_ = 0;
    std::unordered_map<int32_t, int32_t> times_;
    float* out_ = nullptr;

    void put(double value) { *out_++ = (float)value; }
    int32_t up(int32_t node) const { return max(nodes_[node].parent, 0); }  // the root is its own parent

    // --- of the page
    void look_around() {
        for (int64_t i = 0; i < node_count_; ++i) {
            int32_t tags = 1 << nodes_[i].tag, hints = nodes_[i].hints, parent = nodes_[i].parent;
            tags_around_.push_back(parent < 0 ? tags : tags | tags_around_[parent]);
            hints_around_.push_back(parent < 0 ? hints : hints | hints_around_[parent]);
        }
    }
    // Size, density and share of the page of each element.
    void measure_containers() {
        for (int64_t i = 0; i < node_count_; ++i) {
            int32_t first = nodes_[i].first, last = nodes_[i].last;
            double blocks = max(last - first, 1), all = max(text_[last] - text_[first], 1.0), own = own_[last] - own_[first];
            containers_.push_back({{log1p(min(own, LONG)), 1 - own / all, own / total_, log(min(blocks, MANY)),
                                    log1p(min(own / blocks, LONG)), (stops_[last] - stops_[first]) / blocks}});
        }
    }
    // What paragraphs give to the element around their own, and half of it to the next.
    void score_candidates() {
        vector<double> near(node_count_), far(node_count_);
        for (int64_t i = 0; i < count_; ++i) {
            if (!blocks_[i].paragraph()) continue;
            double worth = 1 + blocks_[i].commas + min(blocks_[i].chars / 100.0, 3.0);
            int32_t around = up(blocks_[i].node);
            near[around] += worth;
            far[up(around)] += worth;
        }
        for (int64_t i = 0; i < node_count_; ++i) scores_.push_back(near[i] + 0.5 * far[i]);
        best_ = (int32_t)(std::max_element(scores_.begin(), scores_.end()) - scores_.begin());
    }
    // The run of blocks with the most text beyond what blocks cost: the first of the best.
    void find_densest() {
        double sum = 0, lowest = 0, most = 0;
        int64_t lowest_at = 0;
        for (int64_t i = 0; i < count_; ++i) {
            sum += (blocks_[i].paragraph() ? blocks_[i].plain() : 0) - BLOCK_COST;
            if (sum < lowest) lowest = sum, lowest_at = i + 1;
            if (sum - lowest > most) most = sum - lowest, dense_begin_ = lowest_at, dense_end_ = i + 1;
        }
    }

    // --- of a block
    void own(const Block& b, double size) {
        double chars = b.chars;
        put(size), put(log1p(b.words)), put(b.linked()), put(log1p(b.commas)), put(log1p(b.stops));
        put(b.stops / chars), put(b.digits / chars), put(b.uppers / chars), put(b.bold_chars / chars);
        put(std::find(std::begin(TERMINAL), std::end(TERMINAL), (uint32_t)b.last) != std::end(TERMINAL));
        put(b.copyright), put(min(b.links, 5)), put(min(b.indent, 4)), put(chars / max(b.words, 1));
    }
    void tags(int32_t node) {
        for (Tag tag : OWN_TAGS) put(nodes_[node].tag == tag);
        for (Tag tag : AROUND_TAGS) put(tags_around_[node] >> tag & 1);
    }
    void hints(const int32_t* levels) {
        int32_t near = nodes_[levels[0]].hints | nodes_[levels[1]].hints;
        int32_t middle = nodes_[levels[2]].hints | nodes_[levels[3]].hints;
        for (int32_t bits : {near, middle, hints_around_[levels[0]]})
            for (int hint = 0; hint < HINTS; ++hint) put(bits >> hint & 1);
    }
    void place(int64_t index) {
        put((double)index / count_), put(own_[index] / total_), put(distance(index)), put(distance(count_ - 1 - index));
        put(log1p(min(total_, LONG)));
        for (int radius : RADII) {
            int64_t low = max<int64_t>(index - radius, 0), high = min<int64_t>(index + radius + 1, count_);
            put(log1p(min(own_[high] - own_[low], LONG)));
        }
    }
    void neighbours(int64_t index) {
        for (int shift : SHIFTS) {
            int64_t other = index - shift;
            bool there = count_ >= 3 && other >= 0 && other < count_;
            const Block& b = blocks_[there ? other : index];
            put(there ? sizes_[other] : 0), put(there ? b.linked() : 0), put(there && b.stops > 0);
            put(there && nodes_[b.node].tag == P);
        }
    }
    // Where the block stands to the element that collects most paragraphs, and to the densest run of blocks.
    void candidates(int64_t index, const int32_t* levels) {
        const Node& best = nodes_[best_];
        double most = max(scores_[best_], 1.0);
        put(index >= best.first && index < best.last), put(distance(best.first - index)), put(distance(index - best.last + 1));
        put(log1p(min(most, MANY)));
        for (int level = 0; level < 3; ++level) put(scores_[levels[level]] / most);
        put(index >= dense_begin_ && index < dense_end_);
        put(distance(dense_begin_ - index)), put(distance(index - dense_end_ + 1));
    }
    // How much of a text this page is: a manual's chapter keeps its tables, a portal's front page does not.
    void whole_page() {
        double all = max(text_[count_], 1.0);
        put(own_[count_] / all), put(sentences_[count_] / all), put(log1p(own_[count_] / count_));
    }
};

}  // namespace

// A row for each of `count` blocks, as many numbers in each as `FEATURES` in features.py says.
LUBAN_EXPORT void block_features(const Block* blocks, int64_t count, const Node* nodes, int64_t node_count, float* out) {
    Features features(blocks, count, nodes, node_count);
    for (int64_t i = 0; i < count; ++i) out = features.write(i, out);
}
