// The tokens behind an answer's words: a span for each piece, and a card that tells its probabilities when pointed at.

const UNLIKELY = 0.5; // of probability; below it a piece is coloured if that is asked for
const SIGNS = { "\n": "⏎", "\t": "⇥", " ": "␣" };

// A `leaf` for `render`: the spans of the pieces that a stretch of the text is made of. The pieces are all of it.
export function spansOf(pieces) {
  const ends = [];
  let end = 0;
  for (const [text] of pieces) ends.push((end += text.length));
  return (from, to) => {
    const spans = [];
    for (let at = from, place = firstAfter(ends, from); at < to; place += 1) {
      const next = Math.min(to, ends[place]);
      spans.push(spanOf(sliceOf(pieces, ends, place, at, next), pieces[place][1]));
      at = next;
    }
    return spans;
  };
}

function firstAfter(ends, at) {
  let [low, high] = [0, ends.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ends[middle] > at) high = middle;
    else low = middle + 1;
  }
  return low;
}

function sliceOf(pieces, ends, place, from, to) {
  const [text] = pieces[place];
  const began = ends[place] - text.length;
  return text.slice(from - began, to - began);
}

function spanOf(text, tokens) {
  const span = document.createElement("span");
  span.textContent = text;
  if (!tokens.length) return span;
  span.className = "token";
  span.tokens = tokens;
  const probability = Math.min(...tokens.map(([, logprob]) => Math.exp(logprob)));
  const doubt = Math.max(0, 1 - probability / UNLIKELY);
  if (doubt) span.style.setProperty("--doubt", doubt.toFixed(2));
  return span;
}

// Shows `card` beside whatever token under `place` is pointed at or tapped.
export function tellTokens(place, card) {
  const hide = () => {
    card.hidden = true;
    place.querySelector(".token.told")?.classList.remove("told");
  };
  const tell = ({ target }) => {
    const span = target.closest?.(".token");
    if (span?.classList.contains("told")) return;
    hide();
    if (!span) return;
    span.classList.add("told");
    card.replaceChildren(...span.tokens.map(tableOf));
    card.hidden = false;
    moveBeside(card, span.getClientRects()[0]);
  };
  place.addEventListener("pointerover", tell);
  place.addEventListener("click", tell);
  place.addEventListener("pointerleave", hide);
  place.addEventListener("scroll", hide);
}

// The token that was drawn, and the likeliest ones in its place.
function tableOf([token, logprob, others]) {
  const table = document.createElement("table");
  const isListed = others.some(([other]) => other === token);
  const rows = isListed ? others : [[token, logprob], ...others];
  for (const [name, value] of rows) {
    const row = table.insertRow();
    row.className = name === token ? "drawn" : "";
    const word = document.createElement("code");
    word.textContent = visible(name);
    row.insertCell().append(word);
    const bar = document.createElement("div");
    bar.className = "bar";
    bar.style.setProperty("--share", Math.exp(value));
    row.insertCell().append(bar);
    row.insertCell().textContent = percent(Math.exp(value));
  }
  return table;
}

function visible(token) {
  return token.replace(/[\n\t ]/g, (sign) => SIGNS[sign]) || "(nothing)";
}

function percent(share) {
  return share < 0.001 ? "< 0.1 %" : `${(share * 100).toFixed(1)} %`;
}

// Below the word, or above it where there is no room, and never beyond the window's edge.
function moveBeside(card, word) {
  const { width, height } = card.getBoundingClientRect();
  const left = Math.max(8, Math.min(word.left, innerWidth - width - 8));
  const top = word.bottom + height + 8 < innerHeight ? word.bottom + 4 : Math.max(8, word.top - height - 4);
  card.style.left = `${left}px`;
  card.style.top = `${top}px`;
}
