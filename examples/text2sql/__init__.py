"""Text to SQL over one orders table."""
