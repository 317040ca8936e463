"""The address of an MLflow tracking store: a server, or a database that is used directly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tracker_daemon.settings.credentials import without_user_information
from tracker_protocol.run_files import MLFLOW_ARTIFACTS, MLFLOW_DATABASE

_SQL_SCHEMES = ("sqlite", "postgresql", "mysql", "mssql")


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """The address of the store for the runs."""

    uri: str
    file: Path | None = None
    """The database's file, if the store is the local one."""
    artifact_location: str | None = None
    """The artifact location of experiments that this backend creates; None if the server chooses it."""

    @staticmethod
    def of(environ: Mapping[str, str], outdir: Path) -> StoreAddress:
        """Return the address in ``MLFLOW_TRACKING_URI``, else that of a database in ``outdir``."""
        artifacts = (outdir / MLFLOW_ARTIFACTS).as_uri()
        uri = environ.get("MLFLOW_TRACKING_URI", "").strip()
        if not uri:
            file = outdir / MLFLOW_DATABASE
            return StoreAddress(sqlite_uri(file), file, artifacts)
        # A database that is used directly has no server that would choose a place for artifacts.
        return StoreAddress(uri, artifact_location=artifacts if uri.startswith(_SQL_SCHEMES) else None)

    @property
    def shown(self) -> str:
        """The URI without user name and password, as it may be shown to anyone."""
        return without_user_information(self.uri)

    @property
    def is_http(self) -> bool:
        """True if the store is a server that is reached by HTTP."""
        return self.uri.startswith(("http://", "https://"))

    @property
    def is_sql(self) -> bool:
        """True if the store is a database that is used directly."""
        return self.uri.startswith(_SQL_SCHEMES)

    @property
    def is_file_store(self) -> bool:
        """True if the store is a directory, in which a metric and its aggregates cannot have one name."""
        return not self.uri.startswith("databricks") and urlsplit(self.uri).scheme in ("", "file")

    def run_location(self, experiment_id: str, run_id: str) -> str:
        """Return the path or URL at which a person finds a run."""
        if self.file is not None:
            return str(self.file)
        if not self.is_http:
            return self.shown
        return f"{self.shown.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"


def sqlite_uri(file: Path) -> str:
    """Return the URI of a SQLite database."""
    path = str(file).replace("%", "%25").replace("?", "%3F")
    return f"sqlite:///{path}"
