"""Rates leave out the warm-up; ratios pair runs that followed one another; wrong work is noticed."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.peer.agreement import compare_epoch_loss, compare_losses, compare_numbers
from benchmarks.peer.floor import utilisation
from benchmarks.peer.flops import Sizes
from benchmarks.peer.ratios import paired_ratios, rates, summarize
from benchmarks.peer.report import markdown


def run(*seconds: float, peak: float = 100.0) -> dict[str, Any]:
    steps = [{"seconds": s, "samples": 8, "rollout_s": s / 2, "loss": 1.0, "labels": 10} for s in seconds]
    return {"steps": steps, "peak_mib": peak}


def test_the_first_step_does_not_count() -> None:
    found = rates(run(50.0, 2.0, 4.0, 8.0))
    assert found == {"step_s": 4.0, "samples_per_s": 2.0, "rollout_s": 2.0, "labels_per_s": 2.5, "peak_mib": 100.0}
    with pytest.raises(ValueError, match="none after the warm-up"):
        rates(run(1.0))


def test_a_slow_machine_cancels_in_its_own_pair() -> None:
    ours, peer = [run(1, 2), run(1, 20), run(1, 2)], [run(1, 4), run(1, 40), run(1, 6)]
    ratio = paired_ratios(ours, peer)["samples_per_s"]
    assert (ratio["median"], ratio["min"], ratio["max"]) == pytest.approx((2.0, 2.0, 3.0))
    assert paired_ratios(ours, peer)["step_s"]["median"] == pytest.approx(0.5)
    assert summarize(ours)["step_s"] == {"median": 2, "min": 2, "max": 20}


def test_a_side_without_a_figure_has_no_ratio() -> None:
    ours, peer = run(1, 2), run(1, 4)
    for step in peer["steps"]:
        del step["rollout_s"]
    assert "rollout_s" not in paired_ratios([ours], [peer])


def test_other_losses_are_other_work() -> None:
    ours, peer = run(1, 2)["steps"], run(1, 2)["steps"]
    assert compare_losses(ours, peer, "float32")["agrees"]
    assert compare_epoch_loss(ours, peer, "float32")["agrees"]
    peer[1]["loss"] = 1.02
    assert compare_losses(ours, peer, "bf16")["agrees"]
    assert not compare_losses(ours, peer, "float32")["agrees"]
    peer[1]["labels"] = 9
    assert not compare_epoch_loss(ours, peer, "bf16")["agrees"]


def test_every_kind_of_number_must_agree() -> None:
    numbers = {"policy_logprobs": [[-1.0, -2.0]], "reference_logprobs": [[-1.0]], "values": [[0.5]], "scores": [0.25]}
    assert compare_numbers(numbers, numbers, "float32")["agrees"]
    for name in numbers:
        other = numbers | {name: [[5.0, 5.0]] if name == "policy_logprobs" else [5.0]}
        assert not compare_numbers(numbers, other, "bf16")["agrees"]
    with pytest.raises(ValueError, match="scores"):
        compare_numbers(numbers, numbers | {"scores": []}, "bf16")


def test_operations_of_frozen_and_trained_weights() -> None:
    size = Sizes(body=100, vocabulary=10, adapter=1)
    assert size.forward(2, 1) == 2 * (2 * 101 + 10)
    assert size.training(2, 1) == 2 * (400 + 6) + 40
    assert size.training(2, 1, frozen=False) == 6 * (200 + 10)


def test_utilisation_is_a_share_of_the_best_rate() -> None:
    floor = {"read_gb_s": 10.0, "a_bfloat16_gflop_s": 100.0, "b_bfloat16_gflop_s": 50.0, "a_float32_gflop_s": 900.0}
    part = {"flops_per_s": {"ours": 50e9, "trl": 25e9}, "bytes_per_s": {"ours": {"rollout": 1e9}}}
    assert utilisation(part, floor) == {
        "operations of step": {"ours": 0.5, "trl": 0.25},
        "bytes of rollout": {"ours": 0.1},
    }


def test_a_table_says_how_much_was_measured() -> None:
    machine = {"cpu": "a CPU", "cores": 2, "threads": 2, "memory_gib": 4.0}
    options = {"repetitions": 3, "steps": 2, "check": False}
    result = {"stage": "ppo", "peer": "TRL", "commit": "abc", "machine": machine, "options": options, "parts": {}}
    assert "Repetitions: 3, each with 2 measured steps" in markdown(result)
    options["check"] = True
    assert "Repetitions:" not in markdown(result)
