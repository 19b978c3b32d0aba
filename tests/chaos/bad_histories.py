"""Histories that must not pass: for each check at least three ways to break what it watches, each done to an otherwise sound story."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.chaos.history import Command, Fault, History, Operation
from tests.chaos.story import GROUP, PROGRESS, STREAM, Story

Case = Callable[[Story], Story | None]
CASES: list[tuple[str, Case]] = []


def fires(name: str) -> Callable[[Case], Case]:
    """Register a case of a check: it spoils the good story, or tells another one."""

    def register(case: Case) -> Case:
        CASES.append((name, case))
        return case

    return register


def running(*workers: str, size: int = 3, max_attempts: int = 2) -> Story:
    """A batch that w0 has claimed."""
    story = Story(*workers)
    story.submit(size=size, max_attempts=max_attempts)
    story.claim("w0")
    return story


def without_lines(history: History, edge: str, position: int) -> None:
    """Drop lines of the processor log."""
    history.lines[:] = [line for line in history.lines if (line.edge, line.position) != (edge, position)]


# --- C1 ---------------------------------------------------------------------------------------------------------------------


@fires("C1")
def a_batch_never_ends(story: Story) -> None:
    story.submit("other", 2, entry=False)


@fires("C1")
def an_item_never_ends(story: Story) -> None:
    story.submit("other", 2, entry=False)
    story.commit("client", "other", {"status": "completed", "finished_at": "now", "revision": 1})


@fires("C1")
def an_accepted_batch_is_missing(story: Story) -> None:
    story.history.operations.append(Operation("submit", "gone", 1.0, 2.0, "ok", {}))


@fires("C1")
def a_sound_item_ends_failed(story: Story) -> None:
    story.history.operations[0] = replace(story.history.operations[0], detail={"expect": "failed"})


@fires("C1")
def an_item_row_vanishes(story: Story) -> None:
    story.history.changes.append(
        replace(story.history.changes[-1], seq=9999, txid=999, source="items", position=2, old={"status": "x"}, new=None)
    )


# --- C2 ---------------------------------------------------------------------------------------------------------------------


@fires("C2")
def an_item_is_completed_twice(story: Story) -> None:
    story.commit("w1", "b", None, {0: {"status": "pending"}})
    story.commit("w1", "b", None, {0: {"status": "completed"}})


@fires("C2")
def an_item_fails_after_it_was_completed(story: Story) -> None:
    story.commit("w1", "b", None, {2: {"status": "processing"}})
    story.commit("w1", "b", None, {2: {"status": "failed"}})


@fires("C2")
def an_item_ends_once_more_than_it_was_retried(story: Story) -> Story:
    story = retried()
    story.commit("w1", "b", None, {1: {"status": "pending"}})
    story.commit("w1", "b", None, {1: {"status": "completed"}})
    return story


# --- C3 ---------------------------------------------------------------------------------------------------------------------


@fires("C3")
def a_result_changes_after_the_end(story: Story) -> None:
    story.commit("w0", "b", None, {0: {"result": "other"}})


@fires("C3")
def a_batch_gets_another_end(story: Story) -> None:
    story.commit("w0", "b", {"status": "failed", "revision": story.batches["b"]["revision"] + 1})


@fires("C3")
def a_batch_is_opened_again_unasked(story: Story) -> None:
    story.commit("client", "b", {"status": "pending", "finished_at": None, "revision": story.batches["b"]["revision"] + 1})


@fires("C3")
def a_retry_reopens_a_completed_item(story: Story) -> None:
    story.history.operations.append(Operation("retry", "b", story.now, story.tick(), "ok"))
    story.commit("client", "b", {"status": "pending", "finished_at": None}, {0: {"status": "pending", "finished_at": None}})


@fires("C3")
def an_ended_item_is_deleted(story: Story) -> None:
    last = story.history.changes[-1]
    old = story.items["b", 0]
    story.history.changes.append(replace(last, seq=9999, txid=999, source="items", position=0, old=old, new=None))


# --- C4 ---------------------------------------------------------------------------------------------------------------------


@fires("C4")
def one_item_is_counted_twice(story: Story) -> Story:
    story = running()
    story.commit("w0", "b", {"processed": 2, "succeeded": 2, "revision": 2}, {0: {"status": "completed"}})
    return story


@fires("C4")
def a_revision_is_left_out(story: Story) -> Story:
    story = running()
    story.commit("w0", "b", {"processed": 1, "succeeded": 1, "revision": 3}, {0: {"status": "completed"}})
    return story


@fires("C4")
def a_change_without_a_revision(story: Story) -> Story:
    story = running()
    story.commit("w0", "b", {"processed": 1, "succeeded": 1}, {0: {"status": "completed"}})
    return story


@fires("C4")
def processed_is_not_the_sum(story: Story) -> Story:
    story = running()
    story.commit("w0", "b", {"processed": 1, "failed": 0, "revision": 2}, {0: {"status": "failed"}})
    return story


@fires("C4")
def an_item_is_recorded_and_not_counted(story: Story) -> Story:
    story = running()
    story.commit("w0", "b", {"revision": 2}, {0: {"status": "completed"}})
    return story


# --- C5 ---------------------------------------------------------------------------------------------------------------------


@fires("C5")
def an_attempt_starts_twice_under_one_epoch(story: Story) -> Story:
    story = running()
    story.item("w0", 0)
    story.start("w0", 1)
    story.end("w0", 1)
    story.start("w0", 1)
    return story


@fires("C5")
def more_attempts_than_allowed(story: Story) -> Story:
    story = running()
    for attempt in (1, 2, 3):
        story.record("w0", 0, "processing", attempts=attempt)
        story.start("w0", 0, attempt)
        story.end("w0", 0, attempt)
    return story


@fires("C5")
def a_start_beyond_the_frontier(story: Story) -> Story:
    story = running()
    story.start("w0", 0)
    story.start("w0", 1)
    return story


@fires("C5")
def a_start_before_the_commit_of_the_frontier(story: Story) -> Story:
    story = running()
    story.start("w0", 0)
    story.end("w0", 0)
    story.record("w0", 0)
    story.history.lines.append(replace(story.history.lines[-1], edge="start", position=1, at=story.history.lines[-1].at + 0.001))
    return story


@fires("C5")
def a_retry_that_its_row_does_not_tell(story: Story) -> Story:
    story = running()
    story.start("w0", 0)
    story.end("w0", 0)
    story.record("w0", 0, "pending", attempts=1)
    story.start("w0", 0, 2)
    return story


@fires("C5")
def a_start_without_a_claim(story: Story) -> None:
    story.start("w0", 2)
    story.start("stranger", 2)


@fires("C5")
def two_deaths_that_nobody_charged(story: Story) -> Story:
    story = running("w0", "w1", "w2")
    story.start("w0", 0)
    story.kill("w0")
    story.claim("w1")
    story.start("w1", 0)
    story.kill("w1")
    story.claim("w2")
    story.start("w2", 0)
    return story


@fires("C5")
def a_death_that_nobody_charged_though_one_start_is_allowed(story: Story) -> Story:
    story = running(max_attempts=1)
    story.start("w0", 0)
    story.kill("w0")
    story.claim("w1")
    story.start("w1", 0)
    return story


@fires("C5")
def an_attempt_number_is_skipped(story: Story) -> Story:
    story = running(max_attempts=9)
    story.record("w0", 0, "processing", attempts=3)
    story.start("w0", 0, 3)
    return story


@fires("C5")
def an_attempt_is_counted_without_a_start_or_a_death(story: Story) -> Story:
    story = running(max_attempts=9)
    story.start("w0", 0)
    story.end("w0", 0)
    story.record("w0", 0, "processing", attempts=2)
    story.record("w0", 0, "processing", attempts=3)
    story.start("w0", 0, 3)
    return story


def paused(claimed_at: str = "2026-01-01T12:00:02+00:00", **claim: Any) -> Story:
    """A batch of two items whose service is away until noon; another worker goes on then."""
    story = Story()
    story.submit(size=2, expect="completed")
    story.claim("w0")
    story.pause("w0", 0, "2026-01-01T12:00:00+00:00")
    story.claim("w1", error=None, lease_expires_at=claimed_at, **claim)  # the lease lives for two seconds
    if not claim:
        story.item("w1", 0)
        story.start("w1", 1)
        story.kill("w1")
        story.claim("w0", charged={1: {"attempts": 1, "error": "worker died while processing"}})
        story.record("w0", 1, "processing", attempts=2)
        story.item("w0", 1, attempt=2, last=True)
        story.finish("w0")
    return story


@fires("C5")
def a_pause_that_is_not_waited_for(story: Story) -> Story:
    return paused("2026-01-01T12:00:01+00:00")


@fires("C5")
def a_pause_that_cost_an_attempt(story: Story) -> Story:
    story = paused(frontier=1)
    story.record("w1", 0, "processing", attempts=2)
    story.item("w1", 0, 2)
    return story


@fires("C5")
def a_start_after_a_pause_that_never_was(story: Story) -> Story:
    story = running()
    story.start("w0", 0)
    story.end("w0", 0, outcome="Unavailable")
    story.start("w0", 0)
    return story


# --- C6 ---------------------------------------------------------------------------------------------------------------------


@fires("C6")
def a_completed_item_starts_again(story: Story) -> None:
    story.start("w1", 0)


@fires("C6")
def a_zombie_starts_what_its_successor_has_finished(story: Story) -> None:
    story.start("w0", 2)


@fires("C6")
def a_failed_item_starts_again(story: Story) -> Story:
    story = running()
    story.start("w0", 0)
    story.end("w0", 0)
    story.record("w0", 0, "failed", error="no")
    story.start("w0", 0, 2)
    return story


@fires("C6")
def a_cancelled_item_starts_two_seconds_later(story: Story) -> Story:
    story = running()
    row = {"status": "cancelled", "finished_at": "now", "revision": 2}
    story.commit("client", "b", row, {n: {"status": "cancelled", "finished_at": "now"} for n in range(3)})
    story.tick(2)
    story.start("w0", 0)
    return story


# --- C7 ---------------------------------------------------------------------------------------------------------------------


@fires("C7")
def two_items_at_once(story: Story) -> Story:
    story = running()
    story.start("w0", 0)
    story.start("w0", 1)
    story.end("w0", 0)
    return story


@fires("C7")
def a_position_goes_back(story: Story) -> Story:
    story = running()
    story.item("w0", 1)
    story.item("w0", 0)
    return story


@fires("C7")
def the_next_starts_before_the_last_has_ended(story: Story) -> None:
    without_lines(story.history, "end", 0)


# --- C8 ---------------------------------------------------------------------------------------------------------------------


@fires("C8")
def an_epoch_is_skipped(story: Story) -> Story:
    story = running()
    story.commit("w1", "b", {"epoch": 3, "worker": "w1", "revision": 2})
    return story


@fires("C8")
def an_epoch_has_two_workers(story: Story) -> Story:
    story = running()
    story.commit("w1", "b", {"worker": "w1", "revision": 2})
    return story


@fires("C8")
def a_zombie_records_under_the_new_epoch(story: Story) -> Story:
    story = running()
    story.claim("w1")
    story.commit("w0", "b", {"processed": 1, "succeeded": 1, "revision": 3}, {0: {"status": "completed"}})
    return story


@fires("C8")
def a_zombie_renews_the_lease(story: Story) -> Story:
    story = running()
    story.claim("w1")
    story.commit("w0", "b", {"lease_expires_at": "later"})
    return story


@fires("C8")
def a_zombie_writes_an_item(story: Story) -> Story:
    story = running()
    story.claim("w1")
    story.commit("w0", "b", None, {0: {"status": "processing"}})
    return story


@fires("C8")
def a_zombie_goes_on_publishing(story: Story) -> Story:
    story = running()
    revision = story.batches["b"]["revision"]
    story.claim("w1")
    for _ in range(2):
        story.tick(0.1)
        story.announce("w0", epoch=1, revision=revision)
    return story


# --- C9 ---------------------------------------------------------------------------------------------------------------------


@fires("C9")
def acknowledged_on_receipt(story: Story) -> Story:
    story = running()
    story.acknowledge("w0")
    return story


@fires("C9")
def acknowledged_before_the_end_is_announced(story: Story) -> None:
    commands = story.history.commands
    last = max(n for n, command in enumerate(commands) if command.args[1] == PROGRESS)
    ack = next(command for command in commands if command.args[0] == "XACK")
    commands[last].answered = ack.asked + 0.0005


@fires("C9")
def acknowledged_before_the_commit_of_the_end(story: Story) -> None:
    end = story.history.changes[-2]
    story.history.changes[:] = [
        replace(change, at=change.at + 60) if change.txid == end.txid else change for change in story.history.changes
    ]


@fires("C9")
def an_entry_is_forgotten(story: Story) -> None:
    story.enqueue("b")


@fires("C9")
def a_bad_message_is_acknowledged_and_not_kept(story: Story) -> None:
    story.redis("client", ["XADD", STREAM, "*", "batch_id", "x"], "77-0")
    story.acknowledge("w0", "77-0")


@fires("C9")
def an_open_batch_is_deleted_from_the_stream(story: Story) -> Story:
    story = running()
    story.redis("w0", ["XDEL", STREAM, "1-0"], 1)
    return story


@fires("C9")
def a_worker_trims_the_stream(story: Story) -> None:
    story.redis("w0", ["XADD", STREAM, "MAXLEN", "~", "1000", "*", "batch_id", "b"], "1-0")


@fires("C9")
def a_worker_deletes_its_consumer_with_what_is_pending(story: Story) -> None:
    story.redis("w0", ["XGROUP", "DELCONSUMER", STREAM, GROUP, "w0"], 2)


# --- C10 --------------------------------------------------------------------------------------------------------------------


@fires("C10")
def announced_before_the_commit(story: Story) -> Story:
    story = running()
    row = story.batches["b"]
    item = {"position": 0, "key": "k", "status": "completed", "attempt": 1, "error": None}
    story.announce("w0", items=[item], revision=row["revision"] + 1, processed=1, succeeded=1, percent=100 / 3)
    story.record("w0", 0)
    return story


@fires("C10")
def an_event_counts_what_is_not_recorded(story: Story) -> Story:
    story = running()
    story.announce("w0", processed=1, succeeded=1, percent=100 / 3)
    return story


@fires("C10")
def an_event_of_a_revision_that_never_was(story: Story) -> None:
    story.announce("w1", revision=99)


@fires("C10")
def an_event_says_a_pending_item_is_completed(story: Story) -> Story:
    story = running()
    story.announce("w0", items=[{"position": 2, "key": "k", "status": "completed", "attempt": 1, "error": None}])
    return story


@fires("C10")
def an_event_says_another_percentage(story: Story) -> None:
    story.announce("w1", percent=50.0)


@fires("C10")
def an_event_tells_another_error(story: Story) -> Story:
    story = running()
    story.record("w0", 0, "failed", error="no")
    story.announce("w0", items=[{"position": 0, "key": "k", "status": "failed", "attempt": 1, "error": "yes"}])
    return story


# --- C11 --------------------------------------------------------------------------------------------------------------------


@fires("C11")
def a_reader_sees_a_revision_go_back(story: Story) -> None:
    story.history.readings[2:2] = [story.history.readings[0]]


@fires("C11")
def a_reader_misses_a_revision(story: Story) -> None:
    del story.history.readings[2]


@fires("C11")
def a_reader_sees_fewer_processed(story: Story) -> None:
    story.history.readings[-1] = replace(story.history.readings[-1], processed=1)


@fires("C11")
def a_reader_is_left_before_the_end(story: Story) -> None:
    story.history.readings.pop()


@fires("C11")
def a_reader_gets_an_event_twice(story: Story) -> None:
    story.history.readings.insert(3, story.history.readings[2])


@fires("C11")
def a_reader_gets_no_snapshot_first(story: Story) -> None:
    del story.history.readings[0]


@fires("C11")
def a_reader_gets_more_after_the_end(story: Story) -> None:
    story.history.readings.append(replace(story.history.readings[-1], kind="snapshot"))


# --- C12 --------------------------------------------------------------------------------------------------------------------


def letter(story: Story) -> Command:
    return next(command for command in story.history.commands if command.args[1] == "batches:dead")


@fires("C12")
def a_bad_message_vanishes(story: Story) -> None:
    story.history.commands.remove(letter(story))


@fires("C12")
def a_dead_letter_has_the_wrong_reason(story: Story) -> None:
    args = letter(story).args
    args[args.index("invalid_message")] = "batch_not_found"


@fires("C12")
def a_dead_letter_lacks_a_field(story: Story) -> None:
    args = letter(story).args
    at = args.index("colour")
    del args[at : at + 2]


@fires("C12")
def a_dead_letter_is_altered(story: Story) -> None:
    args = letter(story).args
    args[args.index("green")] = "Green"


@fires("C12")
def a_good_job_is_buried(story: Story) -> None:
    story.bury("w0", "1-0", [("batch_id", "b")], "batch_not_found")


# --- C13 --------------------------------------------------------------------------------------------------------------------


@fires("C13")
def an_effect_happens_twice(story: Story) -> None:
    story.history.effects["b", 1] += 1


@fires("C13")
def an_effect_is_lost(story: Story) -> None:
    del story.history.effects["b", 0]


@fires("C13")
def an_effect_of_a_batch_that_has_none(story: Story) -> None:
    story.history.effects["other", 0] += 1


@fires("C13")
def an_effect_of_a_failed_item(story: Story) -> Story:
    story = running()
    story.history.operations[0] = replace(story.history.operations[0], detail={"effects": True})
    story.record("w0", 0, "failed", error="no")
    story.history.effects["b", 0] += 1
    return story


# --- C14 --------------------------------------------------------------------------------------------------------------------


@fires("C14")
def a_dead_owner_is_replaced_after_three_seconds(story: Story) -> Story:
    story = running()
    story.start("w0", 0)
    story.kill("w0")
    story.tick(3)
    story.claim("w1", charged={0: {"attempts": 1}})
    story.record("w1", 0, "processing", attempts=2)
    story.start("w1", 0, 2)
    return story


@fires("C14")
def a_hand_over_takes_two_seconds(story: Story) -> Story:
    story = running()
    story.start("w0", 0)
    story.fault("term", "w0")
    story.end("w0", 0)
    story.record("w0", 0)
    story.tick(2)
    story.claim("w1")
    story.start("w1", 1)
    return story


@fires("C14")
def a_frozen_owner_is_replaced_long_after_its_lease(story: Story) -> Story:
    story = running()
    story.start("w0", 0)
    story.fault("stop", "w0", seconds=9)
    story.claim("w1")
    story.start("w1", 0)
    return story


@fires("C14")
def everything_stands_still_for_half_a_minute(story: Story) -> Story:
    story = running()
    story.start("w0", 0)
    story.end("w0", 0)
    story.tick(30)
    story.record("w0", 0)
    return story


# --- C15 --------------------------------------------------------------------------------------------------------------------


@fires("C15")
def a_pending_entry_is_left(story: Story) -> None:
    story.history.residue["pending entries"] = 1


@fires("C15")
def a_process_is_left(story: Story) -> None:
    story.history.residue["processes"] = 2


@fires("C15")
def a_lock_is_left(story: Story) -> None:
    story.history.residue["locks"] = 1


@fires("C15")
def nobody_looked(story: Story) -> None:
    story.history.residue.clear()


@fires("C15")
def a_worker_ends_by_itself(story: Story) -> None:
    story.fault("exit", "w1", planned=False)


# --- C16 --------------------------------------------------------------------------------------------------------------------


@fires("C16")
def accepted_and_not_there(story: Story) -> None:
    story.history.operations.append(Operation("submit", "gone", 1.0, 2.0, "ok"))


@fires("C16")
def refused_and_there(story: Story) -> None:
    story.history.operations[0] = replace(story.history.operations[0], outcome="fail", detail={})


@fires("C16")
def cancelled_and_completed(story: Story) -> None:
    story.history.operations.append(Operation("cancel", "b", 1.0, 2.0, "ok"))


@fires("C16")
def retried_and_not_opened(story: Story) -> None:
    story.history.operations.append(Operation("retry", "b", 1.0, 2.0, "ok"))


# --- C17 --------------------------------------------------------------------------------------------------------------------


@fires("C17")
def faults_that_hit_nothing(story: Story) -> None:
    story.history.faults += [Fault("redis kill", 10.0 + n, 10.5 + n) for n in range(5)]


@fires("C17")
def a_planned_fault_never_happened(story: Story) -> None:
    story.history.options["kinds"] = ["kill", "redis flush"]


@fires("C17")
def a_phase_was_never_hit(story: Story) -> None:
    story.history.options["pairs"] = [("kill", "waiting")]


@fires("C17")
def a_kind_hit_only_when_idle(story: Story) -> None:
    story.history.options["kinds"] = ["kill", "redis flush"]
    story.history.faults.append(Fault("redis flush", 10.0, 10.1))


# --- other sound stories, which bad ones begin with -----------------------------------------------------------------------------


def retried() -> Story:
    """An item fails, the batch ends, a retry runs it again."""
    story = running()
    story.item("w0", 0)
    story.start("w0", 1)
    story.end("w0", 1)
    story.record("w0", 1, "processing", attempts=2, error="no")
    story.start("w0", 1, 2)
    story.end("w0", 1, 2)
    story.record("w0", 1, "failed", attempts=2, error="no")
    story.item("w0", 2, last=True)
    story.finish("w0")
    story.history.operations.append(Operation("retry", "b", story.now, story.now + 0.02, "ok"))
    row = story.batches["b"]
    fresh = {"status": "pending", "processed": 2, "failed": 0, "finished_at": None, "announced_at": None, "worker": None, "entry_id": None,
             "frontier": 0, "revision": row["revision"] + 1}  # fmt: skip
    story.commit("client", "b", fresh, {1: {"status": "pending", "attempts": 0, "error": None, "finished_at": None}})
    entry = story.enqueue("b")
    story.claim("w1", entry=entry)
    story.item("w1", 1, last=True)
    story.finish("w1", entry=entry)
    return without_faults(story)


def released() -> Story:
    """SIGTERM in the middle of an item, which is called off and starts again elsewhere with the same number; three times."""
    story = running("w0", "w1", "w2", "w3")
    for worker, following in (("w0", "w1"), ("w1", "w2"), ("w2", "w3")):
        story.start(worker, 0)
        story.fault("term", worker)
        story.end(worker, 0)
        row = story.batches["b"]
        story.commit(worker, "b", {"worker": None, "frontier": 0, "revision": row["revision"] + 1})
        story.claim(following)
    for position in range(3):
        story.item("w3", position, last=position == 2)
    story.finish("w3")
    return without_faults(story)


def burst() -> Story:
    """A death among fast items: nobody is charged, each starts once more."""
    story = Story()
    story.submit()
    story.claim("w0", frontier=3)
    story.start("w0", 0)
    story.end("w0", 0)
    story.start("w0", 1)
    story.kill("w0")
    story.claim("w1", careful_until=3)
    for position in range(3):
        story.item("w1", position, last=position == 2)
    story.finish("w1")
    return story


def duplicated() -> Story:
    """A second entry for a running batch is dropped at once."""
    story = running()
    second = story.enqueue("b")
    story.acknowledge("w1", second)
    for position in range(3):
        story.item("w0", position, last=position == 2)
    story.finish("w0")
    return without_faults(story)


def without_faults(story: Story) -> Story:
    """No fault was planned."""
    story.history.options["kinds"] = []
    return story


def sent_events(history: History) -> list[dict[str, object]]:
    """What was published, for tests that look at it."""
    return [json.loads(command.args[-1]) for command in history.commands if command.args[:2] == ["XADD", PROGRESS]]


def acks_of(history: History, entry: str) -> list[Command]:
    """The acknowledgements of an entry."""
    return [command for command in history.commands if command.args[:4] == ["XACK", STREAM, GROUP, entry]]
