"""When an embedded server is restarted, and when its supervisor gives up."""

from vsyncd.embedded import RestartPolicy


def test_the_first_restart_is_immediate_and_the_pauses_double() -> None:
    policy = RestartPolicy()
    assert [policy.pause_s(failed) for failed in range(5)] == [0, 0.5, 1, 2, 4]


def test_a_server_that_ends_soon_after_its_restart_counts_as_a_failed_restart() -> None:
    policy = RestartPolicy(healthy_s=10)
    assert policy.failed_after_run(0, run_s=9.9) == 1
    assert policy.failed_after_run(4, run_s=0) == 5


def test_a_healthy_run_resets_the_count() -> None:
    assert RestartPolicy(healthy_s=10).failed_after_run(4, run_s=10) == 0
