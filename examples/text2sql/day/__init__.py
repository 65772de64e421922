"""A day in the life, in half an hour: `everlearn demo --day`."""
