"""Draws a PPO run's TensorBoard curves as a picture."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PANELS = [
    ("rollout/score_mean", "reward-model score"),
    ("rollout/kl", "KL to the SFT model, nats per response"),
    ("rollout/response_tokens", "response length, tokens"),
    ("rollout/eos_rate", "share of responses with EOS"),
    ("policy/approx_kl", "approximate KL of the update"),
    ("value/explained_variance", "explained variance of the value function"),
]


def main() -> None:
    """`curves.py RUN PICTURE`."""
    run, picture = Path(sys.argv[1]), Path(sys.argv[2])
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    figure, axes = plt.subplots(2, 3, figsize=(12, 5.5), layout="constrained")
    for axis, (tag, title) in zip(axes.flat, PANELS, strict=True):
        values = [e.value for e in events.Scalars(tag)]
        axis.plot(range(1, len(values) + 1), values, color="#0072b2")
        axis.set_title(f"{tag}\n{title}", fontsize=9)
        axis.set_xlabel("iteration", fontsize=8)
        axis.grid(alpha=0.3)
    figure.savefig(picture, dpi=90)


if __name__ == "__main__":
    main()
