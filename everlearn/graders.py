"""How a grader is declared: the OpenAI grader format, and execution, json_schema and feedback."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from everlearn.config import Section
from everlearn.opinion import Scale


class TextPart(Section):
    """Text of a message."""

    type: Literal["input_text", "output_text"]
    text: str
    prompt_cache_breakpoint: Any = None
    """Accepted for compatibility."""


class ImagePart(Section):
    """A picture in a message: part of the format, shown to no judge."""

    type: Literal["input_image"]
    image_url: str
    detail: str | None = None


class AudioPart(Section):
    """Sound in a message: part of the format, played to no judge."""

    type: Literal["input_audio"]
    input_audio: dict[str, Any]


Part = str | Annotated[TextPart | ImagePart | AudioPart, Field(discriminator="type")]


class Message(Section):
    """One templated chat message of a model grader."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Part | tuple[Part, ...]
    type: Literal["message"] | None = None


class StringCheck(Section):
    """1 when `input` and `reference` compare as `operation` says, else 0."""

    type: Literal["string_check"]
    name: str
    input: str
    reference: str
    operation: Literal["eq", "ne", "like", "ilike"]
    """like and ilike: `input` contains `reference`; ilike folds case."""


class TextSimilarity(Section):
    """Similarity of `input` to `reference`, 0 to 1."""

    type: Literal["text_similarity"]
    name: str
    input: str
    reference: str
    evaluation_metric: Literal[
        "cosine", "fuzzy_match", "bleu", "gleu", "meteor",
        "rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l",
    ]  # fmt: skip
    pass_threshold: float | None = None
    """A score from here on is labelled pass, any other fail."""
    embedding_model: str | None = None
    """Of cosine: the model asked at the upstream's /v1/embeddings; without it unscored."""
    upstream: str | None = None
    """Upstream of the config that serves it; default: the service's default upstream."""
    timeout_seconds: float = Field(60.0, gt=0)
    """Of cosine."""


class SamplingParams(Section):
    """How a judge model is sampled."""

    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    max_completions_tokens: int | None = None
    reasoning_effort: str | None = None


class ScoreModel(Section):
    """A judge model that answers with a number in `range`."""

    type: Literal["score_model"]
    name: str
    model: str
    input: tuple[Message, ...]
    range: tuple[float, float] = (0.0, 1.0)
    """Lowest and highest score; a verdict outside is unscored."""
    guidelines: str | None = Field(None, exclude_if=lambda path: path is None)
    """Text file of what the judge goes by beside that, relative to the task file; its words are
    part of the version. `everlearn judges align` writes one."""
    pass_threshold: float | None = None
    """A score from here on is labelled pass, any other fail."""
    sampling_params: SamplingParams | None = None
    upstream: str | None = None
    """Upstream of the config that serves the judge; default: the service's default upstream."""
    timeout_seconds: float = Field(60.0, gt=0)

    @field_validator("range", mode="before")
    @classmethod
    def _default(cls, range: Any) -> Any:
        return (0.0, 1.0) if range is None else range


class LabelModel(Section):
    """A judge model that answers with one of `labels`; 1 if it is a passing one."""

    type: Literal["label_model"]
    name: str
    model: str
    input: tuple[Message, ...]
    labels: tuple[str, ...]
    passing_labels: tuple[str, ...]
    guidelines: str | None = Field(None, exclude_if=lambda path: path is None)
    """Text file of what the judge goes by beside that, relative to the task file; its words are
    part of the version. `everlearn judges align` writes one."""
    sampling_params: SamplingParams | None = None
    upstream: str | None = None
    timeout_seconds: float = Field(60.0, gt=0)


class PairwiseModel(Section):
    """A judge model that compares the answer with another one, in both orders.

    1 better, 0.5 a tie, 0 worse; the mean of both orders. Unscored while there is no other.
    """

    type: Literal["pairwise_model"]
    name: str
    model: str
    criterion: str = "which answer helps the user more"
    request: str = "{{item.prompt}}"
    answer: str = "{{sample.output_text}}"
    other: str = "{{item.reference}}"
    """What the answer is compared with."""
    guidelines: str | None = Field(None, exclude_if=lambda path: path is None)
    """Text file of what the judge goes by beside that, relative to the task file; its words are
    part of the version. `everlearn judges align` writes one."""
    sampling_params: SamplingParams | None = None
    upstream: str | None = None
    timeout_seconds: float = Field(60.0, gt=0)
    """Of each question."""


