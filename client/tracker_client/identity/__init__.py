"""Identity: the rank, launch and script of this process.

* ``rank``: finds rank, world size and local rank, all from one source.
* ``launch``: derives the launch key, which all ranks of one launch share and no other launch has.
* ``workers``: recognises processes of ``multiprocessing`` that are no ranks of their own.
* ``script_metadata``: collects user, host, command, git state and accelerators of the training script.
"""
