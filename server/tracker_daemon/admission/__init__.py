"""Admission: which clients are admitted, and what connected clients receive beside acknowledgements.

* ``rank_admission``: the interface that the daemon uses.
* ``root_admission``: admits ranks and nodes at a root. A node's daemon has ``upstream.node_admission``.
* ``parts``: the parts that a daemon's role decides. ``root_parts``: builds those of a root.
* ``delivery_answers``: answers ranks that wait for their deliveries.
* ``backend_news``: sends clients the state and handles of their run's backends.
* ``user_notices``: shows warnings to a run's user.
* ``rank_warnings``: makes one sentence of equal warnings of many ranks.
* ``script_backends``, ``script_messages``: deliver records to classes of the training script.
"""
