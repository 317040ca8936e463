"""What tells the trackers of one script apart."""

from tracker_client.settings.reading import read_settings
from tracker_client.trackers.introduction import introduce


def introduced(environ=None, **arguments):
    environ = {"TRACKER_ENDPOINT": "localhost:1", **(environ or {})}
    return introduce(read_settings(environ=environ, modules={}, **arguments))


def test_the_environments_run_id_names_each_tracker_of_a_script_in_a_way_that_the_next_day_repeats():
    environ = {"TRACKER_RUN_ID": "of-the-environment"}
    ids = [introduced(environ, project_name=project).run_id for project in ("a", "a", "b")]
    assert ids == ["of-the-environment", "of-the-environment-2", "of-the-environment-3"]


def test_an_argument_is_the_run_id_as_it_stands():
    assert [introduced(run_id="of-an-argument").run_id for _ in range(2)] == ["of-an-argument"] * 2
