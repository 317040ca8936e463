"""``watch(model)``: how a model's gradients and parameters are distributed.

* ``watching``: hooks a model, and measures every so many steps.
* ``targets``: the parameters to watch, their names, and when a gradient is complete.
* ``statistics``: statistics of tensors, computed on their device without waiting for it.
* ``record``: one measurement on its way from the devices to the stream.
"""
