"""The artefacts that both sides start from: an SFT adapter and a reward model of a few tiny steps.

Not fresh adapters, whose B is 0 and which would agree even if one side forgot to use them.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

STEPS = 3


def make_starts(model: str, rows: list[dict[str, str]], root: Path, device: str, seed: int) -> dict[str, str]:
    """Make both artefacts, or find them from an earlier run.

    Args:
        model: Base model, as the user wrote it.
        rows: Demonstrations to take the steps on.
        root: Where artefacts go; a directory of each model and seed.
        device: cpu or cuda.
        seed: Of adapters, head and order.

    Returns:
        Artefact directories by stage: sft, reward.

    Raises:
        SystemExit: A stage failed; its output is on the screen.
    """
    directory = root / hashlib.sha256(f"{model}/{seed}/{STEPS}".encode()).hexdigest()[:12]
    found = {stage: str(directory / stage / "final") for stage in ("sft", "reward")}
    if all((Path(final) / "stage.json").is_file() for final in found.values()):
        return found
    write_rows(directory, rows)
    print("Making the artefacts that both sides start from ...", flush=True)
    task = {"model": model, "directory": str(directory), "device": device, "seed": seed}
    command = [sys.executable, "-m", "benchmarks.peer.starts", json.dumps(task)]
    done = subprocess.run(command, env=os.environ | with_checkout(), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: the artefacts could not be made:\n{done.stderr[-4000:]}")
    return found


def write_rows(directory: Path, rows: list[dict[str, str]]) -> None:
    """What `train` reads: some of the demonstrations, and pairs of their responses."""
    directory.mkdir(parents=True, exist_ok=True)
    chosen = [rows[i % len(rows)] for i in range(2 * STEPS)]
    pairs = [
        {"prompt": a["prompt"], "chosen": a["response"], "rejected": b["response"]}
        for a, b in zip(chosen, chosen[1:] + chosen[:1], strict=True)
    ]
    pairs = [p for p in pairs if p["chosen"] != p["rejected"]]
    (directory / "sft.jsonl").write_text("".join(json.dumps(r) + "\n" for r in chosen))
    (directory / "reward.jsonl").write_text("".join(json.dumps(r) + "\n" for r in pairs))


def with_checkout() -> dict[str, str]:
    """The variable that makes the working directory importable, beside what is importable already."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))}


def train(task: dict[str, Any]) -> None:
    """Train both.

    Args:
        task: `model`, `directory` (with the rows of both stages), `device`, `seed`; `precision`, by default 32-true.
    """
    import lightning as L

    from rlhf_lightning.cli import quieten
    from rlhf_lightning.reward.data import RankingDataModule
    from rlhf_lightning.reward.module import RewardModule
    from rlhf_lightning.schedule import OptimizerSettings
    from rlhf_lightning.sft.data import DemonstrationDataModule
    from rlhf_lightning.sft.module import SFTModule

    directory = Path(task["directory"])
    quieten()
    optimizer = OptimizerSettings(lr=1e-3)

    def trainer(stage: str) -> L.Trainer:
        return L.Trainer(
            accelerator=task["device"],
            devices=1,
            precision=task.get("precision", "32-true"),
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=str(directory / stage),
        )

    sft = SFTModule(task["model"], optimizer=optimizer, seed=task["seed"])
    trainer("sft").fit(sft, datamodule=DemonstrationDataModule(str(directory / "sft.jsonl"), batch_size=2))
    del sft  # a large one waits in main memory, where two of them may not fit
    gc.collect()
    reward = RewardModule(str(directory / "sft"), optimizer=optimizer, seed=task["seed"])
    trainer("reward").fit(reward, datamodule=RankingDataModule(str(directory / "reward.jsonl"), batch_size=2))


if __name__ == "__main__":
    train(json.loads(sys.argv[1]))
