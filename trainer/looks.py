"""Looks at an RFT run under way: fixed select prompts, answered greedily, graded twice.

- The held-out grader is none that the reward reads: otherwise nobody looks.
- A look draws no random number, so a run that is looked at ends with the same bytes.
- Looks, and the adapter of the best one, are kept beside the checkpoints: a run that is taken up
  knows what was seen before.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from everlearn.task import Task, heldout_grader
from trainer import adapter as adapters
from trainer.evidence import answer, lowest, marked, mean
from trainer.generate import Answers, prompts_of
from trainer.hacking import MIN_PROMPTS, Finding, Look, best_of, hacked
from trainer.reward import Grading, read_by, reward_grader
from trainer.rewarding import Rewarding
from trainer.rows import Row
from trainer.tracking import Metrics
from trainer.workbench import Workbench

LOOKS = 6
"""In a run, beside the one before its first step."""
PROMPTS = 64
KL_PROMPTS = 8


def unwatched(task: Task, select: Sequence[Row]) -> str | None:
    """Why nothing independent looks at an RFT run; None: something does."""
    reward, name = reward_grader(task), heldout_grader(task)
    if reward is not None and name in read_by(task, reward):
        return f"the held-out grader {name} is part of the reward"
    if len(select) < MIN_PROMPTS:
        return f"{len(select)} select prompts < {MIN_PROMPTS}"
    return None


class Looks:
    """Of one run; `folder` keeps them."""

    def __init__(
        self,
        folder: Path,
        bench: Workbench,
        rows: Sequence[Row],
        graders: tuple[Rewarding, Grading],
    ) -> None:
        """`graders`: the reward and the held-out one."""
        self._folder, self._bench = folder, bench
        # By hash: whatever the order of the ids, a sample of all.
        self._rows = sorted(rows, key=lambda row: row.row_hash)[:PROMPTS]
        self._reward, self._heldout = graders
        self.looks: list[Look] = []
        self.finding: Finding | None = None

    @property
    def best(self) -> Path:
        """The adapter of the best look."""
        return self._folder / "rft-best"

    def go_on(self, step: int) -> None:
        """What was seen until `step`, where a run is taken up."""
        try:
            kept = json.loads((self._folder / "rft-looks.json").read_text())
        except (OSError, ValueError):
            return
        seen = [Look(each["step"], *map(tuple, (each["reward"], each["heldout"]))) for each in kept]
        self.looks = [look for look in seen if look.step <= step]

    def _comparable(self) -> list[Look]:
        """Looks whose reward is of the formula in force: an edit begins anew."""
        return [look for look in self.looks if look.step >= self._reward.since]

    def look(self, model: Any, step: int) -> Metrics:
        """Look now; what was seen, as metrics."""
        training = model.training
        model.eval()
        try:
            made = answer(model, self._bench, [row.conversation for row in self._rows])
            texts = [each.text for each in made.answers]
            seen = Look(
                step,
                marked(self._reward(self._rows, texts), made),
                marked(self._heldout(self._rows, texts), made, lowest(self._bench.task)),
            )
            self.looks.append(seen)
            self.looks = self._comparable()
            self.finding = hacked(self.looks)
            if best_of(self.looks) is seen:
                adapters.save(model, self._bench, self.best)
            kept = json.dumps([asdict(each) for each in self.looks])
            (self._folder / "rft-looks.json").write_text(kept)
            kl = kl_to_base(model, self._bench, self._rows[:KL_PROMPTS], made)
        finally:
            model.train(training)
        means = {"reward": mean(seen.reward), "heldout": mean(seen.heldout), "kl": kl}
        return [
            (f"rft/look/{name}", value, step) for name, value in means.items() if value is not None
        ]

    def restore(self, model: Any) -> None:
        """The best look's weights into the model."""
        restored(model, self.best)


def restored(model: Any, saved: Path) -> None:
    """The weights of a saved adapter into the model."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    set_peft_model_state_dict(model, load_file(saved / adapters.WEIGHTS))


def looking(looks: Looks, send: Callable[[Metrics], None], unwrap: Callable[[], Any]) -> Any:
    """A callback that looks before the first step and then `LOOKS` times, and ends a run that
    hacks its reward."""
    from transformers import TrainerCallback

    class Looking(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            looks.go_on(int(state.global_step))
            if not looks.looks:
                send(looks.look(unwrap(), int(state.global_step)))

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            step = int(state.global_step)
            if step % max(1, -(-args.max_steps // LOOKS)) and step != args.max_steps:
                return
            send(looks.look(unwrap(), step))
            if looks.finding is not None:
                control.should_training_stop = True

    return Looking()


def kl_to_base(model: Any, bench: Workbench, rows: Sequence[Row], made: Answers) -> float | None:
    """Mean over the tokens of the answers of KL(model || base), exactly; None without a token."""
    import torch

    asked = prompts_of(model, bench.tokenizer, [row.conversation for row in rows])
    found: list[float] = []
    for prompt, given in zip(asked, made.answers, strict=False):
        if prompt is None or not given.token_ids:
            continue
        ids = torch.tensor([[*prompt, *given.token_ids]], device=model.device)
        with torch.inference_mode():
            ours = _logprobs(model, ids, len(prompt))
            with model.disable_adapter():
                base = _logprobs(model, ids, len(prompt))
        found += (ours.exp() * (ours - base)).sum(-1).tolist()
    return sum(found) / len(found) if found else None


def _logprobs(model: Any, ids: Any, prompt: int) -> Any:
    """[answer tokens, vocabulary]"""
    import torch

    return torch.log_softmax(model(input_ids=ids).logits[0, prompt - 1 : -1].float(), -1)
