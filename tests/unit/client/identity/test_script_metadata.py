"""What is said about the training script, and that it never shows a secret."""

import getpass
import importlib.machinery
import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tracker_client import setup_tracker
from tracker_client.identity import script_metadata as surroundings
from tracker_client.identity.rank import RankInfo
from tracker_client.identity.script_metadata import (
    DOCUMENT_MAX_BYTES,
    VALUE_MAX_CHARACTERS,
    Script,
    describe,
    masked_command,
)
from tracker_client.settings import reading as settings
from tracker_client.version import __version__

ROOT = Path(__file__).parents[4]
SECRET = "hunter2"


def facts(environ=None, modules=None, argv=("train.py",), rank=None, directory="/nowhere", host="node7"):
    rank = rank or RankInfo(2, 4, 1, "argument")
    return json.loads(describe(Script(environ or {}, modules or {}, list(argv), rank, host, directory)))


def script_module(file=None, spec=None):
    return SimpleNamespace(__file__=file, __spec__=spec and importlib.machinery.ModuleSpec(spec, None))


# ---- the process ---------------------------------------------------------------------------------


def test_the_process_is_described_by_texts(tmp_path):
    found = facts({"USER": "ada"}, {"__main__": script_module("train.py")}, directory=str(tmp_path))
    assert found == {
        "version": __version__,
        "user": "ada",
        "program": str(tmp_path / "train.py"),
        "command": "train.py",
        "host": "node7",
        "machine": platform.machine(),
        "python_version": platform.python_version(),
        "world_size": "4",
        "rank": "2",
        "local_rank": "1",
        "working_directory": str(tmp_path),
    }


def test_an_unknown_world_size_is_left_out():
    assert "world_size" not in facts(rank=RankInfo(0, None, 0, "PMIx"))


@pytest.mark.skipif(sys.platform == "win32", reason="there the user comes from a variable")
def test_without_a_variable_the_user_is_the_systems(monkeypatch):
    for variable in surroundings.USER_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    try:
        expected = getpass.getuser()
    except (KeyError, OSError):
        expected = None  # a container's user may have no name
    assert facts().get("user") == expected


@pytest.mark.parametrize(
    ("module", "program"),
    [
        (script_module("/a/train.py"), "/a/train.py"),
        (script_module("/a/pkg/__main__.py", "pkg.__main__"), "-m pkg"),
        (script_module("/a/pkg/train.py", "pkg.train"), "-m pkg.train"),
        (script_module("/a/archive.zip/__main__.py", "__main__"), "/a/archive.zip/__main__.py"),
        (script_module(), None),  # a notebook, or `python -c`
    ],
)
def test_the_program_is_the_scripts_path_or_its_module(module, program):
    assert facts(modules={"__main__": module}).get("program") == program


@pytest.mark.parametrize(
    ("variable", "name"),
    [("PBS_JOBID", "PBS"), ("SLURM_JOB_ID", "Slurm"), ("LSB_JOBID", "LSF"), ("FLUX_JOB_ID", "Flux")],
)
def test_the_scheduler_is_known_by_its_variables(variable, name):
    assert facts({variable: "12"})["scheduler"] == name
    assert facts({variable: "12"})["jobid"] == "12"
    assert not {"scheduler", "jobid"} & set(facts({variable: ""}))


@pytest.mark.parametrize(
    ("environ", "world_size", "expected"),
    [
        ({"LOCAL_WORLD_SIZE": "4"}, 8, ("4", "2")),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, 5, ("4", "2")),
        ({"MPI_LOCALNRANKS": "4"}, None, ("4", None)),
        ({"LOCAL_WORLD_SIZE": "none"}, 8, (None, None)),
        ({}, 1, ("1", "1")),
    ],
)
def test_the_ranks_of_a_node_are_known_from_the_launcher_and_the_nodes_follow(environ, world_size, expected):
    found = facts(environ, rank=RankInfo(0, world_size, 0, "argument"))
    assert (found.get("ranks_per_node"), found.get("num_nodes")) == expected


def test_every_variable_is_named_in_the_settings_documentation():
    named = (*surroundings.USER_VARIABLES, *surroundings.CLUSTER_VARIABLES, *surroundings.SCHEDULER_VARIABLES)
    assert [name for name in named if name not in settings.__doc__] == []


