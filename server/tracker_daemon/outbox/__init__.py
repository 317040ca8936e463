"""The outbox's vocabulary: the entries that the journal stores and that backends receive, and their lanes.

It lies below both the journal and the backends, so that neither knows the other.

* ``entries``: one entry of a run's outbox, and the kinds of entries.
* ``lanes``: the names of cursors. A backend with a lane for files has two.
"""
