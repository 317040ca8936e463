"""Version 1 of the wire; ``tracker_pb2`` is generated from ``tracker.proto``."""
