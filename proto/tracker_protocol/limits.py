"""Every bound of the product, with its unit in its name.

Client and daemon both use this file, so that each accepts the messages of the other. A bound that a user may
want to change is also a setting, with the value here as its default.
"""

# ---- names and values ----
METRIC_NAME_MAX_BYTES = 512
METRICS_PER_RUN_MAX = 100_000
METRICS_PER_ROW_MAX = 16_384
"""The most values of one ``log()`` call; more would not fit into one message."""
METRICS_NESTED_DEPTH_MAX = 16
"""The deepest nesting of dicts of metrics; a dict that contains itself would have no end."""
TEXT_VALUE_MAX_CHARACTERS = 4_096
CONFIG_MAX_BYTES = 192 * 1024
CONFIG_TOTAL_MAX_BYTES = 1024 * 1024
"""The largest merged configuration of a run, as JSON."""
CONFIG_CHANGES_MAX = 1_000
"""The number of changes of a run's configuration that its history keeps, the first ones."""
CONFIG_VARIANTS_MAX = 64
"""The number of different configurations of a run's ranks that are compared; further ones are counted."""
CONFIG_VALUE_COMPARED_CHARACTERS = 200
"""Longer values of configurations are compared by checksum, and cut in the history."""
CONFIG_ARRAY_VALUES_MAX = 1_000
"""A larger array in a configuration is recorded by its shape only."""
BACKEND_OPTIONS_MAX_BYTES = 64 * 1024
"""The largest JSON of all backends' options, and the largest description of the script."""
METRIC_RULES_MAX_CHARACTERS = 16 * 1024
"""The longest rules by glob of one setting, those of a run and of the daemon together."""
METRIC_DEFINITIONS_MAX = 256
"""The number of globs that a run's script may define by ``define_metric``."""
STEP_MAX = 2**62
ROW_NUMBER_MAX = 2**62 - 1
"""The highest number of a row within its stream."""
OCCURRENCES_PER_STEP_MAX = 65_536
"""The number of times that a rank may log a metric at one step, and the value still joins the aggregates."""
OCCURRENCE_RUNS_MAX = 64
"""The number of times that a rank's steps may go back, for a metric, and the values join the aggregates."""
AXIS_CHANGES_KEPT_MAX = 1_024
"""The last changes of a rank's axis values (`epoch`) that are kept, for items that come after later rows."""
UNPLACED_VALUES_KEPT_MAX = 65_536
"""The values beyond these bounds that an attempt keeps until their metrics' reporters are known."""

# ---- items and their contents ----
ITEM_KIND_MAX_BYTES = 64
ITEM_DOCUMENT_MAX_BYTES = 128 * 1024
ITEM_MAX_BYTES = 1024 * 1024
"""The largest item with the list of its contents; enough for about 10,000 files."""
CONTENTS_PER_ITEM_MAX = 10_000
CONTENT_PATH_MAX_BYTES = 1_024
CONTENT_MAX_BYTES = 16 * 1024**3
CONTENTS_MAX_BYTES = 64 * 1024**3
"""The total size of contents that a daemon holds until they are delivered."""
CONTENT_UNUSED_S = 6 * 3600.0
"""The time for which a content, or a part of one, is kept without an item that uses it."""
CONTENT_REMOVAL_INTERVAL_S = 2.0
"""The interval between searches for contents that every backend has, which are then removed."""
CONTENT_CHUNK_BYTES = 512 * 1024
CONTENT_UNSYNCED_MAX_BYTES = 32 * 1024 * 1024
"""The bytes of a content that are written between syncs: unsynced bytes delay a journal on the same disk."""
UPLOADS_MAX = 64
"""The number of contents that a daemon receives at the same time."""

# ---- messages ----
MESSAGE_MAX_BYTES = 256 * 1024
"""The largest message with metrics."""
BATCH_TARGET_BYTES = 128 * 1024
"""The size at which the client closes a batch; one more row still fits below MESSAGE_MAX_BYTES."""
RECEIVE_MAX_BYTES = 4 * 1024 * 1024
HELLO_NAMES_MAX_BYTES = 3 * 1024 * 1024
HELLO_TEXT_MAX_BYTES = 4 * 1024
"""The largest text of a Hello: a project's name, a path, a host."""
DROPPED_POINTS_MAX = 2**48
"""The most values that one message may declare dropped."""

