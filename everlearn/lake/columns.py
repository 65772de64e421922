"""The lake's tables, once: DDL, Arrow schemas and `docs/lake.md` are rendered from these specs."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["text", "int", "float", "bool", "time", "json", "bytes", "ints", "floats"]


@dataclass(frozen=True)
class Column:
    """One column: name, kind and what it means (units included)."""

    name: str
    kind: Kind
    doc: str


@dataclass(frozen=True)
class TableSpec:
    """One table: name, what a row is, columns in order."""

    name: str
    doc: str
    columns: tuple[Column, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)


def _table(name: str, doc: str, *rows: tuple[str, Kind, str]) -> TableSpec:
    return TableSpec(name, doc, tuple(Column(*row) for row in rows))


COMPLETIONS = _table(
    "completions",
    "One request and its answer, ok or not.",
    ("completion_id", "text", "ours, unique over gateways and restarts"),
    ("upstream_id", "text", "`id` in the response body"),
    ("request_id", "text", "the caller's x-request-id"),
    ("gateway_id", "text", "which gateway worker wrote it"),
    ("seq", "int", "that worker's sequence number; with gateway_id the event's identity"),
    ("task", "text", "null when the model was passed through"),
    ("version", "text", "model version that answered"),
    ("arm", "text", "champion, challenger or holdback"),
    ("probability", "float", "of this arm for this unit at the moment of assignment"),
    ("release", "text", "the release in force at assignment"),
    ("stage", "int", "index of the release step in force at assignment"),
    ("unit", "text", "who asks: user, else conversation, else request"),
    (
        "draw",
        "text",
        "the number by which a release drew the arm, so of one unit (`release.unit`, in an epoch) "
        "the same; null: nobody was drawn",
    ),
    ("conversation_id", "text", "from x-everlearn-conversation"),
    ("key_id", "text", "which key asked (never the key)"),
    ("upstream", "text", "name of the upstream in the config"),
    ("endpoint", "text", "path under /v1"),
    ("received_at", "time", "first byte of the request"),
    ("first_token_ms", "float", "milliseconds to the first streamed chunk"),
    ("latency_ms", "float", "milliseconds to the last byte"),
    (
        "status",
        "text",
        "the verdict, read off the answer: ok; incomplete (cut short), filtered, refused, "
        "upstream_error (also inside HTTP 200), client_abort, timeout, rejected (by the gateway), "
        "shadow (asked beside), passed (a route that is only passed on), imported; erased (nothing "
        "else is kept)",
    ),
    ("http_status", "int", "what the client was answered"),
    ("stream", "bool", "server-sent events were asked for"),
    ("model_requested", "text", "`model` as the client sent it"),
    ("model_served", "text", "model name sent to the upstream"),
    ("messages", "json", "the prompt: messages, or the plain prompt as one user message"),
    ("tools", "json", "the tools that the request offered"),
    ("tool_choice", "json", "of the request"),
    ("response_format", "json", "of the request; `text.format` of responses"),
    (
        "forced",
        "text",
        "field of the request that forced words on the answer; null: the model's own",
    ),
    (
        "answer",
        "json",
        "the assistant message: content, refusal, reasoning, tool_calls, audio; `choices` "
        "where there are several",
    ),
    ("response_text", "text", "what a person sees of it: the text, else the refusal or the calls"),
    ("finish_reason", "text", "of the first choice"),
    ("prompt_tokens", "int", "from usage"),
    ("completion_tokens", "int", "from usage"),
    ("prompt_token_ids", "ints", "where the upstream returns them"),
    ("completion_token_ids", "ints", "where the upstream returns them"),
    ("logprobs", "floats", "of the sampled tokens, where the upstream returns them"),
    ("sampling", "json", "temperature, top_p, seed, max_tokens and so on, as asked"),
    ("template_hash", "text", "of the chat template that rendered the prompt"),
    ("adapter_digest", "text", "content hash of the adapter that answered"),
    ("trainable", "bool", "false when the client said store: false"),
    ("metadata", "json", "the client's metadata map"),
    ("error", "text", "what went wrong, if anything"),
    ("fallback_from", "text", "the arm or upstream that failed before the first byte"),
    ("raw_request", "bytes", "body as received"),
    ("raw_response", "bytes", "body as sent"),
)

FEEDBACK = _table(
    "feedback",
    "What somebody thought of a completion, as it arrived.",
    ("feedback_id", "text", "ours"),
    ("completion_id", "text", "as named by the sender: ours or the upstream's"),
    ("request_id", "text", "as named by the sender"),
    ("conversation_id", "text", "as named by the sender"),
    ("other_completion_id", "text", "of a preference: the one not preferred"),
    (
        "kind",
        "text",
        "binary, scalar, label, correction, comment, preference, implicit, retraction; erased",
    ),
    ("name", "text", "which feedback: thumbs by default"),
    ("value_bool", "bool", "of kind binary"),
    ("value_number", "float", "of kind scalar"),
    ("value_text", "text", "of kinds label, correction and comment"),
    ("comment", "text", "free text beside the value"),
    ("author", "text", "end_user, expert, judge or code"),
    ("author_id", "text", "who exactly"),
    ("weight", "float", "trust in the author, 0 to 1"),
    ("occurred_at", "time", "when it was given, if the sender said"),
    ("received_at", "time", "when the gateway took it"),
    ("idempotency_key", "text", "the sender's: the same again counts once, another word changes"),
    ("tags", "json", "flat map"),
    ("key_id", "text", "whose key sent it (never the key)"),
    ("key_tasks", "text", "tasks that key may speak of, by commas; null: all"),
    ("gateway_id", "text", "which gateway worker wrote it"),
    ("seq", "int", "that worker's sequence number"),
    ("target", "text", "our id of the completion that it is about, once that is there"),
    ("task", "text", "of that completion"),
    ("ambiguous", "bool", "several completions bear the name that it gave"),
)

FOUND = ("target", "task", "ambiguous")
"""Columns of `feedback` that the lake fills by itself, in the transaction of the rows."""

FEEDBACK_OPEN = _table(
    "feedback_open",
    "Feedback whose completion is not there yet, or not for good: kept apart, looked for again.",
    ("feedback_id", "text", "of the feedback"),
    ("completion_id", "text", "as named by the sender"),
    ("request_id", "text", "as named by the sender"),
    ("conversation_id", "text", "as named by the sender"),
    ("received_at", "time", "of the feedback"),
    ("opened_at", "time", "when it began to wait"),
    ("found", "bool", "it has a target, which a later row may still change"),
    ("looks", "int", "how often it was looked for in the whole lake"),
)

SCORES = _table(
    "scores",
    "One evaluator's verdict on one completion; a null value is unscored, never zero.",
    ("completion_id", "text", "ours"),
    ("task", "text", "of the completion"),
    ("evaluator", "text", "grader name in the task file"),
    ("evaluator_version", "text", "content hash of the grader's definition"),
    ("value", "float", "null = unscored"),
    ("label", "text", "for label graders"),
    ("reason", "text", "why this value, or why unscored"),
    ("sub_scores", "json", "of a multi grader"),
    ("error", "text", "what the evaluator raised"),
    ("cost", "json", "tokens and seconds"),
    ("context", "text", "what it saw that may change: feedback, prompt, reference; null: seeded"),
    ("created_at", "time", "when scored or seeded; the latest row of an evaluator version counts"),
)

SNAPSHOTS = _table(
    "snapshots",
    "A dataset frozen by query and lake snapshot.",
    ("snapshot_id", "text", "ours"),
    ("task", "text", "task name"),
    ("lake_snapshot", "int", "DuckLake snapshot id the query ran on"),
    ("query", "text", "the query"),
    ("content_hash", "text", "sha256 over the sorted row hashes"),
    ("counts", "json", "rows by kind, split and reason dropped"),
    ("created_at", "time", "when frozen"),
)

SNAPSHOT_ROWS = _table(
    "snapshot_rows",
    "The rows of a snapshot: which completion, on which side, with which target.",
    ("snapshot_id", "text", "of the snapshot"),
    ("completion_id", "text", "source row"),
    ("unit", "text", "who asked; decides the split"),
    ("split", "text", "train, select (the trainer chooses by them), gate (the exam) or dropped"),
    ("dropped_reason", "text", "why it is not used"),
    ("kind", "text", "accepted, rejected, correction, preference, hindsight, replay or prompt"),
    ("messages", "json", "the prompt"),
    ("tools", "json", "the tools that the request offered"),
    ("options", "json", "variables of the chat template that the request named"),
    ("asked_at", "time", "when production was asked: the day that a template may print"),
    ("completion", "text", "the answer given"),
    ("answer", "json", "the answer given, as an assistant message; null: a plain text"),
    ("context", "json", "what graders know beside the conversation: metadata, feedback, version"),
    ("target", "text", "the right answer, where somebody gave one"),
    ("target_message", "json", "the right answer, as an assistant message; null: a plain text"),
    ("prompt_token_ids", "ints", "of the prompt, as production rendered it"),
    ("completion_token_ids", "ints", "of the answer given, as production sampled it"),
    ("logprobs", "floats", "of kind hindsight: of those tokens, where the upstream returned them"),
    ("rules", "json", "of kind hindsight: what stands in the prompt of the teacher"),
    ("template_hash", "text", "of the chat template that rendered the prompt"),
    (
        "author",
        "text",
        "expert, end_user, grader, comment, verdict, best_of; null: nobody judged it",
    ),
    ("weight", "float", "trust"),
    ("row_hash", "text", "sha256 of messages, completion and target"),
)

COMMENTS = _table(
    "comments",
    "What became of a comment; the latest row of a feedback_id counts.",
    ("feedback_id", "text", "of the comment in `feedback`"),
    ("task", "text", "of the completion that it is about"),
    ("completion_id", "text", "ours, of that completion"),
    ("sorter", "text", "hash of the judge and of its prompt"),
    ("sort", "text", "rule, correction, displeasure, nothing; null: not sorted yet"),
    ("rule", "text", "the rule as one sentence, where it is one"),
    ("reason", "text", "why the judge sorted it so"),
    ("error", "text", "why it could not be sorted"),
    ("state", "text", "waiting, teaching, learned or refused"),
    ("why", "text", "the comparison that decided, or what it waits for"),
    ("lift", "json", "with and without it in the prompt: rows, mean, low, champion"),
    ("created_at", "time", "when"),
)

LESSONS = _table(
    "lessons",
    "A logged prompt answered again with rules in it; the latest round of a task counts.",
    ("round_id", "text", "all that was asked at once"),
    ("task", "text", "task name"),
    ("completion_id", "text", "whose prompt it is"),
    ("unit", "text", "who asked; always of the training side"),
    ("comments", "json", "feedback_ids of the comments that stood in the prompt"),
    ("teacher", "text", "version that answered"),
    ("original", "text", "its answer without them; of a correction the logged one"),
    ("revised", "text", "its answer with them; null by hindsight"),
    ("verdict", "text", "better, hindsight (taught), kept (stays replay), or why it is left out"),
    (
        "scores",
        "json",
        "keeps to them, held-out grader, of both answers; by hindsight rules, signal",
    ),
    ("created_at", "time", "when"),
)

BEST_OF = _table(
    "best_of",
    "A logged prompt answered several times by the served model and graded by the reward.",
    ("task", "text", "task name"),
    ("completion_id", "text", "whose prompt it is"),
    ("unit", "text", "who asked; of the training side when it was asked"),
    ("prompt_key", "text", "hash of the prompt: the latest row of a prompt and version counts"),
    ("version", "text", "that answered"),
    ("grader_version", "text", "content hash of the reward"),
    ("answers", "int", "how often it was asked"),
    ("best", "text", "the answer with the most reward; null: every answer was blank"),
    ("worst", "text", "the answer with the least"),
    ("best_score", "float", "what it was given"),
    ("worst_score", "float", "what it was given"),
    ("created_at", "time", "when"),
)

RELEASES = _table(
    "releases",
    "What happened to a release, one row per event.",
    ("release_id", "text", "ours"),
    ("task", "text", "task name"),
    ("version", "text", "candidate version"),
    (
        "event",
        "text",
        "started, pairing, step, promoted, watched, rolled_back, stopped, not_chosen, superseded, "
        "aborted, error",
    ),
    ("phase", "text", "state after the event"),
    ("stage", "int", "index of the step"),
    ("percent", "float", "share of traffic of the candidate after the event"),
    ("reason", "text", "the comparison that decided"),
    ("evidence", "json", "counts, e-values, intervals"),
    ("created_at", "time", "when decided"),
)

RELEASE_UNITS = _table(
    "release_units",
    "What a closed unit counted for in a release: the frozen evidence of every decision.",
    ("release_id", "text", "of the release"),
    ("metric", "text", "grader name, error_rate, latency_p95, shadow_pairs, ..."),
    ("unit", "text", "who was assigned, by the number of its draw; counts once per stage"),
    ("stage", "int", "index of the step"),
    ("position", "int", "order in which units were counted, per release"),
    ("treated", "bool", "true on the candidate"),
    ("propensity", "float", "of the candidate for this unit; null: no information"),
    ("value", "float", "mean over the unit's answers, 0 to 1; null: unscored, no information"),
    ("stratum", "int", "third of the unit's reward before the release; 0: no past"),
    ("raters", "json", "digests of the users on whose words `value` rests; null: not on people's"),
    ("unheard", "int", "users whose words were left out: they had their share of the step"),
    ("label_share", "float", "chance of being put before people; null: `value` is not corrected"),
    ("drawn", "bool", "whether chance put it before people"),
    ("label", "float", "what people said of it in time, 0 to 1; null: nothing"),
    ("closed_at", "time", "when the unit's values were frozen"),
)

DRIFT_LOOKS = _table(
    "drift_looks",
    "One look at whether a task's traffic has changed: the event and its reason.",
    ("task", "text", "task name"),
    ("look", "int", "1, 2, ... over the task's life: each may spend less of its false alarms"),
    (
        "event",
        "text",
        "drift (something new stands out), standing (still), calm (no more), quiet, accepted (the "
        "window became the reference)",
    ),
    ("reason", "text", "the comparisons that decided"),
    ("metrics", "json", "names of those that stand out"),
    ("reference_since", "time", "the reference: rows received after then"),
    ("reference_until", "time", "and not after then"),
    ("window_since", "time", "the window: rows received after then"),
    ("window_until", "time", "and not after then; the next window begins here"),
    (
        "reference_rows",
        "int",
        "read of the reference; compared is one of each user, where many ask",
    ),
    ("window_rows", "int", "read of the window"),
    ("level", "float", "p-value below which one metric is an alarm at this look"),
    ("created_at", "time", "when looked"),
)

DRIFT = _table(
    "drift",
    "What each metric was in the reference and is in the window of one look.",
    ("task", "text", "task name"),
    ("look", "int", "of `drift_looks`"),
    ("metric", "text", "as in the docs, `score.NAME`, `feedback.NAME`, `given.FIELD`"),
    ("kind", "text", "number, share or category"),
    ("before", "float", "mean or share in the reference; of a category the one in `detail`"),
    ("now", "float", "the same in the window"),
    ("shift", "float", "share of rows that moved, 0 to 1"),
    ("p_value", "float", "that as much moves by chance"),
    ("before_rows", "int", "known values in the reference"),
    ("now_rows", "int", "known values in the window"),
    ("detail", "text", "the category that moved most"),
    ("alarm", "bool", "unlikely at the look's level, and shift at least the task's min_shift"),
    ("created_at", "time", "when looked"),
)

DEAD_LETTERS = _table(
    "dead_letters",
    "Records that could not become rows, kept whole.",
    ("gateway_id", "text", "which gateway worker wrote it"),
    ("seq", "int", "that worker's sequence number, if it could be read"),
    ("reason", "text", "why"),
    ("raw", "bytes", "the record"),
    ("received_at", "time", "when the collector met it"),
)

OFFSETS = _table(
    "offsets",
    "How far each source has been read; written in the transaction of the rows.",
    ("source", "text", "WAL: wal/<gateway_id>; Kafka: topic/partition"),
    ("position", "int", "next record to read"),
    ("updated_at", "time", "when committed"),
)

PROGRESS = _table(
    "progress",
    "How far somebody has looked through the lake, so that the next look is at what is new.",
    ("name", "text", "who looks at what"),
    ("snapshot", "int", "lake snapshot up to which everything was seen"),
    ("document", "json", "what was made of it"),
    ("updated_at", "time", "when"),
)

AUDIT = _table(
    "audit",
    "Who changed what through the console, one row per request that may change something.",
    ("audit_id", "text", "ours"),
    ("asked_at", "time", "when it was asked for"),
    ("who", "text", "id of the key, or `start token`"),
    ("role", "text", "viewer, labeller or operator, at that moment"),
    ("action", "text", "method and path"),
    ("task", "text", "task that it concerned"),
    ("detail", "json", "what was asked for and why; of a label only which answer"),
    ("outcome", "text", "done, or why not"),
    ("status", "int", "what the browser was answered"),
)

ERASURES = _table(
    "erasures",
    "The receipt of an erasure; it names nobody.",
    ("erasure_id", "text", "ours"),
    ("subject", "text", "sha256 of the name, salted with the installation's secret"),
    ("kind", "text", "unit or completion_id"),
    ("removed", "json", "rows by table, and by place outside the lake"),
    ("versions", "json", "those that were taught rows of it: task, version, state, served"),
    ("outcome", "text", "done, or what is left to do and why"),
    ("created_at", "time", "when it ended"),
)

TABLES = (
    COMPLETIONS,
    FEEDBACK,
    FEEDBACK_OPEN,
    SCORES,
    SNAPSHOTS,
    SNAPSHOT_ROWS,
    COMMENTS,
    LESSONS,
    BEST_OF,
    RELEASES,
    RELEASE_UNITS,
    DRIFT_LOOKS,
    DRIFT,
    DEAD_LETTERS,
    OFFSETS,
    PROGRESS,
    AUDIT,
    ERASURES,
)
