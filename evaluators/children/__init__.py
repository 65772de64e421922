"""Programs that run in child processes: what a model or a task author wrote is run here only."""
