"""P1: every accepted batch ends, whatever happens to Redis, to Postgres, or between a producer's two steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from redis.exceptions import RedisError

from tests.flows.database import Database
from tests.flows.processors import hold, sleep
from tests.flows.scene import GROUP, PROGRESS, STREAM, Scene
from tests.flows.wires import Server, Wires
from tests.servers import PostgresServer, RedisServer


def delete_consumers(scene: Scene) -> None:
    for consumer in scene.redis.xinfo_consumers(STREAM, GROUP):
        scene.redis.xgroup_delconsumer(STREAM, GROUP, consumer["name"])


def delete_entries(scene: Scene) -> None:
    scene.redis.xdel(STREAM, "0-1", *(entry for entry, _ in scene.redis.xrange(STREAM)))


WRECKS: dict[str, Callable[[Scene], object]] = {
    "everything flushed": lambda scene: scene.redis.flushall(),
    "the stream deleted": lambda scene: scene.redis.delete(STREAM),
    "the group destroyed": lambda scene: scene.redis.xgroup_destroy(STREAM, GROUP),
    "the consumers deleted": delete_consumers,
    "the stream trimmed": lambda scene: scene.redis.xtrim(STREAM, maxlen=0, approximate=False),
    "the entries deleted": delete_entries,
}


def entry_of(scene: Scene, batch_id: UUID) -> list[bytes]:
    """The entries on the stream that stand for a batch."""
    return [entry for entry, fields in scene.redis.xrange(STREAM) if fields[b"batch_id"] == str(batch_id).encode()]


def check_ran_once(scene: Scene, batch_id: UUID, items: int) -> None:
    """It completed, no item of it started twice, and its end was told."""
    scene.wait_end(batch_id, seconds=40)
    assert scene.starts(batch_id) == [(position, 1) for position in range(items)]
    scene.wait_announced(batch_id)


@pytest.mark.parametrize("wreck", WRECKS)
def test_redis_loses_data_while_one_batch_runs_and_one_waits(scene: Scene, wreck: str) -> None:
    scene.start_worker()
    running = scene.job(["a", hold("gate"), "c"])
    scene.wait_start(running, 1)
    waiting = scene.submit(["d"])
    scene.wait(lambda: entry_of(scene, waiting), 5, "the waiting batch on the stream")
    WRECKS[wreck](scene)
    scene.wait(lambda: entry_of(scene, waiting), 5, "the waiting batch on the stream again")
    scene.open("gate")
    check_ran_once(scene, running, 3)
    check_ran_once(scene, waiting, 1)


def test_a_job_that_only_a_deleted_consumer_has_read(scene: Scene) -> None:
    scene.start_worker().end()
    batch_id = scene.job(["a", "b"])
    scene.xadd(neither="fish")
    assert scene.redis.xreadgroup(GROUP, "ghost", {STREAM: ">"}, count=10)
    assert scene.redis.xgroup_delconsumer(STREAM, GROUP, "ghost") == 2
    scene.start_worker()
    check_ran_once(scene, batch_id, 2)
    scene.wait(lambda: scene.redis.xlen(STREAM) == 0, 20, "the end of all that was on the stream")
    assert len(scene.letters()) == 1


@pytest.mark.parametrize("wreck", WRECKS)
def test_redis_loses_data_while_nobody_works(scene: Scene, wreck: str) -> None:
    waiting = scene.submit(["a", "b"])
    worker = scene.start_worker()
    scene.wait_end(waiting)
    worker.end()
    WRECKS[wreck](scene)
    waiting = scene.submit(["a", "b"])
    scene.start_worker()
    check_ran_once(scene, waiting, 2)


def test_an_idle_worker_is_there_again_after_a_flush(scene: Scene) -> None:
    scene.start_worker()
    scene.redis.flushall()
    check_ran_once(scene, scene.job(["a"]), 1)


def test_two_workers_share_what_was_lost(scene: Scene) -> None:
    batches = [scene.submit([sleep(5)] * 10) for _ in range(20)]
    scene.start_worker()
    scene.start_worker()
    for batch_id in batches[:15:5]:
        scene.wait_start(batch_id, 5)
        scene.redis.delete(STREAM)
    for batch_id in batches:
        check_ran_once(scene, batch_id, 10)


def test_more_batches_than_the_reconciler_looks_at_in_one_go(scene: Scene) -> None:
    batches = [scene.submit(["a"]) for _ in range(1200)]
    open_ones = "SELECT count(*) FROM streamworker.batches WHERE finished_at IS NULL"
    scene.start_worker(processor="tests.flows.processors:quiet", batch_concurrency="10")
    scene.wait(lambda: scene.database.value(open_ones) < 1000, 30, "some ends")
    scene.redis.flushall()
    scene.wait(lambda: scene.database.value(open_ones) == 0, 60, "all ends")
    assert scene.database.value("SELECT count(*) FROM streamworker.batches WHERE succeeded = 1") == len(batches)


def test_a_key_of_another_type_is_waited_out(scene: Scene) -> None:
    worker = scene.start_worker()
    scene.redis.delete(STREAM)
    scene.redis.set(STREAM, "not a stream")
    batch_id = scene.submit(["a"])
    worker.wait_logged("not a stream")
    scene.redis.delete(STREAM)
    check_ran_once(scene, batch_id, 1)


def test_a_producer_that_commits_and_never_sends_a_word(scene: Scene) -> None:
    scene.start_worker()
    before = time.monotonic()
    batch_id = scene.submit(["a"])
    assert scene.wait_start(batch_id, 0).at - before < 2
    check_ran_once(scene, batch_id, 1)


def test_a_batch_that_somebody_changes_for_long_holds_no_other_up(scene: Scene) -> None:
    changed = scene.submit(["a"])
    changing = Database(scene.database_url, scene.background)  # as a cancel of millions of items does
    changing.rows("BEGIN")
    changing.rows("SELECT FROM streamworker.batches WHERE id = $1 FOR UPDATE", changed)
    other = scene.submit(["not held up"])
    scene.start_worker()
    check_ran_once(scene, other, 1)
    changing.rows("COMMIT")
    check_ran_once(scene, changed, 1)
    changing.close()


def test_a_producer_that_sends_first_and_commits_later(scene: Scene) -> None:
    scene.start_worker()
    early, other = uuid4(), uuid4()
    scene.xadd(batch_id=early)
    check_ran_once(scene, scene.job(["not held up"], batch_id=other), 1)
    before = time.monotonic()
    scene.submit(["a"], batch_id=early)
    assert scene.wait_start(early, 0).at - before < 2
    check_ran_once(scene, early, 1)


def test_entries_that_come_back_from_the_past_run_nothing(scene: Scene) -> None:
    scene.start_worker()
    batch_id = scene.job([hold("gate")])
    scene.wait_start(batch_id, 0)
    past = scene.redis.dump(STREAM)
    scene.open("gate")
    check_ran_once(scene, batch_id, 1)
    scene.wait(lambda: scene.redis.xlen(STREAM) == 0, 10, "the acknowledgement")
    scene.redis.restore(STREAM, 0, past, replace=True)
    scene.wait(lambda: scene.residue.on_stream() == (0, 0), 15, "the old entry to be acknowledged")
    assert scene.starts(batch_id) == [(0, 1)]


class TestRedisAway:
    def test_it_is_killed_and_comes_back_empty(self, own_redis_scene: Scene, weak_redis: RedisServer) -> None:
        scene = own_redis_scene
        worker = scene.start_worker()
        running = scene.job(["a", hold("gate"), "c"])
        scene.wait_start(running, 1)
        weak_redis.kill()
        waiting = scene.submit(["d"])
        scene.open("gate")
        scene.wait_end(running)  # the work goes on against Postgres alone
        weak_redis.start()
        check_ran_once(scene, running, 3)
        check_ran_once(scene, waiting, 1)
        outages = [line for line in worker.lines() if line["message"] == "server away, trying again"]
        assert [outage["server"] for outage in outages] == ["redis"], "an outage is one line, not one a second"

    def test_it_hangs_for_longer_than_its_clients_wait(self, own_redis_scene: Scene, weak_redis: RedisServer) -> None:
        scene = own_redis_scene
        scene.start_worker()
        batch_id = scene.job(["a", hold("gate"), "c"])
        scene.wait_start(batch_id, 1)
        weak_redis.pause()
        scene.open("gate")
        scene.workers[0].wait_logged("server away")
        weak_redis.resume()
        check_ran_once(scene, batch_id, 3)

    def test_it_is_full_and_takes_no_event(self, own_redis_scene: Scene) -> None:
        scene = own_redis_scene
        worker = scene.start_worker()
        batch_id = scene.job([hold("gate")])
        scene.wait_start(batch_id, 0)
        scene.redis.config_set("maxmemory", 1)
        scene.open("gate")
        scene.wait_end(batch_id)
        worker.wait_logged("is full (maxmemory)")
        assert scene.redis.xlen(STREAM) == 1, "acknowledged before its end was told"
        scene.redis.config_set("maxmemory", 0)
        check_ran_once(scene, batch_id, 1)

    def test_a_worker_starts_while_it_is_away(self, own_redis_scene: Scene, weak_redis: RedisServer) -> None:
        scene = own_redis_scene
        batch_id = scene.submit(["a"])
        weak_redis.kill()
        scene.start_worker().wait_logged("server away")
        weak_redis.start()
        check_ran_once(scene, batch_id, 1)


class TestPostgresAway:
    @pytest.mark.parametrize("mode", ["fast", "immediate"])
    def test_it_is_restarted_in_mid_run(self, own_postgres_scene: Scene, own_postgres: PostgresServer, mode: str) -> None:
        scene = own_postgres_scene
        scene.start_worker()
        batch_id = scene.job([sleep(10), hold("gate"), *[sleep(10)] * 10])
        scene.wait_start(batch_id, 1)
        own_postgres.stop(mode)
        scene.open("gate")
        own_postgres.start()
        check_ran_once(scene, batch_id, 12)

    def test_it_is_away_for_longer_than_the_lease(self, own_postgres_scene: Scene, own_postgres: PostgresServer) -> None:
        scene = own_postgres_scene
        worker = scene.start_worker(lease_ttl="2s")
        batch_id = scene.job(["a", hold("gate"), "c"])
        scene.wait_start(batch_id, 1)
        own_postgres.kill()
        scene.wait(
            lambda: any(line.edge == "end" and line.outcome == "CancelledError" for line in scene.log()), 10, "the run to be given up"
        )
        own_postgres.start()
        scene.open("gate")
        row = scene.wait_end(batch_id)
        assert (row["succeeded"], scene.attempts(batch_id)) == (3, [1, 1, 1]), "giving up is no attempt"
        scene.wait_announced(batch_id)
        assert worker.lives

    def test_sessions_are_cut_one_after_another(self, own_postgres_scene: Scene) -> None:
        scene = own_postgres_scene
        scene.start_worker()
        batch_id = scene.job([sleep(30)] * 30)
        for position in range(0, 30, 3):
            scene.wait_start(batch_id, position)
            scene.database.rows(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
        check_ran_once(scene, batch_id, 30)

    def test_both_are_killed_and_redis_comes_back_empty(
        self, own_postgres: PostgresServer, weak_redis: RedisServer, tmp_path: Path
    ) -> None:
        with Scene(weak_redis.url, own_postgres.url, tmp_path) as scene:
            scene.start_worker()
            batch_id = scene.job(["a", hold("gate"), "c"])
            scene.wait_start(batch_id, 1)
            weak_redis.kill()
            own_postgres.kill()
            scene.open("gate")
            own_postgres.start()
            weak_redis.start()
            check_ran_once(scene, batch_id, 3)
            scene.finish()


@pytest.mark.parametrize("servers", [["postgres"], ["postgres", "redis"]], ids=["Postgres", "both"])
def test_silence_for_longer_than_the_lease(scene: Scene, servers: list[Server]) -> None:
    with Wires(scene) as wires:
        worker = scene.start_worker(**wires.urls, lease_ttl="2s")
        batch_id = scene.job([sleep(30), hold("gate"), "c"])
        scene.wait_start(batch_id, 1)
        wires.silence(*servers)
        scene.wait(lambda: scene.log()[-1].outcome == "CancelledError", 15, "the run to be given up")
        wires.heal()
        scene.open("gate")
        assert scene.wait_end(batch_id)["succeeded"] == 3
        assert scene.attempts(batch_id) == [1, 1, 1], "giving up is no attempt"
        scene.wait_announced(batch_id)
        worker.end()


def test_who_hears_nothing_from_postgres_leaves_new_work_to_others(scene: Scene) -> None:
    with Wires(scene) as wires:
        deaf = scene.start_worker(**wires.urls, lease_ttl="2s", consumer="deaf")
        wires.silence("postgres")
        batch_id = scene.job(["a"])
        scene.wait(lambda: set(scene.pending().values()) == {"deaf"}, 10, "the delivery")
        scene.start_worker()
        assert scene.wait_end(batch_id)["worker"] != "deaf"
        wires.heal()
        check_ran_once(scene, batch_id, 1)
        deaf.end()


def test_silence_of_redis_holds_no_item_up(scene: Scene) -> None:
    with Wires(scene) as wires:
        worker = scene.start_worker(**wires.urls)
        batch_id = scene.job(["a", hold("gate"), *["c"] * 20])
        scene.wait_start(batch_id, 1)
        wires.silence("redis")
        scene.open("gate")
        scene.wait_end(batch_id)
        wires.heal()
        check_ran_once(scene, batch_id, 22)
        worker.end()


def test_a_batch_that_takes_too_long_is_failed_with_what_it_has(scene: Scene) -> None:
    worker = scene.start_worker(batch_timeout="1s")
    batch_id = scene.job(["a", hold("never"), "c"])
    row = scene.wait_end(batch_id, "failed")
    assert row["error"] == "the batch's time limit of 1 s passed"
    assert scene.statuses(batch_id) == ["completed", "cancelled", "cancelled"]
    scene.wait_announced(batch_id)
    check_ran_once(scene, scene.job(["next"]), 1)
    assert worker.lives


def test_its_time_goes_on_while_nobody_works_on_it(scene: Scene) -> None:
    first = scene.start_worker(batch_timeout="1s")
    batch_id = scene.job(["a", hold("never"), "c"])
    scene.wait_start(batch_id, 1)
    first.kill()
    late = "SELECT clock_timestamp() - started_at > interval '1 second' FROM streamworker.batches WHERE id = $1"
    scene.wait(lambda: scene.database.value(late, batch_id), 10, "the end of its time")
    scene.start_worker(batch_timeout="1s")
    assert scene.wait_end(batch_id, "failed")["error"] == "the batch's time limit of 1 s passed"
    assert scene.starts(batch_id) == [(0, 1), (1, 1)]
    scene.wait_announced(batch_id)


def test_the_progress_stream_may_vanish_at_any_time(scene: Scene) -> None:
    scene.start_worker()
    batch_id = scene.job([sleep(5)] * 50)
    for position in range(0, 50, 10):
        scene.wait_start(batch_id, position)
        scene.redis.delete(PROGRESS)
    check_ran_once(scene, batch_id, 50)


def test_nobody_complains_when_nothing_is_wrong(scene: Scene) -> None:
    worker = scene.start_worker()
    check_ran_once(scene, scene.job(["a"]), 1)
    with pytest.raises(RedisError, match="no such key"):
        scene.redis.xinfo_stream("batches:dead")
    assert [line["level"] for line in worker.lines()] == ["info"] * len(worker.lines())
