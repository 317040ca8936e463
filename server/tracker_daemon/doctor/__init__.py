"""The doctor: checks a machine before a training starts there, and says what to fix.

Each check is a function that yields findings; none raises because of a problem that it finds. The checks do
what the daemon will do, in the same directories and by the same code. They take the lock, commit to a
journal, listen, and let the backends' own processes ask their services.

* ``finding``: one result, good or bad.
* ``directories``: the state directory and the output directory.
* ``network``: addresses, a running daemon, and proxies.
* ``services``: backends and their credentials; ``service_probe``: asks one service, in its own process.
"""
