"""(completion, context) to Score. An evaluator's own failure is unscored, never a zero."""
