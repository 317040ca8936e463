"""The state of the script's repository, read from git's files, is what git itself tells."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from tracker_client.identity.rank import RankInfo
from tracker_client.identity.script_metadata import Script, describe, git_state, without_credentials

SECRET = "hunter2"


def git(directory, *arguments):
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
        "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b",
    }  # fmt: skip
    done = subprocess.run(
        ["git", *arguments], cwd=directory, env=environ, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    root = tmp_path / "repository"
    root.mkdir()
    git(root, "init", "-q")
    git(root, "checkout", "-q", "-b", "feature/x")
    git(root, "commit", "-q", "--allow-empty", "-m", "one")
    return root


def test_a_repository_is_found_from_below(repository):
    below = repository / "a" / "b"
    below.mkdir(parents=True)
    expected = {"git_commit": git(repository, "rev-parse", "HEAD"), "git_branch": "feature/x"}
    assert git_state(below) == expected


def test_packed_references(repository):
    git(repository, "commit", "-q", "--allow-empty", "-m", "two")
    git(repository, "tag", "-a", "v1", "-m", "annotated")
    git(repository, "pack-refs", "--all")
    assert not (repository / ".git/refs/heads/feature/x").exists()
    assert git_state(repository)["git_commit"] == git(repository, "rev-parse", "HEAD")


def test_a_detached_head_has_a_commit_and_no_branch(repository):
    git(repository, "checkout", "-q", "--detach")
    assert git_state(repository) == {"git_commit": git(repository, "rev-parse", "HEAD")}


def test_before_the_first_commit_there_is_only_a_branch(tmp_path, repository):
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    git(fresh, "init", "-q")
    git(fresh, "checkout", "-q", "-b", "new")
    assert git_state(fresh) == {"git_branch": "new"}


def test_a_symbolic_branch_is_followed(repository):
    git(repository, "symbolic-ref", "refs/heads/alias", "refs/heads/feature/x")
    git(repository, "symbolic-ref", "HEAD", "refs/heads/alias")
    assert git_state(repository)["git_commit"] == git(repository, "rev-parse", "HEAD")


@pytest.mark.parametrize("packed", [False, True])
def test_a_worktree_has_its_own_head_and_its_repositorys_remote(repository, tmp_path, packed):
    git(repository, "remote", "add", "origin", f"https://ada:{SECRET}@host/o/r.git")
    worktree = tmp_path / "worktree"
    git(repository, "worktree", "add", "-q", "-b", "side", str(worktree))
    git(worktree, "commit", "-q", "--allow-empty", "-m", "aside")
    if packed:
        git(repository, "pack-refs", "--all")
    assert git_state(worktree) == {
        "git_commit": git(worktree, "rev-parse", "HEAD"),
        "git_branch": "side",
        "git_remote": "https://host/o/r.git",
    }
    assert git_state(repository)["git_branch"] == "feature/x"


def test_a_submodule_is_its_own_repository(repository, tmp_path):
    outer = tmp_path / "outer"
    outer.mkdir()
    git(outer, "init", "-q")
    git(outer, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(repository), "inner")
    found = git_state(outer / "inner")
    assert found["git_commit"] == git(repository, "rev-parse", "HEAD")
    assert found["git_remote"] == str(repository)


def test_origin_is_preferred_among_remotes(repository):
    git(repository, "remote", "add", "fork", "git@host:me/r.git")
    assert git_state(repository)["git_remote"] == "git@host:me/r.git"
    git(repository, "remote", "add", "origin", "ssh://git@host:22/o/r.git")
    assert git_state(repository)["git_remote"] == "ssh://host:22/o/r.git"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://ada:hunter2@host:8443/o/r.git", "https://host:8443/o/r.git"),
        ("https://hunter2@host/o/r", "https://host/o/r"),
        ("https://ada:p@hunter2@host/o", "https://host/o"),
        ("https://ada:p/hunter2@host/o", "https://host/o"),
        ("https://ada:1/hunter2@host/o", "https://host/o"),
        ("https://ada:p?hunter2@host/o", "https://host/o"),
        ("https://host/o?token=hunter2", "https://host/o"),
        ("https://host/@scope/r", "https://host/@scope/r"),
        ("ada:hunter2@host:o/r", "host:o/r"),
        ("git@host:o/r.git", "git@host:o/r.git"),
        ("../up/r.git", "../up/r.git"),
    ],
)
def test_a_remote_is_shown_without_its_credentials(url, shown):
    assert without_credentials(url) == shown


@pytest.mark.parametrize("head", ["", "ref: ../../secret", "ref: refs/../../x", "nonsense", "ref:", "\x00"])
def test_a_damaged_repository_has_no_commit(tmp_path, head):
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_text(head)
    (tmp_path / ".git" / "config").write_text('[remote "origin"\nurl\n[core]\nurl = x\n')
    assert "git_commit" not in git_state(tmp_path)
    assert "git_remote" not in git_state(tmp_path)


def test_a_git_file_that_leads_nowhere_is_no_repository(tmp_path):
    (tmp_path / ".git").write_text("gitdir: /nowhere/at/all\n")
    assert git_state(tmp_path) == {}


def test_outside_a_repository_there_is_no_state():
    assert git_state(Path("/nowhere/at/all")) == {}


def branch_of(modules, working_directory):
    script = Script({}, modules, [], RankInfo(0, 1, 0, ""), "host", str(working_directory))
    return json.loads(describe(script)).get("git_branch")


def test_the_repository_is_the_scripts_and_not_the_working_directorys(repository, tmp_path):
    script = repository / "train.py"
    script.touch()
    linked = tmp_path / "linked.py"
    linked.symlink_to(script)
    for path in (script, linked):
        assert branch_of({"__main__": SimpleNamespace(__file__=str(path))}, tmp_path) == "feature/x"
    assert branch_of({}, repository) == "feature/x"
