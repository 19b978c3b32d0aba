"""Tokens and the history: what is missing is never overlooked."""

from __future__ import annotations

import random

import pytest

from streamworker.gateway import resume
from streamworker.gateway.resume import History, Position, Since, Token, before, chain, read_position, read_since, tag_of

TAG, SCOPE = "0123abcd", "4567cdef"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, None),
        ("", None),
        (f"{TAG}.5-1.{SCOPE}", Since(Token(TAG, (5, 1), SCOPE))),
        (f"{TAG}.5-1.{SCOPE}.7", Since(Token(TAG, (5, 1), SCOPE, 7))),
        (f"{TAG}.5-1", Since()),
        ("7", Since(revision=7)),
        (7, Since(revision=7)),
        (str(2**63), Since()),
        ("-1", Since()),
        ("٧", Since()),
        (f"{TAG}.5", Since()),
        ("x" * 200, Since()),
    ],
)
def test_reading_since(text: str | int | None, expected: Since | None) -> None:
    assert read_since(text) == expected


@pytest.mark.parametrize("text", ["x" * 201, "a\r\nb", "\x00", "\x7f", "\x85"])
def test_what_no_token_can_be(text: str) -> None:
    with pytest.raises(ValueError, match="expected a token"):
        read_since(text)


def test_a_token_is_read_as_it_was_written() -> None:
    for token in (Token(TAG, (1, 2), SCOPE), Token(TAG, (2**64 - 1, 2**64 - 1), SCOPE, 3)):
        assert read_since(str(token)) == Since(token)


def test_the_position_before() -> None:
    assert [before((5, 1)), before((5, 0))] == [(5, 0), (4, 2**64 - 1)]


def test_another_server_has_another_tag() -> None:
    assert len({tag_of("a", "progress"), tag_of("b", "progress"), tag_of("a", "other")}) == 3


def test_ids_are_compared_as_numbers() -> None:
    assert read_position(b"10-2") > read_position(b"9-10") > read_position(b"9-9")


@pytest.mark.parametrize("seed", range(20))
def test_a_replay_is_what_a_client_that_had_stayed_would_have_got(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(seed)
    monkeypatch.setattr(resume, "MOST_ENTRIES", 40)
    history = History(TAG)
    heard: dict[str, list[tuple[Position, int]]] = {"a": [], "b": [], "c": []}
    revisions = dict.fromkeys(heard, 0)
    for moment in range(1, 200):
        batch_id = chance.choice(list(heard))
        step = chance.choice([0, 1, 1, 1, 1, 2, -3])  # live, durable, one that was lost, one that came late
        revision = max(0, revisions[batch_id] + step)
        if history.append((moment, 0), batch_id, revision, b"%d" % moment) is not None:
            revisions[batch_id] = revision
            heard[batch_id].append(((moment, 0), revision))
        position = (chance.randint(0, moment), 0)
        if not history.covers(Token(TAG, position, SCOPE)):
            continue
        for name, events in heard.items():
            known = history.known_at(name, position)
            if known is None:
                continue
            assert known == [revision for at, revision in events if at <= position][-1]
            missed = [one for one in events if one[0] > position]
            found = chain(history.after(name, position), known)
            gapless = all(
                later - earlier <= 1 for earlier, later in zip([known, *(r for _, r in missed)], [r for _, r in missed], strict=False)
            )
            assert (found is not None) == gapless
            assert found is None or [(record.position, record.highest) for record in found] == missed


def test_what_was_dropped_is_not_covered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "MOST_BYTES", 100)
    history = History(TAG)
    for moment in range(1, 30):
        history.append((moment, 0), "a", moment, b"x" * 10 + b"%d" % moment)
    covered = [moment for moment in range(40) if history.covers(Token(TAG, (moment, 0), SCOPE))]
    assert covered == list(range(covered[0], 30))
    assert 20 <= covered[0] < 25
    assert not history.covers(Token("another", (29, 0), SCOPE))


def test_what_postgres_does_not_confirm_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "MOST_ENTRIES", 3)
    history = History(TAG)
    for moment, revision in ((1, 1), (2, 2), (3, 1000)):
        history.append((moment, 0), "a", revision, b"%d" % moment)
    history.confirm("a", 2, (2, 0))  # asked before it was told: that may be so
    assert history.append((4, 0), "a", 3, b"4") is None
    history.confirm("a", 2, (4, 0))
    assert history.known_at("a", (4, 0)) is None
    for moment in range(5, 10):  # and what is left of it is dropped as everything else
        assert history.append((moment, 0), "a", moment - 2, b"%d" % moment) is not None
    assert [record.highest for record in history.after("a", (0, 0))] == [5, 6, 7]
