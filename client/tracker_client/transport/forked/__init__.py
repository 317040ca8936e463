"""Forked: calls of a forked process, which cannot use gRPC itself.

* ``helper``: the process's side. It starts a helper by exec and hands calls to it.
* ``relay``: the helper's program, which makes the calls over gRPC.
* ``frames``: the form of messages between the two.
"""
