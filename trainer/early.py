"""Early stop: a supervised run ends once it gets worse at held-out answers that it was not taught.

- The right answers of fixed *select* rows, never of gate rows, are read by the model, which is
  cheap: nothing is generated. A run ends when two looks in a row lie below the best one beyond
  chance, and its adapter is the best look's; one that ends otherwise keeps its last weights, byte
  for byte those of a run that nobody looked at.
- What decides is bounded: the likelihood of an answer's tokens, by geometric mean. Of the mean
  loss, which is shown beside it, a few wrong labels are the most as a good model gets sure.
- Looks, and the adapter of the best one, are kept beside the checkpoints.

Not transformers' `EarlyStoppingCallback`: its evaluation draws a random number, so the run would be
another one; comes after the checkpoint of its step, so a run taken up there would miss it; and has
no notion of chance.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import exp
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from everlearn.rules import Train
from trainer import adapter as adapters
from trainer.hacking import IN_A_ROW, MIN_PROMPTS, STANDARD_ERRORS, fell
from trainer.logprobs import of_examples
from trainer.looks import restored
from trainer.methods.sft import encoded
from trainer.rows import LEARNED, OWN_WORD, Row
from trainer.settings import Settings
from trainer.tracking import Metrics
from trainer.workbench import Workbench

METHODS = ("sft", "dpo", "kto")
LOOKS = 8
"""In a run, beside the one before its first step."""
ROWS = 64
"""Read at a look: in all about a tenth of a run of 60 steps."""
AUTO_ROWS = 32
"""Under `auto`: of fewer the standard error itself is not known."""


@dataclass(frozen=True)
class Look:
    """At one step: nats per token of each row's right answer."""

    step: int
    losses: tuple[float, ...]

    @property
    def loss(self) -> float:
        return fmean(self.losses)

    @property
    def likelihoods(self) -> list[float]:
        return [exp(-loss) for loss in self.losses]


class Finding(NamedTuple):
    """The look to go back to, and the comparison that decided."""

    best: Look
    reason: str


def best_of(looks: Sequence[Look]) -> Look:
    """The one with the highest mean likelihood, the first of equals."""
    return max(looks, key=lambda look: (fmean(look.likelihoods), -look.step))


def overfitted(looks: Sequence[Look]) -> Finding | None:
    """What is found after the last of `looks`."""
    if len(looks) <= IN_A_ROW:
        return None
    best, latest = best_of(looks), looks[-IN_A_ROW:]
    if best in latest or not all(fell(look.likelihoods, best.likelihoods) for look in latest):
        return None
    then, now = fmean(best.likelihoods), fmean(latest[-1].likelihoods)
    return Finding(
        best,
        f"from step {best.step} to {latest[-1].step} the likelihood of {len(best.losses)} select "
        f"answers fell from {then:.3f} to {now:.3f}, by more than {STANDARD_ERRORS} standard "
        f"errors on {IN_A_ROW} looks",
    )


def answered(select: Sequence[Row]) -> list[Row]:
    """Those with a right answer; by hash, so that the first of them are a sample of all."""
    found = [
        row
        for row in select
        if row.kind in LEARNED and row.target is not None and row.author not in OWN_WORD
    ]
    return sorted(found, key=lambda row: row.row_hash)


def unstopped(train: Train, rows: int, made: Settings | None = None) -> str | None:
    """Why no run of `made` on so many rows with a right answer ends early; None: it may. Without
    `made`: why none does."""
    if train.early_stop is False:
        return "train.early_stop is false"
    least = AUTO_ROWS if train.early_stop == "auto" else MIN_PROMPTS
    if rows < least:
        return f"{rows} select rows with a right answer < {least}"
    if train.early_stop == "auto" and made is not None and made.epochs <= 1:
        return f"{made.epochs:.1f} passes over the learned rows"
    return None


def forecast(train: Train, select: Sequence[Row]) -> str:
    """For `--dry-run`."""
    rows = len(answered(select))
    why_not = unstopped(train, rows)
    if why_not is not None:
        return f"off: {why_not}"
    when = " that pass over their rows more than once" if train.early_stop == "auto" else ""
    return (
        f"runs of {', '.join(METHODS)}{when} end once they get worse at "
        f"{min(ROWS, rows)} select answers"
    )


class Early:
    """Of one run; `folder` keeps its looks."""

    def __init__(self, method: str, folder: Path, bench: Workbench, rows: Sequence[Row]) -> None:
        """`rows`: as `answered` gives them."""
        self._name, self._folder, self._bench = method, folder, bench
        self._examples = encoded(list(rows[:ROWS]), bench)[0]
        self.looks: list[Look] = []
        self.finding: Finding | None = None

    @property
    def best(self) -> Path:
        """The adapter of the best look."""
        return self._folder / f"{self._name}-best"

    @property
    def _kept(self) -> Path:
        return self._folder / f"{self._name}-looks.json"

    def go_on(self, step: int) -> None:
        """What was seen until `step`, where a run is taken up."""
        try:
            kept = json.loads(self._kept.read_text())
        except (OSError, ValueError):
            return
        seen = [Look(each["step"], tuple(each["losses"])) for each in kept]
        self.looks = [look for look in seen if look.step <= step]
        self.finding = overfitted(self.looks)

    def look(self, model: Any, step: int) -> Metrics:
        """Look now; what was seen, as metrics."""
        training = model.training
        model.eval()
        try:
            found = of_examples(model, self._examples, self._bench.tokenizer.pad_token_id)
            seen = Look(step, tuple(-fmean(each) for each in found))
            self.looks.append(seen)
            self.finding = overfitted(self.looks)
            if best_of(self.looks) is seen:
                adapters.save(model, self._bench, self.best)
            self._kept.write_text(json.dumps([asdict(look) for look in self.looks]))
        finally:
            model.train(training)
        shown = {"eval_loss": seen.loss, "eval_likelihood": fmean(seen.likelihoods)}
        return [(f"{self._name}/{key}", value, step) for key, value in shown.items()]

    def settle(self, model: Any, steps: int) -> str | None:
        """The best look's weights into the model of a run that got worse; what to say of it."""
        if self.finding is None:
            return None
        restored(model, self.best)
        best, reason = self.finding
        return (
            f"{self._name}: stopped at step {self.looks[-1].step}/{steps}: {reason}; "
            f"the adapter is that of step {best.step}"
        )


def stopping(early: Early, send: Callable[[Metrics], None], unwrap: Callable[[], Any]) -> Any:
    """A callback that looks before the first step and then `LOOKS` times, and ends a run that gets
    worse."""
    from transformers import TrainerCallback

    class Stopping(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            early.go_on(int(state.global_step))
            if not early.looks:
                send(early.look(unwrap(), int(state.global_step)))

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            step = int(state.global_step)
            if step % max(1, -(-args.max_steps // LOOKS)) and step != args.max_steps:
                return
            send(early.look(unwrap(), step))
            if early.finding is not None:
                control.should_training_stop = True

    return Stopping()
