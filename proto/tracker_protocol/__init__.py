"""The protocol between a rank's client and its daemon: messages, method names and limits.

Both sides import this package, and it imports neither.

* ``v1``: the messages, generated from ``v1/tracker.proto``.
* ``limits``: every bound of the product.
* ``kinds``: the kinds of numbers.
* ``backend_names``: splits a list of backends into names.
* ``backend_options``: the options of a backend that only the daemon may set.
* ``script_facts``: the facts about a training script in the configuration of its W&B run.
* ``host_processes``: processes and their ancestors as a host shows them.
* ``runtime_directory``: where processes of a host find a daemon, whatever their own directories.
* ``wandb_id``: the id of a W&B run.
* ``extras``: the packages that the distribution's extras install.
* ``run_files``: the names of the product's own files, and the list of a run's files.
* ``backoff``: the length of the wait before the next attempt.
"""

PROTOCOL_VERSION = 2
"""The version that a Hello carries. A daemon refuses any other version."""
LAST_RELEASE_BY_PROTOCOL = {1: "0.1.0"}
"""The last version of tracker-daemon that spoke each earlier protocol."""

SERVICE = "tracker.v1.Tracker"
STREAM_METHOD = f"/{SERVICE}/Stream"
STATUS_METHOD = f"/{SERVICE}/Status"
STOP_METHOD = f"/{SERVICE}/Stop"
ADMIT_METHOD = f"/{SERVICE}/Admit"
UPLOAD_METHOD = f"/{SERVICE}/Upload"

TOKEN_METADATA_KEY = "authorization"
"""Every call carries ``Bearer <token>`` under this key."""
