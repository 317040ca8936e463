"""Files: durable changes to directories, for every part that writes files.

* ``atomic_file``: a file appears whole or not at all, and survives a crash.
* ``run_directory``: the directory of a run's files.
* ``content_files``: the stored contents of tables, images and artifacts.
* ``file_errors``: what an operating system's error means for delivery.
"""
