"""Asks one backend's service for our identity, in a process with that backend's environment.

Usage: ``python -m tracker_daemon.doctor.service_probe BACKEND OUTDIR``. Its last line of output is a JSON
array: true if the service accepts us, and a sentence.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from tracker_daemon.errors import BackendError
from tracker_daemon.settings.credentials import masked


def probe_mlflow(outdir: Path) -> str:
    """Ask the tracking server for its experiments; a local store needs no request."""
    from tracker_daemon.backends.mlflow.connection import MlflowConnection  # noqa: PLC0415
    from tracker_daemon.backends.mlflow.store_address import StoreAddress  # noqa: PLC0415

    address = StoreAddress.of(os.environ, outdir)
    if address.file is not None:
        return f"without MLFLOW_TRACKING_URI its store is {address.file}"
    MlflowConnection(address, os.environ).call(lambda client: client.search_experiments(max_results=1))
    return f"{address.shown} answers, and takes the credentials"


def probe_wandb(outdir: Path) -> str:  # noqa: ARG001  # as the others
    """Ask the W&B server for the key's owner. The mode of a run is the script's choice."""
    from tracker_daemon.backends.wandb.session import load_sdk, log_in  # noqa: PLC0415

    wandb = load_sdk()
    log_in(wandb)
    server = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    try:
        wandb.login(prompt=False, verify=True)
    except wandb.errors.Error as error:  # a refused key and an unreachable server alike
        raise BackendError(f"{server} does not let the daemon in: {error}") from error
    return f"{server} answers, and takes the key"


PROBES: Mapping[str, Callable[[Path], str]] = {"mlflow": probe_mlflow, "wandb": probe_wandb}


def main() -> None:
    """Probe the backend that the command line names."""
    name, outdir = sys.argv[1], Path(sys.argv[2])
    try:
        ok, text = True, PROBES[name](outdir)
    except BackendError as error:
        ok, text = False, str(error)
    sys.stdout.write(f"\n{msgspec.json.encode((ok, masked(text, os.environ))).decode()}\n")


if __name__ == "__main__":
    main()
