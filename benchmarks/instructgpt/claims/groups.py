"""§4.1: accuracy of reward models on labelers of training groups and of the group held out."""

from __future__ import annotations

from benchmarks.instructgpt.claims.claim import Claim, no_data
from benchmarks.instructgpt.claims.evidence import Evidence

STATEMENT = "Reward models are nearly as accurate on a held-out labeler group as on their own (72.4 and 69.6 % in §4.1)"


def groups(evidence: Evidence) -> list[Claim]:
    """One claim."""
    return [no_data("groups", STATEMENT, "the five folds")]
