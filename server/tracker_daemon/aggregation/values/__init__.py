"""Values: the input and output of folds, as plain values. Other packages use them too.

* ``batch``: the input: one batch of a rank or of a node's daemon.
* ``contribution``: the output of a node's fold, and the input of the root's: cells and progress of its ranks.
* ``item``: tables, images, artifacts and histograms, from input to output.
* ``record``: the output of a root's fold, in columns.
"""
