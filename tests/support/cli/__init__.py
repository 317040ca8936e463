"""Daemons that the command line meets.

- ``answering_server``: answers as a daemon does, over real gRPC
- ``fake_daemon``: a script, run as a process: obeys SIGTERM, and misbehaves on request
"""
