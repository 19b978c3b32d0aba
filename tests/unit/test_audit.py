"""The rules by which a description is judged, each on a text of its own."""

from __future__ import annotations

from string import ascii_lowercase

import pytest

from streamworker.processors.ollama.audit import audit

GOOD = "A red bicycle leans against a white wall. Its basket is full of yellow flowers, and the sun throws long shadows on the ground."


@pytest.mark.parametrize(
    ("text", "score", "reason"),
    [
        (GOOD, 100, None),
        (f"**{GOOD}**", 100, None),
        ("Ein rotes Fahrrad lehnt an einer weißen Wand, und in seinem Korb stecken gelbe Blumen aus dem Garten.", 100, None),
        ("这是一张照片，照片里有一辆红色的自行车靠在白色的墙上。", 100, None),
        ("", 0, "it is empty"), (" \n", 0, "it is empty"), ("!!! ???", 0, "it is empty"),
        ("A bicycle.", 30, "too short (2 words"),
        ("A red bicycle leans against a white wall.", 70, "too short (8 words"),
        (" ".join(first + second for first in ascii_lowercase for second in ascii_lowercase) + ".", 85, "too long (676 words"),
        ("The cat sat on the mat. " * 8, 40, "repeats itself"),
        ("red " * 40 + ".", 40, "repeats itself"),
        ("I'm sorry, but I can't help with describing this particular image for you today.", 10, "it refuses (i'm sorry)"),
        ("I’m sorry, but I can’t help with describing this particular image for you today.", 10, "it refuses (i'm sorry)"),
        ("As an AI language model, I have no eyes and so nothing can be told about it here.", 10, "it refuses (as an ai)"),
        ("Unfortunately I am unable to view the image that you mention in your message to me.", 10, "it refuses (unable to view)"),
        ("It seems that no image was attached to the message. Please upload a picture first, and ask once more.", 10, "it refuses"),
        ("There might be a dog in it, or possibly a fox. It appears to run over some kind of meadow.", 70, "it is unsure (4 hedging"),
        ("There is a dog in the picture that is running over a meadow, and it may be raining on it.", 100, None),
        (GOOD.removesuffix(" on the ground."), 85, "breaks off"),
        ("{'a': 1, 'b': [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]}.", 50, "hardly a text"),
    ],
)  # fmt: skip
def test_a_description_is_judged_by_stated_rules(text: str, score: int, reason: str | None) -> None:
    judged = audit(text)
    assert judged.score == score, judged
    assert any(reason in told for told in judged.reasons) if reason else judged.reasons == ()


def test_an_answer_that_was_cut_short_says_so() -> None:
    assert (audit(GOOD, cut=True).score, audit(GOOD, cut=True).reasons) == (85, ("it breaks off in the middle",))


def test_scores_stay_between_0_and_100_and_hostile_texts_take_no_time() -> None:
    for text in ("can't " * 10_000, "might " * 5_000, "a" * 50_000, "('" * 20_000, "cannot a b " * 5_000):
        assert 0 <= audit(text).score <= 100
