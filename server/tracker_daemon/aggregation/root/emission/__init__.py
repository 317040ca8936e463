"""Emission: which rows are recorded, in which order, and the records that they make.

* ``ordering``: the rows that are due, in order, and the cells without a home.
* ``gathering``: the cells of rows, panel by panel.
* ``blocks``: reduces closed cells, and lays out records in columns.
* ``axes``: the axis of each recorded series.
"""
