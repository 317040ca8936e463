"""The protocol between a rank's client and its daemon: messages, method names and limits."""

PROTOCOL_VERSION = 1
"""The version that a Hello carries. A daemon refuses versions that it does not know."""

SERVICE = "tracker.v1.Tracker"
STREAM_METHOD = f"/{SERVICE}/Stream"
STATUS_METHOD = f"/{SERVICE}/Status"
STOP_METHOD = f"/{SERVICE}/Stop"
ADMIT_METHOD = f"/{SERVICE}/Admit"
UPLOAD_METHOD = f"/{SERVICE}/Upload"

TOKEN_METADATA_KEY = "authorization"
"""Every call carries ``Bearer <token>`` under this key."""
