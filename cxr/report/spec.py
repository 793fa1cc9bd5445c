"""What a report shows: its tables, the arms it compares, the score it leads with; built from conf/report."""

from __future__ import annotations

from dataclasses import dataclass

from cxr.errors import UserError

__all__ = ["ARM_NAMES", "ReportSpec", "TableSpec", "arm_name", "arm_rank", "generic_spec"]

ARM_NAMES = {  # in the order in which reports show them
    "real_only": "real images only",
    "undersample": "balanced real images",
    "augmented": "with classical augmentation",
    "synthetic": "with GAN images",
    "duplicate_real": "real images repeated (control)",
    "synthetic_only": "GAN images only",
}
COMPARISONS = [["synthetic", "real_only"], ["duplicate_real", "real_only"], ["synthetic", "duplicate_real"]]
OVERALL = ["precision_macro", "recall_macro", "f1_macro", "accuracy"]


def arm_name(arm: str) -> str:
    """Return an arm in words; one without words keeps its name."""
    return ARM_NAMES.get(arm, arm.replace("_", " "))


def arm_rank(arm: str) -> int:
    """Return an arm's place among the others; those without words come last."""
    known = list(ARM_NAMES)
    return known.index(arm) if arm in known else len(known)


@dataclass(frozen=True)
class TableSpec:
    """One table, one row per model and arm, or per model, arm and class.

    Attributes:
        name: file name of its CSV, Markdown and LaTeX forms.
        arms: the arms to show; None shows every arm found.
        models: the models to show, run or not; None shows those found.
        metrics: names of scores as in a result (accuracy, f1_macro, auroc/<CLASS>, …), or wall_s; "auroc/*"
            stands for all classes. The difference to the published value is shown for the lead score.
        by_class: a row per class; then every score is one of "precision/*", "recall/*", "f1/*", "auroc/*",
            "auprc/*".
        sources: the paper's tables whose values stand beside ours ("Table 9"); None takes all.
    """

    name: str
    title: str
    arms: list[str] | None
    models: list[str] | None
    metrics: list[str]
    by_class: bool = False
    sources: list[str] | None = None

    def __post_init__(self) -> None:
        """Refuse an overall score in a table by class."""
        overall = [m for m in self.metrics if not m.endswith("/*")]
        if self.by_class and overall:
            raise UserError(f"report.tables: table {self.name!r} has a row per class, so its scores are like "
                            f"recall/*; got {overall[0]!r}")  # fmt: skip


@dataclass(frozen=True)
class ReportSpec:
    """A report.

    Attributes:
        paper: key of published.yaml, or any name when there are no published values.
        lead_metric: the score of the summary sentence, of the forest plot and of differences.
        lead_model: the model of the summary sentence; None takes the first one that has the arms.
        comparisons: pairs [arm, reference]; a pair whose arms were not run is left out.
        tables: see `TableSpec`.
    """

    paper: str
    title: str
    lead_metric: str
    lead_model: str | None
    comparisons: list[list[str]]
    tables: list[TableSpec]

    def __post_init__(self) -> None:
        """Refuse comparisons that are not pairs and tables that would overwrite each other's files."""
        for pair in self.comparisons:
            if len(pair) != 2 or pair[0] == pair[1]:
                raise UserError(f"report.comparisons holds {list(pair)}; expected pairs of two arms")
        names = [t.name for t in self.tables]
        if len(set(names)) != len(names):
            raise UserError(f"report.tables names {names}; expected a different name for each table")


def generic_spec(paper: str) -> ReportSpec:
    """Return the report of a paper or data set that no YAML describes: one table of everything found."""
    everything = TableSpec("results", "Results", None, None, [*OVERALL, "auroc/*"])
    return ReportSpec(paper, f"Results: {paper}", "accuracy", None, COMPARISONS, [everything])
