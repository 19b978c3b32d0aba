import json, time, collections
from uuid import uuid4
import pytest
from tests.flows.conftest import *
QUIET = "tests.flows.processors:quiet"
def test_probe(scene):
    w = scene.start_worker(processor=f"tests.flows.processors:work,{QUIET}")
    for n in range(30):
        scene.wait_end(scene.job(["a"]*3))
    scene.wait_end(scene.job(["a"]*1000, processor=QUIET))
    pass
    b = uuid4(); t=time.time()
    scene.xadd(batch_id=b, items=json.dumps([f"{n}.jpg" for n in range(100000)]), processor=QUIET)
    seen = collections.Counter()
    while time.time()-t < 60:
        for r in scene.database.rows("SELECT state, wait_event_type, wait_event, left(query,110) q, application_name FROM pg_stat_activity WHERE datname=current_database() AND state<>'idle' AND pid<>pg_backend_pid()"):
            seen[tuple(r)] += 1
        time.sleep(0.05)
        rows = scene.database.rows("SELECT processed, total, status, revision FROM streamworker.batches WHERE id=$1", b)
        if rows and rows[0]["status"]=="completed": break
    print("TOOK", time.time()-t, rows)
    for k,v in seen.most_common(12): print(v,k)
    print(scene.database.rows("SELECT relname, n_live_tup, n_dead_tup, last_autoanalyze, last_autovacuum, n_tup_hot_upd, n_tup_upd, seq_scan, seq_tup_read FROM pg_stat_user_tables"))
    with open(f"/proc/{w.pid}/stat") as f: print(f.read().split()[13:15])