# ---- the client ----
CLIENT_BUFFER_BYTES = 64 * 1024 * 1024
CLIENT_ITEMS_BYTES = 16 * 1024 * 1024
"""The bytes of items, without files, that a client holds until they have their place in the stream."""
WARNING_MAX_CHARACTERS = 1_000
"""The longest warning that a rank sends; a longer one is cut."""
WARNING_CAUSES_MAX = 200
"""The number of causes of ranks' warnings in one run; further ones are dropped."""
WARNING_GATHER_S = 1.0
"""The time in which the daemon gathers equal warnings of several ranks before the primary rank shows them."""
WARNING_INTERVAL_S = 60.0
"""The least time between two warnings of one cause."""
WARNING_SENT_WITHIN_S = 5.0
"""A rank shows its warning itself if no daemon has answered for so long."""
WARNING_RETURNED_WITHIN_S = 5.0
"""The primary rank shows its warning itself if the daemon has not returned it for so long."""
DEVICE_NUMBERS_MAX = 65_536
"""The number of values that are on their way from a device to memory, 8 bytes each."""
CLIENT_HELD_CONTENT_BYTES = 256 * 1024 * 1024
"""The bytes of tables, images and small files that a client holds in memory until their upload."""
CLIENT_UPLOADS_WAITING_MAX = 1_000
"""The number of items whose contents wait for their upload."""
CLIENT_OPEN_FILES_MAX = 64
"""The number of files that are kept open from the call to their upload; further files are opened then."""
FILE_SNAPSHOT_BYTES = 1024 * 1024
"""A file up to this size is read at the call."""
IMAGE_PIXELS_MAX = 64 * 1024 * 1024
IMAGES_PER_ITEM_MAX = 108
"""The most images of one call; W&B shows no more of one key at one step."""
TABLE_IMAGES_MAX = 1_000
TABLE_COLUMNS_MAX = 16_384
TABLE_ROWS_MAX = 200_000
TABLE_CELLS_MAX = 5_000_000
UPLOAD_PROGRESS_FROM_BYTES = 64 * 1024 * 1024
UPLOAD_PROGRESS_EVERY_S = 10.0
UPLOAD_BACKOFF_MAX_S = 10.0
FINISH_RESERVE_S = 2.0
"""The part of finish()'s time that is reserved for the run's end, when finish() waits for uploads."""
FINISH_FILES_WAIT_S = 10.0
"""The wait of finish() until the rows of the primary rank are in its files."""
FLUSH_INTERVAL_MIN_S = 0.2
FLUSH_INTERVAL_MAX_S = 2.0
RECONNECT_BACKOFF_MIN_S = 0.1
RECONNECT_BACKOFF_MAX_S = 10.0
CONNECT_JITTER_PER_RANK_S = 0.002
"""The first connections are spread over world size × this time: those of 4,000 ranks over 8 s."""
CONNECT_TIMEOUT_S = 10.0
CONNECT_STAGGER_S = 0.25
"""The time between the first tries of two of a daemon's addresses."""
CONNECT_RACE_S = 3.0
"""The time for which all addresses are tried, at most, before the next pause."""
ENDPOINT_POLL_S = 0.2
"""The interval at which a rank reads the endpoint file of rank 0's daemon, if there are few ranks."""
ENDPOINT_OLD_WAIT_S = 5.0
"""The time that a rank waits for its launch's endpoint file, before it believes one of the host's runtime
directory that is older than the rank: an earlier launch may have had the same key."""
EMBEDDED_LOG_MAX_BYTES = 1024 * 1024
KEEPALIVE_TIME_S = 20.0
KEEPALIVE_TIMEOUT_S = 20.0

# ---- the daemon ----
STREAMS_MAX = 20_000
RUNS_LIVE_MAX = 256
RUNS_ENDED_MAX = 256
"""The number of ended runs that are kept in memory and shown; older ones are loaded when needed."""
WORLD_SIZE_MAX = 1_000_000
UNCOMMITTED_BYTES_MAX = 256 * 1024 * 1024
COMMIT_WINDOW_S = 0.005
COMMIT_BYTES_MAX = 16 * 1024 * 1024
SNAPSHOT_EVERY_BYTES = 64 * 1024 * 1024
SNAPSHOT_EVERY_S = 10.0
HISTORY_BYTES_MAX = 1024 * 1024 * 1024
OPEN_CELLS_BYTES_MAX = 512 * 1024 * 1024
RECORD_TIMES_KEPT = 4_096
"""The number of steps whose last record's time is kept, since times rise within a step."""
CLOSED_MARKS_PER_PANEL = 16_384
"""The number of closed (step, occurrence) pairs that are kept one by one; older ones by a watermark."""
EVENTS_SHOWN_MAX = 200
PRIMARY_WAIT_S = 10.0
"""The longest wait of a rank for its run's primary rank, before the rank opens the run itself."""
NAME_WAIT_S = 1.0
"""The wait of a rank with a name of its own, before it joins a run with another name."""
MEETING_SLICE_S = 2.5
"""The part of these waits that one call may last; with the other waits of an admission shorter than
ADMIT_TIMEOUT_S."""
DELIVERY_SLICE_BYTES = 4 * 1024 * 1024
DRAIN_TIMEOUT_S = 30.0
CLOCK_SKEW_MAX_S = 5.0
"""The largest difference between a host's clock and the file system's without a warning of the doctor."""
STATUS_MAX_BYTES = 64 * 1024 * 1024
"""The largest status document: STREAMS_MAX ranks, each with its line."""
THINNING_GROUP_BYTES_MAX = 1024 * 1024
"""The most bytes of records that a thinned backend waits for, until their window ends."""
DELIVERY_LINGER_S = 0.1
"""The time for which a backend lets new records accumulate before it takes them, unless it is behind."""
DELIVERY_BACKOFF_MIN_S = 0.5
DELIVERY_BACKOFF_MAX_S = 60.0
DELIVERY_PAUSED_RETRY_S = 300.0
DELIVERY_CHECK_S = 5.0
"""The interval at which an idle backend is checked: is the delivered data uploaded, and, if the backend is
paused, have its credentials changed?"""
DELIVERY_CHECK_ENDING_S = 0.5
"""The interval of the same checks while the daemon ends and little time is left."""
DELIVERY_BEHIND_AFTER_S = 10.0
"""A backend that has not caught up for this time, though nothing fails, is shown as behind."""