# ---- torch ---------------------------------------------------------------------------------------


def fake_torch(*, initialized=False, built="12.4"):
    cuda = SimpleNamespace(is_initialized=lambda: initialized, device_count=lambda: 4)
    if not initialized:
        cuda.device_count = lambda: pytest.fail("CUDA was asked before it was initialised")
    return SimpleNamespace(
        __version__="2.9.0",
        cuda=cuda,
        version=SimpleNamespace(cuda=built, hip=None),
        backends=SimpleNamespace(mps=SimpleNamespace(is_built=lambda: False)),
    )


def torch_facts(torch, **modules):
    found = facts(modules={"torch": torch, **modules})
    return {name: found.get(name) for name in ("torch_version", "device", "device_count", "backend")}


def test_torch_is_asked_nothing_that_would_initialise_a_device():
    used = torch_facts(fake_torch(initialized=True))
    assert used == {"torch_version": "2.9.0", "device": "cuda", "device_count": "4", "backend": None}
    unused = torch_facts(fake_torch())
    assert unused == {"torch_version": "2.9.0", "device": None, "device_count": None, "backend": None}
    assert torch_facts(fake_torch(built=None))["device"] == "cpu"


def test_the_real_torch_has_what_is_asked_for():
    torch = pytest.importorskip("torch")
    if torch.cuda.is_initialized():
        pytest.skip("another test has used CUDA")
    found = torch_facts(torch)
    assert found["torch_version"] == torch.__version__
    assert found["device"] in ("cpu", None)
    assert not torch.cuda.is_initialized()


def test_the_backend_of_torch_distributed_is_told_once_initialised():
    distributed = SimpleNamespace(
        is_available=lambda: True, is_initialized=lambda: True, get_backend=lambda: "nccl"
    )
    assert torch_facts(fake_torch(), **{"torch.distributed": distributed})["backend"] == "nccl"
    distributed.is_initialized = lambda: False
    assert torch_facts(fake_torch(), **{"torch.distributed": distributed})["backend"] is None


def test_a_torch_that_is_only_half_imported_costs_its_facts_alone():
    found = facts(modules={"torch": SimpleNamespace()})
    assert "torch_version" not in found
    assert found["rank"] == "2"


def test_describing_imports_no_torch():
    program = (
        "import sys; from tracker_client.settings.reading import read_settings; "
        "print(read_settings(endpoint='localhost:1').environment); assert 'torch' not in sys.modules"
    )
    path = os.pathsep.join(str(ROOT / part) for part in ("proto", "client"))
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        check=True,
        capture_output=True,
    )
    assert "torch_version" not in json.loads(done.stdout)


# ---- secrets in the command ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv",
    [
        ["--api-key", SECRET],
        [f"--api_key={SECRET}"],
        [f"--WANDB_API_KEY={SECRET},{SECRET} {SECRET}"],
        ["-token", SECRET],
        ["--hf-token", f"-{SECRET}"],
        ["--db.password", SECRET],
        ["--client-secrets", SECRET, SECRET],
        [f"wandb.api_key={SECRET}"],
        [f"+secret.value={SECRET}"],
        [f"--uri=postgresql://ada:{SECRET}@host/db"],
        ["--uri", f"https://{SECRET}@github.com/x/y"],
        [f"https://ada:p/{SECRET}@x@host/db"],
        [f"https://host/?a=1&token={SECRET}"],
        ["--extra", json.dumps({"lr": 1, "api_key": SECRET})],
        ["--extra", json.dumps({"password": f'a" {SECRET}'})],
        ["--header", f"Authorization: Bearer {SECRET}"],
        ["-c", f"run --lr 3 --token {SECRET}"],
        [f"--env=API_KEY={SECRET}"],
    ],
)
def test_a_secret_in_the_command_is_masked(argv):
    shown = masked_command(["train.py", *argv, "--lr", "0.1"])
    assert SECRET not in shown
    assert "****" in shown
    assert shown.endswith("--lr 0.1")


