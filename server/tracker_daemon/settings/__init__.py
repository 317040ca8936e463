"""Settings of the daemon: by flag, environment or file.

* ``definitions``: every setting, with its default and its meaning.
* ``loading``: reads flags, environment and file, in this order of precedence; ``view`` prints the result.
* ``value_types``: parses the text of a setting; ``metric_settings`` and ``listen_address`` parse two kinds.
* ``credentials``: the environment of each backend's process, and its secret variables.
* ``directories``: absolute paths, and the default place of the state.
"""