# ---- a backend in a process of its own ----
CHILD_OPEN_DEADLINE_S = 180.0
"""Long enough to import an SDK from a busy network file system, and for a server that is starting."""
CHILD_DELIVER_DEADLINE_S = 120.0
CHILD_CLOSE_DEADLINE_S = 20.0
CHILD_HEARTBEAT_S = 5.0
"""A longer delivery commits at this interval, which also shows that the process is alive."""
CHILD_FILE_DEADLINE_S = 24 * 3600.0
"""The longest upload of one item's files, as long as the SDK's own requests are answered."""
CHILD_DIES_S = 5.0
"""The wait for the end of a killed process, before its successor waits for the lock."""
CHILD_LOCK_WAIT_S = 20.0
RUN_DIRECTORY_LOCK_WAIT_S = 10.0
"""The wait for another process that chooses a run's directory in the same output directory."""
RUN_DIRECTORY_RETRY_S = 5.0
"""The wait before a daemon tries again to make a run's directory."""
RUN_DIRECTORIES_SEARCHED_MAX = 20_000
"""The directories that are searched for a run that somebody resumes by its id."""
CHILD_MESSAGE_MAX_BYTES = 1 << 30
"""A length above this is an error: the other side has written other data to the pipe."""

# ---- MLflow ----
MLFLOW_METRICS_PER_REQUEST_MAX = 1_000
MLFLOW_PARAMS_OR_TAGS_PER_REQUEST_MAX = 100
MLFLOW_REQUEST_MAX_BYTES = 900_000
"""MLflow accepts a million; the rest is room for the request around the items."""
MLFLOW_KEY_MAX_CHARACTERS = 250
MLFLOW_KEY_STEM_MAX_CHARACTERS = 180
"""The part that is kept of a name that is no valid key; a hash follows it."""
MLFLOW_PARAM_MAX_CHARACTERS = 6_000
MLFLOW_TAG_MAX_CHARACTERS = 5_000
"""The limit of older servers; today's accept 8,000."""
MLFLOW_EXPERIMENT_NAME_MAX_CHARACTERS = 500
MLFLOW_REQUEST_TIMEOUT_S = 45
MLFLOW_TOKEN_COMMAND_TIMEOUT_S = 30.0
MLFLOW_HANDSHAKE_ALERT_WAIT_S = 3.0
MLFLOW_TOKEN_MAX_BYTES = 16 * 1024

# ---- W&B ----
WANDB_LOG_FLUSH_S = 0.1
"""The interval of the SDK's flushes of its log, which a delivery waits for."""
WANDB_WRITTEN_TIMEOUT_S = 30.0
"""The SDK's log counts as stuck if it has not grown for this time."""
WANDB_INIT_TIMEOUT_S = 60.0
WANDB_FINISH_TIMEOUT_S = 90.0
"""The time that W&B has to upload the rest at the run's end, before that is tried again."""
WANDB_TROUBLE_AFTER_S = 5.0
"""An upload that has been retried for this time without success is shown."""
WANDB_CORE_ENDS_S = 10.0
WANDB_ID_KEPT_CHARACTERS = 51
INSTALLED_CLASS_TRIES_MAX = 5
"""The number of calls of an installed class with a row that it raises for, before the row is set aside."""
SCRIPT_SLICE_BYTES = 256 * 1024
"""The most bytes of the outbox that are sent to a class of the script and not acknowledged."""
SCRIPT_PART_BYTES = 128 * 1024
"""The size at which an entry for a class of the script is divided into messages."""
SCRIPT_CALLS_WAITING_MAX = 64
"""The most tables, images and the like that wait for a class of the script in its process."""
SCRIPT_CONNECT_PATIENCE_S = 2.0
"""The time for which delivery waits for the process of a script's class before it reports the wait."""
SCRIPT_ANSWER_PATIENCE_S = 60.0
"""The time that a class of the script may take for one entry before it is shown as hanging."""
SCRIPT_END_PATIENCE_S = 5.0
"""The wait of the primary rank's classes for the run's end, after that rank has finished."""
SCRIPT_CLOSE_S = 1.0
"""The wait of ``finish`` for the classes' own ``finish``, once its timeout has passed."""

