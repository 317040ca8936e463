"""What the tests of ingest share.

- ``messages``: Hellos and batches as clients and nodes' daemons send them
- ``rig``: the recorder on a journal of its own, reopened at will
- ``clients``: ranks and nodes' daemons that a registry lets in, without a connection
"""
