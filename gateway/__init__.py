"""The OpenAI-compatible door: answers users and captures what happened.

Never fails or slows a user's request because capture failed; imports no torch, mlflow, trl,
duckdb.
"""
