"""One file per row of docs/performance.md."""
