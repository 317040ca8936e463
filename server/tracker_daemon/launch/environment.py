"""The variables by which a command's ranks find their daemon, and one another."""

from __future__ import annotations

LAUNCH_ID_VARIABLE = "TRACKER_LAUNCH_ID"
ENDPOINT_VARIABLE = "TRACKER_ENDPOINT"
ENDPOINT_FILE_VARIABLE = "TRACKER_ENDPOINT_FILE"
OTHER_ENDPOINT_VARIABLES = (ENDPOINT_VARIABLE, "TRACKER_TOKEN", "TRACKER_TOKEN_FILE", "TRACKER_TLS_ROOT")
"""Variables removed from the command's environment: they could name another daemon."""
