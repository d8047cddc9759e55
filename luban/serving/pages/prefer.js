// The page of `luban prefer`: shows the state that the server tells, and sends votes.
// While answers are being written it asks again every POLL_MS; whose they are it learns with the vote's answer only.

const POLL_MS = 150;
const AGAIN_MS = 2000;
const NOTICE_MS = 6000;
const LEVELS = { 1: "slightly", 2: "clearly", 3: "much" };
const WORDS = { helpful: "helpful", harmless: "harmful" };
const PLACES = { a: "A", b: "B" };

const at = (id) => document.getElementById(id);
const votes = [...document.querySelectorAll("button[data-verdict]")];

let state = null;
let busy = false;
let asking = 0;
let fading = 0;

async function call(method, path, body) {
  const asked = { method, headers: body ? { "Content-Type": "application/json" } : {} };
  if (body) asked.body = JSON.stringify(body);
  let answer;
  try {
    answer = await fetch(path, asked);
  } catch {
    return { lost: true, message: "The server does not answer. Is it still running?" };
  }
  if (answer.ok) return { state: await answer.json() };
  const told = answer.headers.get("content-type")?.startsWith("application/json") ? await answer.json() : null;
  const message = told?.error.message ?? "The server failed; its terminal says why.";
  return { message, lost: answer.status >= 500 };
}

async function refresh() {
  clearTimeout(asking);
  const got = await call("GET", "/api/state");
  if (got.state) return show(got.state);
  notice(got.message);
  asking = setTimeout(refresh, AGAIN_MS);
}

async function send(method, path, body, told) {
  if (busy) return false;
  busy = true;
  const got = await call(method, path, body);
  busy = false;
  if (!got.state) {
    notice(got.message);
    if (!got.lost) {
      await refresh();
    }
    return false;
  }
  show(got.state);
  notice(told(got.state));
  return true;
}

function vote(button) {
  if (button.disabled) return;
  const { verdict, strength } = button.dataset;
  const body = { pair: state.pair.id, verdict };
  if (strength) body.strength = Number(strength);
  send("POST", "/api/votes", body, keptNotice);
}

function undo() {
  if (!at("undo").disabled) send("DELETE", "/api/votes/last", null, () => "The last vote is taken back.");
}

async function ask(event) {
  event.preventDefault();
  const typed = at("typed");
  const done = await send("POST", "/api/prompts", { prompt: typed.value }, () => "");
  if (!done) return;
  typed.value = "";
  typed.blur();
}

function keptNotice({ kept, mode }) {
  const whose = kept.a === kept.b ? `Both were by ${kept.a}.` : `A was ${kept.a}, B was ${kept.b}.`;
  if (!kept.strength) return `Set aside, not preferred. ${whose}`;
  return `Kept: ${PLACES[kept.verdict]} is ${LEVELS[kept.strength]} more ${WORDS[mode]}. ${whose}`;
}

function show(next) {
  const before = state;
  state = next;
  clearTimeout(asking);
  document.body.dataset.mode = state.mode;
  showQuestion();
  showCount();
  showPair(before?.pair?.id !== state.pair?.id);
  if (before && state.set_aside.count > before.set_aside.count) notice(`Set aside: ${state.set_aside.reason}.`);
  if (state.pair && !state.pair.done) asking = setTimeout(refresh, POLL_MS);
}

function showQuestion() {
  const word = document.createElement("em");
  word.textContent = `more ${WORDS[state.mode]}`;
  at("question").replaceChildren("Which answer is ", word, "?");
  for (const [place, name] of Object.entries(PLACES)) {
    at(place).querySelector(".claim").textContent = `${name} is more ${WORDS[state.mode]}:`;
  }
}

function showCount() {
  const { asked, total, preferences, undecided } = state;
  const file = total ? `${asked} of ${total} prompts · ` : "";
  at("count").textContent = `${file}${preferences} preferred · ${undecided} undecided`;
  at("progress").hidden = !total;
  at("progress").max = Math.max(1, total);
  at("progress").value = asked;
}

function showPair(isNew) {
  const pair = state.pair;
  at("pair").hidden = at("neither").hidden = !pair;
  at("nothing").hidden = Boolean(pair);
  at("undo").disabled = !state.undoable;
  for (const button of votes) button.disabled = !pair?.done;
  if (!pair) {
    at("nothing").textContent = state.total ? "All prompts have been asked. Thank you." : "Ask something to begin.";
    return;
  }
  if (isNew) {
    at("prompt").replaceChildren(...pair.prompt.map(turn));
    scrollTo({ top: 0 });
  }
  for (const place of Object.keys(PLACES)) showAnswer(at(place), pair[place], isNew);
}

function showAnswer(card, answer, isNew) {
  const text = card.querySelector(".text");
  if (isNew || text.textContent !== answer.text) text.textContent = answer.text;
  card.classList.toggle("writing", !answer.ended);
  card.setAttribute("aria-busy", String(!answer.ended));
  card.querySelector(".cut").hidden = !answer.cut;
}

function turn({ role, content }) {
  const said = document.createElement("p");
  said.className = "turn";
  said.dataset.role = role;
  const who = document.createElement("b");
  who.textContent = role;
  said.append(who, content ?? "");
  return said;
}

function notice(text) {
  clearTimeout(fading);
  at("notice").textContent = text;
  at("notice").classList.toggle("shown", Boolean(text));
  fading = setTimeout(() => at("notice").classList.remove("shown"), NOTICE_MS);
}

function pressed(event) {
  if (event.target.matches("textarea")) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("ask").requestSubmit();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  document.querySelector(`button[data-key="${CSS.escape(event.key.toLowerCase())}"]`)?.click();
}

for (const button of document.querySelectorAll("button[data-key]")) {
  const { verdict, strength, key } = button.dataset;
  if (strength) {
    const level = LEVELS[strength];
    button.textContent = level[0].toUpperCase() + level.slice(1);
    button.setAttribute("aria-label", `${PLACES[verdict]}, ${level}`);
  }
  const chip = document.createElement("kbd");
  chip.textContent = key;
  chip.setAttribute("aria-hidden", "true");
  button.append(chip);
  button.addEventListener("click", () => (button.id === "undo" ? undo() : vote(button)));
}
at("ask").addEventListener("submit", ask);
document.addEventListener("keydown", pressed);
refresh();
