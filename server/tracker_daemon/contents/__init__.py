"""Contents: the files of tables, images and artifacts, from their upload until every backend has them.

* ``store``: files by the SHA-256 of their bytes, each stored once.
* ``care``: removes contents that nothing needs.
"""
