"""A lake as production fills it: answers of the tiny base model, thumbs, corrections."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from everlearn.config import Service
from everlearn.installation import KEY
from everlearn.lake.store import Lake
from tests.builders import make_service
from tests.trainer.tiny import THINGS, WORDS, colour, first_answer, question

START = datetime(2026, 11, 1, tzinfo=UTC)
MATCHES = {
    "type": "string_check",
    "name": "matches",
    "input": "{{sample.output_text}}",
    "reference": "{{item.reference}}",
    "operation": "eq",
}


def make_task(folder: Path, model: Path, task: str = "colours", **train: Any) -> dict[str, Any]:
    """The content of a task file for the tiny model, written to `folder/tasks`."""
    content: dict[str, Any] = {
        "task": task,
        "base_model": str(model),
        "upstream": "local",
        "graders": [MATCHES],
        "heldout": {"percent": 30},
        # Few people fill these lakes: what strangers may teach is tested by itself.
        "trust": {"max_share_per_rater": 1.0, "min_raters": 1, "max_per_minute": 10_000},
        "train": {
            "max_steps": 40,
            "batch_size": 16,
            "learning_rate": 0.01,
            "max_completion_tokens": 4,
            "min_new_scores": 10,
            "device": "cpu",
            **train,
        },
        "gate": {"min_rows": 5},
        "release": {"primary": "matches"},
    }
    (folder / "tasks").mkdir(parents=True, exist_ok=True)
    (folder / "tasks" / "colours.yaml").write_text(yaml.safe_dump(content))
    return content


def make_production(
    folder: Path, model: Path, mlflow: str, task: str = "colours", **train: Any
) -> Service:
    """A service whose tracking server is at `mlflow`, with the task."""
    make_task(folder, model, task, **train)
    service = make_service(folder, mlflow={"tracking_uri": mlflow})
    # With so few users a secret of its own would now and then leave too little to learn from.
    service.data_path.mkdir(parents=True, exist_ok=True)
    (service.data_path / KEY).write_text(f"{0:064x}\n")
    return service


def completion(number: int, thing: str, word: str, **overrides: Any) -> dict[str, Any]:
    """A row of `completions`: the thing's owner asked about it and the base model answered."""
    return {
        "completion_id": f"cmpl_{number:05d}",
        "task": "colours",
        "version": "base",
        "arm": "champion",
        "unit": f"user-{thing}",
        "status": "ok",
        "received_at": START + timedelta(seconds=number),
        "messages": question(thing, word),
        "response_text": first_answer(thing, word),
        "finish_reason": "stop",
        "trainable": True,
        **overrides,
    }


def thumbs(number: int, value: bool, **overrides: Any) -> dict[str, Any]:
    """A row of `feedback`: what the user thought."""
    return {
        "feedback_id": f"fb_{number:05d}",
        "completion_id": f"cmpl_{number:05d}",
        "kind": "binary",
        "name": "thumbs",
        "value_bool": value,
        "author": "end_user",
        "weight": 1.0,
        "received_at": START + timedelta(seconds=number, minutes=1),
        **overrides,
    }


def correction(number: int, text: str, **overrides: Any) -> dict[str, Any]:
    """A row of `feedback`: an expert's right answer."""
    return thumbs(
        number,
        False,
        feedback_id=f"fb_c{number:05d}",
        kind="correction",
        name="correction",
        value_bool=None,
        value_text=text,
        author="expert",
        **overrides,
    )


def fill(lake: Lake, task: str = "colours") -> None:
    """Every owner asks both questions three times and gives thumbs on two; an expert corrects the
    first wrong answer of two owners in three."""
    completions, feedback = [], []
    asked = [(round_, thing, word) for round_ in range(3) for thing in THINGS for word in WORDS]
    for number, (round_, thing, word) in enumerate(asked):
        right = first_answer(thing, word) == colour(thing)
        completions.append(completion(number, thing, word, task=task))
        if round_ < 2:
            feedback.append(thumbs(number, right))
        if round_ == 0 and not right and THINGS.index(thing) % 3:
            feedback.append(correction(number, colour(thing)))

    def write(transaction: Any) -> None:
        transaction.append("completions", completions)
        transaction.append("feedback", feedback)

    lake.commit(write)
