"""What crosses a process border: events, schema, store, bus, config, errors, commands."""

__version__ = "0.1.0"
