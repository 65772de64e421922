"""TRL trainers over rows that are tokens already: no template is applied a second time.

TRL renders conversations itself, and cuts the prompt where rendering with and without the answer
differ. Ours are exact, so that step is left out.
"""

from collections.abc import Sequence
from typing import Any

from trainer.curriculum import Curriculum
from trainer.reward import RewardFunction


class Tokenised:
    """Mixin before DPO's and KTO's trainer: the data set is taken as it is."""

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset


class TokenisedPrompts:
    """Mixin before GRPO's trainer: a prompt is the rendered text, special tokens and all."""

    processing_class: Any

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        ids = self.processing_class(text=prompts, add_special_tokens=False)["input_ids"]
        return ids, None, {}


class Measured:
    """Mixin before GRPO's trainer: the prompts of a step are drawn when it begins, by what the
    steps before have measured."""

    curriculum: Curriculum
    texts: Sequence[str]
    state: Any
    _went_on = False

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        done = int(self.state.global_step)
        if not self._went_on:
            self._went_on = True
            self.curriculum.go_on(done)
        drawn = self.curriculum.of(done + 1)
        # The inputs have each prompt as often as it is answered, one after the other.
        times = len(inputs) // len(drawn)
        chosen = [index for index in drawn for _ in range(times)]
        asked = [
            {**each, "prompt": self.texts[index], "row": index}
            for each, index in zip(inputs, chosen, strict=True)
        ]
        own: Any = super()
        return own._generate_and_score_completions(asked)


def measured(trainer_class: Any, curriculum: Curriculum, texts: Sequence[str]) -> Any:
    """`trainer_class` that asks what the curriculum says, of these rendered prompts."""
    name = f"Measured{trainer_class.__name__}"
    return type(name, (Measured, trainer_class), {"curriculum": curriculum, "texts": texts})


def telling(reward: RewardFunction, curriculum: Curriculum) -> RewardFunction:
    """The reward function, whose verdicts the curriculum hears of."""

    def told(prompts: Any, completions: Any, row: Sequence[int], **options: Any) -> list[float]:
        values = reward(prompts=prompts, completions=completions, row=row, **options)
        curriculum.saw(int(options["trainer_state"].global_step) + 1, row, values)
        for name, value in curriculum.shown().items():
            options["log_metric"](name, value)
        return values

    return told


def tokenised(trainer_class: Any, mixin: type) -> Any:
    """`trainer_class` with the mixin."""
    return type(f"{mixin.__name__}{trainer_class.__name__}", (mixin, trainer_class), {})
