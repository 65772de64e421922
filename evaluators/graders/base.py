"""What every grader has: a name, a version, nothing to release unless it says so."""

from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

from evaluators.definition import content_hash
from evaluators.template import Template
from evaluators.types import Item, Sample, Score
from everlearn.graders import Grader

Spec = TypeVar("Spec", bound=Grader)


class Base(ABC, Generic[Spec]):
    """Base of the graders."""

    needs_reference = False
    """Its verdict may change when a reference arrives."""
    needs_feedback = False
    """Its verdict may change when feedback arrives."""
    slow = False
    """A model is asked: a verdict takes seconds."""
    runs_code = False
    """Runs what somebody wrote, in the sandbox."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.name: str = spec.name
        self.version = content_hash(spec)

    @abstractmethod
    async def __call__(self, sample: Sample, item: Item) -> Score:
        """The verdict; GraderError when there is none."""

    async def aclose(self) -> None:
        """Nothing to release."""

    def passed(self, value: float, **more: Any) -> Score:
        """The score, labelled by `pass_threshold` where the definition has one."""
        threshold = getattr(self.spec, "pass_threshold", None)
        if threshold is None:
            return Score(value, **more)
        return Score(value, label="pass" if value >= threshold else "fail", **more)

    def template(self, text: str, key: str) -> Template:
        """Parse a template of this grader and note what it reads."""
        template = Template(text, f"grader {self.name}: {key}")
        if any(name.startswith("item.reference") for name in template.names):
            self.needs_reference = True
        if any(
            name.startswith(("item.thumbs", "item.feedback", "item.correction"))
            for name in template.names
        ):
            self.needs_feedback = True
        return template
