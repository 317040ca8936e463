"""Upstream: the daemon of one node, which forwards its ranks' runs to a root.

* ``node_parts``: builds the parts of such a daemon.
* ``node_admission``: admits ranks by asking the root. ``forwarded_session``: one rank's connection.
* ``forwarded_runs``: the forwarded runs. ``forwarder``: when their values are sent.
* ``root_link``: what one run exchanges with the root. ``lane_stream``: one of its streams.
* ``pump_lane``: a lane as a pump uses it.
* ``root``: the root's endpoint, calls and refusals.
"""
