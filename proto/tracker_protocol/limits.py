"""Every bound of the product, with its unit in its name.

Client and daemon both read this file, so that what one sends the other takes. A bound that a
user may want to move is also a setting, whose default is the value here.
"""

# ---- names and values ----
METRIC_NAME_MAX_BYTES = 512
METRICS_PER_RUN_MAX = 100_000
METRICS_PER_ROW_MAX = 16_384
"""More than this in one ``log()`` call would not fit one message."""
METRICS_NESTED_DEPTH_MAX = 16
"""How deep dicts of metrics may be nested; one that holds itself has no end."""
TEXT_VALUE_MAX_CHARACTERS = 4_096
CONFIG_MAX_BYTES = 192 * 1024
CONFIG_TOTAL_MAX_BYTES = 1024 * 1024
"""The most that a run's configuration, merged, may weigh as JSON."""
CONFIG_CHANGES_MAX = 1_000
"""How many changes of a run's configuration its history keeps: the first."""
CONFIG_VARIANTS_MAX = 64
"""How many different configurations of a run's ranks are compared; those of further ranks are counted."""
CONFIG_VALUE_COMPARED_CHARACTERS = 200
"""Longer values of configurations are compared by checksum, and cut in the history."""
CONFIG_ARRAY_VALUES_MAX = 1_000
"""A larger array in a configuration is told by its shape."""
BACKEND_OPTIONS_MAX_BYTES = 64 * 1024
"""The most that the options of all backends may weigh as JSON, and so the description of the script."""
METRIC_RULES_MAX_CHARACTERS = 16 * 1024
"""The most that the rules by glob of one setting may have, a run's and the daemon's together."""
STEP_MAX = 2**62
OCCURRENCES_PER_STEP_MAX = 16

# ---- items and their contents ----
ITEM_KIND_MAX_BYTES = 64
ITEM_DOCUMENT_MAX_BYTES = 128 * 1024
ITEM_MAX_BYTES = 1024 * 1024
"""What an item may weigh with the list of its contents; some 10,000 files."""
CONTENTS_PER_ITEM_MAX = 10_000
CONTENT_PATH_MAX_BYTES = 1_024
CONTENT_MAX_BYTES = 16 * 1024**3
CONTENTS_MAX_BYTES = 64 * 1024**3
"""What a daemon holds of contents that are not delivered yet."""
CONTENT_UNUSED_S = 6 * 3600.0
"""How long a content, or a part of one, is kept that no item has."""
CONTENT_CARE_S = 2.0
"""How often contents that every backend has are looked for."""
CONTENT_CHUNK_BYTES = 512 * 1024
CONTENT_UNSYNCED_MAX_BYTES = 32 * 1024 * 1024
"""What is written of a content before it is synced: the journal on the same disk may wait for what is not."""
UPLOADS_MAX = 64
"""Contents that a daemon receives at once."""

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
CLIENT_ITEMS_BYTES = 16 * 1024 * 1024
"""What a client keeps of items, files apart, before they have their place in the stream."""
CLIENT_HELD_CONTENT_BYTES = 256 * 1024 * 1024
"""What a client keeps in memory of tables, images and small files until they are uploaded."""
CLIENT_UPLOADS_WAITING_MAX = 1_000
"""Items whose contents wait to be uploaded."""
CLIENT_OPEN_FILES_MAX = 64
"""Files that are kept open from the call until they are uploaded; further ones are opened then."""
FILE_SNAPSHOT_BYTES = 1024 * 1024
"""A file up to this size is read at the call."""
IMAGE_PIXELS_MAX = 64 * 1024 * 1024
TABLE_COLUMNS_MAX = 16_384
TABLE_ROWS_MAX = 200_000
TABLE_CELLS_MAX = 5_000_000
UPLOAD_PROGRESS_FROM_BYTES = 64 * 1024 * 1024
UPLOAD_PROGRESS_EVERY_S = 10.0
UPLOAD_BACKOFF_MAX_S = 10.0
FINISH_RESERVE_S = 2.0
"""What finish() keeps of its time for the end itself, when it waits for uploads."""
FLUSH_INTERVAL_MIN_S = 0.2
FLUSH_INTERVAL_MAX_S = 2.0
RECONNECT_BACKOFF_MIN_S = 0.1
RECONNECT_BACKOFF_MAX_S = 10.0
CONNECT_JITTER_PER_RANK_S = 0.002
"""First connections spread over world size × this: 4,000 ranks over 8 s."""
CONNECT_TIMEOUT_S = 10.0
CONNECT_STAGGER_S = 0.25
"""Of several addresses, each is tried so long after the one before."""
CONNECT_RACE_S = 3.0
"""How long all of them are tried, at most, before the next pause."""
ENDPOINT_POLL_S = 0.2
"""How often a rank looks for the endpoint file that rank 0's daemon is about to write, ranks being few."""
EMBEDDED_LOG_MAX_BYTES = 1024 * 1024
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
PRIMARY_WAIT_S = 5.0
"""How long a run's backends wait for its primary rank to say what script it is, if another came first."""
DELIVERY_SLICE_BYTES = 4 * 1024 * 1024
DRAIN_TIMEOUT_S = 30.0
CLOCK_SKEW_MAX_S = 5.0
"""A host whose clock differs by more from the file system's is told so by the doctor."""
STATUS_MAX_BYTES = 64 * 1024 * 1024
"""The most that the status document may weigh: STREAMS_MAX ranks, each with its line."""
THINNING_GROUP_BYTES_MAX = 1024 * 1024
"""Records that a thinned backend is kept waiting for at most, until their window is over."""
DELIVERY_LINGER_S = 0.1
"""How long a backend lets new records gather before it takes them, unless it is behind."""
DELIVERY_BACKOFF_MIN_S = 0.5
DELIVERY_BACKOFF_MAX_S = 60.0
DELIVERY_PAUSED_RETRY_S = 300.0
DELIVERY_LOOK_S = 5.0
"""How often a backend is looked at that has nothing to do: whether what it took gets further, and, where it
is paused, whether its credentials have changed."""
DELIVERY_LOOK_ENDING_S = 0.5
"""How often it is once the daemon ends, and little time is left to mend what the signal broke."""
DELIVERY_BEHIND_AFTER_S = 10.0
"""A backend that has not caught up for this long, though nothing fails, is shown as behind."""

