"""What each kind of personal data looks like, and the check that a look-alike fails.

Patterns work on UTF-8 bytes: `\\d`, `\\w` and `\\b` are ASCII, so Chinese text needs no space around a number. Each
is tried only near candidates; where a pattern has a group `value`, that is what goes.
"""

from __future__ import annotations

from luban.data.steps.pii import checks
from luban.data.steps.pii.candidates import AT, COLONS, IBAN, NUMBER, PEM, TOKEN
from luban.data.steps.pii.phones import PHONES
from luban.data.steps.pii.rule import CLOSE, CONTEXT, OPEN, Rule

CREDENTIALS = Rule(
    "credentials",
    AT,
    r"\b [A-Za-z][A-Za-z0-9+.-]{1,15} :// (?P<value> [^\s/@:]{1,128} : [^\s/@]{1,128} ) @",
    before=288,
    after=1,
)
EMAIL = Rule(
    "email",
    AT,
    r"""[A-Za-z0-9] [\w.%+'-]{0,63} @
    (?: [A-Za-z0-9] (?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])? \. ){1,8} [A-Za-z]{2,24} (?![\w@])""",
    before=64,
    after=256,
)
KEYS = (
    Rule(
        "key",
        PEM,
        r"""-----BEGIN\ (?:[A-Z0-9]+\ ){0,3}PRIVATE\ KEY(?:\ BLOCK)?-----
        (?: [^-] | -(?!----) ){16,8192} -----END\ [A-Z0-9\ ]{0,40}-----""",
        before=0,
        after=16384,
    ),
    # AWS; GitHub and GitLab; JSON web tokens.
    Rule("key", TOKEN, r"(?<![A-Za-z0-9]) (?:AKIA|ASIA) [A-Z2-7]{16} (?![A-Za-z0-9])"),
    Rule(
        "key",
        TOKEN,
        r"(?<![A-Za-z0-9]) (?: gh[pousr]_[A-Za-z0-9]{36,255} | github_pat_\w{22,255} | glpat-[\w-]{20,64} )",
    ),
    Rule("key", TOKEN, r"(?<![\w-]) eyJ[\w-]{8,4096} \. eyJ[\w-]{8,8192} \. [\w-]{16,2048}"),
    # Slack, Google, Stripe, OpenAI, Hugging Face, npm.
    Rule(
        "key",
        TOKEN,
        r"""(?<![A-Za-z0-9]) (?: xox[abeoprs]-[A-Za-z0-9-]{10,250} | AIza[\w-]{35} | [sr]k_live_[A-Za-z0-9]{20,99}
        | sk-[\w-]{20,200} | hf_[A-Za-z0-9]{30,40} | npm_[A-Za-z0-9]{36} )""",
        checks.is_random,
    ),
    # Any random value that is called a secret.
    Rule(
        "key",
        TOKEN,
        r"""(?i: (?:api|access|secret|private)[_-]?key | client[_-]?secret | (?:auth|access)[_-]?token
        | secret | token | passw(?:or)?d | bearer )
        ["']? \s{0,3} (?: => | := | = | : | \s ) \s{0,3} ["']? (?P<value> [A-Za-z0-9_+/=.-]{16,512} )""",
        checks.is_random,
        before=CONTEXT,
    ),
)
ACCOUNT = Rule(
    "iban",
    IBAN,
    r"""(?<![A-Za-z0-9]) [A-Z]{2}\d{2} (?: [A-Z0-9]{11,30} | (?:\ [A-Z0-9]{4}){2,7} (?:\ [A-Z0-9]{1,4})? )
    (?![A-Za-z0-9])""",
    checks.is_iban,
    before=0,
    after=48,
)
BYTE = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
FOUR_BYTES = rf"(?:{BYTE}\.){{3}} {BYTE}"
ADDRESSES = (
    Rule(
        "ip",
        NUMBER,
        rf"(?<![\w.-]) (?<!ersion\ ) (?<!elease\ ) {FOUR_BYTES} (?! [\w-] | \.\d )",
        checks.is_address_not_version,
        before=1,
    ),
    Rule(
        "ip",
        NUMBER,
        rf"""(?i: \b ip (?:v4)? | address | host | server | dns | ping | :// | @ ) [\s:="'\[(]{{0,3}} (?:is\ )?
        (?P<value>{FOUR_BYTES}) (?! [\w-] | \.\d )""",
        checks.is_public_ip,
        before=24,
    ),
    Rule("ip", COLONS, r"[0-9A-Fa-f:.]* [0-9A-Fa-f:]", checks.is_public_ip, before=0, after=0),
)
CARD = Rule("card", NUMBER, rf"{OPEN} \d (?:[ -]?\d){{11,18}} (?! \w | [.-]\d )", checks.is_card, before=1)
ID_CARDS = (
    Rule(
        "id_card",
        NUMBER,
        r"(?<![A-Za-z0-9.-]) [1-8]\d{16}[\dXx] (?![A-Za-z0-9])",
        checks.is_chinese_id,
        before=1,
    ),
    Rule(
        "id_card",
        NUMBER,
        rf"""{OPEN} [12]\ ?\d\d\ ?(?:0[1-9]|1[0-2])\ ?(?:\d\d|2[AB])\ ?\d{{3}}\ ?\d{{3}}\ ?\d\d {CLOSE}""",
        checks.is_french_id,
        before=1,
    ),
    Rule(
        "id_card",
        NUMBER,
        r"(?<![\w.-]) (?: [XYZ]-?\d{7} | \d{8} ) -? [TRWAGMYFPDXBNJZSQVHLCKE] (?!\w)",
        checks.is_spanish_id,
    ),
    Rule(
        "id_card",
        TOKEN,
        r"(?<![A-Za-z0-9]) [A-Z]{6}\d\d[ABCDEHLMPRST]\d\d[A-Z]\d{3}[A-Z] (?![A-Za-z0-9])",
        checks.is_italian_id,
    ),
)
SSN = (
    Rule("ssn", NUMBER, rf"{OPEN} \d{{3}}-\d\d-\d{{4}} {CLOSE}", checks.is_ssn, before=1),
    Rule(
        "ssn",
        NUMBER,
        r"""\b (?i: ssn | social\ security (?:\ (?:number|no\.?))? ) [ \t]{0,2} (?: is | [:\#=] )? [ \t]{0,2}
        (?P<value> \d{3}[ -]?\d\d[ -]?\d{4} ) (?!\d)""",
        checks.is_ssn,
        before=CONTEXT,
    ),
)

RULES: tuple[Rule, ...] = (CREDENTIALS, *KEYS, EMAIL, ACCOUNT, *ADDRESSES, *ID_CARDS, CARD, *SSN, *PHONES)
