"""Model versions of each task, over MLflow's registry; the registered model's name is the task's.

- A version is immutable: registering the same digest again returns the version there is.
- The base model is version `base`: no adapter, always there.
- The adapter folder stands at `<data_dir>/adapters/<model_name>` and as artifact `adapter` of the
  run; it is fetched from there when this machine does not have it.
- State and digest are tags of the MLflow version; `transition` is the only way to change a state.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from everlearn.config import Service
from everlearn.errors import ConfigError, InputError, NotFound, RegistryError
from everlearn.task import load_task
from registry.origin import origin
from registry.servable import refusal_of
from registry.states import VersionState, move

BASE = "base"
ALIASES = ("champion", "challenger", "holdback", "last_good")
ARTIFACT = "adapter"
PREFIX = "everlearn."
T = TypeVar("T")


@dataclass(frozen=True)
class ModelVersion:
    """One version of a task's model."""

    task: str
    version: str
    """"1", "2", ... or "base"."""
    model_name: str
    """Its name on the model servers: `{task}-{digest[:12]}`, or the base model's."""
    digest: str = ""
    """sha256 over adapter weights and config; empty for the base model."""
    path: Path | None = None
    """Local adapter folder; None for the base model."""
    run_id: str | None = None
    state: VersionState = VersionState.REGISTERED
    reason: str = ""
    """Why it is in this state."""
    created_at: float = 0.0
    """Unix seconds."""
    snapshot_id: str | None = None
    """The frozen dataset that it learned from."""


class Registry:
    """Versions, aliases and states; every call is a request to MLflow with a timeout."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.client = connect(service)

    def register(
        self,
        task: str,
        adapter: Path,
        *,
        digest: str,
        model_name: str,
        run_id: str,
        tags: Mapping[str, str] | None = None,
    ) -> ModelVersion:
        """The version of this adapter: folder in place, artifact logged, MLflow version made.

        InputError if no model server could serve it.
        """
        problem = refusal_of(adapter, self._max_rank(task))
        if problem is not None:
            raise InputError(f"{adapter}: this adapter is not registered: {problem}")
        known = [version for version in self.versions(task) if version.digest == digest]
        self._place(adapter, model_name)
        if known:
            return known[0]
        ask(self.client.log_artifacts, run_id, str(adapter), ARTIFACT)
        self._ensure_model(task)
        source = f"{ask(self.client.get_run, run_id).info.artifact_uri}/{ARTIFACT}"
        own = {
            **origin(self._service, task, adapter),
            **{"digest": digest, "model_name": model_name, "state": VersionState.REGISTERED},
        }
        made = ask(
            self.client.create_model_version,
            name=task,
            source=source,
            run_id=run_id,
            tags={**(tags or {}), **{f"{PREFIX}{key}": str(value) for key, value in own.items()}},
            await_creation_for=0,
        )
        return self._version(task, made)

    def get(self, task: str, version: str) -> ModelVersion:
        """The version, its adapter folder on this machine; NotFound with the ones there are."""
        if version == BASE:
            return ModelVersion(task, BASE, load_task(self._service, task).base_name)
        if not version.isdigit():
            raise NotFound(
                f"task {task}: no version {version!r}; versions are numbers, or {BASE!r}"
            )
        for found in self.versions(task):
            if found.version == version:
                self._fetch(found)
                return found
        known = ", ".join(found.version for found in self.versions(task)) or "only the base model"
        raise NotFound(f"task {task}: no version {version}; there are: {known}")

    def versions(self, task: str) -> list[ModelVersion]:
        """Every version of the task but `base`, oldest first; adapters are not fetched."""
        found = ask(self.client.search_model_versions, f"name='{task}'", max_results=10_000)
        return sorted(
            (self._version(task, entry) for entry in found), key=lambda entry: int(entry.version)
        )

    def alias(self, task: str, name: str) -> ModelVersion | None:
        """Who bears the alias, or None if nobody ever did."""
        version = self.aliases(task).get(name)
        return None if version is None else self.get(task, version)

    def aliases(self, task: str) -> dict[str, str]:
        """Alias to version; `base` stands in a tag, as MLflow has no version for it."""
        model = self._model(task)
        if model is None:
            return {}
        kept = {name: model.tags.get(f"{PREFIX}alias.{name}") for name in ALIASES}
        based = {name: BASE for name, version in kept.items() if version == BASE}
        return {**based, **{name: str(version) for name, version in model.aliases.items()}}

    def champion(self, task: str) -> ModelVersion:
        """Who answers the task: the alias, else the base model."""
        return self.alias(task, "champion") or self.get(task, BASE)

    def set_alias(self, task: str, name: str, version: str | None) -> None:
        """Point the alias at a version, at `base`, or (None) at nothing."""
        if name not in ALIASES:
            raise InputError(f"alias {name!r} is not one of {', '.join(ALIASES)}")
        self._ensure_model(task)
        tag = f"{PREFIX}alias.{name}"
        if version is not None and version != BASE:
            ask(self.client.set_registered_model_alias, task, name, version)
        elif name in self._model(task).aliases:
            ask(self.client.delete_registered_model_alias, task, name)
        ask(self.client.set_registered_model_tag, task, tag, BASE if version == BASE else "")

    def transition(self, task: str, version: str, state: VersionState, reason: str) -> ModelVersion:
        """Move a version to `state`; InputError when that may not follow. `base` has no state."""
        if version == BASE:
            return self.get(task, BASE)
        found = self.get(task, version)
        self.tag(task, version, state=move(found.state, state), reason=reason)
        return self.get(task, version)

    def tag(self, task: str, version: str, **tags: str) -> None:
        """Write `everlearn.KEY` tags of a version (5,000 characters each at most)."""
        for key, value in tags.items():
            name = f"{PREFIX}{key}"
            ask(self.client.set_model_version_tag, task, version, name, str(value)[:5000])

    def tags(self, task: str, version: str) -> dict[str, str]:
        """Our tags of a version, without the prefix."""
        found = ask(self.client.get_model_version, task, version)
        own = {key: value for key, value in found.tags.items() if key.startswith(PREFIX)}
        return {key.removeprefix(PREFIX): value for key, value in own.items()}

    def adapter_path(self, model_name: str) -> Path:
        """Where an adapter of that name stands on this machine."""
        return self._service.data_path / "adapters" / model_name

    def _max_rank(self, task: str) -> int | None:
        try:
            return self._service.upstreams[load_task(self._service, task).upstream].max_lora_rank
        except (ConfigError, KeyError, NotFound):
            return None  # who cannot be asked refuses nothing

    def _version(self, task: str, entry: Any) -> ModelVersion:
        tags: dict[str, str] = entry.tags
        name = tags.get(f"{PREFIX}model_name", "")
        return ModelVersion(
            task=task,
            version=str(entry.version),
            model_name=name,
            digest=tags.get(f"{PREFIX}digest", ""),
            path=self.adapter_path(name),
            run_id=entry.run_id or None,
            state=VersionState(tags.get(f"{PREFIX}state", VersionState.REGISTERED)),
            reason=tags.get(f"{PREFIX}reason", ""),
            created_at=entry.creation_timestamp / 1000,
            snapshot_id=tags.get(f"{PREFIX}snapshot_id"),
        )

    def _model(self, task: str) -> Any:
        """MLflow's registered model, or None."""
        found = ask(self.client.search_registered_models, f"name='{task}'")
        return found[0] if found else None

    def _ensure_model(self, task: str) -> None:
        if self._model(task) is None:
            ask(self.client.create_registered_model, task)

    def _place(self, adapter: Path, model_name: str) -> None:
        """Copy the folder to its place unless it stands there: temp name, rename."""
        home = self.adapter_path(model_name)
        if home.exists():
            return
        home.parent.mkdir(parents=True, exist_ok=True)
        parts = Path(tempfile.mkdtemp(dir=home.parent, prefix=".part-"))
        shutil.copytree(adapter, parts / "adapter")
        _settle(parts / "adapter", home)

    def _fetch(self, version: ModelVersion) -> None:
        """Download the adapter unless it stands here."""
        if version.path is None or version.path.exists() or version.run_id is None:
            return
        version.path.parent.mkdir(parents=True, exist_ok=True)
        parts = Path(tempfile.mkdtemp(dir=version.path.parent, prefix=".part-"))
        ask(self.client.download_artifacts, version.run_id, ARTIFACT, str(parts))
        _settle(parts / ARTIFACT, version.path)


