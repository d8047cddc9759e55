// One answer as it comes: its text, the tokens behind each piece of the text, and how fast it was.
// A piece is [text, [[token, logprob, [[other, logprob], ...]], ...]]: usually one token; several where the server
// held text back, as within a character of several tokens.

import { chunks } from "./api.js";

export function emptyAnswer(model) {
  return { role: "assistant", content: "", model, pieces: [], speed: null, end: "broken" };
}

// Fills `message` until the answer has ended, calling `changed` after each chunk. Throws what `chunks` throws.
// `end` is then stop, length, stopped (by the reader) or broken.
export async function receive(message, body, signal, changed) {
  const clock = { began: performance.now(), first: 0, last: 0, tokens: 0 };
  const held = [];
  try {
    for await (const chunk of chunks(body, signal)) {
      take(message, chunk, held, clock);
      changed();
    }
  } catch (error) {
    if (!signal.aborted) throw error;
    message.end = "stopped";
  } finally {
    message.speed = speedOf(clock);
    changed();
  }
}

function take(message, chunk, held, clock) {
  if (chunk.usage) clock.tokens = chunk.usage.completion_tokens;
  const [choice] = chunk.choices;
  if (!choice) return;
  const text = choice.delta.content ?? "";
  const tokens = choice.logprobs?.content ?? [];
  held.push(...tokens.map(short));
  if (text || tokens.length) {
    clock.last = performance.now();
    clock.first ||= clock.last;
    clock.tokens += Math.max(1, tokens.length);
  }
  if (text) {
    message.content += text;
    message.pieces.push([text, held.splice(0)]);
  }
  if (choice.finish_reason) message.end = choice.finish_reason;
}

function short({ token, logprob, top_logprobs: others }) {
  return [token, logprob, others.map((other) => [other.token, other.logprob])];
}

// Seconds to the first token, and tokens a second after it; null before there is one.
function speedOf({ began, first, last, tokens }) {
  if (!first) return null;
  const perS = last > first ? ((tokens - 1) * 1000) / (last - first) : 0;
  return { tokens, firstS: (first - began) / 1000, perS };
}
