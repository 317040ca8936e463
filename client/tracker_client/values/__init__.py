"""Values that ``log()`` and ``log_config()`` accept, copied and checked at the call.

* ``snapshot``: numbers, tensors and texts of a call.
* ``collectives``: results of torch's collectives that are still running.
* ``devices``: values on a device, read without a wait for the device.
* ``nesting``: nested dicts of metrics.
* ``histogram``: a histogram as it is sent; ``wandb_objects``: W&B's own objects.
* ``configuration``: a configuration of any kind as a JSON object.
* ``steps``: the step that a call names.
* ``arguments``: exit codes, timeouts and valid texts; ``secret_names``: the names whose values are secrets.
* ``exit_status``: the file of a process's exit status.
* ``printing``: shows messages, which begin with the product's name and the rank.
* ``untraced``: keeps ``torch.compile`` out of a tracker's calls.
* ``tally``: counts and bounds that any thread may change, a signal handler included.
* ``refusals``: counts what cannot be recorded, and warns at most once a minute for each cause.
"""
