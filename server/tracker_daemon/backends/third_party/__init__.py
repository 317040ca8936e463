"""Classes of other packages and of training scripts as backends.

* ``installed_class``: an installed package's ``TrackerBackend``, in the daemon's process.
* ``script_class``: a class of the training script, in the primary rank's process.
* ``script_link``: the way from a run's delivery to that process.
"""
