"""Backends on the script's side: the script's own classes, and handles of the daemon's backends.

* ``base``: :class:`TrackerBackend`, and the names that classes are registered under.
* ``calls``: calls a backend's methods as scripts expect, on classes that do not derive from it too.
* ``built_in``: the names of the daemon's own backends, and the arguments of one that runs in the script.
* ``script_classes``: selects the classes of the script that a run's backends name.
* ``script_backends``: delivers the daemon's records to those classes, each on its own thread.
* ``script_entries``: the records, configurations and calls that such a class receives.
* ``adopted_wandb``: a W&B run that the script has opened, as one of these classes.
* ``wandb_module``: the names of the module ``wandb``, which record through a tracker.
* ``handles``: ids, names and addresses of the daemon's backends.
"""
