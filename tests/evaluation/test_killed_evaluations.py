"""Evaluations that are killed, in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import TinyRuns


def lines(out: Path) -> dict[str, list[bytes]]:
    """The whole lines of every file of responses."""
    files = sorted((out / "generations").glob("*.jsonl"))
    return {f.stem: [x for x in f.read_bytes().splitlines(keepends=True) if x.endswith(b"\n")] for f in files}


def total(out: Path) -> int:
    return sum(len(found) for found in lines(out).values())


@pytest.mark.slow
def test_five_models_and_500_prompts_killed_twice(tiny: TinyRuns, tmp_path: Path) -> None:
    """SIGKILL after 600 and 1,700 responses; every response that was on disk then is there in the end as it was."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"id": f"p{i}", "prompt": f"Say {i}."}) + "\n" for i in range(500)))
    models = {"base": "embedded:tiny"}
    models |= {f"{stage}{i}": str(tiny.root / stage) for stage in ("sft", "ppo") for i in (1, 2)}
    settings = {
        "models": models,
        "baseline": "sft1",
        "reference": "sft1",
        "prompts": str(prompts),
        "reward": str(tiny.root / "reward"),
        "sampling": {"max_response_tokens": 12},
        "precision": "32-true",
        "device": "cpu",
        "save_every": 40,
    }
    config = tmp_path / "evaluate.yaml"
    config.write_text(json.dumps(settings))

    def start(out: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "rlhf_lightning", "evaluate", "--config", str(config), "--out", str(out)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    begun = time.perf_counter()
    out, kept = tmp_path / "killed", []
    for limit in (600, 1700):
        process = start(out)
        while total(out) < limit:
            assert process.poll() is None
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (out / "evaluation.json").exists()
        kept.append(lines(out))
    assert start(out).wait() == 0
    finished = lines(out)
    assert {name: len(found) for name, found in finished.items()} == dict.fromkeys(models, 500)
    for found in finished.values():
        assert len({(row["id"], row["sample"]) for row in map(json.loads, found)}) == 500
    for before in kept:
        for name, found in before.items():
            assert finished[name][: len(found)] == found
    about = json.loads((out / "evaluation.json").read_text())
    last = sum(len(found) for found in kept[-1].values())
    assert sum(model["new"] for model in about["generations"].values()) == 2500 - last
    print(f"{time.perf_counter() - begun:.1f} s in three starts, killed at {[sum(map(len, k.values())) for k in kept]}")
    assert start(tmp_path / "whole").wait() == 0
    whole = lines(tmp_path / "whole")
    for name in models:
        ours, theirs = (
            {row["id"]: row["response_ids"] for row in map(json.loads, found[name])} for found in (finished, whole)
        )
        assert ours == theirs


def test_two_at_once_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = "import sys, time; from pathlib import Path; from rlhf_lightning.fitting.run_lock import RunLock\n"
    code += f"lock = RunLock(); lock.acquire(Path({str(tmp_path)!r})); print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        holder.stdout.readline()
        from rlhf_lightning.cli import main

        args = ["--models", '{"base": "embedded:tiny"}', "--prompts", "configs/tiny/data/prompts.jsonl"]
        assert main(["evaluate", *args, "--out", str(tmp_path)]) == 1
        holder.kill()
    error = capsys.readouterr().err
    assert f"out: another process ({holder.pid}) is evaluating in {str(tmp_path)!r}" in error
