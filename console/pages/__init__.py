"""One file per page; each brings its own router."""
