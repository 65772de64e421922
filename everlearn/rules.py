"""The sections of a task file: how answers are held out, judged, labelled, trained on, released."""

import math
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from everlearn.config import Section

Unit = Literal["auto", "user", "conversation", "request"]
"""Who is drawn in a release."""


class Heldout(Section):
    """The side that is never trained on."""

    percent: float = Field(20.0, gt=0, lt=100)
    """Share of units, chosen by a hash of the unit, forever."""
    grader: str | None = None
    """Grader of held-out answers; default: the release's primary."""
    never_trained_on: Literal[True] = True
    """Says it in the file; false is refused, for no held-out row is ever trained on."""


class Labels(Section):
    """Which answers are put before people."""

    random_percent: float = Field(5.0, gt=0, le=100)
    """Of answers that are asked about by chance alone: the only ones that rates count."""
    audit_every: int = Field(4, ge=0)
    """Of so many words of a rater one is put before an expert, chance says which; 0: none is."""
    max_open: int = Field(500, ge=2)
    """Answers that wait at a time, half of them by chance; the least worth a label give way."""
    lease_minutes: float = Field(10.0, gt=0)
    """How long an answer belongs to whoever has it before him."""
    scale: Literal["thumbs", "rating"] = "thumbs"
    """What is asked of an answer: thumbs, right or wrong; rating, 1 to 5, right above 3."""
    rubric: str | None = None
    """A rubric_model grader whose criteria are asked too, yes or no each."""
    overlap_percent: float = Field(0.0, ge=0, le=100)
    """Of what is asked by chance: two people label it, so that their agreement is known."""


class Judges(Section):
    """When a grader that asks a model may gate, decide a release and be a reward."""

    min_agreement: float = Field(0.7, gt=0.5, lt=1)
    """What its agreement with experts is at least, at 95 %, on labels it was not tuned on."""
    trusted: tuple[str, ...] = ()
    """Judges that decide without that proof: you answer for them."""
    drafted: tuple[str, ...] = ()
    """Graders that a model wrote (`everlearn grader draft`): like judges they decide only once
    experts were seen to agree with them."""
    max_cost_per_day: float | None = Field(None, gt=0)
    """What the task's judges may cost in a day (UTC), in the currency of `upstreams.*.price`, over
    all processes; then what is new stays unscored until the next. Empty: no limit."""


