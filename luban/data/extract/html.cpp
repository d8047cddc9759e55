// HTML to blocks of text in one pass: a forgiving reader with a short stack of open elements and no tree.
//
// A block is a run of text between two block-level boundaries; a node is a block-level element, which covers a
// contiguous range of blocks. Everything later (densities, containers, neighbours) is arithmetic over these two
// tables. Time is linear in the bytes whatever they are: the stack has a bound, and a search that found no end
// (of a comment, a script, a quote) is not repeated.
#include <cstring>
#include <string_view>
#include "unicode.hpp"

using luban::next_character;
using std::string_view;

namespace {

// Tags we tell apart; the order of the block-level ones is that of `TAGS` in blocks.py.
enum Tag : int8_t {
    ROOT, DIV, P, H1, H2, H3, H4, H5, H6, LI, UL, OL, DL, DT, DD, TABLE, TR, TD, PRE, QUOTE, FIGURE, CAPTION, ARTICLE,
    MAIN, SECTION, NAV, HEADER, FOOTER, ASIDE, FORM, DETAILS,  // until here: blocks
    INLINE, LINK, BOLD, BREAK, VOID, RULE, SKIPPED, RAW, TITLE, META, IGNORED
};
struct Name { string_view name; Tag tag; };
constexpr Name NAMES[] = {
    {"a", LINK}, {"address", DIV}, {"article", ARTICLE}, {"aside", ASIDE}, {"b", BOLD}, {"base", VOID},
    {"blockquote", QUOTE}, {"body", IGNORED}, {"br", BREAK}, {"button", SKIPPED}, {"canvas", SKIPPED},
    {"caption", CAPTION}, {"center", DIV}, {"col", VOID}, {"dd", DD}, {"details", DETAILS}, {"dialog", DIV},
    {"dir", UL}, {"div", DIV}, {"dl", DL}, {"dt", DT}, {"embed", VOID}, {"fieldset", FORM}, {"figcaption", CAPTION},
    {"figure", FIGURE}, {"footer", FOOTER}, {"form", FORM}, {"frame", VOID}, {"h1", H1}, {"h2", H2}, {"h3", H3},
    {"h4", H4}, {"h5", H5}, {"h6", H6}, {"head", IGNORED}, {"header", HEADER}, {"hr", RULE}, {"html", IGNORED},
    {"iframe", RAW}, {"img", VOID}, {"input", VOID}, {"legend", DIV}, {"li", LI}, {"link", VOID}, {"main", MAIN},
    {"menu", UL}, {"meta", META}, {"nav", NAV}, {"noframes", RAW}, {"noscript", SKIPPED}, {"object", SKIPPED},
    {"ol", OL}, {"optgroup", VOID}, {"option", VOID}, {"p", P}, {"param", VOID}, {"pre", PRE}, {"script", RAW},
    {"section", SECTION}, {"select", SKIPPED}, {"source", VOID}, {"strong", BOLD}, {"style", RAW},
    {"summary", DIV}, {"svg", SKIPPED}, {"table", TABLE}, {"tbody", IGNORED}, {"td", TD}, {"template", SKIPPED},
    {"textarea", RAW}, {"tfoot", IGNORED}, {"th", TD}, {"thead", IGNORED}, {"title", TITLE}, {"tr", TR},
    {"track", VOID}, {"ul", UL}, {"wbr", VOID},
};

// What the words in class, id, role and itemprop say of an element: bit numbers are those of `HINTS` in blocks.py.
enum Hint { CONTENT, COMMENT, RELATED, SHARE, MENU, BYLINE, ADVERT, HIDDEN, CAPTIONED, HEAD, FOOT, SIDE, NOTE, BODY, LIST };
struct Word { string_view word; Hint hint; };
constexpr Word WORDS[] = {
    {"ad", ADVERT}, {"ads", ADVERT}, {"adslot", ADVERT}, {"advert", ADVERT}, {"alert", NOTE},
    {"article", CONTENT}, {"articlebody", BODY}, {"aside", SIDE}, {"attachment", CAPTIONED}, {"author", BYLINE},
    {"avatar", BYLINE}, {"banner", ADVERT}, {"bio", BYLINE}, {"blog", CONTENT}, {"body", BODY},
    {"bookmark", SHARE}, {"bottom", FOOT}, {"breadcrumb", MENU}, {"button", SHARE}, {"byline", BYLINE},
    {"caption", CAPTIONED}, {"card", LIST}, {"carousel", RELATED}, {"category", MENU}, {"comment", COMMENT},
    {"community", COMMENT}, {"content", BODY}, {"contentinfo", FOOT}, {"cookie", NOTE}, {"copyright", FOOT},
    {"credit", CAPTIONED}, {"date", BYLINE}, {"dateline", BYLINE}, {"dialog", NOTE}, {"disclaimer", FOOT},
    {"discussion", COMMENT}, {"disqus", COMMENT}, {"dropdown", MENU}, {"entry", CONTENT}, {"excerpt", LIST},
    {"facebook", SHARE}, {"feed", LIST}, {"figure", CAPTIONED}, {"follow", SHARE}, {"footer", FOOT},
    {"footnote", NOTE}, {"form", NOTE}, {"gallery", CAPTIONED}, {"gdpr", NOTE}, {"grid", LIST},
    {"hatom", CONTENT}, {"head", HEAD}, {"header", HEAD}, {"hidden", HIDDEN}, {"hide", HIDDEN},
    {"image", CAPTIONED}, {"info", BYLINE}, {"item", LIST}, {"login", NOTE}, {"logo", HEAD}, {"main", BODY},
    {"masthead", HEAD}, {"media", CAPTIONED}, {"menu", MENU}, {"meta", BYLINE}, {"mobile", HIDDEN},
    {"modal", NOTE}, {"more", RELATED}, {"nav", MENU}, {"navbar", MENU}, {"navigation", MENU},
    {"newsletter", NOTE}, {"outbrain", RELATED}, {"page", BODY}, {"pager", MENU}, {"pagination", MENU},
    {"photo", CAPTIONED}, {"popular", RELATED}, {"popup", NOTE}, {"post", CONTENT}, {"prev", MENU},
    {"print", HIDDEN}, {"profile", BYLINE}, {"promo", ADVERT}, {"rating", NOTE}, {"recent", RELATED},
    {"recommend", RELATED}, {"related", RELATED}, {"replies", COMMENT}, {"reply", COMMENT},
    {"respond", COMMENT}, {"review", COMMENT}, {"rss", SHARE}, {"search", MENU}, {"share", SHARE},
    {"sharing", SHARE}, {"sidebar", SIDE}, {"signup", NOTE}, {"skip", MENU}, {"social", SHARE},
    {"sponsor", ADVERT}, {"story", CONTENT}, {"storybody", BODY}, {"subscribe", NOTE}, {"subscription", NOTE},
    {"tab", MENU}, {"taboola", RELATED}, {"tag", MENU}, {"tags", MENU}, {"teaser", LIST}, {"text", BODY},
    {"thumb", CAPTIONED}, {"time", BYLINE}, {"toc", MENU}, {"tool", SHARE}, {"toolbar", SHARE}, {"top", HEAD},
    {"trending", RELATED}, {"twitter", SHARE}, {"video", CAPTIONED}, {"widget", SIDE},
};

constexpr uint8_t fold(uint8_t byte) { return unsigned(byte - 'A') < 26 ? byte + 32 : byte; }
constexpr bool is_alpha(uint8_t byte) { return unsigned(fold(byte) - 'a') < 26; }
constexpr bool is_space(uint8_t byte) { return byte == ' ' || (byte >= '\t' && byte <= '\r'); }

// The last row of a sorted table whose text is `word`; null if there is none.
template <class Row, size_t N, class Key>
const Row* find(const Row (&rows)[N], string_view word, Key key) {
    size_t low = 0, high = N;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (key(rows[middle]) < word) low = middle + 1; else high = middle;
    }
    return low < N && key(rows[low]) == word ? &rows[low] : nullptr;
}
constexpr size_t LONGEST_NAME = 24, DEEPEST = 500;
enum Column { START, END, CHARS, WORD_COUNT, LINK_CHARS, LINKS, COMMAS, STOPS, DIGITS, UPPERS, BOLD_CHARS, NODE, INDENT, ROW,
              LAST, COPYRIGHT, HASH, BLOCK_COLUMNS };
