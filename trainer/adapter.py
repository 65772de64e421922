"""The adapter folder: immutable, named by its content, handed over by temp name and rename.

`<data_dir>/adapters/<task>-<digest[:12]>/` holds PEFT's files, `everlearn.json` (where it comes
from) and `probes.json`: what this very model answers to a few prompts, with token ids and
logprobs, so that a server can be checked against it before it gets traffic. Each says whose prompt
it is, so that it goes when that row is erased (`registry.erasure`); the last is nobody's and stays.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from everlearn.errors import CheckpointError, NothingLearned
from trainer.encode import template_hash
from trainer.generate import answer_all, prompts_of
from trainer.render import Conversation
from trainer.rows import Messages
from trainer.workbench import Workbench

PROBES = 4
"""Of production's prompts."""
GREETING: Messages = [{"role": "user", "content": "Hello"}]
"""A prompt that is nobody's."""
PROBE_TOKENS = 24
ANOTHER_DAY = datetime(2000, 1, 1, tzinfo=UTC)
UNMOVED = 1e-5
"""Nats; the same weights on the same machine differ by rounding to six digits at most."""
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"

Prompt = tuple[str, Messages]
"""Whose it is, by completion id, and what is asked."""
Probe = Mapping[str, Any]
"""What a model answered to one prompt, with token ids and logprobs."""


@dataclass(frozen=True)
class Adapter:
    """A finished adapter folder."""

    model_name: str
    digest: str
    path: Path


def save(model: Any, bench: Workbench, folder: Path) -> Path:
    """PEFT's files in `folder`, the same bytes for the same weights on any machine."""
    try:
        model.save_pretrained(str(folder), selected_adapters=["default"])
    # safetensors reports a full disk as an error of its own, not as OSError.
    except Exception as error:
        raise CheckpointError(
            f"{folder}: the adapter could not be written: {error}; free space there and start "
            "again: the run goes on"
        ) from error
    (folder / "README.md").unlink(missing_ok=True)
    canonical_config(folder / CONFIG, bench.task.base_model)
    return folder


def publish(
    saved: Path, bench: Workbench, method: str, home: Path, prompts: Sequence[Prompt]
) -> Adapter:
    """The finished folder in `home`, under its content's name; probes come from the saved files."""
    digest = content_digest(saved)
    name = f"{bench.task.task}-{digest[:12]}"
    home.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=home, prefix=".part-"))
    try:
        for file in (WEIGHTS, CONFIG):
            shutil.copy(saved / file, part)
        dump(part / "everlearn.json", _origin(bench, method, digest))
        model = bench.adapted(saved)
        dump(part / "probes.json", probes(model, bench.tokenizer, prompts))
        with model.disable_adapter():
            # How far a server's arithmetic is from ours, whatever the adapter.
            dump(part / "base_probes.json", probes(model, bench.tokenizer, prompts))
        part.chmod(0o755)
        if not (home / name).exists():
            part.rename(home / name)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Adapter(name, digest, home / name)


def content_digest(folder: Path) -> str:
    """sha256 over adapter weights and config."""
    digest = hashlib.sha256()
    for name in (WEIGHTS, CONFIG):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def canonical_config(path: Path, base_model: str) -> None:
    """PEFT writes sets in any order and this machine's path: neither belongs to the content."""
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = base_model
    for key, value in config.items():
        if isinstance(value, list) and all(isinstance(each, str) for each in value):
            config[key] = sorted(value)
    dump(path, config)


def dump(path: Path, content: Any) -> None:
    """Readable JSON with sorted keys."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n")


def probes(model: Any, tokenizer: Any, prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
    """Greedy continuations, each with the logprobs of one unbatched, unpadded pass."""
    result = []
    for completion_id, messages in prompts:
        made = answer_all(model, tokenizer, [messages], PROBE_TOKENS).answers[0]
        (asked,) = prompts_of(model, tokenizer, [messages])
        if asked is None or not made.token_ids:
            continue
        logprobs = logprobs_of(model, asked, made.token_ids)
        then = Conversation(messages, asked_at=ANOTHER_DAY)
        dated = prompts_of(model, tokenizer, [then]) != [asked]
        result.append(
            {
                **({"dated": True} if dated else {}),
                "completion_id": completion_id,
                "messages": list(messages),
                "max_tokens": PROBE_TOKENS,
                "prompt_token_ids": [int(token) for token in asked],
                "token_ids": list(made.token_ids),
                "logprobs": [round(value, 6) for value in logprobs],
            }
        )
    return result


def logprobs_of(model: Any, asked: Sequence[int], answered: Sequence[int]) -> list[float]:
    """Of each token of the answer, by one unbatched, unpadded pass."""
    import torch

    ids = torch.tensor([[*asked, *answered]], device=model.device)
    with torch.inference_mode():
        logits = model(input_ids=ids).logits[0, len(asked) - 1 : -1].float()
    found = torch.log_softmax(logits, -1).gather(1, ids[0, len(asked) :, None])[:, 0]
    return [float(value) for value in found.tolist()]


def learned(model: Any, saved: Path, parent: Path | None, before: Sequence[Probe]) -> None:
    """NothingLearned when `model` is its parent, or gives each token of what the parent answered,
    `before`, the same logprob."""
    if parent is not None and content_digest(saved) == content_digest(parent):
        raise NothingLearned("nothing was learned: the adapter is the champion's, byte for byte")
    moves = [
        abs(now - then)
        for probe in before
        for now, then in zip(
            logprobs_of(model, probe["prompt_token_ids"], probe["token_ids"]),
            probe["logprobs"],
            strict=True,
        )
    ]
    if moves and max(moves) <= UNMOVED:
        raise NothingLearned(
            f"nothing was learned: on {len(before)} prompts no token's logprob moved from the "
            f"champion's by more than {UNMOVED:g}"
        )


def _origin(bench: Workbench, method: str, digest: str) -> dict[str, Any]:
    return {
        "task": bench.task.task,
        "base_model": bench.task.base_model,
        "digest": digest,
        "template_hash": template_hash(bench.tokenizer.chat_template),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "method": method,
        "precision": bench.precision(method),
    }
