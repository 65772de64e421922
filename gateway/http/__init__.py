"""What speaks bytes: connections of clients and upstreams, heads, bodies, event streams."""
