"""Comments become weights: who may teach, what a comment asks for, whether the model can follow it.

1. `comments`: what people wrote and who of them is heard.
2. `evaluators.judge.comments`: a judge sorts each one - rule, correction, displeasure, nothing.
3. `lift`: with a rule in its prompt the served model must be better than without, or it waits.
4. `revise`: logged prompts are answered again with the rules; what is better becomes a row.
5. `rows`: those rows in a snapshot, for the prompt *without* the rules.

Nothing here trains: `sft` and `dpo` take the rows beside all others.
"""
