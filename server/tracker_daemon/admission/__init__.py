"""Admission: who is let in, and what connected clients are sent beside acknowledgements.

* ``rank_admission``: the interface that the daemon uses, of two kinds.
* ``root_admission``: admits ranks and nodes at a daemon that records (the other kind is in ``upstream``).
* ``backend_news``: sends clients the state and handles of their run's backends.
* ``primary_notices``: sends warnings to the primary rank.
* ``script_backends``, ``script_messages``: feed classes of the training script with records.
"""
