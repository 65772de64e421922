"""A task's section `comments`: whose comments teach, and by which judge's word."""

from typing import Literal

from pydantic import Field

from everlearn.config import Section


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
    method: Literal["revise"] = "revise"
    """revise: the served model answers again with the rules in its prompt; what is better is
    taught for the prompt without them."""
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
