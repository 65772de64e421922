"""The pure parts: sampling, the growing answer, the row cache, the adapter bank."""

from pathlib import Path
from typing import Any

import pytest
import torch

from everlearn.config import ModelServer
from everlearn.errors import ConfigError
from serving.local.answer import Answer
from serving.local.cache import RowCache
from serving.local.lora import Adapter, LoraLayers, make_bank
from serving.local.model import Model, context_length
from serving.local.protocol import ChatRequest, CompletionRequest
from serving.local.render import TokenTexts
from serving.local.sampling import Drawn, Sampler, Sampling, make_generator
from serving.local.server import thread_count
from tests.serving.tiny import make_tokenizer

LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0]])


def draws(sampling: Sampling, count: int = 4000) -> torch.Tensor:
    """Shares of each token over many rows of the same logits."""
    torch.manual_seed(0)
    sampler = Sampler([sampling] * count, [None] * count)
    tokens = [drawn.token_id for drawn in sampler.draw(LOGITS.repeat(count, 1))]
    return torch.bincount(torch.tensor(tokens), minlength=4) / count


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
def test_tokens_are_drawn_in_proportion(temperature: float) -> None:
    expected = (LOGITS[0] / temperature).softmax(-1)
    assert draws(Sampling(1, temperature=temperature)).tolist() == pytest.approx(
        expected.tolist(), abs=0.03
    )


def test_zero_temperature_takes_the_best() -> None:
    assert draws(Sampling(1, temperature=0.0), 50).tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"top_k": 1}, [0]),
        ({"top_k": 2}, [0, 1]),
        ({"top_k": 99}, [0, 1, 2, 3]),
        ({"top_p": 0.1}, [0]),
        ({"top_p": 0.65}, [0, 1]),
        ({"top_p": 1.0}, [0, 1, 2, 3]),
        ({"top_k": 2, "top_p": 0.1}, [0]),
    ],
)
def test_truncation_keeps_the_smallest_set_and_its_proportions(
    options: dict[str, Any], kept: list[int]
) -> None:
    expected = torch.zeros(4)
    expected[kept] = LOGITS[0, kept].softmax(-1)
    assert draws(Sampling(1, **options)).tolist() == pytest.approx(expected.tolist(), abs=0.03)


def test_rows_of_one_batch_keep_their_own_rules() -> None:
    rows = [Sampling(1, temperature=0.0), Sampling(1, top_k=1), Sampling(1, seed=3)]
    alone = Sampler(rows[2:], [make_generator(3)]).draw(LOGITS)[0]
    mixed = Sampler(rows, [None, None, make_generator(3)]).draw(LOGITS.repeat(3, 1))
    assert [drawn.token_id for drawn in mixed] == [0, 0, alone.token_id]


def test_logprobs_come_only_where_asked_and_ignore_the_temperature() -> None:
    rows = [Sampling(1, temperature=0.0, logprobs=2), Sampling(1), Sampling(1, logprobs=0)]
    drawn = Sampler(rows, [None] * 3).draw(LOGITS.repeat(3, 1))
    expected = LOGITS[0].log_softmax(-1).tolist()
    assert drawn[0].logprob == pytest.approx(expected[0])
    assert [token for token, _ in drawn[0].top] == [0, 1]
    assert drawn[1].top == drawn[2].top == ()
    assert drawn[2].logprob == pytest.approx(expected[drawn[2].token_id])


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer()


def grow(tokenizer: Any, text: str, **rules: Any) -> tuple[Answer, list[str]]:
    """Feed a text token by token; returns the answer and the pieces as shown."""
    sampling = Sampling(**{"max_tokens": 100, **rules})
    answer = Answer(0, [5, 6], sampling, None, tokenizer.backend_tokenizer)
    shown = []
    for token in tokenizer.encode(text):
        answer.add(Drawn(token, 0.0, ()))
        shown.append(answer.take().text)
        if answer.finish_reason is not None:
            break
    return answer, shown


def test_token_texts_add_up_to_the_text(tokenizer: Any) -> None:
    """A token that leaves a character unfinished has none; the finishing one has it whole."""
    texts, ids = TokenTexts(tokenizer), tokenizer.encode("é 🙂x<|end|>")
    named = [texts(token, ids[max(0, place - 4) : place]) for place, token in enumerate(ids)]
    assert "".join(named) == "é 🙂x<|end|>"
    assert "" in named


@pytest.mark.parametrize("text", ["1. 卉魏 (Ko", "日本語 🙂 x", "é 日", "🙂🙂"])
def test_token_texts_of_a_real_tokenizer_keep_the_space_before_a_split_character(
    smollm2: Path, text: str
) -> None:
    from transformers import AutoTokenizer

    real: Any = AutoTokenizer.from_pretrained(smollm2)
    texts, ids = TokenTexts(real), real.encode(text)
    named = [texts(token, ids[max(0, place - 4) : place]) for place, token in enumerate(ids)]
    assert "".join(named) == text


def test_half_characters_are_held_back(tokenizer: Any) -> None:
    _, shown = grow(tokenizer, "a🙂b")
    assert "".join(shown) == "a🙂b"
    assert all("\ufffd" not in piece for piece in shown)
    assert "" in shown


@pytest.mark.parametrize(
    ("stop", "text", "reason"),
    [
        (("cd",), "ab", "cd"),
        (("ef", "cd"), "ab", "cd"),
        (("f",), "abcde", "f"),
        (("abcdef",), "", "abcdef"),
    ],
)
def test_stop_strings_cut_the_text_and_are_never_shown(
    tokenizer: Any, stop: tuple[str, ...], text: str, reason: str
) -> None:
    answer, shown = grow(tokenizer, "abcdef", stop=stop)
    assert "".join(shown) == text
    assert (answer.finish_reason, answer.stop_reason) == ("stop", reason)


