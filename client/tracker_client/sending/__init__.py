"""Sending: from staged calls to acknowledged batches, on one background thread.

* ``sender``: the loop: it connects, sends, receives acknowledgements, and never gives up.
* ``events``: the messages of a tracker's threads to that loop.
* ``batch_builder``: turns the staging buffer's rows into numbered batches.
* ``unacknowledged``: the batches to send, to send again, or to give up.
* ``reconnecting``: when to try the daemon again, and what the user is told meanwhile.
"""