enum NodeColumn { PARENT, KIND, BITS, FIRST_BLOCK, LAST_BLOCK, NODE_COLUMNS };

struct Attributes { int32_t hints = 0; bool titled = false, closed = false; string_view content; };

class Reader {
  public:
    Reader(const uint8_t* html, int64_t bytes, uint8_t* text, int32_t* blocks, int32_t* nodes)
        : at_(html), end_(html + bytes), text_(text), blocks_(blocks), nodes_(nodes) { push(ROOT, 0); }

    void read() {
        while (at_ < end_) {
            const uint8_t* next = (const uint8_t*)memchr(at_, '<', end_ - at_);
            if (!next) next = end_;
            if (next > at_ && !skipping_) write(at_, next);
            at_ = next;
            if (at_ < end_) markup();
        }
        finish();
        while (depth_) pop();
    }
    int64_t block_count = 0, node_count = 0, text_bytes = 0, title_bytes = 0;
    const uint8_t* title = nullptr;

  private:
    struct Open { Tag tag; int32_t node; bool alive; uint64_t name; };
    const uint8_t *at_, *end_;
    uint8_t* text_;
    int32_t *blocks_, *nodes_;
    Open stack_[DEEPEST];
    size_t depth_ = 0, overflow_ = 0;
    int links_ = 0, bold_ = 0, pre_ = 0, skipping_ = 0, breaks_ = 0;
    int32_t lists_ = 0, block_[BLOCK_COLUMNS] = {};
    bool gap_ = false, no_comment_end_ = false, no_quote_[2] = {}, og_title_ = false;

