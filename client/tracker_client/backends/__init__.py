"""Backends, as a script knows them: its own classes, and handles of those at the daemon.

* ``base``: :class:`TrackerBackend`, and the names that classes are registered under.
* ``built_in``: the names of the daemon's own backends, and what one that runs in the script is given.
* ``script_classes``: the classes of the script that a run's backends name.
* ``script_backends``: feeds those classes with the daemon's records, each on a thread of its own.
* ``handles``: ids, names and addresses of the daemon's backends.
"""
