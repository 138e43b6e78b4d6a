"""Imported once by the server that job processes are forked from; nothing here may start a thread or touch a device.

Some libraries look at the GPUs when they are imported, and a process that has done so cannot be forked into ones that
use them. So there are none to be seen for as long as the imports take.
"""

from __future__ import annotations

import importlib
import os

MODULES = (
    "rlhf_lightning.cli",
    "rlhf_lightning.sft.module",
    "rlhf_lightning.reward.module",
    "rlhf_lightning.ppo.module",
    "benchmarks.instructgpt.curves",
    "benchmarks.instructgpt.judging",
)
FLAG = "BENCHMARKS_INSTRUCTGPT_PRELOAD"
"""Set in the server's environment: there, importing this module is asking for the others."""
HIDDEN = {"CUDA_VISIBLE_DEVICES": "", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}


def import_all() -> None:
    """Import what every job needs."""
    before = {name: os.environ.get(name) for name in HIDDEN}
    os.environ.update(HIDDEN)
    try:
        for name in MODULES:
            importlib.import_module(name)
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
    _forget_that_there_was_none()


def _forget_that_there_was_none() -> None:
    """transformers remembers whether there is a GPU."""
    from transformers.utils import import_utils

    for name, function in vars(import_utils).items():
        if name.startswith("is_torch_") and hasattr(function, "cache_clear"):
            function.cache_clear()


if os.environ.get(FLAG):
    import_all()
