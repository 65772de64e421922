"""The lake: columns once, the seam, and DuckLake behind it."""
