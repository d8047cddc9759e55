// English words that are not what their letters say: contractions come apart, abbreviations and faces stay whole.
// Which words these are follows spaCy's English rules (MIT, explosion.ai), so that counts of words agree with its.
#pragma once
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace luban {

class Exceptions {
  public:
    static constexpr size_t LONGEST = 16;  // bytes

    struct Entry {
        uint8_t length = 0;
        uint8_t cuts = 0;
        uint8_t cut[2] = {0, 0};
        char text[LONGEST];
    };

    Exceptions() : table_(SLOTS) {
        add_pronouns();
        add_question_words();
        add_verbs();
        add_whole();
    }

    // The exception that this string is, or null.
    const Entry* find(const uint8_t* text, size_t length) const {
        if (!may_be(text, length)) return nullptr;
        for (size_t slot = slot_of((const char*)text, length); table_[slot].length; slot = (slot + 1) % SLOTS)
            if (table_[slot].length == length && !memcmp(table_[slot].text, text, length)) return &table_[slot];
        return nullptr;
    }

    // Quick and without false no: most words leave here.
    bool may_be(const uint8_t* text, size_t length) const {
        return length <= LONGEST && length && gate_[gate_of(text[0], text[length - 1], length)];
    }

  private:
    static constexpr size_t SLOTS = 8192;
    std::vector<Entry> table_;
    uint8_t gate_[16384] = {};

    static size_t gate_of(uint8_t first, uint8_t last, size_t length) { return ((first << 7 | (last & 127)) ^ length * 0x9E5) & 16383; }

    static size_t slot_of(const char* text, size_t length) {
        uint64_t state = length;
        for (size_t i = 0; i < length; i++) state = (state ^ (uint8_t)text[i]) * 0x9E3779B97F4A7C15ull;
        return (state >> 40) % SLOTS;
    }

    // `pattern` has a bar at each cut, as in "do|n't"; a typewriter apostrophe also stands for a typeset one.
    void add(const std::string& pattern, char bar = '|') {
        add_one(pattern, bar);
        std::string typeset;
        for (char letter : pattern) typeset += letter == '\'' ? "\xE2\x80\x99" : std::string(1, letter);
        if (typeset != pattern) add_one(typeset, bar);
    }
    void add_one(const std::string& pattern, char bar) {
        Entry entry;
        for (char letter : pattern) {
            if (letter == bar) entry.cut[entry.cuts++] = entry.length;
            else entry.text[entry.length++] = letter;
        }
        gate_[gate_of(entry.text[0], entry.text[entry.length - 1], entry.length)] = 1;
        size_t slot = slot_of(entry.text, entry.length);
        while (table_[slot].length && !(table_[slot].length == entry.length && !memcmp(table_[slot].text, entry.text, entry.length)))
            slot = (slot + 1) % SLOTS;
        table_[slot] = entry;
    }
    void add_cased(const std::string& stem, const std::string& ending) {
        static const char* words[] = {"i|ll", "it|s", "he|ll", "she|ll", "she|d", "we|re", "we|ll"};  // words of their own
        for (const char* word : words)
            if (stem + "|" + ending == word) return;
        add(stem + "|" + ending);
        std::string title = stem;
        title[0] -= 32;
        add(title + "|" + ending);
    }
    void add_each(std::initializer_list<const char*> stems, std::initializer_list<const char*> endings) {
        for (const char* stem : stems)
            for (std::string ending : endings) {
                add_cased(stem, ending);
                std::string bare;
                for (char letter : ending)
                    if (letter != '\'') bare += letter;
                if (ending.find("n't") != std::string::npos || ending[0] == '\'') add_cased(stem, bare);
            }
    }
    void add_pronouns() {
        add_each({"i"}, {"'m", "'m|a"});
        add_each({"i", "you", "he", "she", "it", "we", "they"}, {"'ll", "'ll|'ve", "'d", "'d|'ve"});
        add_each({"i", "you", "we", "they"}, {"'ve"});
        add_each({"you", "we", "they"}, {"'re"});
        add_each({"he", "she", "it"}, {"'s"});
    }
    void add_question_words() {
        add_each({"who", "what", "when", "where", "why", "how", "there", "that", "this", "these", "those"},
                 {"'ll", "'ll|'ve", "'d", "'d|'ve"});
        add_each({"who", "what", "when", "where", "why", "how", "there", "that", "this"}, {"'s"});
        add_each({"who", "what", "when", "where", "why", "how", "there", "these", "those"}, {"'re", "'ve"});
    }
    void add_verbs() {
        add_each({"ca", "could", "do", "does", "did", "had", "may", "might", "must", "need", "ought", "sha", "should", "wo", "would"},
                 {"n't", "n't|'ve"});
        add_each({"could", "might", "must", "should", "would"}, {"'ve"});
        add_each({"ai", "are", "is", "was", "were", "have", "has", "dare"}, {"n't"});
        for (const char* stem : {"can|not", "gon|na", "got|ta", "let|'s", "c'm|on", "not|'ve", "not|ve"}) {
            add(stem);
            std::string title = stem;
            title[0] -= 32;
            add(title);
        }
        for (const char* word : {"y'|all", "y|all", "how|'d|'y", "How|'d|'y"}) add(word);
        for (int hour = 1; hour <= 12; hour++)
            for (const char* half : {"|a.m.", "|am", "|p.m.", "|pm"}) add(std::to_string(hour) + half);
    }
    void add_whole() {
        static const char* words =
            "' '' \\\") <space> C++ \\t \\n a. b. c. d. e. f. g. h. i. j. k. l. m. n. o. p. q. r. s. t. u. v. w. x. y. z. "
            "\xC3\xA4. \xC3\xB6. \xC3\xBC. 's 'S 're 'd 'll 'em em ll nuff 'nuff 'Cause 'cause 'cos 'Cos 'coz 'Coz 'cuz 'Cuz 'bout "
            "doin' Doin' goin' Goin' nothin' Nothin' nuthin' Nuthin' ol' Ol' somethin' Somethin' lovin' Lovin' havin' Havin' "
            "and/or w/o ma'am Ma'am o'clock O'clock Mt. Ak. Ala. Apr. Ariz. Ark. Aug. Calif. Colo. Conn. Dec. Del. Feb. Fla. Ga. Ia. "
            "Id. Ill. Ind. Jan. Jul. Jun. Kan. Kans. Ky. La. Mar. Mass. Mich. Minn. Miss. N.C. N.D. N.H. N.J. N.M. N.Y. Neb. Nebr. "
            "Nev. Nov. Oct. Okla. Ore. Pa. S.C. Sep. Sept. Tenn. Va. Wash. Wis. a.m. p.m. Adm. Bros. co. Co. Corp. D.C. Dr. e.g. E.g. "
            "E.G. Gen. Gov. i.e. I.e. I.E. Inc. Jr. Ltd. Md. Messrs. Mo. Mont. Mr. Mrs. Ms. Ph.D. Prof. Rep. Rev. Sen. St. vs. v.s. "
            ":) :-) :)) :-)) :))) :-))) (: (-: =) (= :] :-] [: [-: [= =] :o) (o: :} :-} 8) 8-) (-8 ;) ;-) (; (-; :( :-( :(( :-(( "
            ":((( :-((( ): )-: =( >:( :') :'-) :'( :'-( :/ :-/ =/ :| :-| =| ]= =[ :1 :P :-P :p :-p :O :-O :o :-o :0 :-0 :() >:o :* "
            ":-* :3 :-3 =3 :> :-> :X :-X :x :-x :D :-D ;D ;-D =D xD XD xDD XDD 8D 8-D ^_^ ^__^ ^___^ >.< >.> <.< ._. ;_; -_- -__- "
            "v.v V.V v_v V_V o_o o_O O_o O_O 0_o o_0 0_0 o.O O.o O.O o.o 0.0 o.0 0.o @_@ <3 <33 <333 </3 (^_^) (-_-) (._.) (>_<) (*_*) ";
        for (const char* at = words; *at;) {
            const char* end = strchr(at, ' ');
            std::string word(at, end);
            at = end + 1;
            add(word, '\0');
        }
    }
};

}  // namespace luban
