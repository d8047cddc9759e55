// The chat page of `luban serve`: one conversation is shown, each may have an answer on its way.
// A message is sent (`send`), its answer comes (`write`, answer.js), is shown (`draw`, turns.js) and kept (chats.js).

import { emptyAnswer, receive } from "./answer.js";
import { models, Trouble } from "./api.js";
import { forget, keep, keptChat, keptChats, messagesOf, newChat, titleOf } from "./chats.js";
import { knobsOf, showKnobs } from "./knobs.js";
import { showModels } from "./models.js";
import { showList } from "./sidebar.js";
import { put } from "./storage.js";
import { tellTokens } from "./tokens.js";
import { showTrouble } from "./trouble.js";
import { editTurn, fillTurn, turnOf } from "./turns.js";

const KEEP_MS = 1000;
const NOTICE_MS = 8000;
const NEAR_PX = 80;
const UNDONE = new Set(["broken", "stopped"]);
const NARROW = matchMedia("(width < 60rem)");
const DARK = matchMedia("(prefers-color-scheme: dark)");

const at = (id) => document.getElementById(id);
const turns = at("turns");

let chat = newChat();
let fading = 0;
const writing = new Map(); // by conversation: the answer on its way, as {chat, message, stopping}
const troubles = new Map(); // by conversation: [trouble, how to try again]
const removed = new Set(); // conversations that are not to be kept, whatever still comes

function send(text) {
  if (!text.trim() || !isReady()) return;
  at("typed").value = "";
  chat.messages.push({ role: "user", content: text });
  write();
}

// Whether there can be an answer now; a knob that is wrong is shown.
function isReady() {
  if (writing.has(chat.id)) return false;
  if (at("drawing").checkValidity()) return true;
  openDrawer("knobs");
  at("drawing").reportValidity();
  return false;
}

// Asks for an answer to the conversation that is shown; the one `replaced` comes back if nothing comes in its place.
async function write(replaced = null) {
  const mine = chat;
  const message = emptyAnswer(at("model").value);
  const stopping = new AbortController();
  const body = { messages: messagesOf(mine), stream: true, stream_options: { include_usage: true } };
  if (message.model) body.model = message.model;
  mine.messages.push(message);
  mine.changed = Date.now();
  writing.set(mine.id, { chat: mine, message, stopping });
  troubles.delete(mine.id);
  keepChat(mine);
  show();
  turns.scrollTo({ top: turns.scrollHeight });
  try {
    await receive(message, { ...body, ...knobsOf(at("drawing")) }, stopping.signal, () => grown(mine));
  } catch (error) {
    if (!(error instanceof Trouble)) throw error;
    troubles.set(mine.id, [error, () => tryAgain(mine)]);
  } finally {
    writing.delete(mine.id);
    if (!message.content && UNDONE.has(message.end)) mine.messages.splice(-1, 1, ...(replaced ? [replaced] : []));
    keepChat(mine);
    if (mine === chat) show();
    else showChats();
  }
}

// Once more, in place of the answer that there is or was not.
function regenerate() {
  if (!isReady()) return;
  const isAnswered = chat.messages.at(-1)?.role === "assistant";
  write(isAnswered ? chat.messages.pop() : null);
}

async function tryAgain(mine) {
  if (!at("model").length) await loadModels();
  if (mine === chat) regenerate();
}

// An answer has grown: shown with the browser's next frame, kept now and then in case the page is left.
function grown(mine) {
  const now = writing.get(mine.id);
  if (performance.now() - (now.keptAt ?? 0) > KEEP_MS) {
    now.keptAt = performance.now();
    keepChat(mine);
  }
  if (now.frame) return;
  now.frame = requestAnimationFrame(() => {
    now.frame = 0;
    if (mine === chat && writing.get(mine.id) === now) draw(now.message);
  });
}

function draw(message) {
  const isNear = turns.scrollHeight - turns.scrollTop - turns.clientHeight < NEAR_PX;
  fillTurn(turns.lastElementChild, message, true);
  if (isNear) turns.scrollTop = turns.scrollHeight;
}

function stop() {
  writing.get(chat.id)?.stopping.abort();
}

function show() {
  const now = writing.get(chat.id);
  turns.replaceChildren(...chat.messages.map((message, place) => turnOf(message, actsOf(message, place))));
  if (now) fillTurn(turns.lastElementChild, now.message, true);
  if (!chat.messages.length) turns.append(welcome());
  turns.classList.toggle("busy", Boolean(now));
  at("send").hidden = Boolean(now);
  at("stop").hidden = !now;
  at("system").value = chat.system;
  document.title = chat.messages.length ? `${titleOf(chat)} · Luban` : "Luban";
  showTrouble(at("trouble"), ...(troubles.get(chat.id) ?? []));
  showChats();
}

function welcome() {
  const words = document.createElement("p");
  words.id = "welcome";
  words.textContent = "Nothing said yet. Conversations stay in this browser.";
  return words;
}

function actsOf(message, place) {
  const acts = [["Edit", () => edit(place)]];
  const isLast = place === chat.messages.length - 1;
  if (isLast && message.role === "assistant") acts.unshift(["Regenerate", regenerate]);
  if (navigator.clipboard) acts.push(["Copy", () => copy(message.content)]);
  return acts;
}

