"""One verdict of one evaluator: whatever goes wrong in it is unscored, with the reason."""

import math
from dataclasses import replace

from evaluators.template import Unknown
from evaluators.types import Evaluator, Item, Sample, Score
from everlearn.errors import GraderError


async def score(evaluator: Evaluator, sample: Sample, item: Item) -> Score:
    """The score; unscored with `reason` (not known yet) or `error` (the evaluator failed)."""
    try:
        result = await evaluator(sample, item)
    except Unknown as error:
        return Score(reason=str(error))
    except GraderError as error:
        return Score(error=str(error))
    except Exception as error:  # whatever one answer holds, the others are scored
        return Score(error=f"{evaluator.name}: {type(error).__name__}: {error}"[:500])
    if result.value is not None and not math.isfinite(result.value):
        return replace(result, value=None, error=f"{evaluator.name} gave {result.value}")
    return result
