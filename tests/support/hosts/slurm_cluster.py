"""A real Slurm on loopback: a controller and two nodes on this host, for root alone, gone with the tests."""

from __future__ import annotations

import os
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path

# What a requeued job waits for by default, that the credentials of its first try have expired, takes minutes.
CONFIGURATION = """
ClusterName=testing
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/none
AuthInfo=cred_expire=5
CredType=cred/none
StateSaveLocation={home}/state
SlurmctldPidFile={home}/slurmctld.pid
SlurmdSpoolDir={home}/%n
SlurmdPidFile={home}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class SlurmCluster:
    """Its commands are Slurm's own; ``KillWait`` is Slurm's default, 30 s."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._processes: list[subprocess.Popen[bytes]] = []
        for name in ("state", "node1", "node2"):
            (home / name).mkdir()
        configuration = home / "slurm.conf"
        configuration.write_text(
            CONFIGURATION.format(host=socket.gethostname(), home=home, ports=_free_ports(3))
        )
        self._environ = {**os.environ, "SLURM_CONF": str(configuration)}

    def start(self) -> SlurmCluster:
        """Start all daemons; jobs wait until the nodes have registered."""
        for command in (["slurmctld"], ["slurmd", "-N", "node1"], ["slurmd", "-N", "node2"]):
            with (self.home / f"{command[-1]}.log").open("wb") as log:
                self._processes.append(
                    subprocess.Popen([*command, "-D"], env=self._environ, stdout=log, stderr=log)
                )
        return self

    def command(self, *argv: str, cwd: Path | None = None, **environ: str) -> str:
        """What one of Slurm's commands prints."""
        done = subprocess.run(
            argv,
            env=self._environ | environ,
            cwd=cwd,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def state(self, job: str) -> str:
        """The job's state, such as RUNNING."""
        return self.command("squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job}")

    def stop(self) -> None:
        """End all daemons; jobs must have ended."""
        for process in reversed(self._processes):
            process.terminate()
            process.wait(60)

    def log(self) -> str:
        """What the daemons said."""
        return "\n".join(path.read_text() for path in sorted(self.home.glob("*.log")))


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        listeners = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [listener.getsockname()[1] for listener in listeners]
