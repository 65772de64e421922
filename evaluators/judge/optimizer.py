"""A judge and its labels as MLflow knows them, and the optimizer that `Judge.align` gets from us.

MLflow's judge stands for ours: its instructions are the guidelines, a trace is a labelled answer
with a human's feedback, so that any `AlignmentOptimizer` can be given them. What an optimizer finds
is asked as our judge asks it - fenced, read strictly, paid from the day's money - and not by
MLflow's own prompt: an agreement that is measured another way says nothing about the judge that
will decide.
"""

import json
import os
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow.entities import (
    AssessmentSource,
    AssessmentSourceType,
    Feedback,
    Span,
    Trace,
    TraceData,
    TraceInfo,
    TraceLocation,
    TraceState,
)
from mlflow.genai.judges import AlignmentOptimizer, Judge, make_judge
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, TraceFlags

from evaluators.draft import Example, Tried, told
from everlearn.graders import Judging

ROUNDS = 3
_HEAD = (
    "Say whether the answer {{ outputs }} to the request {{ inputs }} is right.\n\nGuidelines:\n"
)
_NAMES = (("{{ inputs }}", "the request"), ("{{ outputs }}", "the answer"))

Measure = Callable[[str], Tried]
"""The judge with these guidelines against the labels that it may learn from."""
Write = Callable[[str, Sequence[str], Tried], str]
"""Guidelines after those, with what was tried in vain, and where the judge and people part."""


class Written(AlignmentOptimizer):  # type: ignore[misc]
    """Has guidelines written from where the judge and people part, and keeps what agrees more.

    `ROUNDS` times; each is measured on all of the traces, and only one that judges more of them as
    people did takes the place of what was there.
    """

    def __init__(self, measure: Measure, write: Write) -> None:
        self._measure, self._write = measure, write

    def align(self, judge: Judge, traces: Sequence[Trace]) -> Judge:
        best = guidelines_of(judge)
        found = self._measure(best)
        in_vain: list[str] = []
        for _ in range(ROUNDS):
            if not found.apart:
                break
            text = self._write(best, in_vain, found)
            tried = self._measure(text)
            if tried.agreed > found.agreed:
                best, found, in_vain = text, tried, []
            else:
                in_vain.append(text)
        return _judge(judge.name, judge.model, best)


def judge_of(spec: Judging, guidelines: str) -> Judge:
    """The judge, as MLflow has judges."""
    return _judge(spec.name, f"openai:/{spec.model}", guidelines)


def guidelines_of(judge: Judge) -> str:
    """Its instructions without what only MLflow needs."""
    text: str = judge.instructions.removeprefix(_HEAD)
    for variable, words in _NAMES:
        text = text.replace(variable, words)
    return text.strip()


def trace(number: int, example: Example, judge: str) -> Trace:
    """A labelled answer: its root span is what was asked and said, the label a human's feedback."""
    words, name = told(example), f"tr-{number:032x}"
    attributes = {
        "mlflow.traceRequestId": name,
        "mlflow.spanInputs": {"request": words["request"]},
        "mlflow.spanOutputs": words["answer"],
    }
    said = Feedback(
        name=judge,
        value=example.label.good,
        source=AssessmentSource(AssessmentSourceType.HUMAN, example.label.rater or "expert"),
    )
    info = TraceInfo(
        trace_id=name,
        trace_location=TraceLocation.from_experiment_id("0"),
        request_time=int(example.label.given_at.timestamp() * 1000),
        state=TraceState.OK,
        client_request_id=example.label.completion_id,
        assessments=[said],
    )
    return Trace(info, TraceData([Span(_span(number, attributes))]))


def _span(number: int, attributes: dict[str, Any]) -> ReadableSpan:
    return ReadableSpan(
        name="answer",
        context=SpanContext(number, number, False, TraceFlags(1)),
        attributes={key: json.dumps(value) for key, value in attributes.items()},
        start_time=0,
        end_time=1,
    )


def _judge(name: str, model: str, guidelines: str) -> Judge:
    return make_judge(
        name=name, instructions=_HEAD + guidelines, model=model, feedback_value_type=bool
    )
