"""A dear champion replaced by a small model of one's own: support tickets to JSON."""
