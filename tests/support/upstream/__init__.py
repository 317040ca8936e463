"""What the tests of forwarding share.

- ``root_server``: a root in this process, which speaks the protocol, and a link to it
- ``node_side``: a node's daemon, less the processes
"""
