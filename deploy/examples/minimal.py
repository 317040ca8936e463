"""The smallest script: three lines of tracking around a loop.

Run it alone, or on many ranks::

    tracker-daemon run --outdir runs/minimal -- python deploy/examples/minimal.py
    tracker-daemon run --outdir runs/minimal -- torchrun --nproc-per-node 4 deploy/examples/minimal.py
"""

from tracker_client import setup_tracker

with setup_tracker(project_name="minimal", config={"lr": 0.1}) as tracker:
    position = 4.0
    for step in range(100):
        gradient = 2 * position
        position -= 0.1 * gradient
        tracker.log({"loss": position**2, "gradient": gradient}, step=step)
