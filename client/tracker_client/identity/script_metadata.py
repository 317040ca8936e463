"""Collects facts about the training script: user, command, host, git state, rank.

Backends record these facts of the script, and not those of the daemon. Every value is a text. A fact that
cannot be found is left out, and nothing here raises. Nothing is started or initialised: a subprocess needs a
fork, which is dangerous under MPI, so git's state is read from its files. torch is used only if the script
has imported it, and only for facts that do not touch a device.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tracker_client.identity.rank import LOCAL_SIZE_VARIABLES, RankInfo
from tracker_client.values.arguments import valid_text
from tracker_client.values.secret_names import mask_arguments
from tracker_client.version import __version__

VALUE_MAX_CHARACTERS = 2_000
DOCUMENT_MAX_BYTES = 32 * 1024
USER_VARIABLES = ("LOGNAME", "USER", "LNAME", "USERNAME")
CLUSTER_VARIABLES = ("NERSC_HOST", "LMOD_SYSTEM_NAME", "SLURM_CLUSTER_NAME")
SCHEDULER_VARIABLES: Mapping[str, str] = {
    "PBS_JOBID": "PBS",
    "SLURM_JOB_ID": "Slurm",
    "LSB_JOBID": "LSF",
    "FLUX_JOB_ID": "Flux",
    "COBALT_JOBID": "Cobalt",
}

_ARGUMENT_MAX_CHARACTERS = 2 * VALUE_MAX_CHARACTERS
"""Longer than the text that is shown: the @ that ends a URL's password may be beyond the shown part."""
_GIT_FILE_MAX_CHARACTERS = 256 * 1024
_PARENTS_MAX = 128
_PACKED_REFS_MAX = 1_000_000
_SYMBOLIC_REFS_MAX = 5
_HASH = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_REMOTE_SECTION = re.compile(r'\[\s*remote\s+"(.+)"\s*\]', re.IGNORECASE)
_REMOTE_URL = re.compile(r"url\s*=\s*(.+)", re.IGNORECASE)


@dataclass(frozen=True)
class Script:
    """The process that the facts are read from."""

    environ: Mapping[str, str]
    modules: Mapping[str, Any]
    argv: Sequence[str]
    rank: RankInfo
    host: str
    working_directory: str


def describe(script: Script) -> str:
    """Collect the facts about ``script``; return a JSON object of texts, at most DOCUMENT_MAX_BYTES."""
    facts: dict[str, str] = {}
    for name, read in _FACTS.items():
        value = _attempt(read, script)
        if value not in (None, ""):
            facts[name] = _bounded_text(value)
    for name, value in (_attempt(_git, script) or {}).items():
        facts[name] = _bounded_text(value)
    return _bounded_document(facts)


def masked_command(argv: Sequence[str]) -> str:
    """Quote ``argv`` as for a shell, with ``****`` for secrets; see :func:`mask_arguments`."""
    shown: list[str] = []
    characters = 0
    for argument in (str(argument)[:_ARGUMENT_MAX_CHARACTERS] for argument in argv):
        if characters > VALUE_MAX_CHARACTERS:
            break
        characters += len(argument) + 1
        shown.append(argument)
    return shlex.join(mask_arguments(shown))


def git_state(directory: Path) -> dict[str, str]:
    """Return commit, branch and remote of the repository that contains ``directory``; {} if there is none."""
    found = _git_directories(directory)
    if found is None:
        return {}
    private, common = found
    commit, branch = _head(private, common)
    state = {"git_commit": commit, "git_branch": branch, "git_remote": _remote(common)}
    return {name: value for name, value in state.items() if value}


def _attempt(read: Callable[[Script], Any], script: Script) -> Any:
    try:
        return read(script)
    except Exception:  # noqa: BLE001 - a missing fact is no reason for a training script to fail, whatever the cause
        return None


# ---- the process ---------------------------------------------------------------------------------


def _user(script: Script) -> str:
    named = next((script.environ[name] for name in USER_VARIABLES if script.environ.get(name)), None)
    if named is not None:
        return named
    import pwd  # noqa: PLC0415 - there on POSIX only

    return pwd.getpwuid(os.getuid()).pw_name


def _program(script: Script) -> str | None:
    spec = getattr(script.modules.get("__main__"), "__spec__", None)
    if spec is not None and spec.name != "__main__":  # the name of a directory's or an archive's main module
        return "-m " + str(spec.name).removesuffix(".__main__")
    path = _script_path(script)
    return None if path is None else str(path)


def _script_path(script: Script) -> Path | None:
    file = getattr(script.modules.get("__main__"), "__file__", None)
    return Path(script.working_directory, file) if file else None


def _command(script: Script) -> str:
    return masked_command(script.argv)


def _cluster(script: Script) -> str | None:
    return next((script.environ[name] for name in CLUSTER_VARIABLES if script.environ.get(name)), None)


def _scheduler(script: Script) -> str | None:
    return next(
        (name for variable, name in SCHEDULER_VARIABLES.items() if script.environ.get(variable)), None
    )


def _jobid(script: Script) -> str | None:
    return next((script.environ[name] for name in SCHEDULER_VARIABLES if script.environ.get(name)), None)


def _ranks_per_node(script: Script) -> int | None:
    sizes = (script.environ.get(name, "") for name in LOCAL_SIZE_VARIABLES)
    size = next((int(text) for text in sizes if text.isdecimal() and int(text)), None)
    return 1 if size is None and script.rank.world_size == 1 else size