class Lora(Section):
    """Adapter shape."""

    r: int = Field(16, ge=1)
    """Rank."""
    alpha: int = Field(32, ge=1)
    """Scale: the update is multiplied by alpha / r."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """On the adapter input."""
    target_modules: str = "all-linear"
    """Which layers; all-linear or a module name."""


class BestOf(Section):
    """Pairs from answers of the served model that the reward tells apart."""

    answers: int = Field(8, ge=2, le=64)
    """To each prompt, sampled."""
    margin: float = Field(0.5, gt=0)
    """Of the reward, by which the best must lead the worst; else the prompt teaches nothing."""
    prompts: int = Field(100, ge=1, le=10_000)
    """Asked before a training at most, of the training side; each once per version."""


class Train(Section):
    """How a candidate is made."""

    method: Literal["auto", "sft", "dpo", "kto", "rft", "hindsight"] = "auto"
    """auto tries what the data allows, cheapest first, and lets held-out rows choose."""
    min_new_scores: int = Field(200, ge=1)
    """Judged rows that training wants at least."""
    max_age_days: Annotated[float, Field(gt=0)] | None = None
    """What was said longer before the newest word is neither taught nor asked in the exam, for what
    is right changes; null: nothing is too old."""
    budget_minutes: float = Field(10.0, gt=0)
    """Wall time for all that auto tries."""
    replay: float = Field(0.2, ge=0, le=1)
    """Share of the served model's own ordinary answers beside the learned rows."""
    max_steps: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Optimizer steps per method, at most; auto: 60, and 240 while comments teach. A rule is copied
    in few, where it ends is told in more."""
    epochs: float | None = Field(None, gt=0)
    """Passes over the learned rows after which to stop before `max_steps`; null: no bound."""
    early_stop: Literal["auto"] | bool = "auto"
    """End a run of sft, dpo or kto at its best look once it gets worse at the right answers of
    select rows; auto: where it passes over its rows more than once and 32 such answers are
    there, true: where 10 are."""
    batch_size: int = Field(32, ge=1)
    """Rows per optimizer step."""
    reasoning: Literal["keep", "strip"] = "strip"
    """Whether an answer's thinking is taught with it; stripped, only what follows it is."""
    verdicts: tuple[str, ...] = ()
    """Graders whose word on answers that nobody judged is taught: what fails is rejected, what
    passes is accepted where another answer to the prompt failed. One that asks a model is heard
    once it agrees with experts."""
    verdict_weight: float = Field(0.5, gt=0, le=1)
    """Of such a word, against a person's."""
    best_of: BestOf | None = None
    """Ask logged prompts several times before a training, and teach the best answer against the
    worst by the reward, with `verdict_weight`; null: off."""
    distil: bool = False
    """Teach unjudged answers of a champion elsewhere that every grader with a verdict passes."""
    learning_rate: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    """Peak, linear decay; auto follows the model's hidden size and the method."""
    max_per_unit: int = Field(50, ge=1)
    """Rows of one user at most."""
    max_length: Annotated[int, Field(ge=16)] | Literal["auto"] = "auto"
    """Tokens of prompt and answer together; longer rows are dropped and counted. auto: what the
    model's context and this machine's memory hold."""
    checkpoint_seconds: float = Field(15.0, ge=0)
    """Between checkpoints, at which a killed run is taken up; 0: after every step."""
    max_unscored: float = Field(0.25, ge=0, le=1)
    """Share of RFT's latest answers that could not be scored, through no fault of theirs; more ends
    the run."""
    max_completion_tokens: int = Field(128, ge=1)
    """Of answers that training and held-out evaluation generate."""
    seed: int = 0
    """Of data order, initial weights and sampling."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU if there is one."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the arithmetic while training; adapters are float32 always. auto: bfloat16 on a GPU, and
    on a CPU with instructions for it where that pays: from 50 M parameters, not for rft."""
    load_in_4bit: bool = False
    """Base weights in 4 bits while training (QLoRA); needs CUDA and the extra `four-bit`."""
    lora: Lora = Lora()


class GateRules(Section):
    """What a candidate must show in its exam, on rows that neither it nor its trainer has seen."""

    min_gain: float = 0.0
    """Of the held-out grader's mean over the champion's; under release goal not_worse minus the
    margin counts instead."""
    confidence: float = Field(0.8, gt=0.5, lt=1)
    """That the gain is above min_gain. Not more: live traffic is the judge, the gate saves it
    hopeless candidates."""
    concurrency: int = Field(8, ge=1, le=256)
    """Exam questions in flight at each upstream."""
    min_rows: int = Field(20, ge=1)
    """Fewer held-out rows: not enough evidence."""
    regression_suite: str | None = None
    """JSONL of {messages, reference}; relative to the task file."""
    max_regression: float = Field(0.02, ge=0)
    """Loss on the regression suite that is tolerated, as a share."""
    max_latency_ratio: float = Field(1.2, gt=0)
    """Median time of an answer in the exam against the champion's, each where it is served; in a
    release, what a candidate's answer may take beside the champion's."""
    max_length_ratio: float = Field(1.5, gt=0)
    """Mean completion tokens against the champion's: the cost of an answer."""


class ShadowPairs(Section):
    """A judge compares both versions' answers before anybody sees the candidate's."""

    judge: str
    """A pairwise_model grader of the task that holds its vote."""
    share: float = Field(1.0, gt=0, le=1)
    """Of the requests that the candidate answers as well, unseen; a user makes one pair in an
    epoch."""


class LabelledPrimary(Section):
    """People's labels of the random share correct the primary metric, a judge of every answer."""

    wait_seconds: float = Field(14_400.0, gt=0)
    """After an answer: what experts say of it until then counts. What chance put before them and
    nobody labelled by then counts against whatever is asked."""


