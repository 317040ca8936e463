"""Upstream: a daemon of one node's ranks, which forwards to a root.

* ``node_admission``: admits ranks by asking the root, and forwards their words to it.
* ``forwarded_session``: a rank's connection to such a daemon.
* ``forwarded_runs``: the runs that are forwarded; ``link``: one of them; ``lane``: its stream to the root.
* ``root``: where the root is, how it is called, and what its refusals mean.
"""
