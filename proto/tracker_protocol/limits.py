"""Every bound of the product, with its unit in its name.

Client and daemon both read this file, so that what one sends the other takes. A bound that a
user may want to move is also a setting, whose default is the value here.
"""

# ---- names and values ----
METRIC_NAME_MAX_BYTES = 512
METRICS_PER_RUN_MAX = 100_000
METRICS_PER_ROW_MAX = 16_384
"""More than this in one ``log()`` call would not fit one message."""
TEXT_VALUE_MAX_CHARACTERS = 4_096
CONFIG_MAX_BYTES = 192 * 1024
STEP_MAX = 2**62
OCCURRENCES_PER_STEP_MAX = 16

# ---- messages ----
MESSAGE_MAX_BYTES = 256 * 1024
"""The most that one metric message may weigh."""
BATCH_TARGET_BYTES = 128 * 1024
"""Where the client closes a batch; leaves room for one more row below MESSAGE_MAX_BYTES."""
RECEIVE_MAX_BYTES = 4 * 1024 * 1024
HELLO_NAMES_MAX_BYTES = 3 * 1024 * 1024
HELLO_TEXT_MAX_BYTES = 4 * 1024
"""The most that one text of a Hello may weigh: a project's name, a path, a host."""
DROPPED_POINTS_MAX = 2**48
"""The most values that one message may declare dropped."""

# ---- the client ----
CLIENT_BUFFER_BYTES = 64 * 1024 * 1024
FLUSH_INTERVAL_MIN_S = 0.2
FLUSH_INTERVAL_MAX_S = 2.0
RECONNECT_BACKOFF_MIN_S = 0.1
RECONNECT_BACKOFF_MAX_S = 10.0
CONNECT_JITTER_PER_RANK_S = 0.002
"""First connections spread over world size × this: 4,000 ranks over 8 s."""
CONNECT_TIMEOUT_S = 10.0
KEEPALIVE_TIME_S = 20.0
KEEPALIVE_TIMEOUT_S = 20.0

# ---- the daemon ----
STREAMS_MAX = 20_000
RUNS_LIVE_MAX = 256
RUNS_ENDED_MAX = 256
"""How many ended runs are kept at hand, and shown; older ones come back when something asks for them."""
WORLD_SIZE_MAX = 1_000_000
UNCOMMITTED_BYTES_MAX = 256 * 1024 * 1024
COMMIT_WINDOW_S = 0.005
COMMIT_BYTES_MAX = 16 * 1024 * 1024
SNAPSHOT_EVERY_BYTES = 64 * 1024 * 1024
SNAPSHOT_EVERY_S = 10.0
HISTORY_BYTES_MAX = 1024 * 1024 * 1024
OPEN_CELLS_BYTES_MAX = 512 * 1024 * 1024
CLOSED_MARKS_PER_PANEL = 16_384
"""How many closed (step, occurrence) pairs are remembered one by one; older ones by watermark."""
EVENTS_SHOWN_MAX = 200
DELIVERY_SLICE_BYTES = 4 * 1024 * 1024
DRAIN_TIMEOUT_S = 30.0
STATUS_MAX_BYTES = 64 * 1024 * 1024
"""The most that the status document may weigh: STREAMS_MAX ranks, each with its line."""
DELIVERY_LINGER_S = 0.1
"""How long a backend lets new records gather before it takes them, unless it is behind."""
DELIVERY_BACKOFF_MIN_S = 0.5
DELIVERY_BACKOFF_MAX_S = 60.0
DELIVERY_PAUSED_RETRY_S = 300.0
DELIVERY_BEHIND_AFTER_S = 10.0
"""A backend that has not caught up for this long, though nothing fails, is shown as behind."""

# ---- the rules of the data ----
LEARN_WAIT_S = 5.0
PARTIAL_AFTER_S = 30.0
LAGGING_AFTER_CELLS = 3
LOST_TIMEOUT_S = 60.0
START_TIMEOUT_S = 600.0
