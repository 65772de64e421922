"""Which names are served: the base model and the adapters loaded just now."""

import asyncio
import time
from pathlib import Path
from typing import Any

from everlearn.errors import ServingError
from serving.local.engine import Engine
from serving.local.errors import ApiError
from serving.local.lora import Adapter, read_adapter
from serving.local.protocol import LoadAdapter, UnloadAdapter


class Models:
    """Names to adapters; loading never disturbs what runs, an unloaded adapter ends its answers."""

    def __init__(self, engine: Engine, name: str, max_adapters: int) -> None:
        self._engine = engine
        self._max_adapters = max_adapters
        self._adapters: dict[str, Adapter] = {}
        self._created = int(time.time())
        self._changing = asyncio.Lock()
        self.name = name

    @property
    def adapters(self) -> tuple[str, ...]:
        return tuple(self._adapters)

    def find(self, name: str | None) -> tuple[str, Adapter | None]:
        """Name as served and its adapter, None for the base model; 404 for any other name."""
        if not name or name == self.name:
            return self.name, None
        adapter = self._adapters.get(name)
        if adapter is None:
            raise ApiError(404, f"The model `{name}` does not exist.", param="model")
        return name, adapter

    async def load(self, body: LoadAdapter) -> str:
        """Read, check and list an adapter; it can be asked for as soon as this returns."""
        name = body.lora_name
        if not name or not body.lora_path:
            raise _bad("Both 'lora_name' and 'lora_path' must be provided.")
        async with self._changing:
            self._may_load(body)
            try:
                adapter = await asyncio.to_thread(
                    read_adapter, name, Path(body.lora_path), self._engine.model.lora.shapes
                )
            except ServingError as error:
                raise ApiError(400, f"Loading lora {name} failed: {error}") from error
            before = self._adapters.get(name)
            self._adapters[name] = adapter
            if before is not None:
                self._engine.forget(before)
        return f"Success: LoRA adapter '{name}' added successfully."

    def _may_load(self, body: LoadAdapter) -> None:
        name, known = body.lora_name, body.lora_name in self._adapters
        if name == self.name:
            raise _bad(f"'{name}' is the name of the base model.")
        if known and not body.load_inplace:
            raise _bad(
                f"The lora adapter '{name}' has already been loaded. If you want to load the "
                "adapter in place, set 'load_inplace' to True."
            )
        if not known and len(self._adapters) >= self._max_adapters:
            raise _bad(
                f"{self._max_adapters} adapters are loaded, which is all that "
                "model_server.max_adapters allows; unload one first."
            )
        if not Path(body.lora_path).is_dir():
            raise ApiError(404, f"No adapter found for {name}: no folder {body.lora_path}")

    async def unload(self, body: UnloadAdapter) -> str:
        """Unlist an adapter; answers under way with it go on to their end."""
        name = body.lora_name
        if not name:
            raise _bad("'lora_name' needs to be provided to unload a LoRA adapter.")
        async with self._changing:
            adapter = self._adapters.pop(name, None)
        if adapter is None:
            raise ApiError(404, f"The lora adapter '{name}' cannot be found.")
        self._engine.forget(adapter)
        return f"Success: LoRA adapter '{name}' removed successfully."

    def listed(self) -> dict[str, Any]:
        """GET /v1/models."""
        model = self._engine.model
        base = self._card(self.name, model.root, parent=None, max_model_len=model.max_len)
        cards = [
            self._card(name, adapter.path, parent=self.name, max_model_len=None)
            for name, adapter in self._adapters.items()
        ]
        return {"object": "list", "data": [base, *cards]}

    def _card(
        self, name: str, root: str, *, parent: str | None, max_model_len: int | None
    ) -> dict[str, Any]:
        permission = {
            "id": f"modelperm-{name}",
            "object": "model_permission",
            "created": self._created,
            "allow_create_engine": False,
            "allow_sampling": True,
            "allow_logprobs": True,
            "allow_search_indices": False,
            "allow_view": True,
            "allow_fine_tuning": False,
            "organization": "*",
            "group": None,
            "is_blocking": False,
        }
        return {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "everlearn",
            "root": root,
            "parent": parent,
            "max_model_len": max_model_len,
            "permission": [permission],
        }


def _bad(message: str) -> ApiError:
    return ApiError(400, message, kind="InvalidUserInput")
