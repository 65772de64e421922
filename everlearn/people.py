"""Sections of a task about people: how feedback is read, who is trusted, whose comments teach."""

from typing import Literal

from pydantic import Field, field_validator

from everlearn.config import Section
from everlearn.opinion import Scale


class FeedbackRule(Section):
    """How the values of one name of feedback are read."""

    scale: Scale = "binary"
    """binary: true and false, 1 and 0 or 1 and -1; else the lowest and the highest value."""
    means: Literal["good", "bad"] | None = None
    """Of what people do - accepted, copied, edited, retried - what it says of the answer; empty: a
    word of its own kind, or of an action nothing."""
    weight: float = Field(0.3, gt=0, le=1)
    """Of an action against a thumb."""

    @field_validator("scale")
    @classmethod
    def _rises(cls, scale: Scale) -> Scale:
        if scale != "binary" and not scale[0] < scale[1]:
            raise ValueError("a scale goes from its lowest value to a higher one: [1, 5]")
        return scale


class Trust(Section):
    """How far strangers are believed; experts, whose keys say so, are."""

    max_share_per_rater: float = Field(0.02, gt=0, le=1)
    """Of the taught rows, of one rater and of one unit, where no expert stands behind them; and of
    a release's units in a step, of one rater."""
    min_raters: int = Field(10, ge=1)
    """Fewer different raters: users' feedback alone teaches nothing."""
    max_per_minute: int = Field(30, ge=1)
    """Pieces of one rater; faster is a machine, whose feedback is quarantined."""


class CommentJudge(Section):
    """Any OpenAI-compatible server's model."""

    upstream: str
    """An upstream of the config."""
    model: str
    """The model's name there."""


class Comments(Section):
    """How what people write about answers becomes rules that versions keep to."""

    judge: CommentJudge
    """The model that sorts comments: rule, correction, displeasure or nothing."""
    method: Literal["revise", "hindsight"] = "revise"
    """revise: the served model answers again with the rules in its prompt; what is better is
    taught for the prompt without them. hindsight: the logged answers that do not keep to the rules
    are weighed token by token, by how much likelier the rules make them; nothing is answered
    again."""
    authors: Literal["experts", "trusted"] = "experts"
    """trusted: users too whose weight is `min_weight`."""
    min_weight: float = Field(0.8, gt=0, le=1)
    """Of a user, from agreement with experts and with others."""
    grader: str | None = None
    """Says whether an answer keeps to `{{item.rule}}`; default: the judge does."""
    max_per_rater: int = Field(20, ge=1)
    """Newest comments of one rater that are heard."""
    max_prompts: int = Field(200, ge=2)
    """Logged prompts that are answered again, and select rows that the rules are tried on."""
    confidence: float = Field(0.9, gt=0.5, lt=1)
    """That the model is better with a rule in its prompt; before that the rule waits."""
    timeout_seconds: float = Field(60.0, gt=0)
    """Of one question to the judge."""
