"""Status: the document about runs, ranks and backends.

* ``document``: its types. ``report``: fills it in. ``view``: prints it for a person.
"""
