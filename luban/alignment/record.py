"""`rollouts.jsonl`: every answer of the run with its prompt, its worth and the tokens it was made of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from luban.alignment.rollout import Answer
from luban.folder import write_text

ROLLOUTS = "rollouts.jsonl"


class Record:
    """Appends an iteration's answers; a resumed run first drops those after its checkpoint."""

    def __init__(self, out: Path, *, resumed_at: int) -> None:
        self.path = out / ROLLOUTS
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        whole = [line for line in lines if line.endswith("}")]  # a kill may have cut the last one
        kept = [line for line in whole if json.loads(line)["step"] <= resumed_at]
        write_text(self.path, "".join(f"{line}\n" for line in kept))

    def write(self, step: int, answers: Sequence[Answer], rewards: Sequence[float]) -> None:
        """Add the answers of iteration `step`."""
        with self.path.open("a", encoding="utf-8") as file:
            for answer, reward in zip(answers, rewards, strict=True):
                file.write(json.dumps(_told(step, answer, reward), ensure_ascii=False) + "\n")


def _told(step: int, answer: Answer, reward: float) -> dict[str, object]:
    return {
        "step": step,
        "row": answer.prompt.where,
        "prompt": answer.prompt.row["prompt"],
        "answer": answer.text,
        "reward": reward,
        "finished": answer.finished,
        "tokens": answer.tokens,
        "logps": [round(logp, 6) for logp in answer.logps],
    }