# ---- a backend in a process of its own ----
CHILD_OPEN_DEADLINE_S = 180.0
"""Importing an SDK from a busy network file system, and a server that is only just starting."""
CHILD_DELIVER_DEADLINE_S = 120.0
CHILD_CLOSE_DEADLINE_S = 20.0
CHILD_HEARTBEAT_S = 5.0
"""A delivery that takes longer commits meanwhile, which also tells that it goes on."""
CHILD_FILE_DEADLINE_S = 24 * 3600.0
"""What one item's files may take to upload, as long as the SDK's own requests are answered."""
CHILD_DIES_S = 5.0
"""How long the end of a killed process is waited for, before its successor waits for its lock."""
CHILD_LOCK_WAIT_S = 20.0
CHILD_MESSAGE_MAX_BYTES = 1 << 30
"""A length beyond this is no length: the other side has written something else into the pipe."""

# ---- MLflow ----
MLFLOW_METRICS_PER_REQUEST_MAX = 1_000
MLFLOW_PARAMS_OR_TAGS_PER_REQUEST_MAX = 100
MLFLOW_REQUEST_MAX_BYTES = 900_000
"""Of the million that MLflow takes, with room for what stands around the items."""
MLFLOW_KEY_MAX_CHARACTERS = 250
MLFLOW_KEY_STEM_MAX_CHARACTERS = 180
"""What is kept of a name that is no key, before the hash that tells it from others."""
MLFLOW_PARAM_MAX_CHARACTERS = 6_000
MLFLOW_TAG_MAX_CHARACTERS = 5_000
"""Older servers take no more; today's take 8,000."""
MLFLOW_EXPERIMENT_NAME_MAX_CHARACTERS = 500
MLFLOW_REQUEST_TIMEOUT_S = 45
MLFLOW_TOKEN_COMMAND_TIMEOUT_S = 30.0
MLFLOW_HANDSHAKE_ALERT_WAIT_S = 3.0
MLFLOW_TOKEN_MAX_BYTES = 16 * 1024

