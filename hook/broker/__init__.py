"""Processes that serve hooks: the broker, one for a lone hook, and how others speak with them."""
