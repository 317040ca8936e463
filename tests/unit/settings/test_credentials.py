"""Which variables a backend's process gets: its own, from three places, and no one else's."""

import os

import pytest

pytest.importorskip("dotenv")

from tracker_daemon.errors import BackendRefused
from tracker_daemon.settings.credentials import (
    child_environment,
    circumstances,
    masked,
    secrets_of,
    without_user_information,
)

BOTH = {
    "PATH": "/bin", "HOME": "/home/ada", "AWS_ACCESS_KEY_ID": "aws",
    "MLFLOW_TRACKING_TOKEN": "mlflow-token", "MLFLOW_TRACKING_URI": "https://m.example",
    "AMSC_API_KEY": "amsc-key", "DATABRICKS_TOKEN": "databricks",
    "WANDB_API_KEY": "wandb-key", "WANDB_BASE_URL": "https://w.example",
    "TRACKER_TOKEN": "job-token", "TRACKER_TOKEN_FILE": "/secret",
}  # fmt: skip


@pytest.fixture
def places(tmp_path):
    """``places(home=…, project=…, backend=…, **environ)``: the environment, from files with these texts."""
    home, below = tmp_path / "home", tmp_path / "project" / "deep" / "down"
    home.mkdir()
    below.mkdir(parents=True)

    def places(backend="mlflow", home_text=None, project_text=None, **environ):
        if home_text is not None:
            (home / ".amsc.env").write_text(home_text)
        if project_text is not None:
            (tmp_path / "project" / ".env").write_text(project_text)
        return child_environment(backend, environ, directory=below, home=home)

    return places


def test_each_backend_gets_its_own_variables_and_what_is_nobodys(places):
    mlflow, wandb, other = (places(backend, **BOTH) for backend in ("mlflow", "wandb", "a-package's"))
    assert mlflow == {
        name: BOTH[name]
        for name in (
            "PATH", "HOME", "AWS_ACCESS_KEY_ID", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_URI",
            "AMSC_API_KEY", "DATABRICKS_TOKEN",
        )
    }  # fmt: skip
    assert wandb == {
        name: BOTH[name] for name in ("PATH", "HOME", "AWS_ACCESS_KEY_ID", "WANDB_API_KEY", "WANDB_BASE_URL")
    }
    assert other == {name: BOTH[name] for name in ("PATH", "HOME", "AWS_ACCESS_KEY_ID")}


def test_what_selects_a_run_is_left_to_the_ranks(places):
    selectors = {
        "MLFLOW_EXPERIMENT_NAME": "e",
        "MLFLOW_RUN_ID": "r",
        "WANDB_RUN_ID": "r",
        "WANDB_PROJECT": "p",
    }
    assert places("mlflow", **selectors) == places("wandb", **selectors) == {}
    assert places("mlflow", project_text="MLFLOW_EXPERIMENT_NAME=e\n") == {}


def test_the_home_file_fills_in_and_the_projects_file_overrides(places):
    found = places(
        home_text="MLFLOW_TRACKING_URI=home\nAMSC_API_KEY=home\nMLFLOW_TRACKING_TOKEN=home\n",
        project_text="MLFLOW_TRACKING_TOKEN=project\n",
        MLFLOW_TRACKING_URI="environment",
        MLFLOW_TRACKING_TOKEN="environment",
    )
    assert found == {
        "MLFLOW_TRACKING_URI": "environment", "AMSC_API_KEY": "home", "MLFLOW_TRACKING_TOKEN": "project",
    }  # fmt: skip


def test_a_file_sets_only_what_the_backend_uses(places):
    text = "PATH=/evil\nLD_PRELOAD=/evil.so\nWANDB_API_KEY=w\nMLFLOW_TRACKING_URI=m\nAWS_PROFILE=p\n"
    assert places("mlflow", text, text, PATH="/bin") == {
        "PATH": "/bin", "MLFLOW_TRACKING_URI": "m", "AWS_PROFILE": "p",
    }  # fmt: skip
    assert places("wandb", text, text, PATH="/bin") == {
        "PATH": "/bin", "WANDB_API_KEY": "w", "AWS_PROFILE": "p",
    }  # fmt: skip
    assert places("other", text, text, PATH="/bin") == {"PATH": "/bin"}


def test_the_nearest_projects_file_is_taken_and_changes_no_environment(places, tmp_path):
    (tmp_path / ".env").write_text("MLFLOW_TRACKING_URI=far\n")
    before = dict(os.environ)
    assert places(project_text="MLFLOW_TRACKING_URI='near # not a comment'\n") == {
        "MLFLOW_TRACKING_URI": "near # not a comment"
    }
    assert dict(os.environ) == before


