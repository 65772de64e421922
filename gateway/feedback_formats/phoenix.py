"""Phoenix: `POST /v1/span_annotations` `{"data": [{span_id, name, annotator_kind, result, ...}]}`.

A score is the value and the label beside it a tag; a label alone is the value; an explanation alone
is a comment. `identifier` makes a later annotation of that name a change of the first.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from everlearn.events import Author
from everlearn.ids import new_id
from gateway.feedback import FeedbackAnswer
from gateway.feedback_formats.format import (
    Content,
    Outcome,
    Reading,
    Sent,
    an_object,
    given,
    malformed,
    needed,
    tags,
)
from gateway.http.wire import Refusal

AUTHORS: Mapping[str, Author] = {
    "LLM": "judge", "DECISION": "judge", "AGENT": "judge", "CODE": "code",
}  # fmt: skip
"""By the kind of annotator; of a human the key says who he is."""


class Phoenix:
    """Annotations of spans."""

    path = "/v1/span_annotations"
    terms: ClassVar[Mapping[str, str]] = {
        "completion_id": "span_id", "request_id": "span_id", "value": "score",
        "comment": "explanation", "author": "annotator_kind", "idempotency_key": "identifier",
    }  # fmt: skip

    def read(self, sent: Sent) -> Reading:
        """All pieces, or none."""
        data = needed(an_object(sent.content), "data")
        if not isinstance(data, list):
            raise malformed("`data` is a list of annotations")
        return Reading([_piece(an_object(one, "an annotation"), sent) for one in data])

    def answer(self, sent: Sent, outcomes: Sequence[Outcome]) -> Content:
        """Ids only to who waits for them."""
        if sent.names.get("sync", "").lower() not in ("true", "1"):
            return 200, {"data": []}
        taken = [one for one in outcomes if isinstance(one, FeedbackAnswer)]
        return 200, {"data": [{"id": one.feedback_id} for one in taken]}

    def refused(self, refusal: Refusal) -> Content:
        """In plain text."""
        return refusal.status, refusal.message

    def feedback_id(self) -> str:
        """Ours."""
        return new_id("fb")


def _piece(one: Mapping[str, Any], sent: Sent) -> Mapping[str, Any]:
    result = an_object(one.get("result") or {}, "`result`")
    score, label, told = result.get("score"), result.get("label"), result.get("explanation")
    if score is None and label is None and told is None:
        raise malformed("`result` has a `score`, a `label` or an `explanation`")
    if score is not None and (isinstance(score, bool) or not isinstance(score, int | float)):
        raise malformed(f"`score` is a number, not {score!r:.60}")
    kind = one.get("annotator_kind", "HUMAN")
    if kind != "HUMAN" and kind not in AUTHORS:
        raise malformed(f"`annotator_kind` is HUMAN or one of {', '.join(AUTHORS)}")
    name, same = needed(one, "name"), one.get("identifier")
    value = label if score is None else score
    return given(
        completion_id=needed(one, "span_id"),
        request_id=one["span_id"],
        name=name,
        value=value,
        kind="comment" if value in (None, "") else None,
        comment=told,
        author=sent.author if kind == "HUMAN" else AUTHORS[kind],
        idempotency_key=f"{name}:{same}" if same else None,
        tags=tags(one.get("metadata")) | tags({"label": label if score is not None else None}),
    )
