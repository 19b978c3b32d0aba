from tests.flows.processors import act, sleep
import pytest

def test_poison_beyond_max_failures(scene):
    batch_id = scene.job([sleep(30), act("die"), sleep(30), "a"], max_attempts=1, max_failures=0)
    row = scene.relay(batch_id)
    print(row)
    assert (row["status"], row["processed"], row["failed"]) == ("failed", 2, 1)
    assert scene.statuses(batch_id) == ["completed", "failed", "cancelled", "cancelled"]
    scene.wait_announced(batch_id)

def test_many(scene):
    import time
    t=time.monotonic()
    ids = [scene.submit(["a"]) for _ in range(1500)]
    print("submitted", time.monotonic()-t); t=time.monotonic()
    scene.start_worker(processor="tests.flows.processors:quiet", batch_concurrency="10")
    scene.wait(lambda: scene.database.value("SELECT count(*) FROM streamworker.batches WHERE finished_at IS NULL") < 1000, 60, "1")
    scene.redis.flushall()
    scene.wait(lambda: scene.database.value("SELECT count(*) FROM streamworker.batches WHERE finished_at IS NULL") == 0, 60, "all")
    print("done", time.monotonic()-t)
