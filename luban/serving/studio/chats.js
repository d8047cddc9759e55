// The conversations, which live in this browser: each under a key of its own, so that two tabs do not write over
// one another's.

import { put } from "./storage.js";

const PREFIX = "luban.chat.";
const UNNAMED = "New chat";

export function newChat() {
  const now = Date.now();
  const id = `${now}-${Math.random().toString(36).slice(2, 8)}`;
  return { id, title: "", created: now, changed: now, system: "", messages: [] };
}

// All that are kept, the latest first.
export function keptChats() {
  const keys = Object.keys(localStorage).filter((key) => key.startsWith(PREFIX));
  const chats = keys.map((key) => JSON.parse(localStorage.getItem(key)));
  return chats.sort((a, b) => b.changed - a.changed);
}

export function keptChat(id) {
  return JSON.parse(localStorage.getItem(PREFIX + id));
}

// Whether there was room. Where there is none, probabilities of other conversations' tokens go first.
export function keep(chat) {
  const text = JSON.stringify(chat);
  const fits = () => put(PREFIX + chat.id, text);
  if (fits()) return true;
  for (const other of keptChats().reverse()) {
    if (other.id === chat.id || !other.messages.some(({ pieces }) => pieces?.length)) continue;
    for (const message of other.messages) delete message.pieces;
    put(PREFIX + other.id, JSON.stringify(other));
    if (fits()) return true;
  }
  return false;
}

export function forget(chat) {
  localStorage.removeItem(PREFIX + chat.id);
}

export function titleOf({ title, messages }) {
  if (title) return title;
  const [first] = messages;
  return first ? first.content.trim().replace(/\s+/g, " ").slice(0, 60) : UNNAMED;
}

// What a request and an exported file tell of a conversation, without its last `without` messages.
export function messagesOf({ system, messages }, without = 0) {
  const told = messages.slice(0, messages.length - without).map(({ role, content }) => ({ role, content }));
  return system.trim() ? [{ role: "system", content: system }, ...told] : told;
}

// One line of JSON in the form of the conversations that `luban sft` learns from.
export function exported(chat) {
  const row = { messages: messagesOf(chat), title: titleOf(chat), created: new Date(chat.created).toISOString() };
  return `${JSON.stringify(row)}\n`;
}
