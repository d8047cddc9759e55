// How answers are drawn: one field for each knob, kept in this browser. An empty field leaves it to the server.

import { put } from "./storage.js";

const KEY = "luban.knobs";
const KNOBS = [
  { name: "temperature", min: 0, max: 2, step: 0.01, first: 0.7, tell: "0 takes the likeliest" },
  { name: "top_p", min: 0.01, max: 1, step: 0.01, first: 0.95, tell: "share of probability to draw from" },
  { name: "top_k", min: 0, max: 1e6, step: 1, none: "0", tell: "tokens to draw from; 0 is all" },
  { name: "min_p", min: 0, max: 1, step: 0.01, none: "0", tell: "of the likeliest one's probability" },
  { name: "repetition_penalty", min: 0.01, max: 100, step: 0.01, none: "1", tell: "1 is none" },
  { name: "max_tokens", min: 1, max: 1e7, step: 1, first: 512, tell: "empty fills the window" },
  { name: "seed", min: 0, max: Number.MAX_SAFE_INTEGER, step: 1, none: "any", tell: "the same one, the same answer" },
  { name: "top_logprobs", min: 0, max: 20, step: 1, first: 5, tell: "likeliest tokens told on hover; 0 is none" },
];
const FIRST = Object.fromEntries(KNOBS.map(({ name, first }) => [name, first ?? ""]));

// Fills `form`, which has a textarea `stop` of its own, and keeps what is typed there.
export function showKnobs(form) {
  const place = form.querySelector(".knobs");
  place.replaceChildren(...KNOBS.flatMap(fieldOf));
  setAll(form, { stop: "", ...FIRST, ...JSON.parse(localStorage.getItem(KEY) ?? "{}") });
  form.addEventListener("input", () => {
    put(KEY, JSON.stringify(Object.fromEntries(new FormData(form))));
  });
  form.addEventListener("reset", (event) => {
    event.preventDefault();
    localStorage.removeItem(KEY);
    setAll(form, { stop: "", ...FIRST });
  });
}

// The fields of a request that `form` asks for.
export function knobsOf(form) {
  const asked = {};
  for (const { name } of KNOBS) {
    const { value } = form.elements[name];
    if (value !== "") asked[name] = Number(value);
  }
  const stop = form.elements.stop.value.split("\n").filter(Boolean);
  if (stop.length) asked.stop = stop.map((line) => line.replaceAll("\\n", "\n"));
  if (asked.top_logprobs) asked.logprobs = true;
  else delete asked.top_logprobs;
  return asked;
}

function setAll(form, values) {
  for (const [name, value] of Object.entries(values)) {
    if (form.elements[name]) form.elements[name].value = value;
  }
}

function fieldOf({ name, min, max, step, none, tell }) {
  const words = document.createElement("label");
  words.htmlFor = `knob-${name}`;
  const hint = document.createElement("small");
  hint.textContent = tell;
  words.append(name[0].toUpperCase() + name.slice(1).replaceAll("_", " "), hint);
  const field = document.createElement("input");
  Object.assign(field, { id: words.htmlFor, name, type: "number", min, max, step, placeholder: none ?? "" });
  return [words, field];
}
