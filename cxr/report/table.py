"""Joins results with the published values: one row per model and arm, each score with n and interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from cxr.errors import UserError, did_you_mean
from cxr.metric.bootstrap import Estimate
from cxr.metric.classification import PER_CLASS, metric_names
from cxr.report.mark import Mark
from cxr.report.published import PublishedPaper, PublishedValue
from cxr.report.runs import Arm, measure
from cxr.report.spec import TableSpec, arm_rank

__all__ = [
    "PERCENT",
    "TRAINING",
    "Cell",
    "ExtraCell",
    "Row",
    "Table",
    "build_table",
    "metric_title",
    "percent_points",
    "printed",
    "show",
]

TITLES = {
    "accuracy": "Test accuracy (%)",
    "precision_macro": "Precision",
    "recall_macro": "Recall",
    "f1_macro": "F1",
    "precision_weighted": "Precision, weighted",
    "recall_weighted": "Recall, weighted",
    "f1_weighted": "F1, weighted",
    "auroc_macro": "Mean AUROC",
    "wall_s": "Train time (s)",
}
CLASS_TITLES = {"precision": "Precision", "recall": "Recall", "f1": "F1", "auroc": "AUROC", "auprc": "AUPRC"}
# Of the last epoch, on the training images as they were trained on; their n is training images.
TRAINING = {"train_accuracy": "Training accuracy (%)", "train_loss": "Training loss"}
# Of images, not of a classifier: ours come from `extra`, if at all.
OF_IMAGES = {"inception_score": "IS", "fid": "FID"}
PERCENT = ("accuracy", "train_accuracy")  # shown as per cent; other scores as fractions


@dataclass(frozen=True)
class Cell:
    """One score of one row: what the paper prints and what we measured; either may be missing.

    `column` is the score under whose heading it stands: `metric`, or "recall/*" in a table by class.
    """

    metric: str
    column: str
    published: PublishedValue | None
    ours: Estimate | None

    @property
    def difference(self) -> float | None:
        """Ours minus published, in our units; None unless both exist and the paper prints more than a bound."""
        if self.published is None or self.published.bound or self.ours is None or self.ours.value is None:
            return None
        return self.ours.value - self.published.value


@dataclass(frozen=True)
class ExtraCell:
    """A score of ours that comes from no classifier run, and what its reader must know first."""

    ours: Estimate
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True)
class Row:
    """One model in one arm, or one class of it. `arm_runs` is None where no classifier was run."""

    model: str
    model_name: str
    arm: str
    class_name: str | None
    cells: tuple[Cell, ...]
    arm_runs: Arm | None
    marks: tuple[Mark, ...]

    @property
    def own_marks(self) -> tuple[Mark, ...]:
        """The marks that are not those of the arm, hence not told for the report as a whole."""
        return tuple(m for m in self.marks if self.arm_runs is None or m not in self.arm_runs.marks)


@dataclass(frozen=True)
class Table:
    """A table of the report: its file name, title, scores and rows.

    Attributes:
        lead: the score whose difference to the published value is shown.
        has_published: whether any cell has a published value.
    """

    name: str
    title: str
    metrics: tuple[str, ...]
    lead: str
    rows: tuple[Row, ...]

    @property
    def has_published(self) -> bool:
        """Whether any cell has a published value."""
        return any(cell.published is not None for row in self.rows for cell in row.cells)


def build_table(
    spec: TableSpec,
    arms: Sequence[Arm],
    paper: PublishedPaper | None,
    lead: str,
    extra: Mapping[tuple[str, str, str], ExtraCell] | None = None,
) -> Table | None:
    """Fill a table; None when it would have no row (no such arm was run, nothing is published).

    `extra`: by (model, arm, score), what is ours and comes from no classifier run; such a row stands where the
    table names its model or the paper prints it.
    """
    extra = extra or {}
    found = {(arm.model, arm.arm): arm for arm in arms}
    classes = _classes(arms, paper)
    names = _expand(spec.metrics, classes)
    known = sorted(dict.fromkeys(arm.arm for arm in arms), key=arm_rank)
    arm_names = list(spec.arms) if spec.arms is not None else known
    models = list(spec.models) if spec.models is not None else []
    models += [m for m in dict.fromkeys(arm.model for arm in arms) if m not in models]
    rows = []
    for model in models:
        for arm_name in arm_names:
            arm = found.get((model, arm_name))
            printed = {m: paper.find(model, arm_name, m, spec.sources) if paper else None for m in names}
            ours = _measure(arm, names) if arm is not None else {}
            more = {m: extra[model, arm_name, m] for m in names if (model, arm_name, m) in extra}
            ours |= {m: cell.ours for m, cell in more.items()}
            for class_name in classes if spec.by_class else [None]:
                # a column and the score in this row
                pairs = (
                    [(m, m) for m in names]
                    if class_name is None
                    else [(m, f"{m[:-1]}{class_name}") for m in spec.metrics]
                )
                if not any(printed[m] or m in ours for _, m in pairs):
                    continue
                cells = tuple(Cell(m, column, printed[m], ours.get(m)) for column, m in pairs)
                name = paper.models.get(model, model) if paper else model
                marks = dict.fromkeys(
                    [*(arm.marks if arm else ()), *(k for c in more.values() for k in c.marks)]
                )
                partly = _partly(arm, cells) if arm else []
                rows.append(Row(model, name, arm_name, class_name, cells, arm, (*marks, *partly)))
    columns = tuple(spec.metrics) if spec.by_class else tuple(names)
    return Table(spec.name, spec.title, columns, lead, tuple(rows)) if rows else None


def metric_title(metric: str) -> str:
    """Return the heading of a score."""
    kind, _, name = metric.partition("/")
    if kind in CLASS_TITLES and name:
        return CLASS_TITLES[kind] if name == "*" else f"{CLASS_TITLES[kind]} {name}"
    return {**TITLES, **TRAINING, **OF_IMAGES}.get(metric, metric)


def show(metric: str, value: float | None) -> str:
    """Return a value in the units of its heading: per cent to 2 digits, fractions to 3, whole seconds."""
    if value is None:
        return "n/a"
    if metric == "wall_s":
        return f"{value:.0f}"
    if metric == "train_loss":
        return f"{value:.4f}"
    return f"{100 * value:.2f}" if metric in PERCENT else f"{value:.3f}"


def printed(cell: Cell) -> str:
    """Return the published value with the paper's digits, in the units of the heading; "—" where none is."""
    return "—" if cell.published is None else cell.published.shown(cell.metric in PERCENT)