def _settle(folder: Path, home: Path) -> None:
    """Rename into place; whoever came first wins, the folders are the same by content hash."""
    try:
        folder.rename(home)
    except OSError:
        if not home.exists():
            raise
    shutil.rmtree(folder.parent)


def connect(service: Service) -> Any:
    """An MlflowClient for the config's server that gives up after `mlflow.timeout_seconds`."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # MLflow prints a run's address to standard output, which is the command's own.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # Two attempts of half the time each: a restart of the server is survived, a dead one reported.
    half = max(1, round(service.mlflow.timeout_seconds / 2))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(half))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    from mlflow import MlflowClient

    uri = service.mlflow.tracking_uri
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def experiment_id(client: Any, name: str) -> str:
    """Of the experiment of that name, which is made where there is none."""
    found = ask(client.get_experiment_by_name, name)
    if found is not None:
        return str(found.experiment_id)
    return str(ask(client.create_experiment, name))


def ask(call: Callable[..., T], *arguments: Any, **named: Any) -> T:
    """Call MLflow; RegistryError in one line when it refuses or does not answer."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    try:
        return call(*arguments, **named)
    except MlflowException as error:
        away = error.__context__
        if isinstance(away, RequestException) and away.request is not None:
            raise RegistryError(_away(away, str(away.request.url))) from error
        line = (str(error).strip().splitlines() or ["no reason given"])[0][:300]
        raise RegistryError(f"MLflow: {line}") from error


def _away(error: Exception, url: str) -> str:
    """What stands at the bottom of a call that never arrived, and where to look."""
    reason: BaseException = error
    while (deeper := reason.__cause__ or reason.__context__) is not None:
        reason = deeper
    address, why = url.partition("/api/")[0], getattr(reason, "strerror", None) or reason
    return (
        f"MLflow: no answer from {address} ({why}): start it (`everlearn up` does), or set "
        "mlflow.tracking_uri"
    )
