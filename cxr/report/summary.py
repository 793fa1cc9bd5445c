"""The sentences that open a report: what the synthetic images changed, what the control changed, on how many images."""

from __future__ import annotations

from collections.abc import Sequence

from cxr.report.difference import Difference, more_digits
from cxr.report.mark import LEAK, NO_PATIENTS, RANDOM
from cxr.report.spec import ReportSpec, arm_name
from cxr.report.table import PERCENT, metric_title, percent_points

__all__ = ["summary"]

SUBJECTS = {  # what an arm has that its reference has not
    ("synthetic", "real_only"): "Synthetic images changed",
    ("duplicate_real", "real_only"): "Repeating real images instead changed",
    ("augmented", "real_only"): "Classical augmentation changed",
    ("undersample", "real_only"): "Balancing the real images changed",
    ("synthetic_only", "real_only"): "Synthetic images in place of the real ones changed",
}
CONTROL = ("synthetic", "duplicate_real")


def summary(spec: ReportSpec, differences: Sequence[Difference], n_arms: int) -> list[str]:
    """Return the opening sentences: effect of the lead model's arms with its interval, what it was measured on.

    "Not detectably" is said wherever the interval holds zero: it is no proof that there is no effect.
    """
    models = [d.model for d in differences]
    lead = spec.lead_model if spec.lead_model in models else (models[0] if models else None)
    if lead is None:
        return [f"Nothing to compare: no two arms of one model among the {n_arms} evaluated."]
    mine = [d for d in differences if d.model == lead]
    effects = [_effect(d) for d in mine if (d.arm, d.reference) != CONTROL]
    control = [_against_control(d) for d in mine if (d.arm, d.reference) == CONTROL]
    return [*effects, *control, *_basis(mine)]


def _effect(d: Difference) -> str:
    subject = SUBJECTS.get((d.arm, d.reference))
    if subject is None:
        name = arm_name(d.arm)  # "with GAN images"
        subject = f"{name[:1].upper()}{name[1:]} against {arm_name(d.reference)} changed"
    low, high = d.interval
    if d.ours.value is None or low is None or high is None:
        return (
            f"What {arm_name(d.arm)} changed against {arm_name(d.reference)} is not defined by this test set."
        )
    end = " The sign is clear: the interval excludes zero."
    if low <= 0 <= high:
        end = " That is no detectable change: the interval includes zero."
    if (reason := _no_result(d)) is not None:
        end = f" That is no result: {reason}."
    printed = f" The paper prints {_points(d, d.published)}." if d.published is not None else ""
    return f"{subject} {_score(d.metric)} by {_points(d, d.ours.value)} ({_interval(d)}).{end}{printed}"


def _against_control(d: Difference) -> str:
    low, high = d.interval
    if d.ours.value is None or low is None or high is None:
        return "Synthetic against repeated real images is not defined by this test set."
    told = f"{_points(d, d.ours.value)}, {_interval(d)}"
    if (reason := _no_result(d)) is not None:
        return f"Synthetic against as many repeated real images ({told}) is no result: {reason}."
    if low <= 0 <= high:
        return f"Synthetic images and as many repeated real ones cannot be told apart ({told})."
    better = d.ours.value > 0
    return f"Synthetic images did {'better' if better else 'worse'} than as many repeated real ones ({told})."


def _no_result(d: Difference) -> str | None:
    """Return why a difference must not be read as an effect, or None."""
    if d.degenerate:
        return "a model that predicts one class only is among these runs"
    if LEAK in {mark.tag for mark in d.marks}:
        return "LEAK, an audit found one in these runs (see Leaks looked for)"
    if RANDOM in {mark.tag for mark in d.marks}:
        return "layers that the paper takes from ImageNet hold random weights"
    return None


def _basis(differences: Sequence[Difference]) -> list[str]:
    """Return what the differences were measured on; once where it is the same for all."""
    found = []
    for d in differences:
        over = "patients and seeds" if d.ours.low_seeds is not None else "patients"
        seeds = " and ".join(dict.fromkeys(str(n) for n in d.n_seeds))
        unknown = any(mark.tag == NO_PATIENTS for mark in d.marks)
        of = ", patients unknown" if unknown else f" of {d.ours.n_patients:,} patients"
        found.append(
            f"{d.model_name}; paired on the same {d.ours.n:,} test images{of}; intervals over {over}; seeds per "
            f"arm: {seeds}."
        )
    return list(dict.fromkeys(found))


def _score(metric: str) -> str:
    """Return a score as it stands within a sentence: "test accuracy", "F1", "mean AUROC", "AUROC Edema"."""
    title = metric_title(metric).replace(" (%)", "")
    first, _, rest = title.partition(" ")
    plain = "/" not in metric and first != first.upper()
    return " ".join([first.lower() if plain else first, *([rest] if rest else [])])


def _points(d: Difference, value: float | None) -> str:
    return percent_points(d.metric, value, more=more_digits(d)) + (" points" if d.metric in PERCENT else "")


def _interval(d: Difference) -> str:
    low, high = (percent_points(d.metric, limit, more=more_digits(d)) for limit in d.interval)
    return f"95 % interval {low} … {high}"