def test_a_near_stop_string_is_shown_in_the_end(tokenizer: Any) -> None:
    size = len(tokenizer.encode("abXX"))
    answer, shown = grow(tokenizer, "abXX", stop=("XXX",), max_tokens=size)
    assert shown[0] == "", "two characters could begin the stop string"
    assert "".join(shown) == "abXX"
    assert (answer.finish_reason, answer.stop_reason) == ("length", None)


def test_the_stop_string_may_be_kept(tokenizer: Any) -> None:
    _, shown = grow(tokenizer, "abcdef", stop=("cd",), include_stop=True)
    assert "".join(shown) == "abcd"


def test_the_end_token_counts_but_is_not_shown(tokenizer: Any) -> None:
    end = tokenizer.eos_token_id
    answer, shown = grow(tokenizer, "ab<|end|>", end_ids=frozenset({end}))
    assert "".join(shown) == "ab"
    assert (answer.finish_reason, answer.stop_reason) == ("stop", None)
    assert answer.drawn[-1].token_id == end


def test_rows_of_the_cache_grow_and_move() -> None:
    cache = RowCache(max_rows=3, max_columns=400)
    first = torch.randn(2, 1, 3, 4)
    cache.begin_prefill(0)
    keys, _ = cache.update(first, first, 0)
    assert torch.equal(keys, first)
    cache.move(1, 0, 3)
    for column in range(3, 200):
        new = torch.full((1, 1, 1, 4), float(column))
        cache.begin_decode(torch.tensor([column]))
        keys, values = cache.update(new, new, 0)
    assert keys.shape == values.shape == (1, 1, 200, 4)
    assert torch.equal(keys[0, 0, :3], first[1, 0])
    assert keys[0, 0, 3:, 0].tolist() == list(range(3, 200))


def make_small(name: str, rank: int, *modules: str) -> Adapter:
    torch.manual_seed(rank)
    weights = {module: (torch.randn(rank, 6), torch.randn(5, rank)) for module in modules}
    return Adapter(name, "", rank, weights)


def test_a_bank_lays_adapters_side_by_side() -> None:
    one, two = make_small("one", 2, "a", "b"), make_small("two", 3, "b", "c")
    bank = make_bank([one, two])
    assert bank.ranks == 5
    assert (bank.columns[one], bank.columns[two]) == (slice(0, 2), slice(2, 5))
    a, b = bank.weights["b"]
    assert torch.equal(a[2:], two.weights["b"][0])
    assert torch.equal(b[:, :2], one.weights["b"][1])
    assert not bank.weights["a"][0][2:].any()
    assert not bank.weights["c"][1][:, :2].any()


def test_each_row_of_a_batch_gets_its_own_adapter() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(6, 5))
    layers = LoraLayers()
    layers.install(model)
    assert layers.shapes == {"0": (5, 6)}
    one, two = make_small("one", 2, "0"), make_small("two", 3, "0")
    x = torch.randn(3, 4, 6)
    with torch.inference_mode():
        plain = model(x)
        layers.select([two, None, one])
        found = model(x)
        layers.select([None, None, None])
        assert torch.equal(model(x), plain)
    for row, adapter in ((0, two), (2, one)):
        a, b = adapter.weights["0"]
        expected = plain[row] + x[row] @ a.T @ b.T
        assert torch.allclose(found[row], expected, atol=1e-5)
    assert torch.equal(found[1], plain[1])


def test_an_infinite_intermediate_of_one_row_stays_in_that_row() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(6, 5))
    layers = LoraLayers()
    layers.install(model)
    huge = Adapter("huge", "", 1, {"0": (torch.full((1, 6), 3e38), torch.ones(5, 1))})
    layers.select([huge, make_small("fine", 2, "0"), None])
    with torch.inference_mode():
        found = model(torch.ones(3, 1, 6))
    assert not torch.isfinite(found[0]).any()
    assert torch.isfinite(found[1:]).all()


class Config:
    """A model's config as far as the context is concerned."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)

    def get_text_config(self) -> "Config":
        return self


def test_the_context_ends_at_the_models_limit_its_window_or_ours() -> None:
    assert context_length(Config(max_position_embeddings=512), "m") == 512
    assert context_length(Config(max_position_embeddings=10**6), "m") == 8192
    windowed = Config(max_position_embeddings=4096, sliding_window=1024)
    assert context_length(windowed, "m") == 1024


def test_layers_that_are_no_attention_are_refused() -> None:
    mixed = Config(max_position_embeddings=512, layer_types=["full_attention", "mamba"])
    with pytest.raises(ConfigError, match="layers of kind mamba"):
        context_length(mixed, "m")


def test_a_model_that_is_not_there_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be loaded"):
        Model(str(tmp_path), 1)


def test_half_of_the_cores_unless_told() -> None:
    assert thread_count(ModelServer(threads=3)) == 3
    assert thread_count(ModelServer()) >= 1


def test_prompts_come_in_four_forms() -> None:
    forms = ("a", ["a", "b"], [1, 2], [[1, 2], [3]])
    found = [CompletionRequest(prompt=form).prompts for form in forms]
    assert found == [["a"], ["a", "b"], [[1, 2]], [[1, 2], [3]]]


def test_each_answer_of_a_seeded_request_has_its_own_seed() -> None:
    from serving.local.model import Defaults

    body = ChatRequest(messages=[{"role": "user"}], seed=5, stop="x", temperature=None)
    rows = [body.sampling(10, Defaults(temperature=0.6), frozenset({1}), n) for n in range(2)]
    assert [row.seed for row in rows] == [5, 6]
    assert rows[0].temperature == 0.6
    assert (rows[0].stop, rows[0].max_tokens) == (("x",), 10)
