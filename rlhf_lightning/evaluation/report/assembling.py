"""All sections of a report, in the order in which they are read."""

from __future__ import annotations

from rlhf_lightning.evaluation.report.blocks import Report
from rlhf_lightning.evaluation.report.evidence import data, reproduce, samples
from rlhf_lightning.evaluation.report.inputs import Inputs
from rlhf_lightning.evaluation.report.learning import learning
from rlhf_lightning.evaluation.report.preference import at_a_glance, frontier, preference
from rlhf_lightning.evaluation.report.tax import tasks
from rlhf_lightning.evaluation.report.trust import trust


def assemble(inputs: Inputs, most_samples: int, title: str | None = None) -> Report:
    """The report on whatever was found.

    Args:
        inputs: What was found.
        most_samples: Prompts that are shown side by side.
        title: Of the page; by default the models'.
    """
    found = [at_a_glance(inputs), preference(inputs), frontier(inputs), *tasks(inputs), trust(inputs)]
    found += [samples(inputs, most_samples), learning(inputs), *data(inputs), reproduce(inputs)]
    names = " · ".join(inputs.models or [run.name for run in inputs.runs])
    commit, device = inputs.about.get("commit"), inputs.about.get("device")
    facts = [str(inputs.directory), *([f"commit {commit}"] if commit else []), *([str(device)] if device else [])]
    return Report(title or names or inputs.directory.name, " · ".join(facts), [s for s in found if s is not None])
