"""LaTeX sources: a paper's files become one text, its commands kept, its own abbreviations written out."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator

from luban.data.document import Document, RecordError
from luban.data.sources.archives import is_archive, members
from luban.data.sources.charset import to_text
from luban.data.sources.opening import bounded, open_bytes, too_large
from luban.data.sources.reading import Options, Reject, Slice, known

MAIN = re.compile(r"\\document(?:class|style)\b")
INPUT = re.compile(r"\\(?:input|include|subfile)(?:\s*\{\s*([^{}]+?)\s*\}|[ \t]+([\w./-]+))")
COMMENT_LINE = re.compile(r"^[ \t]*%.*\n?", re.MULTILINE)
COMMENT = re.compile(r"((?<!\\)(?:\\\\)*)%.*")
COMMENT_BLOCK = re.compile(r"\\begin\{comment\}.*?\\end\{comment\}", re.DOTALL)
DEFINITION = re.compile(
    r"\\(?:newcommand|renewcommand|providecommand)\*?\s*\{?\s*\\([A-Za-z@]+)\s*\}?\s*(?=\{)"
    r"|\\def\s*\\([A-Za-z@]+)\s*(?=\{)"
)
BODY = re.compile(r"\\begin\s*\{document\}(.*?)(?:\\end\s*\{document\}|\Z)", re.DOTALL)
END = re.compile(r"\\(?:begin\s*\{thebibliography\}|bibliography\s*\{|printbibliography\b|appendix\b)")
TITLE = re.compile(r"\\title\s*(?:\[[^\]]*\])?\s*(?=\{)")
ARXIV = re.compile(r"(?<!\d)(\d{4}\.\d{4,5})(?:v\d+)?(?!\d)")
BLANK = re.compile(r"\n{3,}")
DEEPEST = 10
"""Files within files, and abbreviations within abbreviations."""


def read_latex(part: Slice, options: Options, reject: Reject) -> Iterator[Document]:
    """A paper (`.tex`, or its archive) as one document.

    The main file is found, `\\input` files are put in their places, comments, preamble and everything from the
    bibliography or appendix on are removed, macros without arguments are written out. Other commands stay: they
    are how the field writes. Raises RecordError: `not_a_main_file` (a `.tex` in a folder that others include),
    `no_text`, `too_large`.

    Source: RedPajama's and SlimPajama's cleaning of arXiv, which also drop what precedes the first section; we
    keep the abstract.
    """
    if is_archive(part.path):
        files = _unpacked(part, options, reject)
        paper = _joined(_main_file(files, part), files.get, options, part)
    else:
        paper = _beside(part, options)
    text, title = clean_latex(paper, options.max_record_bytes, part.path)
    if not text:
        raise RecordError("no text between preamble and bibliography", reason="no_text", where=part.path)
    number = ARXIV.search(part.path.name)
    meta = known(title=title, url=f"https://arxiv.org/abs/{number[1]}" if number else None)
    yield Document(id=f"{part.name}:1", text=text, source=part.name, meta=meta)


def clean_latex(paper: str, limit: int, where: object) -> tuple[str, str]:
    """The body of a whole paper, cleaned, and its title; raises RecordError if macros unfold beyond `limit`."""
    paper = without_comments(paper)
    macros, paper = _definitions(paper)
    titled = TITLE.search(paper)
    title = (titled and _group(paper, titled.end())) or ""
    body = BODY.search(paper)
    text = body[1] if body else paper
    cut = END.search(text)
    text = _expanded(text[: cut.start()] if cut else text, macros, limit, where)
    return BLANK.sub("\n\n", text).strip(), " ".join(_expanded(title, macros, limit, where).split())


def without_comments(text: str) -> str:
    """The text without comments; a line of nothing else goes whole, `\\%` is a percent sign."""
    text = COMMENT_BLOCK.sub("", text.replace("\r\n", "\n"))
    return COMMENT.sub(r"\1", COMMENT_LINE.sub("", text))


def _definitions(text: str) -> tuple[dict[str, str], str]:
    """The macros without arguments, the last definition of each, and the text without the definitions."""
    macros: dict[str, str] = {}
    kept, place = [], 0
    for found in DEFINITION.finditer(text):
        if found.start() < place:  # a definition within a definition
            continue
        content = _group(text, found.end())
        if content is None or "#1" in content:
            continue
        macros[found[1] or found[2]] = content
        kept.append(text[place : found.start()])
        place = found.end() + len(content) + 2
    return macros, "".join(kept) + text[place:]


def _group(text: str, start: int) -> str | None:
    """What stands between the brace at `start` and its partner; None if it has none."""
    depth = 0
    for found in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start):
        depth += {"{": 1, "}": -1}.get(found[0], 0)
        if depth == 0:
            return text[start + 1 : found.start()]
    return None


def _expanded(text: str, macros: dict[str, str], limit: int, where: object) -> str:
    if not macros:
        return text
    names = "|".join(sorted(map(re.escape, macros), key=len, reverse=True))
    call = re.compile(rf"\\({names})(?![A-Za-z@])(?:\{{\}})?")
    for _ in range(DEEPEST):
        length = len(text) + sum(len(macros[name]) for name in call.findall(text))
        if length > limit:
            raise RecordError(f"macros unfold to {length:,} characters", reason="bomb", where=where)
        unfolded = call.sub(lambda found: macros[found[1]], text)
        if unfolded == text:
            break
        text = unfolded
    return text


def _joined(
    main: str, find: Callable[[str], str | None], options: Options, part: Slice, depth: int = 0
) -> str:
    """The text with the files it names in their places; one that is not there leaves its command."""

    def insert(found: re.Match[str]) -> str:
        name = posixpath.normpath(found[1] or found[2])
        text = find(name) or find(f"{name}.tex")
        return found[0] if text is None else _joined(text, find, options, part, depth + 1)

    main = without_comments(main)
    if depth == DEEPEST:
        return main
    whole = INPUT.sub(insert, main)
    if len(whole) > options.max_record_bytes:
        raise too_large("the paper", options, part.path)
    return whole


def _unpacked(part: Slice, options: Options, reject: Reject) -> dict[str, str]:
    """The TeX files of an archive; pictures and styles are no part of the text."""
    files: dict[str, str] = {}
    size = 0
    for member in members(part.path, options, reject):
        if not member.name.lower().endswith((".tex", ".ltx", ".latex")):
            continue
        try:
            text, _ = to_text(member.read(), f"{part.path}:{member.name}")
        except RecordError as error:
            reject(error, member.name)
            continue
        files[posixpath.normpath(member.name)] = text
        size += len(text)
        if size > options.max_record_bytes:
            raise too_large("the paper", options, part.path)
    return files


def _main_file(files: dict[str, str], part: Slice) -> str:
    """The file with a document class that no other includes; of several, the longest."""
    included = {
        posixpath.normpath(a or b).removesuffix(".tex")
        for text in files.values()
        for a, b in INPUT.findall(text)
    }
    mains = [
        text
        for name, text in files.items()
        if MAIN.search(without_comments(text)) and name.removesuffix(".tex") not in included
    ]
    if not mains and len(files) != 1:
        raise RecordError(
            f"no main file among {len(files)} TeX files", reason="no_main_file", where=part.path
        )
    return max(mains or files.values(), key=len)


def _beside(part: Slice, options: Options) -> str:
    """The paper of a `.tex` file, with what it includes from its folder and those below."""
    folder = part.path.parent.resolve()

    def find(name: str) -> str | None:
        file = (folder / name).resolve()
        if not file.is_relative_to(folder) or not file.is_file():
            return None
        with open_bytes(file, max_ratio=options.max_ratio) as opened:
            return to_text(bounded(opened, options, file), file)[0]

    text = find(part.path.name) or ""
    if part.root is not None and not MAIN.search(without_comments(text)):
        raise RecordError("no document class: a part of a paper", reason="not_a_main_file", where=part.path)
    return _joined(text, find, options, part)