def _num_nodes(script: Script) -> int | None:
    """Return the number of hosts, if each has the same number of ranks."""
    size, local = script.rank.world_size, _ranks_per_node(script)
    return None if size is None or local is None else -(-size // local)


# ---- torch, as the script has it -----------------------------------------------------------------


def _torch_version(script: Script) -> str | None:
    torch = script.modules.get("torch")
    return None if torch is None else str(torch.__version__)


def _device(script: Script) -> str | None:
    torch = script.modules.get("torch")
    if torch is None:
        return None
    for kind in ("cuda", "xpu"):
        accelerator = getattr(torch, kind, None)
        if accelerator is not None and accelerator.is_initialized():
            return kind
    # Before initialisation only a build without accelerators shows the device: the CPU.
    version = torch.version
    built = any(getattr(version, kind, None) for kind in ("cuda", "hip", "xpu"))
    return None if built or torch.backends.mps.is_built() else "cpu"


def _device_count(script: Script) -> int | None:
    kind = _device(script)
    if kind is None or kind == "cpu":
        return None
    return int(getattr(script.modules["torch"], kind).device_count())


def _distributed_backend(script: Script) -> str | None:
    distributed = script.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    return str(distributed.get_backend())


_FACTS: Mapping[str, Callable[[Script], object]] = {
    "version": lambda _: __version__,
    "user": _user,
    "program": _program,
    "command": _command,
    "host": lambda script: script.host,
    "machine": lambda _: platform.machine(),
    "cluster": _cluster,
    "scheduler": _scheduler,
    "jobid": _jobid,
    "python_version": lambda _: platform.python_version(),
    "torch_version": _torch_version,
    "device": _device,
    "device_count": _device_count,
    "backend": _distributed_backend,
    "world_size": lambda script: script.rank.world_size,
    "ranks_per_node": _ranks_per_node,
    "num_nodes": _num_nodes,
    "rank": lambda script: script.rank.rank,
    "local_rank": lambda script: script.rank.local_rank,
    "working_directory": lambda script: script.working_directory,
}


# ---- git, from its files -------------------------------------------------------------------------


def _git(script: Script) -> dict[str, str]:
    path = _script_path(script)
    return git_state(Path(script.working_directory) if path is None else path.resolve().parent)


def _git_directories(directory: Path) -> tuple[Path, Path] | None:
    """Return the directory of HEAD, and that of branches and configuration; in a worktree they differ."""
    for parent in islice((directory, *directory.parents), _PARENTS_MAX):
        entry = parent / ".git"
        if entry.is_dir() and (entry / "HEAD").exists():
            return entry, entry
        if entry.is_file():
            private = parent / _read(entry).removeprefix("gitdir:").strip()
            shared = _read(private / "commondir").strip()
            return private, private / shared if shared else private
    return None


def _head(private: Path, common: Path) -> tuple[str, str]:
    """Return the commit and the branch; "" for each that does not exist, as before the first commit."""
    head = _read(private / "HEAD").strip()
    if not head.startswith("ref:"):
        return _hash(head), ""
    ref = head.removeprefix("ref:").strip()
    branch = ref.removeprefix("refs/heads/")
    # A repository whose references are in git's newer table format keeps this placeholder there.
    return _commit(ref, private, common), "" if branch == ".invalid" else branch


def _commit(ref: str, private: Path, common: Path) -> str:
    for _ in range(_SYMBOLIC_REFS_MAX):
        if not ref.startswith("refs/") or ".." in ref:
            return ""
        text = (_read(private / ref) or _read(common / ref)).strip()
        if not text.startswith("ref:"):
            return _hash(text) or _packed_commit(common / "packed-refs", ref)
        ref = text.removeprefix("ref:").strip()
    return ""


def _packed_commit(path: Path, ref: str) -> str:
    if not path.is_file():
        return ""
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in islice(lines, _PACKED_REFS_MAX):
            commit, _, name = line.strip().partition(" ")
            if name == ref:
                return _hash(commit)
    return ""


def _hash(text: str) -> str:
    return text if _HASH.fullmatch(text) else ""


def _remote(common: Path) -> str:
    """Return the address of ``origin``, else of the first remote, without credentials."""
    urls: dict[str, str] = {}
    section = None
    for line in map(str.strip, _read(common / "config").splitlines()):
        if line.startswith("["):
            named = _REMOTE_SECTION.match(line)
            section = named[1] if named else None
        elif section is not None and (url := _REMOTE_URL.fullmatch(line)):
            urls.setdefault(section, url[1].strip().strip('"'))
    return without_credentials(urls.get("origin") or next(iter(urls.values()), ""))


def without_credentials(url: str) -> str:
    """Return a remote's ``url`` without user, password and query; ``git@host:path`` stays."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        user, at, place = url.partition("@")
        return place if at and ":" in user else url
    authority, _, path = rest.partition("/")
    if "@" in authority:
        rest = rest[authority.rindex("@") + 1 :]
    elif ":" in authority and "@" in path:
        # The password has a slash in it: the host follows the last @.
        rest = rest.rpartition("@")[2]
    return f"{scheme}://{re.split('[?#]', rest, maxsplit=1)[0]}"


def _read(path: Path) -> str:
    """Return the text of a file; "" if it is no regular file or cannot be read."""
    try:
        if not path.is_file():  # opening a pipe would wait for its writer
            return ""
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(_GIT_FILE_MAX_CHARACTERS)
    except OSError:
        return ""


# ---- bounds --------------------------------------------------------------------------------------


def _bounded_text(value: object) -> str:
    text = valid_text(str(value))
    return text if len(text) <= VALUE_MAX_CHARACTERS else text[: VALUE_MAX_CHARACTERS - 1] + "…"


def _bounded_document(facts: dict[str, str]) -> str:
    while len((document := json.dumps(facts, ensure_ascii=False)).encode()) > DOCUMENT_MAX_BYTES:
        longest = max(facts, key=lambda name: len(facts[name].encode()))
        facts[longest] = facts[longest][: len(facts[longest]) // 2]
    return document
