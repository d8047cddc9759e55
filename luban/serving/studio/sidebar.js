// The list of conversations at the side: open one, and rename, export or delete the one that is open.

import { exported, titleOf } from "./chats.js";

// Fills `list`; `acts` are open(chat), rename(chat, title) and remove(chat).
export function showList(list, chats, current, acts) {
  list.replaceChildren(...chats.map((chat) => entryOf(chat, chat.id === current.id, acts)));
}

function entryOf(chat, isOpen, acts) {
  const entry = document.createElement("li");
  const title = button(titleOf(chat), () => acts.open(chat));
  title.className = "title";
  entry.append(title);
  if (!isOpen) return entry;
  title.setAttribute("aria-current", "true");
  const row = document.createElement("div");
  row.className = "acts";
  row.append(
    button("Rename", () => rename(entry, chat, acts)),
    button("Export", () => download(chat)),
    button("Delete", () => acts.remove(chat)),
  );
  entry.append(row);
  return entry;
}

// A field in place of the title; Enter or leaving it keeps what it says, Escape does not.
function rename(entry, chat, acts) {
  const field = document.createElement("input");
  field.value = titleOf(chat);
  field.setAttribute("aria-label", "Title");
  let title = null;
  field.addEventListener("input", () => (title = field.value.trim()));
  field.addEventListener("blur", () => acts.rename(chat, title ?? chat.title), { once: true });
  field.addEventListener("keydown", (event) => {
    if (event.isComposing || !["Enter", "Escape"].includes(event.key)) return;
    event.stopPropagation();
    if (event.key === "Escape") title = chat.title;
    field.blur();
  });
  entry.replaceChildren(field);
  field.select();
}

function download(chat) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([exported(chat)], { type: "application/json" }));
  link.download = `${titleOf(chat).replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "") || "chat"}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function button(label, act) {
  const shown = document.createElement("button");
  shown.type = "button";
  shown.textContent = label;
  shown.addEventListener("click", act);
  return shown;
}
