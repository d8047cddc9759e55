"""What llama.cpp makes of a GGUF file; run by a Python that has `llama_cpp`, told and answering in JSON."""

from __future__ import annotations

import json
import sys

import llama_cpp  # pyright: ignore[reportMissingImports] - not a dependency: built from source where it is wanted


def main() -> None:
    asked = json.load(sys.stdin)
    model = llama_cpp.Llama(
        asked["file"], n_ctx=asked["context"], n_threads=1, verbose=False, logits_all=True
    )
    ids = [model.tokenize(text.encode("utf-8"), add_bos=False, special=False) for text in asked["texts"]]
    begun = [model.tokenize(text.encode("utf-8"), add_bos=True, special=False) for text in asked["texts"]]
    tokens = list(asked["prompt"])
    model.eval(tokens)
    logits = model.scores[: len(tokens)].tolist()
    greedy: list[int] = []
    for _ in range(asked["new"]):
        greedy.append(int(model.scores[model.n_tokens - 1].argmax()))
        model.eval([greedy[-1]])
    print(json.dumps({"ids": ids, "begun": begun, "logits": logits, "greedy": greedy}))


main()