class Criterion(Section):
    """One question of a rubric, which an answer meets or does not."""

    name: str
    text: str
    """What the answer must do, for example: names the source of every number."""
    weight: float = Field(1.0, gt=0)
    gate: bool = False
    """Asked first; an answer that does not meet it gets 0."""


class RubricModel(Section):
    """A judge model that answers yes or no to each criterion: the weighted share that is met."""

    type: Literal["rubric_model"]
    name: str
    model: str
    criteria: tuple[Criterion, ...] = Field(min_length=1, max_length=50)
    guidelines: str | None = Field(None, exclude_if=lambda path: path is None)
    """Text file of what the judge goes by beside that, relative to the task file; its words are
    part of the version. `everlearn judges align` writes one."""
    request: str = "{{item.prompt}}"
    answer: str = "{{sample.output_text}}"
    pass_threshold: float | None = None
    """A score from here on is labelled pass, any other fail."""
    sampling_params: SamplingParams | None = None
    upstream: str | None = None
    timeout_seconds: float = Field(60.0, gt=0)
    """Of each question."""


Judging = ScoreModel | LabelModel | PairwiseModel | RubricModel
"""Graders that ask a model."""


class PythonGrader(Section):
    """`grade(sample, item) -> float`, run in a sandboxed child process."""

    type: Literal["python"]
    name: str
    source: str
    pass_threshold: float | None = None
    """A score from here on is labelled pass, any other fail."""
    image_tag: str | None = None
    """Accepted for compatibility; the sandbox is a child process."""
    timeout_seconds: float = Field(10.0, gt=0)


class JsonSchema(Section):
    """1 when `input` is JSON that the schema accepts."""

    type: Literal["json_schema"]
    name: str
    input: str = "{{sample.output_text}}"
    json_schema: dict[str, Any]


class Execution(Section):
    """Runs the answer. Without `reference`: 1 when it runs. With it: 1 when both give the same
    rows.

    Unscored when the reference is not known for the item.
    """

    type: Literal["execution"]
    name: str
    language: Literal["sql"]
    database: str
    """DuckDB file, opened read-only in a child process; relative to the task file."""
    input: str = "{{sample.output_text}}"
    reference: str | None = None
    """For example {{item.reference}}: the right answer, where somebody gave one."""
    ordered: bool = False
    """Whether the order of the rows counts."""
    timeout_seconds: float = Field(2.0, gt=0)
    """Per query."""
    max_memory_mb: int = Field(256, ge=32)
    """Of the child process."""
    max_rows: int = Field(10_000, ge=1)
    """A longer result is compared on that many rows."""


class PythonExecution(Section):
    """Runs the answer's Python code. Without `tests`: 1 when it runs. With them: the share that
    passes, and credit for the steps before.

    Unscored when the tests are not known for the item.
    """

    type: Literal["execution"]
    name: str
    language: Literal["python"]
    input: str = "{{sample.output_text}}"
    """The code: its first fenced block, else the whole text."""
    tests: str | None = None
    """Python: asserts, calls and functions test_..., each one test; for example
    {{item.metadata.tests}}. Of `assert f(2) == 4` the 4 is never in the answer's process."""
    format_credit: float = Field(0.0, ge=0, le=1)
    """For one fenced block, or code and nothing else."""
    compiles_credit: float = Field(0.0, ge=0, le=1)
    """For code that compiles; the tests share what is left."""
    no_op: bool = False
    """Run again with the answer's functions doing nothing: the same result is worth nothing."""
    timeout_seconds: float = Field(2.0, gt=0)
    """Of CPU time, for the answer and all its tests."""
    max_memory_mb: int = Field(256, ge=32)
    """Of the child process."""
    pass_threshold: float | None = None
    """A score from here on is labelled pass, any other fail."""


