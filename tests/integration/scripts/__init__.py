"""Training loops as well-known scripts write them, with a small deterministic model in place of a network.

Each module has ``train(rank, world_size, log)``, which calls ``log(values, step=…, commit=…)``.
``__main__`` trains with a tracker, and writes each rank's calls to a file for comparison.
"""
