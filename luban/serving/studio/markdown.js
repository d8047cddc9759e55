// The little of Markdown that answers are full of: fenced code, headings, lists, `code`, **bold** and *italic*.
// Makes nodes, never markup: whatever else a model writes stays the text that it is. `leaf(from, to)` gives the nodes
// for that stretch of the source, so that a caller knows which letters of it are where.

const FENCE = /^(\s*)(```+|~~~+)\s*([\w+#.-]*)\s*$/;
const HEADING = /^(#{1,6})\s+/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+/;
const CODE = /(`+)(?!`)(.+?)(?<!`)\1(?!`)/;
const STRONG = /(\*\*|__)(?=\S)(.+?)(?<=\S)\3/;
const SLANTED = /(?<![\w*])([*_])(?=[^\s*_])(.+?)(?<=[^\s*_])\5(?![\w*])/;
const INLINE = new RegExp(`${CODE.source}|${STRONG.source}|${SLANTED.source}`, "s");

export function render(source, leaf = (from, to) => [source.slice(from, to)]) {
  const shown = document.createDocumentFragment();
  const lines = linesOf(source);
  for (let at = 0; at < lines.length; ) {
    const { text } = lines[at];
    if (!text.trim()) at += 1;
    else if (FENCE.test(text)) at = fence(lines, at, leaf, shown);
    else if (HEADING.test(text)) at = heading(source, lines, at, leaf, shown);
    else if (ITEM.test(text)) at = list(source, lines, at, leaf, shown);
    else at = paragraph(source, lines, at, leaf, shown);
  }
  return shown;
}

function linesOf(source) {
  let from = 0;
  return source.split("\n").map((text) => {
    const line = { text, from, to: from + text.length };
    from = line.to + 1;
    return line;
  });
}

// An open fence goes on to the end: it is still being written.
function fence(lines, at, leaf, parent) {
  const [, , marks, language] = FENCE.exec(lines[at].text);
  let end = at + 1;
  while (end < lines.length && lines[end].text.trim() !== marks) end += 1;
  const code = element("code", end > at + 1 ? leaf(lines[at + 1].from, lines[end - 1].to) : []);
  const block = element("pre", [code]);
  if (language) block.dataset.language = language;
  parent.append(block);
  return end + 1;
}

function heading(source, lines, at, leaf, parent) {
  const [marks, { length }] = HEADING.exec(lines[at].text);
  const level = Math.min(6, length + 2); // below the page's own headings
  parent.append(element(`h${level}`, inline(source, lines[at].from + marks.length, lines[at].to, leaf)));
  return at + 1;
}

// One list with the deeper ones inside it; lines without a mark go on with the item above.
function list(source, lines, at, leaf, parent) {
  const [, indent, mark] = ITEM.exec(lines[at].text);
  const isNumbered = /\d/.test(mark);
  const shown = element(isNumbered ? "ol" : "ul", []);
  if (isNumbered) shown.start = Number.parseInt(mark, 10);
  parent.append(shown);
  while (at < lines.length) {
    const item = ITEM.exec(lines[at].text);
    if (!item || item[1].length < indent.length) break;
    if (item[1].length > indent.length + 1) {
      at = list(source, lines, at, leaf, shown.lastElementChild);
      continue;
    }
    if (/\d/.test(item[2]) !== isNumbered) break;
    let end = at + 1;
    while (end < lines.length && lines[end].text.trim() && !isBlock(lines[end].text)) end += 1;
    shown.append(element("li", inline(source, lines[at].from + item[0].length, lines[end - 1].to, leaf)));
    at = nextItem(lines, end);
  }
  return at;
}

// Blank lines between two items do not part them.
function nextItem(lines, at) {
  let next = at;
  while (next < lines.length && !lines[next].text.trim()) next += 1;
  return next < lines.length && ITEM.test(lines[next].text) ? next : at;
}

function paragraph(source, lines, at, leaf, parent) {
  let end = at + 1;
  while (end < lines.length && lines[end].text.trim() && !isBlock(lines[end].text)) end += 1;
  parent.append(element("p", inline(source, lines[at].from, lines[end - 1].to, leaf)));
  return end;
}

function isBlock(text) {
  return FENCE.test(text) || HEADING.test(text) || ITEM.test(text);
}

function inline(source, from, to, leaf) {
  const nodes = [];
  for (let at = from; at < to; ) {
    const found = INLINE.exec(source.slice(at, to));
    if (!found) return [...nodes, ...leaf(at, to)];
    const start = at + found.index;
    if (start > at) nodes.push(...leaf(at, start));
    nodes.push(marked(source, start, found, leaf));
    at = start + found[0].length;
  }
  return nodes;
}

function marked(source, start, [whole, ticks, , strong, , slanted], leaf) {
  const marks = (ticks ?? strong ?? slanted).length;
  const [from, to] = [start + marks, start + whole.length - marks];
  if (ticks) return element("code", leaf(from, to));
  return element(strong ? "strong" : "em", inline(source, from, to, leaf));
}

function element(name, children) {
  const made = document.createElement(name);
  made.append(...children);
  return made;
}
