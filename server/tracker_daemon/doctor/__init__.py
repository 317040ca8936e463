"""The doctor: looks at a user's place before a training does, and says what to fix.

Each examination is a function that yields findings; none raises for what it finds. They do what the
daemon will do, at the same place and by the same code: take the lock, commit to a journal, listen, let
the backends' own processes ask their services.

* ``finding``: one result, good or bad.
* ``directories``: the state directory and the output directory.
* ``network``: addresses, a running daemon, and proxies.
* ``services``: backends and their credentials; ``service_probe``: asks one service, in its own process.
"""