class ReleaseRules(Section):
    """How a version gets its traffic."""

    goal: Literal["better", "not_worse"] = "better"
    """better: the primary metric rises. not_worse: it falls by less than `margin`, and what `wins`
    names gets better."""
    margin: float | None = Field(None, gt=0, lt=1)
    """not_worse: loss of the primary metric that is tolerated, as a share (0.03 is 3 points)."""
    wins: Literal["cost", "latency"] | None = None
    """not_worse: what the version must be proven to win instead."""
    unit: Unit = "auto"
    """Who is drawn, and so counts: each user, each conversation (a request that names none is one
    of its own), or each request. auto: the conversation where one is named, else the user."""
    epoch_seconds: float = Field(86_400.0, ge=0)
    """Users and conversations that return after it are drawn anew and count again; 0: they stay
    where they are for the whole release."""
    steps: tuple[float, ...] = (1, 5, 25, 50, 100)
    """Percent of traffic."""
    min_dwell_seconds: float = Field(60.0, ge=0)
    """At each step before the next."""
    min_candidates: int = Field(1, ge=0)
    """Closed units of the candidate before it gets more traffic than the first step."""
    min_units: int = Field(5, ge=0)
    """Closed units of the candidate that a promotion wants of every guardrail, and that tell a
    blind guardrail from one that nobody met."""
    max_seconds: float = Field(86_400.0, gt=0)
    """A release that is undecided by then is stopped as inconclusive."""
    supersede_after_seconds: float | None = Field(None, ge=0)
    """A newer version that passed its gate takes the place of a release that has ramped for so long
    and has no evidence for itself; none: it waits until that one ends."""
    primary: str = "thumbs"
    """Grader whose mean decides."""
    labels: LabelledPrimary | None = None
    """Where the primary judges every answer: what people say of the answers that chance puts before
    them decides, the judge only saves labels. Empty: the grader's own word decides."""
    guardrails: tuple[str, ...] = ("error_rate", "latency_p95")
    """Graders, error_rate, latency_p95 or cost: only harm is looked for."""
    co_primary: str | None = "auto"
    """Beside a primary metric that only some people answer: a grader of every answer, which must
    not get worse. auto: the task's first that is neither a person's nor a model's opinion. A judge
    may be named."""
    co_margin: float = Field(0.05, gt=0, lt=1)
    """Loss of the co-primary metric that must be ruled out; under not_worse `margin`, if less."""
    shadow_pairs: ShadowPairs | None = None
    """For few users: who is better is asked of pairs of answers, at the level of the release,
    before anybody meets the candidate; the ramp that follows looks for harm alone. Empty: the ramp
    decides."""
    response_bias: float = Field(1.25, ge=1)
    """How many times as often, against the dissatisfied, the satisfied users of one version may
    answer as those of the other: what this alone could fake is no gain. 1: they answer alike."""
    answer_seconds: Annotated[float, Field(ge=0, le=3600)] | Literal["auto"] = "auto"
    """After a request: by then the answers of both versions are done, and quick metrics count
    them. auto: three times the champion's 95th percentile, 5 s at least. A number that is shorter
    than the champion's 95th percentile gives way to three times that; the release says so."""
    unit_close_seconds: float = Field(30.0, ge=0)
    """What people say of an answer is waited for so much longer, after a unit's first request of a
    stage; then it counts, whatever has come."""
    holdback_percent: float = Field(1.0, ge=0, lt=50)
    """Of units that stay on the version before the champion, to see the long run."""
    watch_seconds: float = Field(604_800.0, ge=0)
    """A promotion is watched so long, and taken back by itself if it turns out to do harm; 0: off.
    A seventh of it is an epoch: users are drawn anew in each."""
    watch_percent: float = Field(10.0, gt=0, lt=50)
    """Of units that the version before answers while its successor is watched."""
    watch_level: float = Field(0.05, gt=0, lt=1)
    """Chance of taking back a promotion that does no harm, over the whole watch and all metrics;
    split as `harm_level` is."""
    alpha: float = Field(0.05, gt=0, lt=1)
    """Upper bound of this release's promotion level; the lifetime budget may give less."""
    harm_level: float = Field(0.10, gt=0, lt=1)
    """Chance of rolling back a version that does no harm: half of it is the primary metric's, half
    is shared by the guardrails."""
    futility_level: float = Field(0.10, gt=0, lt=1)
    """Chance of stopping a version that is better by `smallest_effect` (not_worse: that loses
    less than half the margin)."""
    smallest_effect: float = Field(0.05, gt=0, lt=1)
    """Futility: the smallest gain worth having; goal better only."""
    expected_releases: int = Field(60, ge=1)
    """Over the task's life; sets how the lifetime error budget is spent."""

    @field_validator("steps")
    @classmethod
    def _rising(cls, steps: tuple[float, ...]) -> tuple[float, ...]:
        if not steps or list(steps) != sorted(set(steps)) or steps[0] <= 0 or steps[-1] != 100:
            raise ValueError("steps rise strictly from above 0 to 100")
        return steps

    @model_validator(mode="after")
    def _goal(self) -> "ReleaseRules":
        asked = {"margin": self.margin, "wins": self.wins}
        if self.goal == "not_worse":
            missing = [name for name, value in asked.items() if value is None]
            if missing:
                raise ValueError(
                    f"goal not_worse needs {' and '.join(missing)}: margin is the loss of the "
                    "primary metric that is tolerated (0.03 is 3 points), wins is what is proven "
                    "instead: cost or latency"
                )
        elif any(value is not None for value in asked.values()):
            raise ValueError("margin and wins belong to goal: not_worse")
        return self

    @model_validator(mode="after")
    def _labels_come_in_time(self) -> "ReleaseRules":
        if self.labels is not None and self.labels.wait_seconds >= self.max_seconds:
            raise ValueError(
                f"labels.wait_seconds {self.labels.wait_seconds:g} is not below max_seconds "
                f"{self.max_seconds:g}: no unit would count before the release is over"
            )
        return self

    @property
    def closing_seconds(self) -> float:
        """For how long after an answer the primary metric waits for people."""
        return self.unit_close_seconds if self.labels is None else self.labels.wait_seconds

    @property
    def metrics(self) -> tuple[str, ...]:
        """Every metric that is looked at beside the primary one, once."""
        beside = [name for name in (self.beside, self.wins) if name is not None]
        names = (*self.guardrails, *beside)
        return tuple(dict.fromkeys(name for name in names if name != self.primary))

    @property
    def beside(self) -> str | None:
        """The co-primary metric once it has a name (`Task.release_rules`)."""
        return None if self.co_primary == "auto" else self.co_primary

    @property
    def allowance(self) -> float:
        """The largest gain that people could fake by answering: of an odds ratio, the largest
        difference of two shares. Without a co-primary metric everybody's answer is taken as it is;
        under `not_worse` the co-primary rules the loss out."""
        if self.beside is None or self.labels is not None or self.goal == "not_worse":
            return 0.0
        root = math.sqrt(self.response_bias)
        return (root - 1) / (root + 1)


class DriftRules(Section):
    """When a change of what is asked or answered is worth an event."""

    window: int = Field(500, ge=100, le=20_000)
    """Completions that one look compares with the reference, which holds up to four times as many.
    500 show a new topic of 20 % or refusals from 1 % to 6 %; smaller changes want more."""
    min_shift: float = Field(0.03, ge=0, lt=1)
    """Share of rows that must have moved: 0.03 is 3 points."""
    false_alarms: float = Field(1.0, gt=0, le=100)
    """Expected over the task's whole life at most, however often it is looked at."""
    feedback_seconds: float = Field(600.0, ge=0)
    """Feedback that comes within that time of its answer counts; younger answers are not asked."""
    retrain: bool = False
    """The drift schedule starts a training when something new stands out, once a day at most."""


class Champion(Section):
    """Who answers until a version of ours is proven: any OpenAI-compatible server's model."""

    upstream: str
    """An upstream of the config."""
    model: str
    """The model's name there."""
