"""Finding the MLflow run of a run: by the id in the state, else by the run's uid tag, else by creation."""

from __future__ import annotations

import hashlib
import re
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from tracker_daemon.backends.base import RunDescription
from tracker_daemon.backends.mlflow.connection import MlflowConnection
from tracker_daemon.backends.mlflow.description import RUN_UID_TAG, opening_tags, run_name
from tracker_daemon.backends.mlflow.names import experiment_name
from tracker_daemon.errors import BackendRefused

if TYPE_CHECKING:
    from mlflow.entities import Experiment, Run

_ACTIVE = "active"
_QUOTABLE = re.compile(r"[\w.:\- /]{1,200}")


def resume_run(connection: MlflowConnection, run: RunDescription, run_id: str, store: str) -> Run:
    """Return the MLflow run that the state names; it was begun in ``store``.

    Raises:
        BackendRefused: the run is missing or deleted.
        BackendUnavailable: the store cannot be reached now.
    """
    try:
        found = connection.call(lambda client: client.get_run(run_id))
    except BackendRefused as error:
        raise BackendRefused(
            f"run {run.run_id} was begun as MLflow run {run_id} in {store}, and {error}. Set "
            "MLFLOW_TRACKING_URI to that store, or restore the run there"
        ) from error
    check_active(found, connection)
    return found


def find_or_create_run(connection: MlflowConnection, run: RunDescription) -> Run:
    """Return the MLflow run that the script named or that has the run's uid; create it if there is none.

    Raises:
        BackendRefused: the run or its experiment is deleted, or may not be used.
        BackendUnavailable: the store cannot be reached now.
    """
    uid = searchable_uid(run.run_id)
    if asked := run.options.get("run_id"):
        return _run_of_script(connection, str(asked), uid)
    experiment_id = _find_or_create_experiment(connection, run)
    found = _find_by_uid(connection, experiment_id, uid)
    if found is not None:
        check_active(found, connection)
        return found
    tags = {**opening_tags(run, datetime.now(timezone.utc)), RUN_UID_TAG: uid}
    return connection.call(lambda client: client.create_run(experiment_id, tags=tags, run_name=run_name(run)))


def find_run(connection: MlflowConnection, run: RunDescription) -> Run | None:
    """Return the MLflow run of :func:`find_or_create_run`; None if it does not exist yet.

    Raises:
        BackendRefused: the run is deleted, or may not be used.
        BackendUnavailable: the store cannot be reached now.
    """
    if asked := run.options.get("run_id"):
        found = connection.call(lambda client: client.get_run(str(asked)))
    elif asked := run.options.get("experiment_id"):
        found = _find_by_uid(connection, str(asked), searchable_uid(run.run_id))
    else:
        name = experiment_name(run.options.get("experiment_name"), run.project)
        experiment = connection.call(lambda client: client.get_experiment_by_name(name))
        found = experiment and _find_by_uid(connection, experiment.experiment_id, searchable_uid(run.run_id))
    if found is not None:
        check_active(found, connection)
    return found


def searchable_uid(run_id: str) -> str:
    """Return the run's id, or a hash of an id with characters that MLflow's search cannot quote."""
    if _QUOTABLE.fullmatch(run_id):
        return run_id
    return hashlib.sha256(run_id.encode(errors="backslashreplace")).hexdigest()


def _run_of_script(connection: MlflowConnection, run_id: str, uid: str) -> Run:
    found = connection.call(lambda client: client.get_run(run_id))
    check_active(found, connection)
    connection.call(lambda client: client.set_tag(run_id, RUN_UID_TAG, uid))
    connection.call(lambda client: client.update_run(run_id, status="RUNNING"))
    return found


def _find_by_uid(connection: MlflowConnection, experiment_id: str, uid: str) -> Run | None:
    from mlflow.entities import ViewType  # noqa: PLC0415  # the package is optional

    found = connection.call(
        lambda client: client.search_runs(
            [experiment_id],
            f"tags.`{RUN_UID_TAG}` = '{uid}'",
            run_view_type=ViewType.ALL,
            order_by=["attributes.start_time ASC"],
            max_results=1,
        )
    )
    return found[0] if found else None


def check_active(found: Run, connection: MlflowConnection) -> None:
    """Raise BackendRefused if the run is deleted; MLflow itself only calls a write to it invalid."""
    if found.info.lifecycle_stage != _ACTIVE:
        # MLflow deletes a run together with its experiment, and restores both together too.
        experiment_id = found.info.experiment_id
        _check_active_experiment(
            connection.call(lambda client: client.get_experiment(experiment_id)), connection
        )
        raise BackendRefused(
            f"the MLflow run {found.info.run_id} in {connection.address.shown} has been deleted; restore it "
            f"with 'mlflow runs restore --run-id {found.info.run_id}', and delivery continues"
        )


def _find_or_create_experiment(connection: MlflowConnection, run: RunDescription) -> str:
    if asked := run.options.get("experiment_id"):
        found = connection.call(lambda client: client.get_experiment(str(asked)))
    else:
        name = experiment_name(run.options.get("experiment_name"), run.project)
        found = connection.call(lambda client: client.get_experiment_by_name(name))
        if found is None:
            return _create_experiment(connection, name)
    _check_active_experiment(found, connection)
    experiment_id: str = found.experiment_id
    return experiment_id


def _check_active_experiment(found: Experiment, connection: MlflowConnection) -> None:
    if found.lifecycle_stage != _ACTIVE:
        raise BackendRefused(
            f"the MLflow experiment {found.name!r} in {connection.address.shown} has been deleted; restore "
            f"it with 'mlflow experiments restore --experiment-id {found.experiment_id}', or name another "
            "with MLFLOW_EXPERIMENT_NAME"
        )


def _create_experiment(connection: MlflowConnection, name: str) -> str:
    from mlflow.exceptions import MlflowException  # noqa: PLC0415  # the package is optional

    def create(client: Any) -> str:
        try:
            experiment_id: str = client.create_experiment(name, connection.address.artifact_location)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            # Another run of this project has just created the experiment.
            experiment_id = client.get_experiment_by_name(name).experiment_id
        return experiment_id

    return connection.call(create)
