// The choice of model: those that the server lists, adapters (which name their `parent`) under the model they change.

import { put } from "./storage.js";

const KEY = "luban.model";

// Fills `select` with `models`, and takes again what was taken last time.
export function showModels(select, models) {
  const bases = models.filter(({ parent }) => !parent);
  select.replaceChildren(...bases.map(optionOf));
  for (const base of bases) {
    const adapters = models.filter(({ parent }) => parent === base.id);
    if (!adapters.length) continue;
    const group = document.createElement("optgroup");
    group.label = `Adapters of ${base.id}`;
    group.append(...adapters.map(optionOf));
    select.append(group);
  }
  const kept = localStorage.getItem(KEY);
  if (models.some(({ id }) => id === kept)) select.value = kept;
  select.onchange = () => put(KEY, select.value);
}

function optionOf({ id }) {
  const option = document.createElement("option");
  option.value = option.textContent = id;
  return option;
}
