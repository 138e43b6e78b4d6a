"""The result as JSON, and as Markdown tables for people.

python -m benchmarks.peer.report FILE.json ... writes the tables of results again.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

from rlhf_lightning.callbacks import markdown_table

UNITS = {"step_s": "s a step", "peak_mib": "peak memory, MiB"}


def machine(device: str) -> dict[str, Any]:
    """What the runs were made on."""
    import torch

    found: dict[str, Any] = {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
    }
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _cpu_name() -> str:
    """The processor as the system calls it; several models share a name, so its model number too."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    named = {k.strip(): v.strip() for k, v in fields.items()}
    return f"{named.get('model name', platform.machine())} (model {named.get('model', '?')})"


def write(result: dict[str, Any], out: Path | None) -> None:
    """Print the tables; write them and the JSON if there is a file for them."""
    text = markdown(result)
    print(text)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n")
        out.with_suffix(".md").write_text(text)


def markdown(result: dict[str, Any]) -> str:
    """A section for each part: rates, their ratios, utilisation, agreement."""
    where = result["machine"]
    head = (
        f"# {result['stage']}: this project and {result['peer']}\n\n"
        f"Commit {result['commit']}, {where['cpu']}, {where['cores']} cores, {where['threads']} threads, "
        f"{where['memory_gib']} GiB{', ' + where['gpu'] if 'gpu' in where else ''}. {_counts(result['options'])}"
        "Medians, and smallest to largest of all repetitions; ratios are ours / TRL's, taken repetition by "
        "repetition.\n"
    )
    return head + "".join(_part(name, part) for name, part in result["parts"].items()) + _floor(result)


def _counts(options: dict[str, Any]) -> str:
    """How much was measured; nothing where the numbers were only compared."""
    if options["check"]:
        return ""
    repetitions, steps = options["repetitions"], options["steps"]
    return f"Repetitions: {repetitions}, each with {steps} measured steps after one that warms up. "


def _part(name: str, part: dict[str, Any]) -> str:
    text = f"\n## {name}\n\n"
    if "ratios" in part:
        ours, peer = part["summary"]["ours"], part["summary"]["trl"]
        rows = [
            [UNITS.get(n, n.replace("_per_s", " / s").replace("_s", " s")), *map(_cell, (ours[n], peer[n], ratio))]
            for n, ratio in part["ratios"].items()
        ]
        text += markdown_table(["", "ours", "TRL", "ratio"], rows) + "\n"
    if part.get("utilisation"):
        rows = [[n, *(f"{part['utilisation'][n][s]:.1%}" for s in ("ours", "trl"))] for n in part["utilisation"]]
        text += "\n" + markdown_table(["share of what the machine can do", "ours", "TRL"], rows) + "\n"
    text += "\n" + "\n".join(_agreement(part[key]) for key in ("agreement", "agreement_bf16") if key in part)
    return text + _note(part)


def _note(part: dict[str, Any]) -> str:
    return f"\n{part['note']}\n" if part.get("note") else ""


def _agreement(found: dict[str, Any]) -> str:
    verdict = "agree" if found["agrees"] else "DO NOT AGREE"
    if "largest_difference" in found:
        return f"Equal work: {found['what']} {verdict} (largest difference {found['largest_difference']:.4f}).\n"
    parts = [f"{name.replace('_', ' ')} {x['mean_difference']:.4f}" for name, x in found.items() if isinstance(x, dict)]
    return f"Equal work: {found['what']} {verdict} (mean absolute differences: {', '.join(parts)}).\n"


def _floor(result: dict[str, Any]) -> str:
    if "floor" not in result:
        return ""
    rows = [[n, f"{v:.1f}"] for n, v in result["floor"].items()]
    return "\n## The machine\n\n" + markdown_table(["measured floor", ""], rows) + "\n"


def _cell(x: dict[str, float]) -> str:
    digits = 3 if abs(x["median"]) < 1 else 2 if abs(x["median"]) < 100 else 0
    return f"{x['median']:.{digits}f} [{x['min']:.{digits}f}, {x['max']:.{digits}f}]"


if __name__ == "__main__":
    for file in map(Path, sys.argv[1:]):
        file.with_suffix(".md").write_text(markdown(json.loads(file.read_text())))
