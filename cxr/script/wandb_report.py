"""A paper's report on W&B: python -m cxr.script.wandb_report talukdar [--entity ME] [--project cxr] [--print]

Test scores by arm, ROC curves, worst errors, training curves, GAN scores and samples of all runs of the paper in a
project, those still to come included. What it leads with is that of conf/report. W&B draws no intervals over patients
and no paired differences: the report that is judged by is `evaluate.py report=…`.

Needs `pip install 'cxr[wandb-report]'`.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import yaml

from cxr.config import build, conf_dir
from cxr.errors import UserError
from cxr.report.spec import ReportSpec

__all__ = ["main", "paper_report", "papers", "spec_of"]


def papers() -> list[str]:
    """Return the papers that have a report."""
    return sorted(path.stem for path in (conf_dir() / "report").glob("*.yaml"))


def paper_report(spec: ReportSpec, *, project: str, entity: str) -> Any:
    """Return the report (wandb_workspaces.reports.v2.Report), unsaved; asks nothing of the network.

    Raises:
        UserError: wandb-workspaces is not installed.
    """
    try:
        import wandb_workspaces.expr as ex
        import wandb_workspaces.reports.v2 as library
    except ModuleNotFoundError as error:
        raise UserError(f"no module {error.name}; run pip install 'cxr[wandb-report]'") from None

    wr: Any = library  # it exports by a list that it makes while running
    told = {"title": spec.title[:128], "description": f"cxr: {spec.paper}"}

    def runs(name: str, kind: str) -> Any:
        """Runs of one kind and of this paper. Without entity and project they are those of the report's own project."""
        chosen = ex.And(ex.Metric("JobType") == kind, ex.Config("paper") == spec.paper)
        return wr.Runset(name=name, filters=chosen)

    lead, arm = f"test/{spec.lead_metric}", wr.Config("arm")
    mean: dict[str, Any] = {"groupby": arm, "groupby_aggfunc": "mean"}
    tested = wr.PanelGrid(
        runsets=[runs("evaluated", "evaluate")],
        panels=[
            wr.BarPlot(title=f"{spec.lead_metric}, mean over runs", metrics=[wr.SummaryMetric(f"{lead}.value")], **mean),
            wr.BarPlot(title="of each run", metrics=[wr.SummaryMetric(f"{lead}.{key}") for key in ("low", "value", "high")]),
            _chart(wr, "roc", "wandb/area-under-curve/v0", {"x": "fpr", "y": "tpr", "class": "class"}),
            wr.WeavePanelSummaryTable(table_name="worst_errors"),
        ],
    )  # fmt: skip
    learning = [
        wr.LinePlot(title=name, x="epoch", y=[name], groupby_rangefunc="minmax", **mean)
        for name in ("val/auroc", "val/accuracy", "val/loss", "train/loss")
    ]
    trained = wr.PanelGrid(runsets=[runs("classifiers", "classifier")], panels=learning)
    gans = wr.PanelGrid(
        runsets=[runs("GANs", "gan")],
        panels=[
            wr.LinePlot(title="KID against validation images", x="images_seen", metric_regex="kid_.*/val"),
            wr.LinePlot(title="losses of D and G", x="images_seen", y=["loss_d", "loss_g"]),
            wr.MediaBrowser(title="the same latents, as training goes on", media_keys=["samples"]),
        ],
    )
    warning = (
        "Bars show scores on test images, and in the second chart their 95 % intervals over patients. Means over runs "
        "have none here. Whether arms differ is told by evaluate.py report=… (paired, by patients and seeds)."
    )
    blocks = [
        wr.P(warning),
        wr.H2("On test images"),
        tested,
        wr.H2("Training of classifiers"),
        trained,
        wr.H2("GANs"),
        gans,
    ]
    return wr.Report(project=project, entity=entity, **told, blocks=blocks)


def _chart(wr: Any, table: str, preset: str, fields: dict[str, str]) -> Any:
    """Return the chart that `cxr.tracking.evaluation` logs, for all runs of the set together."""
    return wr.CustomChart(
        query={"summaryTable": {"tableKey": f"{table}_table"}}, chart_name=preset, chart_fields=fields
    )


def spec_of(paper: str) -> ReportSpec:
    """Return the report's own configuration of a paper."""
    return build(yaml.safe_load((conf_dir() / "report" / f"{paper}.yaml").read_text(encoding="utf-8")))  # type: ignore[no-any-return]  # built by its _target_


def main(arguments: list[str] | None = None) -> None:
    """Save the report, or print what would be saved; exits with 2 on a mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m cxr.script.wandb_report", description=(__doc__ or "").split("\n\n")[1]
    )
    parser.add_argument("paper", choices=papers())
    parser.add_argument("--entity", default="", help="user or team; default: your own")
    parser.add_argument("--project", default="cxr")
    parser.add_argument("--print", action="store_true", help="print its specification and save nothing")
    asked = parser.parse_args(arguments)
    try:
        report = paper_report(spec_of(asked.paper), project=asked.project, entity=asked.entity)
        if asked.print:
            print(json.dumps(report._to_model().model_dump(mode="json", by_alias=True)["spec"], indent=2))
            return
        import wandb

        if not wandb.login(prompt=False, verify=False):
            raise UserError("not logged in to W&B; run `wandb login`, or add --print")
        if not report.entity:
            report.entity = wandb.Api().default_entity or ""
        report.save()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(report.url)


if __name__ == "__main__":
    main()
