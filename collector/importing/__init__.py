"""Logs and ratings that exist already, brought into the lake: `everlearn import`."""
