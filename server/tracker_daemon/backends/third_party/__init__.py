"""Classes of others as backends.

* ``installed_class``: an installed package's ``TrackerBackend``, in the daemon's process.
* ``script_class``: a class of the training script, fed in the primary rank's process.
"""
