"""Odd rows are left out with their reason; the others are trained."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from everlearn.errors import ConfigError, NotEnoughEvidence
from everlearn.task import Task
from tests.trainer.examples import accepted, corrected, make_row, rejected
from tests.trainer.templates import make_tokenizer
from trainer.adapter import probes
from trainer.evidence import answer, examine
from trainer.generate import answer_all
from trainer.methods import TrainingData, dpo, kto, rft, sft
from trainer.rows import Row
from trainer.workbench import Workbench, fit

PLAIN = (
    "{% for m in messages %}{{ '<S>' + m['role'] + '\n' + m['content'] + '<E>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<S>assistant\n' }}{% endif %}"
)
DATED = "{{ '<S>system\n' + strftime_now('%Y-%m-%d') + '<E>\n' }}" + PLAIN
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}" + PLAIN
)
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
QUESTION = {"role": "user", "content": "q"}

Build = Callable[..., Workbench]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """A workbench over a tiny model of random weights with a template of one's choice."""
    made: dict[Any, Path] = {}

    def bench(template: str = PLAIN, positions: int = 512, **train: Any) -> Workbench:
        if (template, positions) not in made:
            made[template, positions] = _save(tmp_path_factory.mktemp("model"), template, positions)
        base = str(made[template, positions])
        knobs = {"device": "cpu", "max_steps": 2, "batch_size": 8, "max_completion_tokens": 4}
        task = Task(
            task="t",
            base_model=base,
            upstream="u",
            graders=({"type": "feedback", "name": "thumbs"},),
            train={**knobs, **train},
        )
        return Workbench(task, base, tmp_path_factory.mktemp("scratch"))

    return bench


def _unrewarded(_: Any) -> Any:
    """The reward of methods that have none."""


def _save(folder: Path, template: str, positions: int) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer(template, ("<E>",))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("template", "messages", "reason"),
    [
        (PLAIN, [{"role": "user", "content": [{"type": "text", "text": "hello"}]}], None),
        (PLAIN, [{"role": "user", "content": [{"type": "image_url"}]}], "content_not_text"),
        (
            PLAIN,
            [
                QUESTION,
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "c", "content": "1"},
            ],
            "template_drops_tool_call",
        ),
        (NO_SYSTEM, [{"role": "system", "content": "s"}, QUESTION], "template_refuses"),
        (NO_SYSTEM, [QUESTION, QUESTION], "template_refuses"),
        (PLAIN, "hello", "messages_unreadable"),
    ],
)
def test_one_odd_row_among_good_ones_costs_that_row(
    build: Build, template: str, messages: Any, reason: str | None
) -> None:
    bench = build(template)
    odd = accepted(messages=messages)
    good = [accepted() for _ in range(20)]
    assert bench.encoder.refuses(odd) == reason
    examples, _ = sft.encoded([*good, odd], bench)
    assert len(examples) == 20 + (reason is None)
    prompts = [good[0].messages, messages]
    made = answer_all(bench.base_model(), bench.tokenizer, prompts, 2).answers
    assert bool(made[0].token_ids)
    assert bool(made[1].token_ids) == (reason is None)


def test_too_long_rows_are_counted_before_anything_is_trained(build: Build) -> None:
    bench = build(max_length=64)
    long = [accepted(prompt="context " * 40 + str(number)) for number in range(20)]
    assert {bench.encoder.refuses(row) for row in long} == {"too_long"}
    for rows in (long, [*long, accepted()]):
        with pytest.raises(NotEnoughEvidence, match=r"20 too long \(max_length 64\)"):
            sft.METHOD.build(TrainingData(tuple(rows)), build(max_length=64), _unrewarded)


def test_a_prompt_longer_than_the_context_is_no_exam_row(build: Build) -> None:
    bench = build(positions=64)
    assert bench.encoder.refuses(make_row(prompt="word " * 30, split="gate")) == "too_long"
    assert bench.encoder.refuses(make_row(split="gate")) is None


