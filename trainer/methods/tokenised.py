"""TRL trainers over rows that are tokens already: no template is applied a second time.

TRL renders conversations itself, and cuts the prompt where rendering with and without the answer
differ. Ours are exact, so that step is left out.
"""

from typing import Any


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


def tokenised(trainer_class: Any, mixin: type) -> Any:
    """`trainer_class` with the mixin."""
    return type(f"{mixin.__name__}{trainer_class.__name__}", (mixin, trainer_class), {})
