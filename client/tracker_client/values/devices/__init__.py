"""Values on a device: taken by the thread that logs, and read without a wait for the device.

* ``copies``: copies of values to pinned memory, whose arrival shows in that memory.
* ``background_reads``: arrays that only a read of the device can give, on a thread of its own.
"""