def test_answers_of_two_days_to_one_question_are_a_pair(build: Build) -> None:
    """Of a template that prints the date, which makes another prompt of it every day."""
    first, later = (datetime(2024, 2, day, 12, tzinfo=UTC) for day in (3, 4))
    rows: list[Row] = []
    for number in range(12):
        same = {"prompt": f"question {number}"}
        rows.append(accepted(**same, asked_at=first))
        rows.append(rejected(**same, asked_at=later, completion="wrong"))
    bench, data = build(DATED), TrainingData(tuple(rows))
    made = [dpo._example(pair, bench) for pair in dpo.pairs(data)]
    prompts = [bench.tokenizer.decode(each["prompt_ids"]) for each in made if each is not None]
    assert len(prompts) == 12
    assert all("2024-02-03" in prompt for prompt in prompts)


def test_an_answer_that_is_cut_is_not_right_whatever_the_grader_says(build: Build) -> None:
    from dataclasses import replace

    bench = build(max_completion_tokens=3)
    thumbs = {"type": "feedback", "name": "thumbs"}
    same = {"type": "json_schema", "name": "json", "json_schema": {}}
    task = {**bench.task.model_dump(exclude_unset=True), "heldout": {"grader": "json"}}
    bench = replace(bench, task=Task.model_validate({**task, "graders": [thumbs, same]}))
    rows = [make_row(split="select") for _ in range(8)]
    model = bench.base_model()
    made = answer(model, bench, [row.conversation for row in rows])
    ends = {bench.tokenizer.eos_token_id}
    assert [each.cut for each in made.answers] == [
        each.token_ids[-1] not in ends for each in made.answers
    ]
    assert any(each.cut for each in made.answers)
    exam = examine(model, bench, lambda _, texts: [1.0] * len(texts), rows)
    assert exam.scores == tuple(0.0 if each.cut else 1.0 for each in made.answers)


def test_a_probe_says_whether_its_prompt_changes_with_the_day(build: Build) -> None:
    for template, dated in ((PLAIN, None), (DATED, True)):
        bench = build(template)
        (probe,) = probes(bench.base_model(), bench.tokenizer, [("c1", [QUESTION])])
        assert probe.get("dated") == dated


@pytest.mark.parametrize(("ups", "downs"), [(400, 10), (10, 400)])
def test_both_thumbs_are_in_every_batch_however_rare_one_is(
    build: Build, ups: int, downs: int
) -> None:
    rows = [accepted() for _ in range(ups)] + [rejected() for _ in range(downs)]
    bench = build()
    sides = kto.sides(TrainingData(tuple(rows)), bench)
    order = kto.layout(*sides, bench.task.train, 2)
    assert len(order) == 16
    for start in (0, 8):
        assert 2 <= sum(row["label"] for row in order[start : start + 8]) <= 6


def test_a_mismatched_completion_is_of_another_row_of_the_batch() -> None:
    rows = [{"completion_ids": [number]} for number in range(5)]
    made = kto.with_mismatched(rows, 3)
    assert [row["KL_completion_ids"] for row in made] == [[2], [0], [1], [4], [3]]


def test_a_preferences_trainer_is_given_exact_tokens(build: Build) -> None:
    bench = build()
    rows = [corrected(completion="wrong", target="\nright") for _ in range(10)]
    trainer = dpo.METHOD.build(TrainingData(tuple(rows)), bench, _unrewarded)
    (row,) = trainer.train_dataset.select([0])
    assert bench.tokenizer.decode(row["prompt_ids"]).endswith("<S>assistant\n")
    assert bench.tokenizer.decode(row["chosen_ids"]) == "\nright<E>"
    assert bench.tokenizer.decode(row["rejected_ids"]) == "wrong<E>"


def test_kto_on_a_machine_for_one_row_trains_on_two(build: Build) -> None:
    from dataclasses import replace

    bench = replace(build(), micro_limit=1)
    rows = [accepted() for _ in range(10)] + [rejected() for _ in range(10)]
    trainer = kto.METHOD.build(TrainingData(tuple(rows)), bench, _unrewarded)
    assert trainer.args.per_device_train_batch_size == 2
    assert all(row["KL_completion_ids"] for row in trainer.train_dataset)
    assert bench.smaller("kto") is None


