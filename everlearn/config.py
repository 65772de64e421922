"""The service's config: `everlearn.yaml` plus `EVERLEARN_SECTION__KEY` from the environment.

Unknown keys fail. Relative paths are relative to the config file. Every field says its unit
and why its default.
"""

import json
import os
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from everlearn import regex
from everlearn.errors import ConfigError
from everlearn.process_log import Logging
from everlearn.yaml_file import describe, read_yaml


def _http_address(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError("an address starts with http:// or https://")
    return value.rstrip("/")


HttpAddress = Annotated[str, AfterValidator(_http_address)]


class Section(BaseModel):
    """Base of every section: unknown keys fail."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Price(Section):
    """What an answer costs, in any one currency: per token, or per hour of a replica."""

    prompt_per_million: float = Field(0.0, ge=0)
    """Of a million prompt tokens."""
    completion_per_million: float = Field(0.0, ge=0)
    """Of a million completion tokens."""
    per_replica_hour: float = Field(0.0, ge=0)
    """Of one replica for an hour; an answer pays for the time it took."""
    concurrent: int = Field(1, ge=1)
    """Answers that share a replica in the usual load: each pays this part of its time."""

    @model_validator(mode="after")
    def _says_something(self) -> "Price":
        if not (self.prompt_per_million or self.completion_per_million or self.per_replica_hour):
            raise ValueError(
                "a price names prompt_per_million, completion_per_million or per_replica_hour"
            )
        return self

    def of(self, prompt_tokens: float, completion_tokens: float, latency_ms: float) -> float:
        """The cost of one answer."""
        tokens = (
            self.prompt_per_million * prompt_tokens
            + self.completion_per_million * completion_tokens
        )
        return tokens / 1e6 + self.per_replica_hour * latency_ms / 3.6e6 / self.concurrent


class Upstream(Section):
    """One OpenAI-compatible server, or several replicas of it."""

    base_url: HttpAddress
    """Up to and including /v1."""
    replicas: tuple[HttpAddress, ...] = ()
    """More addresses of the same server; balanced with base_url."""
    kind: Literal["openai", "vllm"] = "openai"
    """vllm: adapters can be loaded and token ids asked for. The local model server speaks vllm."""
    api_key_env: str | None = None
    """Environment variable that holds the key; without it the client's own key is passed on."""
    tls_ca_file: Path | None = None
    """PEM file of the only authorities trusted, as of an internal CA; empty: the system's."""
    connect_timeout_seconds: float = Field(5.0, gt=0)
    """For the TCP and TLS handshake of a new connection."""
    first_byte_timeout_seconds: float = Field(120.0, gt=0)
    """From the request to the first byte of a streamed answer's body."""
    answer_timeout_seconds: float = Field(600.0, gt=0)
    """From the request to the end of an answer that is not streamed, however long it thinks."""
    chunk_timeout_seconds: float = Field(60.0, gt=0)
    """Between two chunks of a stream."""
    max_retries: int = Field(2, ge=0, le=10)
    """Before the first byte only."""
    token_ids: bool = True
    """Of kind vllm only: ask for the token ids of prompt and answer, so that training learns from
    what was sampled; what the client did not ask for is taken out of its answer."""
    rename_fields: dict[str, str] = {}
    """Fields of request bodies that this upstream calls otherwise: {max_tokens:
    max_completion_tokens}. Such bodies are written anew, value by value as they came."""
    drop_fields: tuple[str, ...] = ()
    """Fields of request bodies that this upstream refuses; nothing is dropped unasked."""
    fallback: str | None = None
    """Upstream asked when this one fails before the first byte."""
    fallback_model: str | None = None
    """Model asked for when this upstream is the fallback of another; empty: the same name. Such
    answers count for no arm."""
    health_check_seconds: float = Field(5.0, ge=0)
    """Between two looks at each replica, where there are several; 0 = off."""
    max_adapters: int | None = Field(None, ge=1)
    """Slots for adapters on each replica (vLLM: --max-cpu-loras; the local server: its own
    max_adapters). Empty: what no arm of a task needs any more is unloaded at once; else only as
    many as must go, the longest loaded first."""
    max_lora_rank: int | None = Field(None, ge=1)
    """Largest rank of an adapter that it takes (vLLM: --max-lora-rank, 16 unless said). A task that
    trains a larger one is refused, and so is the adapter when it is registered. Empty: any."""
    verify_tolerance: float | None = Field(None, gt=0)
    """Mean difference, nats per token, that an adapter's logprobs may have from the trainer's.
    Empty: measured on the base model, whose own difference says how this server computes."""
    price: Price | None = None
    """Needed where the cost of an answer decides; shown wherever it is known."""

    @property
    def addresses(self) -> tuple[str, ...]:
        return (self.base_url, *self.replicas)


Role = Literal["client", "expert", "judge", "service", "viewer", "operator"]


class Key(Section):
    """One key and what its holder may do: authority comes from here, never from a body."""

    id: str = Field(min_length=1, max_length=256)
    """Whose it is: stands in the lake, of an expert beside his labels; the key never does."""
    role: Role = "client"
    """client: an application; expert: a person whose labels teach; judge: a program that judges;
    service: a program of ours; viewer: a person who looks at the console and asks the gateway
    nothing; operator: everything."""
    may_speak_for: Literal["users"] | None = None
    """users: passes on the ids of an application's users. Never for a key that stands in a web page
    or an app: whoever reads it there could speak for anybody."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Of the key: `printf %s KEY | sha256sum`."""
    tasks: tuple[str, ...] = ()
    """Allowed tasks; empty means all."""
    requests_per_minute: int = Field(0, ge=0)
    """0 = no limit, here and below."""
    tokens_per_minute: int = Field(0, ge=0)
    """Prompt and completion tokens together, as the upstream counts them."""
    max_concurrent: int = Field(0, ge=0)
    """Requests in flight."""


class Capture(Section):
    """How the gateway's write-ahead log keeps events."""

    durability: Literal["write", "fsync", "off"] = "write"
    """write survives kill -9 of any process; fsync survives power loss (group commit)."""
    segment_bytes: int = Field(16 * 2**20, ge=4096)
    """Small enough to be freed on a small disk."""
    wal_max_bytes: int = Field(2 * 2**30, ge=8192)
    """Per worker; then `on_full` acts. fsync prepares up to two segments beyond it."""
    on_full: Literal["drop_newest", "reject"] = "drop_newest"
    """drop_newest counts and goes on serving; reject answers 503."""
    passed_max_bytes: int = Field(64 * 2**10, ge=0)
    """Of routes that are only passed on (files, audio, images, ...): longer bodies are left out."""
    logprobs: bool = False
    """Whether the logprobs of sampled tokens are asked for where the upstream is of kind vllm; what
    the client did not ask for is taken out of its answer. Ten times the bytes of token ids."""
    mask: tuple[str, ...] = ()
    """Regular expressions; matches are replaced by [masked] before the first write. They are
    searched in linear time: no backreferences, no lookaround."""

    @field_validator("mask")
    @classmethod
    def _compiles(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            regex.compile(pattern)
        return patterns


class Cors(Section):
    """Which web pages may read the gateway's answers."""

    allowed_origins: tuple[str, ...] = ("*",)
    """As browsers write them: https://shop.example; * for any page, which lets in nobody who has no
    key, as browsers send none of themselves; [] for none. Without keys name your pages here."""
    max_age_seconds: int = Field(600, ge=0)
    """How long a browser need not ask again."""


class Gateway(Section):
    """The door."""

    host: str = "127.0.0.1"
    """Address to listen on; only this machine by default."""
    port: int = Field(8000, ge=0, le=65535)
    """The address your clients get."""
    workers: int = Field(1, ge=1, le=64)
    """Processes on one port, each with its own WAL."""
    keys: tuple[Key, ...] = ()
    """Beside those of `everlearn keys create`. A limit holds for the gateway, not per worker."""
    require_key: bool | None = None
    """Empty: a key is asked for once one exists or ever existed, here or in the state store. true:
    always. false: never, though a key that is known is still held to its limits."""
    insecure: bool = False
    """true: no key need be asked for on an address that other machines reach. Whoever reaches it
    may then teach the model, as an expert if he says so."""
    max_body_bytes: int = Field(16 * 2**20, ge=1024)
    """A longer request body is answered 413."""
    max_concurrent: int = Field(8192, ge=1)
    """Requests in flight per worker; more are answered 503 with retry-after."""
    drain_seconds: float = Field(30.0, ge=0)
    """After SIGTERM, for requests in flight."""
    cors: Cors = Cors()
    docs: bool = False
    """Whether /docs and /openapi.json are served."""
    metrics: bool = True
    """Whether /metrics is served, to whoever reaches the port."""
    capture: Capture = Capture()

    @property
    def local(self) -> bool:
        """Whether only this machine reaches it."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    @model_validator(mode="after")
    def _asks_for_keys(self) -> "Gateway":
        asks = self.require_key or (self.keys and self.require_key is None)
        if not (self.local or asks or self.insecure):
            raise ValueError(
                f"host {self.host!r} is reached by other machines, and no key is asked for: set "
                "gateway.require_key: true and make keys (everlearn keys create --role client "
                "--name app), or listen on 127.0.0.1, or set gateway.insecure: true if whoever "
                "reaches it may teach the model"
            )
        return self


def _brokers(value: object) -> object:
    """A list, a text with commas, or a list as the environment writes it, in JSON."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return json.loads(value)
    return [each.strip() for each in value.split(",")]


Brokers = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_brokers)]


