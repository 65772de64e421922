"""Each example runs by itself and reads top to bottom."""
