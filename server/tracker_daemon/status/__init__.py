"""Status: the document about runs, ranks and backends.

* ``document``: its types. ``report``: puts it together. ``view``: prints it for people.
* ``facts``: what the recorder's thread reads for it. ``ranks``, ``backends``: their parts of a run.
"""