    // --- markup
    void markup() {
        size_t left = end_ - at_;
        if (left > 1 && is_alpha(at_[1])) return start_tag();
        if (left > 2 && at_[1] == '/' && is_alpha(at_[2])) return end_tag();
        if (left > 3 && !memcmp(at_, "<!--", 4)) return comment();
        if (left > 2 && (at_[1] == '!' || at_[1] == '?' || at_[1] == '/')) return pass(past('>'));
        if (!skipping_) write(at_, at_ + 1);
        ++at_;
    }
    void pass(const uint8_t* to) { at_ = to; }
    const uint8_t* past(char sign) const {
        auto found = (const uint8_t*)memchr(at_, sign, end_ - at_);
        return found ? found + 1 : end_;
    }
    void comment() {
        auto found = no_comment_end_ ? nullptr : (const uint8_t*)memmem(at_ + 4, end_ - at_ - 4, "-->", 3);
        if (found) return pass(found + 3);
        no_comment_end_ = true;
        pass(past('>'));
    }
    string_view name(char* folded) {
        size_t size = 0;
        while (at_ < end_ && !is_space(*at_) && *at_ != '>' && *at_ != '/') {
            if (size < LONGEST_NAME) folded[size++] = (char)fold(*at_);
            ++at_;
        }
        return {folded, size};
    }
    static Tag tag_of(string_view name) {
        auto row = find(NAMES, name, [](const Name& r) { return r.name; });
        return row ? row->tag : name.find('-') != name.npos ? DIV : INLINE;
    }
    static uint64_t key_of(string_view name) {
        uint64_t key = 0;
        for (char letter : name) key = key * 131 + (uint8_t)letter;
        return key;
    }
    void end_tag() {
        at_ += 2;
        char folded[LONGEST_NAME];
        string_view word = name(folded);
        pass(past('>'));
        Tag tag = tag_of(word);
        if (tag == BREAK) return line_break();
        if (tag < BREAK || tag == SKIPPED) close(tag, key_of(word));
    }
    void start_tag() {
        ++at_;
        char folded[LONGEST_NAME];
        string_view word = name(folded);
        Tag tag = tag_of(word);
        Attributes found = attributes(tag);
        if (tag == RAW || tag == TITLE) return raw(word, tag);
        if (tag == META && found.titled) return set_title(found.content, true);
        if (skipping_ && found.closed) return;  // `<path/>` in a drawing
        if (tag == BREAK) return line_break();
        if (tag == RULE) return finish();
        if (tag == VOID || tag == META || tag == IGNORED) { if (tag == IGNORED) finish(); return; }
        imply_ends(tag);
        open(tag, key_of(word), found.hints);
    }
    void set_title(string_view found, bool better) {
        if (!found.size() || (title && (!better || og_title_))) return;
        title = (const uint8_t*)found.data();
        title_bytes = (int64_t)found.size();
        og_title_ = better;
    }
    // Everything until `</word`: not markup.
    void raw(string_view word, Tag tag) {
        const uint8_t* begin = at_;
        const uint8_t* from = at_;
        while (true) {
            from = (const uint8_t*)memmem(from, end_ - from, "</", 2);
            if (!from) break;
            from += 2;
            size_t same = 0;
            while (same < word.size() && from + same < end_ && (char)fold(from[same]) == word[same]) ++same;
            if (same < word.size()) continue;
            if (tag == TITLE && !skipping_) set_title({(const char*)begin, (size_t)(from - 2 - begin)}, false);
            at_ = from + same;
            return pass(past('>'));
        }
        at_ = end_;
    }