# ---- W&B ----
WANDB_LOG_FLUSH_S = 0.1
"""Between the SDK's flushes of its log, which is what a delivery waits for."""
WANDB_WRITTEN_TIMEOUT_S = 30.0
"""Without growth for this long, the SDK's log is taken to be stuck."""
WANDB_INIT_TIMEOUT_S = 60.0
WANDB_FINISH_TIMEOUT_S = 90.0
"""What W&B may take to upload what is left at the run's end, before that is tried again."""
WANDB_TROUBLE_AFTER_S = 5.0
"""An upload that was tried again for this long without success is shown."""
WANDB_CORE_ENDS_S = 10.0
WANDB_ID_KEPT_CHARACTERS = 51
INSTALLED_CLASS_TRIES_MAX = 5
"""How often a registered class is called with a row that it raises for, before the row is set aside."""
SCRIPT_SLICE_BYTES = 256 * 1024
"""How much of the outbox a class of the script is sent before it has acknowledged it."""
SCRIPT_PART_BYTES = 128 * 1024
"""Where an entry for a class of the script is divided into messages."""
SCRIPT_CALLS_WAITING_MAX = 64
"""How many tables, images and the like wait at most for a class of the script in its process."""
SCRIPT_CONNECT_PATIENCE_S = 2.0
"""How long delivery to a class of the script waits for its process before it says so."""
SCRIPT_ANSWER_PATIENCE_S = 60.0
"""How long a class of the script may take for one entry before it is shown as hanging."""
SCRIPT_END_PATIENCE_S = 5.0
"""How long the primary rank's classes wait for the run's end after that rank has finished."""
SCRIPT_CLOSE_S = 1.0
"""How long ``finish`` waits for the classes' own ``finish`` once its timeout is over."""

# ---- backends in the script's own process ----
INPROCESS_POINTS_MAX = 500_000
"""Values that wait in memory for one backend; beyond them the oldest are dropped."""
INPROCESS_DROP_SHARE = 16
"""A full outbox makes room for this fraction of itself."""
INPROCESS_SLICE_POINTS = 50_000
"""Values that are made into entries at once."""
INPROCESS_CSV_SIMULTANEOUS_MAX = 100
"""Trackers that write CSV files below one directory at the same time."""
INPROCESS_FILES_FINISH_S = 300.0
"""How long ``finish`` waits for tables, images and artifacts."""
INPROCESS_STOP_S = 5.0
"""How long ``finish`` waits for a delivery in progress, once its time is up."""

# ---- the rules of the data ----
LEARN_WAIT_S = 5.0
PARTIAL_AFTER_S = 30.0
LAGGING_AFTER_CELLS = 3
CHALLENGE_TIMEOUT_S = 5.0
"""How long a process whose rank another claims has to show that it lives."""
PREDECESSOR_WAIT_S = 2.0
"""How long a node's daemon forwards what a rank's earlier process has said before it asks about the next."""
ADMIT_TIMEOUT_S = 7.5
"""How long it asks: beyond a challenge, and with the wait before still within what a client waits for."""
ENDS_WAIT_S = 2.0
"""How long a rank that comes to a node after it has finished waits for its run's end, which other nodes may
still have to tell."""
NODE_HEARTBEAT_S = 2.0
"""How often a node's daemon shows the root that it lives, whether there is something to forward or not."""
LOST_TIMEOUT_S = 60.0
RESTART_GRACE_S = 0.0
GOODBYE_WAIT_S = 3.0
"""How long a daemon that was told to end by a signal goes on serving ranks, which may have got it too."""
GRACE_RESERVE_SHARE = 0.4
GRACE_RESERVE_MIN_S = 2.0
GRACE_RESERVE_MAX_S = 10.0
"""What of the time between a job's SIGTERM and its SIGKILL is kept from its ranks, to end their runs and
deliver that."""
GRACE_FORWARDING_S = 1.5
"""How much sooner a node's daemon ends than the one above, which serves it as long as its own ranks."""
GRACE_CLOSING_S = 0.5
"""What of the reserve is kept from delivering, to close files."""
START_TIMEOUT_S = 600.0

# ---- who may talk to a daemon ----
TOKEN_MIN_CHARACTERS = 16
TLS_VALID_DAYS = 3650
TLS_RENEWED_BEFORE_DAYS = 30

# ---- a daemon that ends by itself ----
EMBEDDED_IDLE_TIMEOUT_S = 10.0
EMBEDDED_ORPHAN_TIMEOUT_S = 300.0
