"""Sending: from staged calls to acknowledged batches, on one background thread.

* ``sender``: the loop. It waits for events and deadlines, and has each collaborator do what is due.
* ``state``: the named states of the link and of the stream, their transitions and deadlines; pure.
* ``link``: the connection to the daemon, one after another.
* ``reconnecting``: the time of the next attempt to connect, and the warnings about an outage; pure.
* ``window``: sends waiting batches, as far as the window allows.
* ``flusher``: encodes and sends staged rows at each flush interval, or a heartbeat if there are none.
* ``finishing``: the steps of ``finish()``.
* ``batch_builder``: turns the staging buffer's rows into numbered batches.
* ``unacknowledged``: the batches to send, to send again, or to give up; pure.
* ``events``: the messages of a tracker's threads to the loop.
* ``rank_warnings``: warnings on their way to the user, through the daemon.
* ``published``: the part of the sender's state that other threads may read.
"""