    // --- attributes
    Attributes attributes(Tag tag) {
        Attributes found;
        while (at_ < end_ && *at_ != '>') {
            found.closed = *at_ == '/';
            if (found.closed || is_space(*at_)) { ++at_; continue; }
            char folded[LONGEST_NAME];
            size_t size = 0;
            while (at_ < end_ && !is_space(*at_) && *at_ != '>' && *at_ != '=' && (*at_ != '/' || !size)) {
                if (size < LONGEST_NAME) folded[size++] = (char)fold(*at_);
                ++at_;
            }
            string_view key(folded, size);
            while (at_ < end_ && is_space(*at_)) ++at_;
            string_view value;
            if (at_ < end_ && *at_ == '=') { ++at_; value = attribute_value(); }
            else if (!size && at_ < end_ && *at_ != '>') ++at_;
            use(tag, key, value, found);
        }
        if (at_ < end_) ++at_;
        return found;
    }
    string_view attribute_value() {
        while (at_ < end_ && is_space(*at_)) ++at_;
        if (at_ >= end_) return {};
        bool single = *at_ == '\'';
        if ((single || *at_ == '"') && !no_quote_[single]) {
            auto close = (const uint8_t*)memchr(at_ + 1, *at_, end_ - at_ - 1);
            if (close) {
                string_view value((const char*)at_ + 1, close - at_ - 1);
                at_ = close + 1;
                return value;
            }
            no_quote_[single] = true;
        }
        const uint8_t* begin = at_;
        while (at_ < end_ && !is_space(*at_) && *at_ != '>') ++at_;
        return {(const char*)begin, (size_t)(at_ - begin)};
    }
    static void use(Tag tag, string_view key, string_view value, Attributes& found) {
        if (tag == META) {
            if (key == "property" || key == "name") found.titled |= value == "og:title";
            if (key == "content") found.content = value;
            return;
        }
        if (tag >= INLINE) return;
        if (key == "class" || key == "id" || key == "role" || key == "itemprop") found.hints |= hints_of(value);
        if (key == "hidden" || (key == "aria-hidden" && value == "true")) found.hints |= 1 << HIDDEN;
        if (key == "style" && value.substr(0, 200).find("none") != value.npos) found.hints |= 1 << HIDDEN;
    }
    // Words of a class name stand between signs and at humps: `post-content`, `postContent`.
    static int32_t hints_of(string_view value) {
        int32_t hints = 0;
        char word[16];
        size_t size = 0;
        bool lower = false;
        auto look = [&] {
            if (size >= 2 && size < sizeof word) hints |= hint_of({word, size});
            size = 0;
        };
        for (char letter : value.substr(0, 400)) {
            if (!is_alpha(letter) || (lower && letter < 'a')) look();
            lower = is_alpha(letter) && letter >= 'a';
            if (is_alpha(letter) && size < sizeof word) word[size++] = (char)fold(letter);
        }
        look();
        return hints;
    }
    static int32_t hint_of(string_view word) {
        auto key = [](const Word& row) { return row.word; };
        if (auto row = find(WORDS, word, key)) return 1 << row->hint;
        if (word.back() == 's') if (auto row = find(WORDS, word.substr(0, word.size() - 1), key)) return 1 << row->hint;
        return 0;
    }