# ---- backends in the script's own process ----
INPROCESS_POINTS_MAX = 500_000
"""The most values that wait in memory for one backend; beyond that the oldest are dropped."""
INPROCESS_DROP_SHARE = 16
"""A full outbox drops one part in this many of its values."""
INPROCESS_SLICE_POINTS = 50_000
"""The most values that are made into entries at once."""
INPROCESS_FILES_FINISH_S = 300.0
"""The wait of ``finish`` for tables, images and artifacts."""
INPROCESS_STOP_S = 5.0
"""The wait of ``finish`` for a delivery in progress, once its time has passed."""
INPROCESS_MLFLOW_RETRIES_MAX = 3
"""The most times that MLflow repeats a request while a run begins; the script waits for it."""

# ---- the rules of the data ----
LEARN_WAIT_S = 5.0
SILENT_FLUSH_S = 0.5
"""A rank that has reached a metric's first step, and has flushed so long after it, does not report it."""
EARLY_ROW_S = 0.5
"""The time after its last value from which a row is recorded without the aggregates of new metrics."""
JOIN_WAIT_S = 5.0
"""The time after a run's first Hello from which such a row waits for connected ranks alone."""
PARTIAL_AFTER_S = 30.0
LAGGING_AFTER_CELLS = 3
PASSED_STEPS_MAX = 1_000
"""A reporter that logs on, but not the metric, at so many of its steps in a row is its reporter no more."""
CHALLENGE_TIMEOUT_S = 5.0
"""The time that a process has to answer if another process claims its rank."""
PREDECESSOR_WAIT_S = 2.0
"""The time for which a node's daemon forwards data of a rank's earlier process, before it asks the root to
admit the next one."""
ADMIT_TIMEOUT_S = 7.5
"""The timeout of an admission: longer than CHALLENGE_TIMEOUT_S; with PREDECESSOR_WAIT_S still shorter than
CONNECT_TIMEOUT_S."""
RUN_END_WAIT_S = 2.0
"""The wait for the run's end of a finished rank that connects to a node again; other nodes may still have to
report their part of the end."""
NODE_HEARTBEAT_S = 2.0
"""The interval at which a node's daemon sends the root a sign of life, even without data to forward."""
LOST_TIMEOUT_S = 60.0
RESTART_GRACE_S = 0.0
SHUTDOWN_GRACE_S = 3.0
"""The time for which a daemon still serves ranks after a signal to end, which the ranks may have got too."""
GRACE_RESERVE_SHARE = 0.4
GRACE_RESERVE_MIN_S = 2.0
GRACE_RESERVE_MAX_S = 10.0
"""The part of the time between a job's SIGTERM and its SIGKILL that the daemon reserves, to end its runs
and to deliver these ends."""
GRACE_FORWARDING_S = 1.5
"""The time by which a node's daemon ends before the root, which serves its nodes as long as its own ranks."""
GRACE_CLOSING_S = 0.5
"""The part of the reserve that is left to close files, after deliveries."""
START_TIMEOUT_S = 600.0
VANISHED_AFTER_S = 2.0
"""The time after which a rank whose process is seen gone counts as lost."""
LATECOMERS_WAIT_S = 15.0
"""The time since the last Hello after which no further rank is expected, if all that connected have ended."""
COMMAND_END_WAIT_S = 5.0
"""The wait for the end of the launch's command, after the end of a rank that did not call ``finish()``."""

EXIT_NONCE_MAX_BYTES = 64
"""The length of the nonce in the file of a process's exit status."""

# ---- who may talk to a daemon ----
TOKEN_MIN_CHARACTERS = 16
TLS_VALID_DAYS = 3650
TLS_RENEWED_BEFORE_DAYS = 30

# ---- a daemon that ends by itself ----
EMBEDDED_IDLE_TIMEOUT_S = 10.0
EMBEDDED_ORPHAN_TIMEOUT_S = 300.0
EMBEDDED_ABANDONED_TIMEOUT_S = 2.0
"""A script's own daemon ends this long after its work is done and what started the ranks has ended."""