def test_micro_batches_make_the_same_step_as_the_whole_batch(build: Build) -> None:
    from dataclasses import replace

    rows = tuple(accepted(completion=f"answer {number}") for number in range(10))
    losses = []
    for limit in (8, 2):
        bench = replace(build(max_steps=1, learning_rate=1e-3), micro_limit=limit)
        trainer = sft.METHOD.build(TrainingData(rows), bench, _unrewarded)
        assert trainer.args.gradient_accumulation_steps == 8 // limit
        trained = fit("sft", trainer, lambda _: None)
        losses.append(next(value for name, value, _ in trained.metrics if name == "sft/loss"))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_device_that_is_not_there_is_an_error(build: Build) -> None:
    import torch

    assert not torch.cuda.is_available()
    with pytest.raises(ConfigError, match=r"train.device = 'cuda': this machine has no CUDA"):
        build(device="cuda").base_model()
    with pytest.raises(ConfigError, match=r"load_in_4bit = true: needs a CUDA device"):
        build(load_in_4bit=True).base_model()


@pytest.mark.parametrize("kind", ["one", "group", "all", "equal"])
def test_a_reward_that_is_not_there_pulls_in_no_direction(build: Build, kind: str) -> None:
    from trainer.reward import neutral

    def rewarded(_: Any) -> Any:
        def reward(completions: list[str], row: list[int], **_: Any) -> list[float]:
            kinds: dict[str, list[float | None]] = {
                "one": [None if i % 5 == 0 else float(i % 2) for i in range(len(row))],
                "group": [None if r == row[0] else float(i % 2) for i, r in enumerate(row)],
                "all": [None for _ in row],
                "equal": [1.0 for _ in row],
            }
            return neutral(kinds[kind], [str(each) for each in row])

        return reward

    rows = tuple(accepted() for _ in range(8))
    trainer = rft.METHOD.build(TrainingData(rows), build(max_steps=1), rewarded)
    model = fit("rft", trainer, lambda _: None).model
    weights = [p.detach().abs().max().item() for n, p in model.named_parameters() if "lora_B" in n]
    assert all(value < 1.0 for value in weights)
    assert (max(weights) > 0) == (kind in ("one", "group"))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('broken') }}", r"template cannot hold a question.*broken"),
        ("{{ messages[0].content }}", r"template cannot hold a question.*template_drops_content"),
    ],
)
def test_a_template_that_holds_no_conversation_is_said_before_training(
    build: Build, template: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        assert build(template).encoder


def test_config_check_says_that_a_template_holds_no_conversation(
    build: Build, tmp_path: Path
) -> None:
    from click.testing import CliRunner

    from everlearn.cli.config import command
    from tests.builders import make_service
    from tests.trainer.production import make_task

    for template, code in ((PLAIN, 0), ("{{ raise_exception('broken') }}", 2)):
        folder = tmp_path / str(code)
        make_task(folder, Path(build(template).base))
        make_service(folder)
        words = ["check", str(folder / "everlearn.yaml")]
        result = CliRunner().invoke(command, words)
        assert (result.exit_code == 0) == (code == 0)
        assert isinstance(result.exception, ConfigError) == (code == 2)


def test_a_base_model_without_template_or_end_is_refused(build: Build) -> None:
    bench = build()
    tokenizer = bench.tokenizer
    folder = Path(bench.base).with_name("bare")
    Path(bench.base).rename(folder)
    Path(bench.base).symlink_to(folder)
    (folder / "chat_template.jinja").rename(folder / "kept.jinja")
    other = Workbench(bench.task, str(folder), bench.folder)
    with pytest.raises(ConfigError, match="has no template"):
        assert other.tokenizer
    (folder / "kept.jinja").rename(folder / "chat_template.jinja")
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_a_tokenizer_whose_pad_is_its_end_teaches_the_end(build: Build, tmp_path: Path) -> None:
    bench = build()
    tokenizer = bench.tokenizer
    tokenizer.pad_token = tokenizer.eos_token
    rows = tuple(accepted() for _ in range(10))
    trainer = sft.METHOD.build(TrainingData(rows), bench, _unrewarded)
    batch = next(iter(trainer.get_train_dataloader()))
    ends = (batch["labels"] == tokenizer.eos_token_id).sum(dim=1)
    assert ends.tolist() == [1] * len(batch["labels"])
