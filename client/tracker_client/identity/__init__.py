"""Identity: the rank, launch and script of this process.

* ``rank``: finds rank, world size and local rank, all from one source.
* ``launch``: derives the launch key, which all ranks of one launch share and no other launch has.
* ``own_process``: an id and a lasting name of this process, and what an ancestor was started with.
* ``mark``: the mark of a process that has set up a tracker, for its child processes.
* ``workers``: distinguishes a rank from a child process of a rank, which inherits the rank's environment.
* ``process``: decides, with these, which rank of which launch this process is.
* ``script_metadata``: collects user, host, command, git state and accelerators of the training script.
"""
