"""Whether a command's exit status says that a rank ended well."""

from __future__ import annotations

import pytest

from tracker_daemon.processes.launchers import reports_failures


@pytest.mark.parametrize(
    ("programs", "command"),
    [
        (["torchrun"], "torchrun"),
        (["torch.distributed.run"], "torch.distributed.run"),
        (["hydra_pmi_proxy", "mpiexec.hydra"], "mpiexec.hydra"),
        (["deepspeed.launcher.launch", "deepspeed"], "deepspeed"),
        (["slurmstepd: [12.0]"], "srun"),
        (["torchrun", "timeout"], "timeout"),
        (["torchrun", "slurmstepd: [12.0]", "slurmd"], "srun"),
        (["orted", "sshd", "sshd"], "mpirun"),
    ],
)
def test_launchers_report_the_failures_of_their_ranks(programs, command):
    assert reports_failures(programs, command)


@pytest.mark.parametrize(
    ("programs", "command"),
    [
        ([], "python"),
        (["bash"], "bash"),
        (["torchrun", "bash"], "bash"),
        (["run.sh", "torchrun"], "torchrun"),
        (["sshd"], "bash"),
        (["sshd"], "job.sh"),
        (["mystery"], "mystery"),
    ],
)
def test_shells_and_unknown_programs_may_hide_a_failure(programs, command):
    assert not reports_failures(programs, command)