def test_without_files_the_environment_stands_and_an_odd_line_does_no_harm(places):
    assert places(MLFLOW_TRACKING_URI="m") == {"MLFLOW_TRACKING_URI": "m"}
    assert places(project_text="no value\nMLFLOW_TRACKING_TOKEN\n=x\nMLFLOW_TRACKING_URI=m\n") == {
        "MLFLOW_TRACKING_URI": "m"
    }


def test_a_file_that_cannot_be_read_is_named(places, tmp_path):
    (tmp_path / "project" / ".env").write_bytes(b"MLFLOW_TRACKING_TOKEN=\xff\n")
    with pytest.raises(BackendRefused, match=r"project/\.env"):
        places()


def test_the_daemons_own_places_are_the_default(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "environment")
    monkeypatch.setenv("WANDB_API_KEY", "not for mlflow")
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("MLFLOW_TRACKING_URI=project\n")
    found = child_environment("mlflow")
    assert found["MLFLOW_TRACKING_URI"] == "project"
    assert "WANDB_API_KEY" not in found
    assert found["PATH"] == os.environ["PATH"]


def test_a_refusal_may_have_ended_once_the_backends_own_variables_or_files_have_changed(places, tmp_path):
    home, project, token = tmp_path / "home", tmp_path / "project", tmp_path / "token"
    token.write_text("a")
    seen = []

    def changed(**environ):
        environ = {"MLFLOW_TRACKING_TOKEN_FILE": str(token), **environ}
        now = [circumstances(name, environ, directory=project, home=home) for name in ("wandb", "mlflow")]
        before = seen[-1] if seen else now
        seen.append(now)
        return [one != other for one, other in zip(before, now, strict=True)]

    assert changed() == [False, False]
    assert changed(PATH="/other", AMSC_API_KEY="k") == [False, True]
    (project / ".env").write_text("PATH=/evil\nWANDB_API_KEY=w\n")
    assert changed(AMSC_API_KEY="k") == [True, False]
    (home / ".netrc").write_text("machine api.wandb.ai")
    assert changed(AMSC_API_KEY="k") == [True, False]
    token.write_text("another")
    assert changed(AMSC_API_KEY="k") == [False, True]
    (project / ".env").write_bytes(b"WANDB_API_KEY=\xff\n")
    assert changed(AMSC_API_KEY="k") == [True, True]
    assert circumstances("a-package's") is None


def test_secrets_and_passwords_in_urls_are_masked_and_nothing_else():
    environ = {
        "MLFLOW_TRACKING_TOKEN": "abcdef123", "WANDB_API_KEY": "abcdef",
        "MLFLOW_TRACKING_TOKEN_FILE": "/etc/token",
        "MLFLOW_TRACKING_URI": "https://m.example", "AWS_SECRET_ACCESS_KEY": "s3cr3t!!", "SHORT_KEY": "on",
    }  # fmt: skip
    assert secrets_of(environ) == ["abcdef123", "s3cr3t!!", "abcdef"]
    text = "abcdef123 and abcdef at https://ada:pw@m.example/x from /etc/token; on https://m.example"
    assert masked(text, environ) == (
        "**** and **** at https://****@m.example/x from /etc/token; on https://m.example"
    )


def test_a_url_is_shown_without_who_asks():
    assert without_user_information("https://ada:pw@m.example:5000/p") == "https://m.example:5000/p"
    assert without_user_information("postgresql://ada@h/db") == "postgresql://h/db"
    assert without_user_information("sqlite:////tmp/a@b.db") == "sqlite:////tmp/a@b.db"


def test_a_service_s_credentials_are_the_variables_that_their_files_are_named_after(tmp_path):
    directory = tmp_path / "credentials"
    directory.mkdir()
    (directory / "WANDB_API_KEY").write_text("from-the-service\n")
    (directory / "MLFLOW_TRACKING_TOKEN").write_text("not-for-wandb\n")
    (directory / "PATH").write_text("/elsewhere\n")
    environ = {"CREDENTIALS_DIRECTORY": str(directory), "WANDB_API_KEY": "older", "PATH": "/usr/bin"}
    assert child_environment("wandb", environ, directory=tmp_path, home=tmp_path) == {
        "WANDB_API_KEY": "from-the-service",
        "PATH": "/usr/bin",
    }


def test_credentials_that_cannot_be_read_are_refused_with_what_to_look_at(tmp_path):
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path / "nowhere")}
    with pytest.raises(BackendRefused, match="LoadCredential"):
        child_environment("wandb", environ, directory=tmp_path, home=tmp_path)


def test_a_home_that_is_withheld_from_the_daemon_has_no_credentials(tmp_path, monkeypatch):
    def withheld(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.is_file", withheld)  # root, as whom tests may run, is refused nothing
    assert child_environment("wandb", {"PATH": "/bin"}, directory=tmp_path, home=tmp_path) == {"PATH": "/bin"}