class CommandExecution(Section):
    """Runs a program on the answer: a linter, a compiler, a checker of yours.

    1 when it exits with 0, 0 when it exits with one of `fails`, or the number that it prints;
    unscored when it ends in any other way.
    """

    type: Literal["execution"]
    name: str
    language: Literal["command"]
    command: tuple[str, ...] = Field(min_length=1)
    """Program and arguments, no shell between: an absolute path, a path with a slash relative to
    the task file, or a name in /usr/local/bin or /usr/bin."""
    input: str = "{{sample.output_text}}"
    """What it reads from its standard input."""
    input_file: str | None = None
    """Name of a file in its working folder that holds the same."""
    fenced: bool = False
    """Of the input only the first fenced block, where it has one."""
    files: dict[str, str] = {}
    """Further files in its working folder by name: {cases.json: "{{item.metadata.cases}}"}."""
    reads: tuple[str, ...] = ()
    """Files and folders beside /usr that it can read, at their own paths; relative to the task
    file."""
    result: Literal["exit_code", "number"] = "exit_code"
    """number: the last line that it prints is the score."""
    range: tuple[float, float] = (0.0, 1.0)
    """Lowest and highest number; one outside is unscored."""
    fails: tuple[int, ...] = (1,)
    """Exit codes that mean 0."""
    runs_answer: bool = False
    """It runs the answer: a limit met or a crash is the answer's 0, not unscored."""
    timeout_seconds: float = Field(2.0, gt=0)
    """Of CPU time, of each of its processes."""
    max_memory_mb: int = Field(512, ge=16)
    """That each of its processes may write to, and of all files together."""
    max_processes: int = Field(64, ge=1)
    """Threads and processes at one time; not kept where everlearn runs as root."""
    pass_threshold: float | None = None
    """A score from here on is labelled pass, any other fail."""

    @field_validator("input_file", "files")
    @classmethod
    def _plain_names(cls, names: Any) -> Any:
        for name in [names] if isinstance(names, str) else names or ():
            if not re.fullmatch(r"[\w-][\w.-]{0,99}", name):
                raise ValueError(f"{name!r}: a plain file name, without folders")
        return names


class FeedbackGrader(Section):
    """What people said: the joined feedback of that name, from 0 to 1; unscored if none.

    An expert's word outranks the users'; his correction counts as 0 for the answer it corrects.
    """

    type: Literal["feedback"]
    name: str
    feedback: str = "thumbs"
    """Name of the feedback."""
    scale: Scale | None = None
    """Of its values; empty: the task's `feedback`, else the usual one of that name."""


class Endpoint(Section):
    """An HTTP API of yours gives the score, 0 to 1: POST of `{item, sample}`.

    It answers `{"score": 0.7, "reason": "..."}` or a bare number; a null score is unscored.
    """

    type: Literal["endpoint"]
    name: str
    url: str
    """One fixed http:// or https:// address; redirects are not followed."""
    headers_env: dict[str, str] = {}
    """Headers by the environment variable that holds the value: {Authorization: SCORE_API_AUTH}."""
    send: tuple[
        Literal[
            "messages",
            "prompt",
            "tools",
            "reference",
            "metadata",
            "version",
            "arm",
            "thumbs",
            "correction",
            "feedback",
        ],
        ...,
    ] = ("messages", "prompt", "tools", "reference", "metadata")
    """What of the item is sent; when reference or feedback change, the score is asked again."""
    timeout_seconds: float = Field(10.0, gt=0)
    """Of all attempts together."""
    requests_per_second: float | None = Field(None, gt=0)
    """At most, of each process; null: as many as are in flight."""
    pass_threshold: float | None = None
    """A score from here on is labelled pass, any other fail."""


class Multi(Section):
    """A formula over other graders: + - * / ^ min max abs floor ceil exp sqrt log."""

    type: Literal["multi"]
    name: str = "reward"
    calculate_output: str
    """The formula, over names of graders."""
    graders: "dict[str, Grader]" = {}
    """By name; empty: the task's graders of the names in the formula. A single grader stands for
    itself, by its own name."""

    @field_validator("graders", mode="before")
    @classmethod
    def _single(cls, graders: Any) -> Any:
        if isinstance(graders, dict) and isinstance(graders.get("type"), str):
            return {graders.get("name"): graders}
        return graders


AnyExecution = Annotated[
    Execution | PythonExecution | CommandExecution, Field(discriminator="language")
]

Grader = Annotated[
    StringCheck | TextSimilarity | ScoreModel | LabelModel | PairwiseModel | RubricModel
    | PythonGrader | JsonSchema | AnyExecution | FeedbackGrader | Endpoint | Multi,
    Field(discriminator="type"),
]  # fmt: skip