class Bus(Section):
    """The event log between gateway and collector."""

    kind: Literal["wal", "kafka"] = "wal"
    """wal: the collector reads the logs of this machine; kafka: a shipper moves them."""
    bootstrap_servers: Brokers = ("127.0.0.1:9092",)
    """Brokers asked first: a list, or a text with commas."""
    topic: str = "everlearn.events"
    """One topic holds every event."""
    partitions: int = Field(6, ge=1)
    """Used when the topic is created; collectors share them."""
    replication_factor: int = Field(1, ge=1)
    """Used when the topic is created; 3 in production."""
    retention_hours: float = Field(168.0, gt=0)
    """Used when the topic is created: how long a collector may be away."""
    create_topic: bool = True
    """Whether a missing topic may be created."""
    group: str = "everlearn-collector"
    """Consumer group of the collectors."""
    client: dict[str, Any] = {}
    """Passed to kafka-python as it is: security_protocol, ssl_*, sasl_*."""
    metrics_port: int = Field(0, ge=0, le=65535)
    """Prometheus port of the shipper; 0 = off."""


class Collector(Section):
    """Event log to lake."""

    max_batch_rows: int = Field(20_000, ge=1)
    """Rows per lake transaction at most."""
    max_batch_bytes: int = Field(64 * 2**20, ge=1024)
    """Payload bytes per lake transaction at most."""
    max_batch_seconds: float = Field(0.5, gt=0)
    """A row is queryable within about twice this."""
    metrics_port: int = Field(0, ge=0, le=65535)
    """Prometheus port of the collector; 0 = off."""


