"""What the commands of the stages have in common: options, starting artefacts, runs in turn, files at the end."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peer.environment import peer_python
from benchmarks.peer.floor import measure_floor, utilisation
from benchmarks.peer.report import machine, write
from benchmarks.peer.starts import make_starts
from benchmarks.peer.turns import KEEP_MEMORY, SIDES, Task, in_turn
from benchmarks.peer.work import MAX_PROMPT, MAX_RESPONSE, Maker, read_rows
from rlhf_lightning.artefacts import versions
from rlhf_lightning.models.sources import resolve
from rlhf_lightning.provenance import commit

DATA = Path("configs/quickstart/data")
MODEL = "embedded:smollm2-135m-instruct"
RESULTS = "benchmarks/peer/results"
"""Where `every` writes; the files of one stage do not make the code of the next another one."""


def options(description: str, steps: int, repetitions: int = 3) -> argparse.ArgumentParser:
    """The options that every stage has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--repetitions", type=int, default=repetitions, help="runs of each side, in turn")
    add("--steps", "--iterations", type=int, default=steps, help="measured steps of a run; one more warms up")
    add(
        "--data",
        type=Path,
        default=DATA,
        help="folder of demonstrations, rankings and prompts, .jsonl or .jsonl.gz",
    )
    add("--device", choices=["cpu", "cuda"], default="cpu", help="where both sides run")
    add("--model", default=MODEL, help="base model: embedded, a directory or a Hub name")
    add("--out", type=Path, help="JSON file for the result; a Markdown table goes beside it")
    add("--check", action="store_true", help="only compare the numbers of both sides; time nothing")
    add("--as-installed", action="store_true", help="the peer with its own defaults instead of tuned")
    add("--precision", choices=["bf16", "float32"], default="bf16", help="of both sides: mixed bf16, or float32")
    add("--peer-dtype", help="type of the peer's frozen weights; by default what was fastest")
    add("--peer-python", help="interpreter that has the peer installed; by default one is made")
    add("--matmul-precision", default="medium", help="of both sides (the peer: when tuned)")
    add("--no-keep-memory", action="store_true", help="leave glibc's thresholds alone on both sides")
    add("--lr", type=float, default=1e-4, help="learning rate of both sides")
    add("--seed", type=int, default=1, help="of rows, order, adapters and samples")
    add("--work", type=Path, default=Path("checkpoints/benchmarks"), help="where artefacts and token files go")
    return parser


@dataclass
class Bench:
    """A stage's benchmark under way."""

    stage: str
    args: argparse.Namespace
    trl: str
    """Release of the peer."""
    peer_dtype: str
    """Type of the peer's frozen weights that was fastest when it was tuned."""

    def __post_init__(self) -> None:
        args = self.args
        demonstrations = [
            {"prompt": r["prompt"], "response": r["response"]} for r in read_rows(args.data, "demonstrations")
        ]
        short = [r for r in demonstrations if len(r["prompt"]) + len(r["response"]) < 1000]
        self.starts = make_starts(args.model, short, args.work / "starts", args.device, args.seed)
        self.base = resolve(args.model)
        self.maker = Maker(args.data, self.base, args.work / "work", args.seed)
        self.python = args.peer_python or peer_python(self.trl)
        self.parts: dict[str, Any] = {}
        self.commit = commit(RESULTS)  # now: by the end somebody may have committed

    def task(self, side: str, **facts: Any) -> Task:
        """A task with what every stage needs."""
        args = self.args
        as_installed = side == "trl" and args.as_installed
        precision = facts.setdefault("precision", args.precision)
        exact = precision == "float32"
        return {
            "base": self.base,
            "start": self.starts["sft"],
            "reward": self.starts["reward"],
            "device": args.device,
            "seed": args.seed,
            "lr": args.lr,
            "tuned": not args.as_installed,
            "peer_dtype": args.peer_dtype or ("float32" if args.as_installed or exact else self.peer_dtype),
            "matmul_precision": None if as_installed or exact else args.matmul_precision,
            "max_prompt": MAX_PROMPT,
            "max_response": MAX_RESPONSE,
            "clip": 1.0,
            "check": False,
            **facts,
        }

    def environments(self, precision: str) -> dict[str, dict[str, str]]:
        """Variables of each side's process."""
        keep = {} if self.args.no_keep_memory else KEEP_MEMORY
        # TRL 1.12's PPO does not pass `bf16` on to Accelerate, which then trains in float32 unless told so here.
        bf16 = {"ACCELERATE_MIXED_PRECISION": "bf16"} if precision == "bf16" else {}
        return {"ours": keep, "trl": {} if self.args.as_installed else keep | bf16}

    def run(self, name: str, repetitions: int | None = None, **facts: Any) -> dict[str, list[dict[str, Any]]]:
        """Run both sides in turn on one piece of work."""
        print(f"{self.stage} {name}:", flush=True)
        tasks = {side: self.task(side, **facts) for side in SIDES}
        environments = self.environments(tasks["ours"]["precision"])
        return in_turn(self.stage, tasks, repetitions or self.args.repetitions, self.python, environments)

    def finish(self) -> None:
        """Print the result, and write it where the user asked for it; a failed comparison is an error.

        Raises:
            SystemExit: The two sides did not compute the same.
        """
        args = self.args
        head: dict[str, Any] = {
            "stage": self.stage,
            "commit": self.commit,
            "peer": f"TRL {self.trl}, {'as installed' if args.as_installed else 'tuned'}",
            "machine": machine(args.device),
            "versions": versions(),
            "options": {
                k: str(v) if isinstance(v, Path) else v
                for k, v in vars(args).items()
                if k not in ("peer_python", "work", "out")
            },
        }
        if not args.check:
            head["floor"] = found = measure_floor(args.device)
            for part in self.parts.values():
                part["utilisation"] = utilisation(part, found)
        write(head | {"parts": self.parts}, args.out)
        wrong = [
            name
            for name, part in self.parts.items()
            if not all(part[k]["agrees"] for k in part if k.startswith("agreement"))
        ]
        if wrong:
            raise SystemExit(f"error: the two sides do not agree in {', '.join(wrong)}; their work was not equal.")
