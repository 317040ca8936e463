"""Machines and clusters for the recipes of ``deploy/``.

- ``machine``: a machine of its own, made by systemd-nspawn, in which a module of this package runs
- ``systemd_drive``: runs in such a machine: an administrator and a user with the systemd units
- ``pbs_mom``: plays PBS's daemon on a host: runs prologues, jobs and epilogues, and kills as it does
- ``pbs_hosts``: two hosts within a machine, each with its own name, network and /tmp
- ``pbs_drive``, ``pbs_node_local_drive``: run in such a machine: jobs on one host and on two
- ``slurm_cluster``: a real Slurm controller with two nodes on this host
"""