class LakeConfig(Section):
    """DuckLake: catalog and Parquet files."""

    catalog: str = ""
    """Empty: SQLite under data_dir; else `sqlite:PATH` or `postgres:host=...`."""
    data_path: str = ""
    """Empty: <data_dir>/lake/data; else a folder or `s3://bucket/prefix`."""
    s3_endpoint: str | None = None
    """HOST:PORT of an S3-compatible server; empty: AWS."""
    s3_region: str = "us-east-1"
    """Region of the bucket."""
    s3_use_ssl: bool = True
    """Whether to speak HTTPS to it."""
    s3_key_id_env: str = "AWS_ACCESS_KEY_ID"
    """Environment variable that holds the access key id."""
    s3_secret_env: str = "AWS_SECRET_ACCESS_KEY"
    """Environment variable that holds the secret key."""


class StateConfig(Section):
    """Relational state: releases, labels, keys."""

    url: str = ""
    """SQLAlchemy address; empty: SQLite at <data_dir>/state.db."""


class Mlflow(Section):
    """Tracking and registry."""

    tracking_uri: HttpAddress = "http://127.0.0.1:5000"
    """Where the MLflow server answers."""
    artifacts_path: str = ""
    """Where `everlearn up` lets its MLflow server keep files; empty: <data_dir>/mlflow."""
    timeout_seconds: float = Field(30.0, gt=0)
    """Per call to MLflow."""


class ModelServer(Section):
    """The local CPU model server, for development and small models."""

    host: str = "127.0.0.1"
    port: int = Field(8100, ge=0, le=65535)
    """What `upstreams` names."""
    model: str = ""
    """Folder or hub id; empty: no local model server is started."""
    served_model_name: str = ""
    """Empty: `model` as written."""
    max_batch: int = Field(32, ge=1)
    """Requests decoded together."""
    max_adapters: int = Field(8, ge=1)
    """Adapters held in memory; loading one more is refused."""
    threads: int = Field(0, ge=0)
    """torch threads; 0 = half of the cores, the rest is for the other processes."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: half of the memory, and twice as fast where the processor computes in it
    (avx512_bf16, amx). Token ids and logprobs differ a little from the trainer's then."""
    start_timeout_seconds: float = Field(1800.0, gt=0)
    """Until it answers: a large model takes long to load."""


