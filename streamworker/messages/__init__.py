"""The wire formats: jobs in, progress events and dead letters out, and the JSON that Postgres can hold."""

from streamworker.messages.dead_letters import DeadLetter, dead_letter, read_dead_letter
from streamworker.messages.events import TERMINAL, ItemEvent, ProgressEvent, decode_event, encode_event, timestamp
from streamworker.messages.jobs import MAX_METADATA_BYTES, Job, decode_job
from streamworker.messages.json_text import MAX_DEPTH, MAX_JSON_BYTES, MAX_KEY, clean_text, from_json, to_json

__all__ = [
    "MAX_DEPTH",
    "MAX_JSON_BYTES",
    "MAX_KEY",
    "MAX_METADATA_BYTES",
    "TERMINAL",
    "DeadLetter",
    "ItemEvent",
    "Job",
    "ProgressEvent",
    "clean_text",
    "dead_letter",
    "decode_event",
    "decode_job",
    "encode_event",
    "from_json",
    "read_dead_letter",
    "timestamp",
    "to_json",
]