def percent_points(metric: str, value: float | None, *, more: int = 0) -> str:
    """Return a difference with its sign, in the same units as `show`, without a negative zero; `more` digits."""
    if value is None:
        return "n/a"
    digits = more + (0 if metric == "wall_s" else 2 if metric in PERCENT else 3)
    shown = round(100 * value if metric in PERCENT else value, digits) + 0.0
    return f"{shown:+.{digits}f}".replace("-", "−") if shown else f"{0:.{digits}f}"


def _measure(arm: Arm, metrics: Sequence[str]) -> dict[str, Estimate]:
    """Mean over seeds (and folds) of the wanted scores; training time, accuracy and loss have no interval."""
    found = measure(arm, [m for m in metrics if m in metric_names(arm.classes)])
    if "wall_s" in metrics:
        seconds = [float(run.result["wall_s"]) for run in arm.runs]
        found["wall_s"] = _plain(arm, seconds, arm.n_images, arm.n_patients)
    for name in (m for m in metrics if m in TRAINING):
        cells = [run.result["metrics"].get(name) for run in arm.runs]
        if all(cells):
            n = round(fmean(cell["n"] for cell in cells))
            found[name] = _plain(arm, [float(cell["value"]) for cell in cells], n, 0)
    return found


def _plain(arm: Arm, values: Sequence[float], n: int, n_patients: int) -> Estimate:
    """Mean over seeds, and within a seed over folds, of one value per run of the arm; no interval."""
    seeds: dict[int, list[float]] = {}
    for run, value in zip(arm.runs, values, strict=True):
        seeds.setdefault(int(run.result["seed"]), []).append(value)
    each = tuple(fmean(of_seed) for of_seed in seeds.values())
    return Estimate(fmean(each), None, None, None, None, each, n, n_patients, len(each), 0)


def _partly(arm: Arm, cells: Sequence[Cell]) -> list[Mark]:
    """Return a mark for scores that some folds do not define."""
    n, partly = len(arm.folds), dict[int, list[str]]()
    for cell in cells:
        if cell.ours is not None and cell.metric in metric_names(arm.classes) and 0 < cell.ours.n_folds < n:
            partly.setdefault(cell.ours.n_folds, []).append(metric_title(cell.column))
    return [
        Mark(f"mean over {k} of {n} folds", f"the others lack a class: {', '.join(titles)}")
        for k, titles in partly.items()
    ]


def _classes(arms: Sequence[Arm], paper: PublishedPaper | None) -> list[str]:
    """Return the classes of the runs, then those that only the paper has."""
    classes = list(dict.fromkeys(c for arm in arms for c in arm.classes))
    if paper is not None:
        known = {paper.class_name(c) for c in classes}
        classes += [c for c in paper.classes if c not in known]
    return classes


def _expand(metrics: Sequence[str], classes: Sequence[str]) -> list[str]:
    """Replace auroc/* and its like by one name per class; refuse an unknown score."""
    names: list[str] = []
    known = [*TITLES, *TRAINING, *OF_IMAGES, *(f"{score}/*" for score in PER_CLASS), *metric_names(classes)]
    for metric in metrics:
        if metric not in known:
            raise UserError(f"report.tables: no score {metric!r}{did_you_mean(metric, known)}")
        names += [f"{metric[:-1]}{c}" for c in classes] if metric.endswith("/*") else [metric]
    return names