class Sandbox(Section):
    """Where what models and graders wrote is run."""

    isolation: Literal["bubblewrap", "none"] = "bubblewrap"
    """bubblewrap: in a container with nothing of this machine in it, refused where bubblewrap or
    libseccomp is missing. none: as an ordinary process of this user, for code one trusts."""
    packages: tuple[str, ...] = ("numpy", "rapidfuzz")
    """Beside Python's own, what a python grader can import."""


class Releases(Section):
    """The release controller."""

    tick_seconds: float = Field(2.0, gt=0)
    """How often live scores are read and the decision is made."""
    metrics_port: int = Field(0, ge=0, le=65535)
    """Prometheus port of the controller; 0 = off."""


class Console(Section):
    """The operator's web page."""

    host: str = "127.0.0.1"
    port: int = Field(8200, ge=0, le=65535)
    """The page people open."""
    allowed_hosts: tuple[str, ...] = ()
    """Names it is opened by, beside `host` and this machine's own: behind a proxy, its name."""
    metrics_port: int = Field(0, ge=0, le=65535)
    """Prometheus port of the console, for its own numbers and for those of the loop that no lasting
    process counts: scores, judges, labels, trainings, releases; 0 = off."""


class Airflow(Section):
    """The Airflow of `up --stack full`, on this machine only."""

    host: str = "127.0.0.1"
    """A loopback address."""
    port: int = Field(8080, ge=0, le=65535)
    """Its web page."""
    parallelism: int = Field(4, ge=1)
    """Tasks at once; each holds a process of 60 MB, idle or not."""


class Service(BaseSettings):
    """The whole config file."""

    model_config = SettingsConfigDict(
        env_prefix="EVERLEARN_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    root: Path = Path()
    """Folder of the config file; relative paths start there."""
    data_dir: Path = Path(".everlearn")
    """Everything this machine keeps: WAL, lake, state, adapters, logs."""
    tasks_dir: Path = Path("tasks")
    """One YAML file per task."""
    upstreams: dict[str, Upstream] = {}
    """OpenAI-compatible servers by name; a task names the one that answers it."""
    default_upstream: str | None = None
    """For models that are no task; without it they are answered 404."""
    gateway: Gateway = Gateway()
    bus: Bus = Bus()
    collector: Collector = Collector()
    lake: LakeConfig = LakeConfig()
    state: StateConfig = StateConfig()
    mlflow: Mlflow = Mlflow()
    model_server: ModelServer = ModelServer()
    sandbox: Sandbox = Sandbox()
    releases: Releases = Releases()
    console: Console = Console()
    airflow: Airflow = Airflow()
    logging: Logging = Logging()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment overrides the file."""
        return env_settings, init_settings

    @model_validator(mode="after")
    def _names_exist(self) -> "Service":
        known = ", ".join(sorted(self.upstreams)) or "none is configured"
        if self.default_upstream is not None and self.default_upstream not in self.upstreams:
            raise ValueError(
                f"default_upstream {self.default_upstream!r} is not an upstream: {known}"
            )
        for name, upstream in self.upstreams.items():
            if upstream.fallback is not None and upstream.fallback not in self.upstreams:
                raise ValueError(
                    f"upstreams.{name}.fallback {upstream.fallback!r} is not an upstream: {known}"
                )
            if upstream.tls_ca_file is not None:
                resolved = (self.root / upstream.tls_ca_file).resolve()
                self.upstreams[name] = upstream.model_copy(update={"tls_ca_file": resolved})
        return self

    @property
    def data_path(self) -> Path:
        return (self.root / self.data_dir).resolve()

    @property
    def tasks_path(self) -> Path:
        return (self.root / self.tasks_dir).resolve()

    @property
    def wal_path(self) -> Path:
        return self.data_path / "wal"

    @property
    def routes_path(self) -> Path:
        return self.data_path / "routes.json"


def config_file(path: str | None) -> Path:
    """The file named, else $EVERLEARN_CONFIG, else everlearn.yaml here."""
    return Path(path or os.environ.get("EVERLEARN_CONFIG") or "everlearn.yaml")


def load(path: str | Path | None = None) -> Service:
    """The resolved config; ConfigError with one line per problem."""
    file = config_file(str(path) if path is not None else None)
    if not file.exists():
        raise ConfigError(f"{file}: no such file; name one with --config or $EVERLEARN_CONFIG")
    try:
        return Service(**{"root": file.resolve().parent, **read_yaml(file)})
    except ValidationError as error:
        raise ConfigError(describe(error, str(file), Service)) from error
