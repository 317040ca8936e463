"""Identity: which rank, launch and script this process is.

* ``rank``: rank, world size and local rank, all from one source.
* ``launch``: the launch key, which all ranks of one launch share and no other launch has.
* ``workers``: processes of ``multiprocessing`` that are no ranks of their own.
* ``script_metadata``: user, host, command, git state and accelerators of the training script.
"""