@pytest.mark.parametrize(
    "argv",
    [
        ["train.py", "--lr", "0.1", "data.yaml"],
        ["train.py", "--tokenizer", "gpt2", "--tokenizer=gpt2"],
        ["train.py", "--image_key", "observation.images.top", "--keypoints", "17", "--max_tokens=512"],
        ["train.py", "--data", "s3://bucket/part@v1", "--url=https://host:80/x"],
        ["train.py", "a b", "it's"],
    ],
)
def test_the_rest_of_the_command_is_shown_as_it_is(argv):
    assert shlex.split(masked_command(argv)) == argv


def test_a_flag_that_takes_no_value_hides_no_option():
    assert masked_command(["t", "--use-auth-token", "--lr", "3"]) == "t --use-auth-token --lr 3"


secret_names = st.tuples(
    st.sampled_from(["", "my-", "WANDB_", "x."]),
    st.sampled_from(["key", "TOKEN", "Password", "secret"]),
    st.sampled_from(["", "-file", "_id", "s"]),
).map("".join)


@given(
    st.lists(st.text(max_size=20), max_size=4),
    secret_names,
    st.text("abcXYZ019+/=_.&;,: ", max_size=20),
    st.booleans(),
)
def test_no_value_of_a_secret_option_is_ever_shown(others, name, extra, in_one):
    value = f"S3CR3TS3CR3TS3CR3T{extra}S3CR3T"
    argv = [*others, *([f"--{name}={value}"] if in_one else [f"--{name}", value]), *others]
    assert "S3CR3T" not in masked_command(argv)


# ---- bounds, and whatever may come ---------------------------------------------------------------


def test_a_long_value_is_cut():
    found = facts(argv=["train.py", *["x" * 100] * 100])
    assert len(found["command"]) == VALUE_MAX_CHARACTERS
    assert found["command"].endswith("…")


@hypothesis_settings(deadline=None)
@given(
    st.text(max_size=20),
    st.text(max_size=20),
    st.text(max_size=20),
    st.lists(st.text(max_size=20), max_size=5),
    st.sampled_from([1, 1, 1, 3_000]),
)
def test_the_description_is_bounded_and_never_fails(user, host, directory, argv, repeats):
    user, host, directory = user * repeats, host * repeats, directory * repeats
    argv = [argument * repeats for argument in argv] * repeats
    environ = {"USER": user, "NERSC_HOST": user}
    modules = {"torch": SimpleNamespace(__version__=user), "__main__": script_module(directory, host)}
    script = Script(environ, modules, argv, RankInfo(0, 1, 0, ""), host, directory)
    document = describe(script)
    assert len(document.encode()) <= DOCUMENT_MAX_BYTES
    assert all(
        isinstance(value, str) and len(value) <= VALUE_MAX_CHARACTERS
        for value in json.loads(document).values()
    )


def test_all_values_at_their_longest_still_fit():
    wide = "\U0001f600" * VALUE_MAX_CHARACTERS
    environ = dict.fromkeys(("USER", "NERSC_HOST", "PBS_JOBID"), wide)
    modules = {"torch": SimpleNamespace(__version__=wide), "__main__": script_module(wide)}
    script = Script(environ, modules, [wide], RankInfo(0, 1, 0, ""), wide, wide)
    document = describe(script)
    assert DOCUMENT_MAX_BYTES / 2 < len(document.encode()) <= DOCUMENT_MAX_BYTES
    assert json.loads(document)["rank"] == "0"


# ---- on the wire ---------------------------------------------------------------------------------


def test_the_hello_describes_the_script_without_its_secrets(daemon, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "--api-key", SECRET, f"--db=sql://u:{SECRET}@h/x"])
    for variable in ("WANDB_API_KEY", "MLFLOW_TRACKING_TOKEN", "AMSC_API_KEY"):
        monkeypatch.setenv(variable, SECRET)
    with setup_tracker("p", endpoint=daemon.endpoint, token=daemon.token) as tracker:
        assert tracker.run_id == "run-1"
    (hello,) = daemon.hellos
    sent = json.loads(hello.process.environment)
    assert sent["command"] == "train.py --api-key '****' '--db=sql://****@h/x'"
    assert sent["host"] == hello.process.host
    assert SECRET.encode() not in hello.SerializeToString()
    client_options = pytest.importorskip("tracker_daemon.runs.client_options")
    assert client_options.read_environment(hello.process.environment) == sent