    // --- elements
    void open(Tag tag, uint64_t key, int32_t hints) {
        if (tag < INLINE) finish();
        if (depth_ == DEEPEST) { ++overflow_; return; }
        push(tag, hints);
        stack_[depth_ - 1].name = key;
        if (tag == LINK) { ++links_; ++block_[LINKS]; }
        if (tag == BOLD) ++bold_;
        if (tag == PRE) ++pre_;
        if (tag == UL || tag == OL) ++lists_;
        if (tag == SKIPPED) ++skipping_;
    }
    void push(Tag tag, int32_t hints) {
        int32_t node = depth_ ? stack_[depth_ - 1].node : -1;
        if (tag < INLINE) {
            int32_t* row = nodes_ + node_count * NODE_COLUMNS;
            row[PARENT] = node;
            row[KIND] = tag;
            row[BITS] = hints;
            row[FIRST_BLOCK] = row[LAST_BLOCK] = (int32_t)block_count;
            node = (int32_t)node_count++;
        }
        stack_[depth_++] = {tag, node, true, 0};
    }
    void leave(Tag tag) {
        if (tag == LINK) --links_;
        if (tag == BOLD) --bold_;
        if (tag == PRE) --pre_;
        if (tag == UL || tag == OL) --lists_;
        if (tag == SKIPPED) --skipping_;
    }
    void pop() {
        Open& top = stack_[--depth_];
        if (top.alive) leave(top.tag);
        if (top.tag < INLINE) nodes_[top.node * NODE_COLUMNS + LAST_BLOCK] = (int32_t)block_count;
    }
    // A cell or a table shuts in what is opened inside it.
    static bool walls(Tag tag, Tag closing) {
        return tag == TABLE || (tag == TD && closing != TR && closing != TABLE);
    }
    void close(Tag tag, uint64_t key) {
        if (overflow_) { --overflow_; return; }
        for (size_t level = depth_; level-- > 1;) {
            Open& entry = stack_[level];
            if (entry.tag == tag && entry.name == key && entry.alive) {
                if (tag < INLINE || tag == SKIPPED) return pop_to(level);
                if (level == depth_ - 1) return pop();
                entry.alive = false;  // `<b><p></b>`: the paragraph stays open
                return leave(tag);
            }
            if (walls(entry.tag, tag)) break;
        }
        if (tag < INLINE) finish();
    }
    void pop_to(size_t level) {
        finish();
        while (depth_ > level) pop();
    }
    // Closes the nearest open element of the kinds that `tag` cannot stand in, unless `wall` comes first.
    void imply_ends(Tag tag) {
        if (tag >= INLINE || overflow_) return;
        for (size_t level = depth_; level-- > 1;) {
            Tag open = stack_[level].tag;
            bool same = tag == LI ? open == LI : tag == DT || tag == DD ? open == DT || open == DD : false;
            same = same || (tag == TD && open == TD) || (tag == TR && open == TR) || open == P;
            if (same) pop_to(level);
            else if (open == TABLE || (open == TD && tag != TR) || ((open == UL || open == OL) && tag == LI) || (open == DL && tag != DL)) return;
            else if (open < INLINE && tag != LI && tag != DT && tag != DD && tag != TD && tag != TR) return;
        }
    }

