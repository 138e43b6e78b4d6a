"""When slices and labelers are judged, and the keys of `trust` in an evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_lightning.bounds import check_number


@dataclass(frozen=True)
class SliceSettings:
    """When a slice is judged.

    Args:
        min_pairs: Slices with fewer pairs are shown and not judged.
        min_prompts: Slices with fewer prompts are shown and not judged; errors over fewer clusters mean little.
        false_discovery_rate: Share of wrong flags among the flagged slices, by Benjamini and Hochberg.
        min_effect: A significant difference smaller than this is not flagged either (points of accuracy, 0 to 1).
    """

    min_pairs: int = 40
    min_prompts: int = 8
    false_discovery_rate: float = 0.05
    min_effect: float = 0.03

    def __post_init__(self) -> None:
        check_number("slices.min_pairs", self.min_pairs, at_least=1)
        check_number("slices.min_prompts", self.min_prompts, at_least=2)
        check_number("slices.false_discovery_rate", self.false_discovery_rate, at_least=0, at_most=1)
        check_number("slices.min_effect", self.min_effect, at_least=0, at_most=1)

    def enough(self, pairs: int, prompts: int) -> bool:
        """Whether there is enough to judge."""
        return pairs >= self.min_pairs and prompts >= self.min_prompts


@dataclass(frozen=True)
class TrustSectionSettings:
    """The trust report of an evaluation: its models' answers are compared with what the reward model was trained on.

    Args:
        rankings: Held-out rankings to judge the reward model on; see `trust --help`.
        reward: Which of the evaluation's reward models; by default the first.
        training: The rankings it was trained on; by default what its artefact names.
        gold: Which of the judges gives gold scores, for the over-optimisation curve; it must score each response.
        slices: When a slice or a labeler is judged.
    """

    rankings: str | list[str]
    reward: str | None = None
    training: str | list[str] | None = None
    gold: str | None = None
    slices: SliceSettings = SliceSettings()
