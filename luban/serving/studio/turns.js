// A conversation's messages on the page. Whatever people or models wrote is put there as text, never as markup.

import { render } from "./markdown.js";
import { spansOf } from "./tokens.js";

const ENDS = {
  length: "Cut off: no more tokens were allowed",
  stopped: "Stopped",
  broken: "Broken off",
};

// The element of one message; `acts` are [label, what it does] of its buttons.
export function turnOf(message, acts) {
  const turn = document.createElement("article");
  turn.className = "turn";
  turn.dataset.role = message.role;
  turn.setAttribute("aria-label", message.role === "user" ? "You" : message.model || "Answer");
  turn.append(made("div", "text"), made("p", "note"), made("div", "acts"));
  turn.querySelector(".acts").append(...acts.map(([label, act]) => button(label, act)));
  fillTurn(turn, message, false);
  return turn;
}

// Shows what a message has become; `writing` while more is to come.
export function fillTurn(turn, message, writing) {
  const text = turn.querySelector(".text");
  if (message.role === "user") text.textContent = message.content;
  else text.replaceChildren(render(message.content, message.pieces?.length ? spansOf(message.pieces) : undefined));
  turn.classList.toggle("writing", writing);
  turn.setAttribute("aria-busy", String(writing));
  turn.querySelector(".note").textContent = writing ? "" : noteOf(message);
}

function noteOf({ role, speed, end, model }) {
  if (role === "user") return "";
  const parts = [ENDS[end], model];
  if (speed) {
    parts.push(`${speed.tokens} ${speed.tokens === 1 ? "token" : "tokens"}`);
    if (speed.perS) parts.push(`${speed.perS.toPrecision(3)} tokens/s`);
    parts.push(`first after ${speed.firstS.toFixed(2)} s`);
  }
  return parts.filter(Boolean).join(" · ");
}

// Puts a field with the message's words in place of them; `save` gets the new ones.
export function editTurn(turn, message, label, save, cancel) {
  const field = document.createElement("textarea");
  field.value = message.content;
  field.rows = Math.min(12, message.content.split("\n").length + 1);
  field.setAttribute("aria-label", "Edit the message");
  const done = () => field.value.trim() && save(field.value);
  field.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    if (event.key === "Escape") cancel();
    else if (event.key === "Enter" && !event.shiftKey) done();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  turn.classList.add("editing");
  turn.querySelector(".text").replaceChildren(field);
  turn.querySelector(".acts").replaceChildren(button(label, done), button("Cancel", cancel));
  field.focus();
}

function button(label, act) {
  const shown = made("button", "");
  shown.type = "button";
  shown.textContent = label;
  shown.addEventListener("click", act);
  return shown;
}

function made(name, className) {
  const element = document.createElement(name);
  element.className = className;
  return element;
}
