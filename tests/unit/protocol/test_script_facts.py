"""The facts about a script in the configuration of its W&B run."""

from __future__ import annotations

from datetime import datetime, timezone

from tracker_protocol.script_facts import wandb_config

BEGUN = datetime(2026, 3, 4, 5, 6, 7, tzinfo=timezone.utc)
TIME = {"year": 2026, "month": 3, "day": 4, "tstamp": "2026-03-04T05:06:07+00:00"}


def test_a_job_on_a_cluster_is_described_by_names_and_numbers():
    facts = {
        "host": "x1c0", "cluster": "aurora", "scheduler": "PBS", "jobid": "12.head", "device": "xpu",
        "backend": "xccl", "torch_version": "2.9", "python_version": "3.11.7", "working_directory": "/w",
        "world_size": "24", "num_nodes": "2", "ranks_per_node": "12", "git_commit": "c0ffee",
        "git_branch": "main", "rank": "0", "command": "train.py",
    }  # fmt: skip
    assert wandb_config(facts, BEGUN) == {
        "hostname": "x1c0", "machine": "aurora", "scheduler": "PBS", "jobid": "12.head",
        "device_type": "xpu", "pytorch_backend": "xccl", "torch_version": "2.9",
        "python_version": "3.11.7", "working_directory": "/w", "world_size": 24, "num_nodes": 2,
        "ranks_per_node": 12, "git_commit": "c0ffee", "git_branch": "main", **TIME,
    }  # fmt: skip


def test_unknown_facts_are_left_out_and_the_machine_is_the_host_if_there_is_no_cluster():
    assert wandb_config({"host": "desk", "jobid": "", "world_size": "many"}, BEGUN) == {
        "hostname": "desk", "machine": "desk", **TIME,
    }  # fmt: skip
    assert wandb_config({}, BEGUN) == TIME
