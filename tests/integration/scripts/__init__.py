"""Training loops as well-known scripts write them, with a small deterministic model in place of a network.

Each module has ``train(rank, world_size, log)``, which calls ``log(values, step=…, commit=…)``. It may have
``AXES`` and ``SUMMARIES``, by glob, which the script defines before it trains.
``__main__`` trains with a tracker, and writes each rank's calls to a file for comparison.
"""
