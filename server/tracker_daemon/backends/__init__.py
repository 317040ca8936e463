"""Destinations of a run's records: the narrow interface, its registry and the built-in ones."""
