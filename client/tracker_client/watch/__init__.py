"""``watch(model)``: records the distributions of a model's gradients and parameters.

* ``watching``: puts hooks on a model, and measures in every n-th backward pass.
* ``targets``: finds the parameters to watch, their names, and the tensors whose hooks report their gradients.
* ``options``: the arguments of ``watch()``, and their defaults.
* ``statistics``: computes statistics of tensors on their device, without waiting for the device.
* ``record``: holds one measurement until it can be read from the devices.
"""
