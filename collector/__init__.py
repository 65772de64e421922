"""Event log to lake, exactly once. Never calls a model."""
