// What the page asks of the server: which models there are, and an answer piece by piece.
// The key stays in this tab's session and goes to this server only.

const KEY = "luban.key";

// Whatever keeps an answer from coming. `status` is 0 where no answer came; `againS` says when to come again.
export class Trouble extends Error {
  constructor(message, { status = 0, againS = 0 } = {}) {
    super(message);
    this.status = status;
    this.againS = againS;
  }
}

export function useKey(key) {
  sessionStorage.setItem(KEY, key);
}

export async function models() {
  const answer = await call("v1/models", {});
  return (await answer.json()).data;
}

// The chunks of an answer to `body`. Throws Trouble; once `signal` has fired, whatever the browser throws then.
export async function* chunks(body, signal) {
  const answer = await call("v1/chat/completions", { method: "POST", body: JSON.stringify(body), signal });
  let done = false;
  try {
    for await (const event of events(answer.body)) {
      done = event === "[DONE]";
      if (done) return;
      const chunk = JSON.parse(event);
      if (chunk.error) throw new Trouble(chunk.error.message, { status: 500 });
      yield chunk;
    }
  } catch (error) {
    throw error instanceof TypeError ? brokenOff() : error;
  }
  if (!done) throw brokenOff();
}

async function call(path, asked) {
  const key = sessionStorage.getItem(KEY);
  const headers = { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
  let answer;
  try {
    answer = await fetch(path, { ...asked, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Trouble("The server does not answer. Is it still running?");
  }
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

async function refusal(answer) {
  const isJson = answer.headers.get("content-type")?.startsWith("application/json");
  const told = isJson ? (await answer.json()).error?.message : null;
  const againS = Number(answer.headers.get("retry-after") ?? 0);
  return new Trouble(told ?? `The server answered with ${answer.status}.`, { status: answer.status, againS });
}

// The data of server-sent events, however the network cuts them.
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let left = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (left + value).split("\n\n");
    left = parts.pop();
    for (const part of parts) yield part.replace(/^data: ?/, "");
  }
}

function brokenOff() {
  return new Trouble("The connection broke off before the answer had ended.");
}
