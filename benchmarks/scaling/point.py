"""Runs one point in a process of its own: seconds and peak bytes of every phase, through the public classes."""

from __future__ import annotations

import gc
import json
import os
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile

from benchmarks.run_phases import RunPhases
from benchmarks.scaling.work import HEAD, MINIBATCHES, VOCABULARY, Work
from rlhf_lightning.cli import quieten
from rlhf_lightning.memory import MemorySettings
from rlhf_lightning.models.lora import LoraSettings
from rlhf_lightning.models.tiny import tokenizer
from rlhf_lightning.ppo.module import PPOModule
from rlhf_lightning.ppo.prompts import PromptDataModule
from rlhf_lightning.prompt_template import PromptTemplate
from rlhf_lightning.reward.data import RankingDataModule
from rlhf_lightning.reward.module import RewardModule
from rlhf_lightning.rollouts.settings import SamplingSettings
from rlhf_lightning.schedule import ScheduleSettings
from rlhf_lightning.sft.data import DemonstrationDataModule
from rlhf_lightning.sft.module import SFTModule

MEASURED = ("rollout", "scoring", "update", "step")
LONG = 1 << 14
"""A limit of lengths that nothing reaches."""


class Meter(RunPhases):
    """Seconds of each phase in every repetition, and in the last its peak of allocated bytes instead.

    A peak is above what was there when the phase began, and exact: on a CPU it is added up from torch's own record of
    allocations, on a GPU torch keeps it.
    """

    def __init__(self, repeats: int, out: Path) -> None:
        self.repeats, self.out = repeats, out
        self.seconds: dict[str, list[float]] = defaultdict(lambda: [0.0] * (repeats + 1))
        self.bytes: dict[str, int] = {}
        self.repetition = 0
        self._profile: Any = None
        super().__init__()

    def begin(self, phase: str) -> None:
        if self.repetition == self.repeats + 1 and phase in MEASURED:
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
                self._base = torch.cuda.memory_allocated()
            else:
                self._profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
                self._profile.__enter__()
        self._start = now()

    def end(self, phase: str) -> None:
        if phase not in MEASURED:
            return
        if self.repetition <= self.repeats:
            self.seconds[phase][self.repetition] += now() - self._start
        elif torch.cuda.is_available():
            self.bytes[phase] = max(self.bytes.get(phase, 0), torch.cuda.max_memory_allocated() - self._base)
        else:
            self._profile.__exit__(None, None, None)
            self.bytes[phase] = max(self.bytes.get(phase, 0), peak(self._profile))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self.repetition += not self.in_ppo

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        self.repetition += self.in_ppo

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.is_global_zero:
            seconds = {phase: values[1:] for phase, values in self.seconds.items()}
            self.out.write_text(json.dumps({"seconds": seconds, "bytes": self.bytes}))


def now() -> float:
    """Seconds, when all work that was started is done."""
    if torch.cuda.is_initialized():  # before processes are forked it must not be
        torch.cuda.synchronize()
    return time.perf_counter()


def peak(record: Any) -> int:
    """The largest number of bytes that were allocated at once, of those allocated during a profile.

    What was there before it and is freed in it does not count: it would hide as much of what is new.
    """
    events, left = [], list(record.profiler.kineto_results.experimental_event_tree())
    while left:
        event = left.pop()
        left += event.children
        if event.tag == _EventType.Allocation:
            events.append((event.start_time_ns, event.extra_fields.ptr, event.extra_fields.alloc_size))
    blocks: dict[int, int] = {}
    held = most = 0
    for _, address, size in sorted(events):
        if size > 0:
            blocks[address] = size
        held += size if size > 0 else -blocks.pop(address, 0)
        most = max(most, held)
    return most


def write_model(directory: Path, hidden: int, layers: int) -> None:
    """A random Llama of this size with the byte tokenizer of the embedded tiny model."""
    from transformers import LlamaConfig, LlamaForCausalLM

    heads = hidden // HEAD
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 2),
        max_position_embeddings=LONG,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=2,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer().save_pretrained(directory)  # type: ignore[attr-defined]


def template_tokens() -> int:
    """Tokens that the chat template adds to a prompt."""
    return len(PromptTemplate(tokenizer()).encode_prompt("p")) - 1


def build(work: Work, root: Path, rows: Path) -> tuple[Any, Any]:
    """Module and data module of a stage."""
    settings: dict[str, Any] = {
        "lora": LoraSettings(rank=8),
        "memory": MemorySettings(micro_batch_tokens=work.micro_batch_tokens),
        "schedule": ScheduleSettings("constant"),
        "seed": 1,
    }
    limits = {"max_prompt_tokens": LONG, "max_response_tokens": LONG}
    model = work.model_directory(root)
    if work.stage == "sft":
        return SFTModule(str(model), **settings), DemonstrationDataModule(str(rows), batch_size=work.batch, **limits)
    if work.stage == "reward":
        return RewardModule(str(model), **settings), RankingDataModule(str(rows), batch_size=work.batch, **limits)
    sampling = SamplingSettings(max_response_tokens=work.response, batch_size=work.decode_batch)
    module = PPOModule(
        f"{model}-sft", f"{model}-reward", sampling=sampling, num_minibatches=MINIBATCHES, kl_coef=0.05, **settings
    )
    module.template.eos_id = -1  # no token ends a response: all have the same length
    return module, PromptDataModule(str(rows), batch_size=work.batch, max_prompt_tokens=LONG)


def fit(work: Work, root: Path, run: Path, steps: int, callbacks: list[L.Callback]) -> None:
    """Train for so many steps (PPO: iterations)."""
    run.mkdir(parents=True, exist_ok=True)
    work.write_rows(run / "rows.jsonl", template_tokens())
    module, data = build(work, root, run / "rows.jsonl")
    length = {"max_epochs": steps} if work.stage == "ppo" else {"max_epochs": -1, "max_steps": steps}
    L.Trainer(
        accelerator="auto",
        devices=work.processes,
        strategy="ddp_fork" if work.processes > 1 else "auto",
        precision="bf16-mixed" if torch.cuda.is_available() else "32-true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=run,
        callbacks=callbacks,
        **length,
    ).fit(module, datamodule=data)


def prepare(work: Work, root: Path) -> None:
    """The model of a point, and the artefacts that PPO starts from, if they are not there."""
    model = work.model_directory(root)
    if not model.exists():
        write_model(model, work.hidden, work.layers)
    for stage in ("sft", "reward") if work.stage == "ppo" else ():
        made = Path(f"{model}-{stage}")
        if not made.exists():
            size = {"hidden": work.hidden, "layers": work.layers}
            fit(Work(stage, prompt=32, response=8, batch=2, k=2, **size), root, made, 1, [])


def run_point(work: Work, root: Path, out: Path, repeats: int, threads: int) -> None:
    """Measure a point and write the result; the function that a process is started with."""
    quieten()
    os.environ["HF_HUB_OFFLINE"] = "1"
    with open(out.with_suffix(".log"), "w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    torch.set_num_threads(threads)
    fit(work, root, out.with_suffix(""), repeats + 2, [Meter(repeats, out)])


def prepare_point(work: Work, root: Path, log: Path) -> None:
    """`prepare` in a process of its own."""
    quieten()
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    prepare(work, root)
