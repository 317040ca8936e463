"""Files: durable changes to directories, for every part that writes files.

* ``atomic_file``: a file appears whole or not at all, and survives a crash.
* ``run_directory``: the directory of a run's files, chosen once and found again by the run's id.
* ``layout``: where the directories are in an output directory. ``run_names``: their names.
* ``run_move``: moves an ended run's files into ``runs``.
* ``manifest``: the file that says whose directory it is; ``own_files``: names the run's files in it.
* ``run_story``: what the manifest tells of the run, from its beginning to its end.
* ``run_removal``: removes an ended run's files.
* ``run_lock``: locks that the kernel releases when their process is gone.
* ``content_files``: the stored contents of tables, images and artifacts.
* ``file_errors``: what an operating system's error means for delivery.
"""
