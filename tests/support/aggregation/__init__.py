"""A run played without processes, as a sequence of events."""
