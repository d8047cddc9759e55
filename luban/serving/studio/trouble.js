// The box that says what keeps an answer from coming, and what can be done: a key, a wait, another try.

import { useKey } from "./api.js";

let ticking = 0;

// Fills `box` with `trouble`; `again` tries once more. Without trouble the box goes.
export function showTrouble(box, trouble, again) {
  clearInterval(ticking);
  box.hidden = !trouble;
  if (!trouble) return;
  const words = document.createElement("p");
  words.textContent = trouble.message;
  box.replaceChildren(words, trouble.status === 401 ? keyForm(again) : againButton(trouble.againS, again));
}

function keyForm(again) {
  const form = document.createElement("form");
  const field = document.createElement("input");
  Object.assign(field, { type: "password", required: true, autocomplete: "off", placeholder: "API key" });
  field.setAttribute("aria-label", "API key");
  const use = document.createElement("button");
  use.textContent = "Use this key";
  form.append(field, use);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    useKey(field.value.trim());
    again();
  });
  return form;
}

function againButton(seconds, again) {
  const button = document.createElement("button");
  button.type = "button";
  button.addEventListener("click", again);
  const ends = performance.now() + seconds * 1000;
  const tick = () => {
    const left = Math.ceil((ends - performance.now()) / 1000);
    button.disabled = left > 0;
    button.textContent = left > 0 ? `Try again in ${left} s` : "Try again";
    if (left <= 0) clearInterval(ticking);
  };
  ticking = setInterval(tick, 250);
  tick();
  return button;
}
