"""Two hosts within a machine: each has its own name, network and /tmp; they share the rest, homes too.

MPICH's mpiexec spans them as it would two nodes of a PBS job, whose names it reads from PBS_NODEFILE: it
starts its proxy on the other host by "ssh", which here is a script that enters the host's namespaces.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

NAMES = ("node1", "node2")
ADDRESS = "10.77.0.{}"
SSH = Path("/opt/ssh")
# As sshd's, a command's environment has nothing of the caller's.
SSH_SCRIPT = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift; done
host=$1
shift
set -- env --ignore-environment PATH=/usr/bin:/bin sh -c "$*"
exec nsenter --target "$(cat "/run/$host.pid")" --mount --uts --net "$@"
"""
BECOME_HOST = """
hostname "$0" && mount -t tmpfs tmpfs /tmp && ip link set lo up && echo ready && exec sleep infinity
"""


def make_hosts() -> None:
    """Make both, with a wire between them."""
    _resolve_names()
    for name in NAMES:
        _start(name)
    first, second = map(_pid, NAMES)
    _run(f"ip link add hsn0 netns {first} type veth peer name hsn0 netns {second}")
    for number, pid in enumerate((first, second), start=1):
        _run(f"nsenter --target {pid} --net ip address add {ADDRESS.format(number)}/24 dev hsn0")
        _run(f"nsenter --target {pid} --net ip link set hsn0 up")
    SSH.write_text(SSH_SCRIPT)
    SSH.chmod(0o755)


def on_first_host(*command: str) -> list[str]:
    """The command line that runs ``command`` there."""
    return ["nsenter", "--target", _pid(NAMES[0]), "--mount", "--uts", "--net", *command]


def job_variables(node_file: Path, slots: int) -> dict[str, str]:
    """What a PBS job of both hosts finds in its environment, and what has mpiexec use our ``ssh``."""
    node_file.write_text("".join(f"{name}\n" * slots for name in NAMES))
    return {"PBS_NODEFILE": str(node_file), "HYDRA_LAUNCHER_EXEC": str(SSH)}


def tmp_of(name: str) -> Path:
    """The host's /tmp, as seen from outside of it."""
    return Path(f"/proc/{_pid(name)}/root/tmp")


def _resolve_names() -> None:
    lines = ["127.0.0.1 localhost", *(f"{ADDRESS.format(n)} {name}" for n, name in enumerate(NAMES, start=1))]
    Path("/etc/hosts").write_text("\n".join(lines) + "\n")
    Path("/etc/nsswitch.conf").write_text("hosts: files\n")


def _start(name: str) -> None:
    process = subprocess.Popen(
        ["unshare", "--mount", "--uts", "--net", "sh", "-c", BECOME_HOST, name],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", f"{name} could not be made"
    Path(f"/run/{name}.pid").write_text(str(process.pid))


def _pid(name: str) -> str:
    return Path(f"/run/{name}.pid").read_text()


def _run(command: str) -> None:
    subprocess.run(command.split(), check=True)