function edit(place) {
  if (writing.has(chat.id)) return;
  show(); // one message at a time
  const message = chat.messages[place];
  const later = chat.messages.length - place - 1;
  const isMine = message.role === "user";
  const dropped = later > (isMine ? 1 : 0) ? `, dropping ${later} later` : "";
  const save = (content) => {
    if (!isReady()) return;
    chat.messages.splice(place, later + 1);
    if (isMine) return send(content);
    chat.messages.push({ role: "assistant", content, model: "edited", end: "stop" });
    keepChat(chat);
    show();
  };
  editTurn(turns.children[place], message, (isMine ? "Send" : "Save") + dropped, save, backToTyping);
}

function backToTyping() {
  show();
  at("typed").focus();
}

function editLast() {
  const place = chat.messages.findLastIndex(({ role }) => role === "user");
  if (place >= 0) edit(place);
}

async function copy(text) {
  await navigator.clipboard.writeText(text);
  notice("Copied.");
}

function keepChat(mine) {
  if (removed.has(mine.id)) return;
  if (!keep(mine)) notice("This browser's storage is full: the conversation will not outlast this page.");
  if (mine === chat) history.replaceState(null, "", `#${mine.id}`);
}

function showChats() {
  showList(at("list"), keptChats(), chat, { open, rename, remove });
}

function open(other) {
  chat = writing.get(other.id)?.chat ?? other;
  history.pushState(null, "", keptChat(chat.id) ? `#${chat.id}` : location.pathname);
  if (NARROW.matches) openDrawer("");
  show();
  turns.scrollTop = turns.scrollHeight;
  at("typed").focus();
}

function openByAddress() {
  const id = location.hash.slice(1);
  chat = writing.get(id)?.chat ?? keptChat(id) ?? newChat();
  show();
  turns.scrollTop = turns.scrollHeight;
}

// Another tab has kept something: perhaps the conversation that is shown here, too.
function fromOtherTab({ key }) {
  if (key?.endsWith(chat.id) && keptChat(chat.id) && !writing.has(chat.id)) openByAddress();
  else showChats();
}

function rename(other, title) {
  const mine = other.id === chat.id ? chat : other;
  mine.title = title;
  keepChat(mine);
  show();
}

function remove(other) {
  const mine = other.id === chat.id ? chat : other;
  writing.get(mine.id)?.stopping.abort();
  removed.add(mine.id);
  forget(mine);
  open(newChat());
  notice(`Deleted “${titleOf(mine)}”.`, "Undo", () => {
    removed.delete(mine.id);
    keepChat(mine);
    open(mine);
  });
}

async function loadModels() {
  try {
    showModels(at("model"), await models());
    troubles.delete(chat.id);
  } catch (error) {
    if (!(error instanceof Trouble)) throw error;
    troubles.set(chat.id, [error, loadModels]);
  }
  showTrouble(at("trouble"), ...(troubles.get(chat.id) ?? []));
}

function openDrawer(name) {
  document.body.dataset.drawer = name;
  for (const side of ["chats", "knobs"]) at(`show-${side}`).setAttribute("aria-expanded", String(name === side));
}

function toggleDrawer(name) {
  openDrawer(document.body.dataset.drawer === name ? "" : name);
}

function switchTheme() {
  const root = document.documentElement;
  const isDark = root.dataset.theme ? root.dataset.theme === "dark" : DARK.matches;
  root.dataset.theme = isDark ? "light" : "dark";
  put("luban.theme", root.dataset.theme);
}

function showColours() {
  turns.classList.toggle("coloured", at("colours").checked);
  put("luban.colours", at("colours").checked ? "yes" : "");
}

function notice(text, label, act) {
  clearTimeout(fading);
  const box = at("notice");
  const gone = () => box.classList.remove("shown");
  box.textContent = text;
  if (label) {
    const button = document.createElement("button");
    button.textContent = label;
    button.addEventListener("click", () => (gone(), act()));
    box.append(button);
  }
  box.classList.add("shown");
  fading = setTimeout(gone, NOTICE_MS);
}

function typing(event) {
  if (event.isComposing) return; // Enter takes a word of an input method
  if (event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    send(at("typed").value);
  } else if (event.key === "ArrowUp" && !at("typed").value) {
    event.preventDefault();
    editLast();
  }
}

function pressed(event) {
  if (event.key !== "Escape") return;
  if (writing.has(chat.id)) stop();
  else if (NARROW.matches) openDrawer("");
}

at("composer").addEventListener("submit", (event) => (event.preventDefault(), send(at("typed").value)));
at("typed").addEventListener("keydown", typing);
at("stop").addEventListener("click", stop);
at("new").addEventListener("click", () => open(newChat()));
at("theme").addEventListener("click", switchTheme);
at("colours").addEventListener("change", showColours);
at("system").addEventListener("change", () => ((chat.system = at("system").value), keepChat(chat), showChats()));
at("behind").addEventListener("click", () => openDrawer(""));
for (const side of ["chats", "knobs"]) at(`show-${side}`).addEventListener("click", () => toggleDrawer(side));
document.addEventListener("keydown", pressed);
addEventListener("popstate", openByAddress);
addEventListener("storage", fromOtherTab);

showKnobs(at("drawing"));
tellTokens(turns, at("card"));
at("colours").checked = Boolean(localStorage.getItem("luban.colours"));
showColours();
openDrawer(matchMedia("(width >= 80rem)").matches ? "knobs" : "");
openByAddress();
loadModels();
