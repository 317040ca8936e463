"""The daemon: ingest → journal → aggregation → delivery → backends.

One process receives every rank's stream, acknowledges what its journal has committed, folds the
ranks' values into records, and delivers the records to each backend with that backend's own cursor.
"""
