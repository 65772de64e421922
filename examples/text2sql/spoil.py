"""A deliberately bad version: the champion's adapter with its weights shaken until it babbles.

It loads and verifies like any other version, for its probes are its own. That it is bad shows only
in front of users, and that is the point.
"""

import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

from everlearn.config import Service
from everlearn.task import base_model_path, load_task
from examples.text2sql.language import questions
from registry.erasure import NOBODY
from registry.versions import Registry
from trainer import adapter as adapters
from trainer.tracking import TrainingRun
from trainer.workbench import Workbench

NOISE = 0.12
"""Standard deviation; trained B matrices have a mean magnitude of 0.006. Measured: at 0.05 94 % of
the answers are still right, at 0.1 one in ten runs, at 0.2 none does but they babble on."""
REASON = "spoiled on purpose"


def register(service: Service, task_name: str, champion: str) -> str:
    """Spoil that version's adapter and register what comes out; its version."""
    task, registry = load_task(service, task_name), Registry(service)
    source = registry.get(task_name, champion)
    prompts = [
        (NOBODY, [{"role": "user", "content": question.text}])
        for question in islice(questions("jargon", "kept", seed=0), adapters.PROBES)
    ]
    run = TrainingRun(service, task)
    with tempfile.TemporaryDirectory(prefix="everlearn-spoil-") as scratch:
        bench = Workbench(task, base_model_path(service, task), Path(scratch))
        model = bench.adapted(source.path)
        spoil(model)
        saved = adapters.save(model, bench, Path(scratch) / "spoiled")
        home = service.data_path / "adapters"
        made = adapters.publish(saved, bench, "spoiled", home, prompts)
        version = registry.register(
            task_name,
            made.path,
            digest=made.digest,
            model_name=made.model_name,
            run_id=run.run_id,
            tags={"everlearn.method": "spoiled"},
        )
    run.end("registered", REASON)
    return version.version


def spoil(model: Any) -> None:
    """Shake every LoRA B matrix; the same model is always spoiled the same way."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(noise.to(parameter), alpha=NOISE)
