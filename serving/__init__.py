"""Fleet and canary: moves traffic by evidence. Never trains, never promotes without an analysis."""