    // --- text
    void line_break() {
        if (skipping_) return;
        if (pre_) return put('\n');
        if (++breaks_ > 1) return finish();
        gap_ = block_[CHARS] > 0;
    }
    void put(uint8_t byte) {
        if (!block_[CHARS]) block_[START] = (int32_t)text_bytes;
        text_[text_bytes++] = byte;
        ++block_[CHARS];
    }
    void write(const uint8_t* from, const uint8_t* to) {
        if (pre_) return write_raw(from, to);
        while (from < to) {
            if (is_space(*from)) { gap_ = block_[CHARS] > 0; ++from; continue; }
            if (gap_) { put(breaks_ ? '\n' : ' '); gap_ = false; }
            breaks_ = 0;
            const uint8_t* word = from;
            while (from < to && !is_space(*from)) ++from;
            count(word, from);
        }
    }
    void write_raw(const uint8_t* from, const uint8_t* to) {
        breaks_ = 0;
        gap_ = false;
        while (from < to) {
            const uint8_t* word = from;
            if (is_space(*from)) { put(*from++); continue; }
            while (from < to && !is_space(*from)) ++from;
            count(word, from);
        }
    }
    void count(const uint8_t* from, const uint8_t* to) {
        if (!block_[CHARS]) block_[START] = (int32_t)text_bytes;
        memcpy(text_ + text_bytes, from, to - from);
        text_bytes += to - from;
        int32_t chars = 0;
        ++block_[WORD_COUNT];
        for (; from < to; ++chars) {
            uint32_t code = next_character(from);
            block_[HASH] = (int32_t)((uint32_t)block_[HASH] * 31u + code);
            if (code < 128) {
                block_[DIGITS] += code - '0' < 10u;
                block_[UPPERS] += code - 'A' < 26u;
                block_[COMMAS] += code == ',' || code == ';';
                block_[STOPS] += code == '.' || code == '!' || code == '?';
            } else {
                uint8_t kind = luban::class_of(code);
                block_[UPPERS] += (kind & luban::UPPER) != 0;
                block_[COMMAS] += code == 0xFF0C || code == 0x3001 || code == 0x60C;
                block_[STOPS] += code == 0x3002 || code == 0xFF01 || code == 0xFF1F;
                if (kind & luban::IDEOGRAPH) block_[WORD_COUNT] += chars & 1;  // about two to a word
                block_[COPYRIGHT] |= code == 0xA9;
            }
            block_[LAST] = (int32_t)code;
        }
        block_[CHARS] += chars;
        if (links_) block_[LINK_CHARS] += chars;
        if (bold_) block_[BOLD_CHARS] += chars;
    }
    void finish() {
        if (block_[WORD_COUNT]) {
            int32_t node = stack_[depth_ - 1].node;
            block_[END] = (int32_t)text_bytes;
            block_[NODE] = node;
            block_[INDENT] = lists_;
            block_[ROW] = -1;
            if (nodes_[node * NODE_COLUMNS + KIND] == TD) block_[ROW] = nodes_[node * NODE_COLUMNS + PARENT];
            memcpy(blocks_ + block_count++ * BLOCK_COLUMNS, block_, sizeof block_);
        }
        memset(block_, 0, sizeof block_);
        gap_ = false;
        breaks_ = 0;
    }
};

}  // namespace

// The blocks and nodes of one page. `text` has room for `bytes`, both tables for `bytes / 3 + 2` rows.
// out: blocks, nodes, bytes of text, where the title starts in `html` (or -1), its bytes.
LUBAN_EXPORT void read_html(const uint8_t* html, int64_t bytes, uint8_t* text, int32_t* blocks, int32_t* nodes, int64_t* out) {
    Reader reader(html, bytes, text, blocks, nodes);
    reader.read();
    out[0] = reader.block_count;
    out[1] = reader.node_count;
    out[2] = reader.text_bytes;
    out[3] = reader.title ? reader.title - html : -1;
    out[4] = reader.title_bytes;
}
