"""The event log: the write-ahead log of a gateway, and the seam to a bus."""
