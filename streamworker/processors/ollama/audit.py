"""Judges a description by stated rules: a score from 0 to 100, and a reason for every point that is missing."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

SHORTEST, SHORT, LONG = 5, 12, 300  # words
# Where no spaces stand between words, each sign counts as one.
_SIGNS = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORDS = re.compile(rf"[{_SIGNS}]|[^\W_{_SIGNS}]+(?:['’-][^\W_]+)*")
_REFUSALS = re.compile(
    r"\b(i'?m sorry|i apologi[sz]e|as an ai|please (upload|provide|share) |no image (was|is|has been)"
    r"|(do|did) ?n[o']t see (any|an) (image|picture)"
    r"|(can(no|')?t|can not|unable to|not able to) (\w+ ){0,3}"
    r"(see|view|describe|help|assist|access|process|identify|provide|analy[sz]e|open)\b)",
    re.IGNORECASE,
)
_HEDGES = re.compile(
    r"\b(might|maybe|perhaps|possibly|probably|presumably|seems?|seemingly|appears? to|could be|may be|unclear|hard to (say|tell)"
    r"|difficult to (say|tell)|not (entirely )?(clear|sure|certain)|some (kind|sort) of)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Audit:
    """The score of a description (0 to 100) and what cost it points, one sentence each."""

    score: int
    reasons: tuple[str, ...] = ()


def audit(text: str, cut: bool = False) -> Audit:
    """Judge a description; `cut` says that the model was stopped before it had ended.

    From 100 are taken: 90 for a refusal; 70 below 5 words, 30 below 12, 15 above 300; up to 60 for repetition; 10 for each hedge after
    the first, up to 40; 15 where it breaks off; 50 where it is hardly made of letters. Nothing at all scores 0.
    """
    words = _WORDS.findall(text.lower())
    if not words:
        return Audit(0, ("it is empty",))
    found = [*_refusal(text), *_length(len(words)), *_repetition(words), *_hedging(text), *_breaking_off(text, cut), *_letters(text)]
    return Audit(max(0, 100 - sum(points for points, _ in found)), tuple(reason for _, reason in found))


Finding = tuple[int, str]


def _refusal(text: str) -> list[Finding]:
    match = _REFUSALS.search(text.replace("’", "'"))
    return [(90, f"it refuses ({match[0].strip().lower()})")] if match else []


def _length(words: int) -> list[Finding]:
    if words < SHORT:
        return [(70 if words < SHORTEST else 30, f"it is too short ({words} words, expected {SHORT} at least)")]
    return [(15, f"it is too long ({words} words, expected {LONG} at most)")] if words > LONG else []


def _repetition(words: list[str]) -> list[Finding]:
    """How much of it was said before, in runs of three words."""
    runs = list(zip(words, words[1:], words[2:], strict=False))
    if len(runs) < 6:
        return []
    repeated = sum(times - 1 for times in Counter(runs).values()) / len(runs)
    return [(min(60, round(120 * repeated)), f"it repeats itself ({repeated:.0%} of it was said before)")] if repeated >= 0.15 else []


def _hedging(text: str) -> list[Finding]:
    hedges = len(_HEDGES.findall(text))
    return [(min(40, 10 * (hedges - 1)), f"it is unsure ({hedges} hedging phrases, expected 1 at most)")] if hedges > 1 else []


def _breaking_off(text: str, cut: bool) -> list[Finding]:
    ended = re.search(r"[.!?…。！？][\"'”’»)\]*_`]*$", text.rstrip()) is not None
    return [(15, "it breaks off in the middle")] if cut or not ended else []


def _letters(text: str) -> list[Finding]:
    signs = [sign for sign in text if not sign.isspace()]
    share = sum(map(str.isalpha, signs)) / len(signs)
    return [(50, f"it is hardly a text ({share:.0%} of it are letters)")] if share < 0.6 else []
