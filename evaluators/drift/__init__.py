"""Whether what is asked and answered has changed: windows of live traffic against a reference."""
