"""Settings of the client: from the arguments of ``setup_tracker`` and the environment.

* ``reading``: all settings, from both sources.
* ``single_values``: single values, each from its argument or its variable.
* ``configured_endpoint``: the endpoint that the script or its environment names.
* ``output``: the output directory, as a path here and as a text for the daemon.
* ``selectors``: the values that select a backend's run (project, name, tags …), read on the rank.
* ``metric_options``: what a script says by metric: options, as texts for the daemon, and definitions.
"""
