"""Imported once by the server that job processes are forked from; nothing here may start a thread or touch a device."""

from __future__ import annotations

import benchmarks.instructgpt.curves
import benchmarks.instructgpt.judging  # noqa: F401
import rlhf_lightning.cli
import rlhf_lightning.ppo.module
import rlhf_lightning.reward.module
import rlhf_lightning.sft.module  # noqa: F401
