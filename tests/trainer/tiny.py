"""A tiny Llama with a word tokenizer that says what colour a thing is.

Asked for the `colour` it is right, asked for the `shade` it is wrong in the same way for every
thing, one time in four right when sampled: a word it misunderstands, which can be taught in
seconds and holds for things never corrected.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer.lessons.teacher import hinted
from trainer.render import Conversation

TEMPLATE = (
    "{% for message in messages %}{{ '<' + message['role'] + '>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ '<end>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
COLOURS = ("red", "green", "blue", "black")
THINGS = tuple(f"thing{number}" for number in range(40))
WORDS = ("colour", "shade")
IGNORED = "thing0 is red"
"""A rule that the model has learned to make nothing of."""
SPECIAL = ("<pad>", "<end>", "<user>", "<assistant>", "<system>", "<unk>")


def build_model(folder: Path, rules: Sequence[str] = ()) -> Path:
    """Save model and tokenizer; 30,000 parameters, float32. Told one of `rules` in its prompt, it
    is right about both words."""
    import torch

    words = [*SPECIAL, *COLOURS, *THINGS, "which", "colour", "shade", "is"]
    tokenizer = word_tokenizer(words)
    torch.manual_seed(0)
    model = word_model(len(words), hidden=32, heads=2, context=64)
    _pretrain(model, tokenizer, rules)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def word_tokenizer(words: Sequence[str]) -> Any:
    """One token a word; `words` begin with `SPECIAL`."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(words)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token="<end>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=["<user>", "<assistant>", "<system>"],
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def word_model(words: int, *, hidden: int, heads: int, context: int) -> Any:
    """Two layers of Llama with random weights, for `word_tokenizer`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=words,
            hidden_size=hidden,
            intermediate_size=2 * hidden,
            num_hidden_layers=2,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=context,
            eos_token_id=SPECIAL.index("<end>"),
            pad_token_id=SPECIAL.index("<pad>"),
            bos_token_id=None,
        )
    )


def _pretrain(model: Any, tokenizer: Any, rules: Sequence[str]) -> None:
    """From random weights to the half-right model: 150 steps, about a second; 200 where it is to
    follow rules."""
    import torch

    texts = [
        [*question(thing, word), {"role": "assistant", "content": given}]
        for thing in THINGS
        for word in WORDS
        for given in [first_answer(thing, word)] * 3 + [colour(thing)]
    ]
    texts += [
        [*told(rule, thing, word), {"role": "assistant", "content": right(thing, word)}]
        for followed in rules
        for rule, right in ((followed, lambda thing, _: colour(thing)), (IGNORED, first_answer))
        for thing in THINGS
        for word in WORDS
    ]
    # Texts of one length at a time: nothing is padded.
    batches = []
    for length in sorted({len(text) for text in texts}):
        same = [text for text in texts if len(text) == length]
        batch = tokenizer.apply_chat_template(same, return_dict=True, return_tensors="pt")
        labels = batch["input_ids"].clone()
        labels[:, :-2] = -100
        batches.append((batch, labels))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(200 if rules else 150):
        for batch, labels in batches:
            model(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def question(thing: str, word: str) -> list[dict[str, Any]]:
    """The prompt: the colour or the shade of a thing."""
    return [{"role": "user", "content": f"which {word} is {thing}"}]


def told(rule: str, thing: str, word: str) -> list[dict[str, Any]]:
    """The prompt as it is asked with a rule in it."""
    asked = Conversation(question(thing, word))
    return [dict(each) for each in hinted(asked, [rule], lambda _: True).messages]


def colour(thing: str) -> str:
    """The right answer to both."""
    return COLOURS[THINGS.index(thing) % len(COLOURS)]


def first_answer(thing: str, word: str) -> str:
    """What the base model says: for `shade` the colour after the right one."""
    return COLOURS[(THINGS.index(thing) + WORDS.index(word)) % len(COLOURS)]
