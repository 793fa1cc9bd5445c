"""ROC curves of the arms of a model, each with its band over resampled patients."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from cxr.metric.bootstrap import Answers
from cxr.metric.resample import draw_patients
from cxr.metric.roc_band import roc_band
from cxr.report.figure import FAINT, INK, arm_colour
from cxr.report.runs import Arm, measure
from cxr.report.save import STYLE
from cxr.report.spec import arm_name

__all__ = ["BAND", "BAND_TOLD", "roc_figure"]

BAND = 500  # resamples of a band at most: 2.5 % of them are a dozen curves; a page of figures takes seconds
BAND_TOLD = (
    "Bands: 95 % of the sensitivity at each false positive rate when patients are resampled (pointwise: a whole "
    "curve leaves its band more often)."
)


def roc_figure(arms: Sequence[Arm], class_name: str) -> Figure | None:
    """ROC of one class for all arms of one model: thin lines are single runs, the thick one their vertical mean.

    None where no arm has two images of either kind.
    """
    metric = f"auroc/{class_name}"
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.2, 4.1), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=FAINT, lw=0.8, ls=(0, (2, 3)))
        drawn = 0
        for i, arm in enumerate(arms):
            band = roc_band(_tested(arm), arm.classes.index(class_name))
            if band is None:
                continue
            colour = arm_colour(arm.arm, i)
            area = measure(arm, [metric])[metric]
            told = f"{area.value:.3f} [{area.low:.3f}, {area.high:.3f}]" if area.low is not None else "n/a"
            axes.fill_between(band.rate, band.low, band.high, color=colour, alpha=0.14, lw=0)
            if len(band.curves) > 1:
                axes.plot(
                    band.rate,
                    band.curves.T,
                    color=colour,
                    lw=0.5,
                    alpha=0.35 if len(band.curves) < 5 else 0.18,
                )
            # a curve starts at the origin and climbs at rate 0, where interpolation has only its upper end
            rate, mean = np.r_[0.0, band.rate], np.r_[0.0, band.mean]
            axes.plot(rate, mean, color=colour, lw=1.8, label=f"{arm_name(arm.arm)}\n{told}")
            drawn += 1
        if not drawn:
            return None
        axes.set(
            xlabel="1 − specificity", ylabel="sensitivity", xlim=(-0.01, 1), ylim=(0, 1.01), aspect="equal"
        )
        axes.set_title(f"{class_name}: AUROC [95 % interval]", color=INK)
        axes.legend(loc="lower right", labelspacing=0.7, handlelength=1.4)
        return figure


def _tested(arm: Arm) -> list[Answers]:
    """Return each test set with its answers and the first resamples of those behind the arm's intervals."""
    n, seed = min(BAND, int(arm.protocol["n_resamples"])), int(arm.protocol["bootstrap_seed"])
    return [
        Answers(
            first.target,
            [run.prob for run in arm.runs if run.fold == first.fold],
            draw_patients(first.patients, n_resamples=n, seed=seed, fold=first.fold),
        )
        for first in arm.one_seed
    ]
