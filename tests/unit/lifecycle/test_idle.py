"""When a daemon ends by itself."""

from __future__ import annotations

from tracker_daemon.lifecycle.idle import IdleWatch


def reason(watch: IdleWatch, now_s: float, *, connected=False, busy=False, progress=0) -> str | None:
    return watch.reason(now_s, connected=connected, busy=busy, progress=progress)


def test_without_timeouts_it_never_ends() -> None:
    assert reason(IdleWatch(None, None, 0.0), 1e9) is None


def test_idle_counts_from_the_last_moment_in_which_anything_was_to_do() -> None:
    watch = IdleWatch(10.0, None, 0.0)
    assert reason(watch, 9.0) is None
    assert reason(watch, 12.0, busy=True) is None
    assert reason(watch, 21.0) is None
    assert "10 s" in reason(watch, 22.0)


def test_a_connected_rank_keeps_a_daemon_alive() -> None:
    watch = IdleWatch(1.0, 1.0, 0.0)
    assert reason(watch, 100.0, connected=True) is None
    assert reason(watch, 101.0) is not None


def test_an_orphan_ends_although_a_run_goes_on_and_something_is_pending() -> None:
    watch = IdleWatch(1.0, 30.0, 0.0)
    assert reason(watch, 29.0, busy=True) is None
    assert "30 s" in reason(watch, 30.0, busy=True)


def test_a_delivery_that_gets_on_is_not_abandoned() -> None:
    watch = IdleWatch(1.0, 30.0, 0.0)
    for second in range(20, 400, 20):
        assert reason(watch, float(second), busy=True, progress=second) is None
    assert reason(watch, 411.0, busy=True, progress=380) is not None


def test_an_idle_daemon_whose_launchers_have_ended_ends_soon() -> None:
    watch = IdleWatch(10.0, None, 0.0, 2.0)

    def at(now_s: float, *, launcher: bool, busy: bool = False) -> str | None:
        return watch.reason(now_s, connected=False, busy=busy, progress=0, has_launcher=lambda: launcher)

    assert at(5.0, launcher=True) is None
    assert at(6.0, launcher=False) is None
    assert at(7.5, launcher=False, busy=True) is None
    assert at(9.0, launcher=False) is None
    assert "has ended" in at(9.5, launcher=False)
