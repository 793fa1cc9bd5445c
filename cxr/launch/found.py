"""What a search found: `trials.csv` and `best.yaml` in its folder, a table, and what to type next."""

from __future__ import annotations

import csv
import io
import shlex
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import yaml

from cxr.files import write_text
from cxr.launch.job import near
from cxr.launch.outcome import Outcome
from cxr.run.headline import Direction
from cxr.search.space import Space

__all__ = ["best_of", "best_so_far", "print_found", "write_found"]


def best_of(outcomes: Sequence[Outcome], direction: Direction) -> Outcome | None:
    """Return the finished trial with the best value, the first of equals; None where none has finished."""
    sign = 1.0 if direction == "maximize" else -1.0
    finished = [o for o in outcomes if o.state == "finished" and o.value is not None]
    return max(finished, key=lambda o: sign * (o.value or 0.0), default=None)


def best_so_far(outcomes: Sequence[Outcome], direction: Direction) -> str:
    """Return the best value in words, with what is behind it."""
    best = best_of(outcomes, direction)
    if best is None:
        return "none has finished"
    images = f"n = {best.n_images} validation images, " if best.n_images is not None else ""
    chosen = "highest" if direction == "maximize" else "lowest"
    tied = [o.number for o in outcomes if o.value == best.value and o is not best and o.repeat_of is None]
    ties = f"; so {'are' if len(tied) > 1 else 'is'} {', '.join(map(str, tied))}" if tied else ""
    return (
        f"best is trial {best.number}, {best.metric} {best.value:.4g} ({images}{chosen} of "
        f"{_runs(outcomes)} finished runs){ties}"
    )


def write_found(folder: Path, outcomes: Sequence[Outcome], space: Space, direction: Direction) -> None:
    """Write `trials.csv`, a row for each trial, and `best.yaml`, the overrides of the best; both whole."""
    keys = [p.key for p in space.parameters]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        [
            "trial",
            "state",
            *keys,
            "metric",
            "value",
            "n_validation_images",
            "run",
            "wall_s",
            "repeat_of",
            "error",
        ]
    )
    for o in outcomes:
        values = dict(override.partition("=")[::2] for override in o.overrides)
        row = [o.metric, o.value, o.n_images, o.run, o.wall_s, o.repeat_of, o.error]
        table.writerow([o.number, o.state, *(values[key] for key in keys), *row])
    write_text(folder / "trials.csv", text.getvalue())
    best = best_of(outcomes, direction)
    if best is None:
        (folder / "best.yaml").unlink(missing_ok=True)
        return
    facts = {
        "trial": best.number,
        "metric": best.metric,
        "direction": direction,
        "value": best.value,
        "n_validation_images": best.n_images,
        "n_finished_runs": _runs(outcomes),
        "run": best.run,
        "overrides": list(best.overrides),
    }
    why = "# The best of all finished runs, and so optimistic: chosen on the images that it is measured on.\n"
    write_text(folder / "best.yaml", why + yaml.safe_dump(facts, sort_keys=False, allow_unicode=True))


def print_found(folder: Path, outcomes: Sequence[Outcome], space: Space, direction: Direction) -> None:
    """Print the table of all trials, the best of them, and the commands that come next."""
    from rich.console import Console
    from rich.table import Table

    keys = {p.key for p in space.parameters}
    best = best_of(outcomes, direction)
    table = Table(title=f"{len(outcomes)} trials", title_justify="left")
    metric = (best.metric if best is not None else None) or "value"
    for column in ("trial", "parameters", "state", metric, "time", "run", "error"):
        table.add_column(column, overflow="fold")
    for o in outcomes:
        searched = shlex.join(w for w in o.overrides if w.partition("=")[0] in keys)
        state = o.state if o.repeat_of is None else f"as trial {o.repeat_of}"
        value = "" if o.value is None else f"{o.value:.4g}"
        took, run = str(timedelta(seconds=round(o.wall_s))), near(Path(o.run)) if o.run else ""
        style = "red" if o.state == "failed" else "bold" if o is best else None
        table.add_row(str(o.number), searched, state, value, took, run, o.error, style=style)
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console = Console(markup=False, highlight=False, width=max(160, console.width))
    console.print(table)
    print(f"{near(folder)}: {best_so_far(outcomes, direction)}; trials.csv, best.yaml")
    if cut_off := sum(o.state == "cut off" for o in outcomes):
        print(
            f"{cut_off} trial{'s were' if cut_off > 1 else ' was'} cut off; the same command goes on with them"
        )
    if best is not None:
        print(f"  It was chosen on its validation images, so {best.value:.4g} is optimistic and has no interval; "
              "the search looked at no test image.")  # fmt: skip
        for does, command in _next(best, keys).items():
            print(f"  {does + ':':<28} {command}")


def _next(best: Outcome, searched: set[str]) -> dict[str, str]:
    """Return commands by what they do."""
    script = Path(sys.argv[0])
    train = ["python", near(script.resolve())] if script.suffix == ".py" else [script.name]
    classifier = (best.metric or "").startswith("val/")  # a GAN's scores end in /val
    commands = {}
    if "seed" not in searched:
        kept = [o for o in best.overrides if not o.startswith(("seed=", "name="))]
        commands["the same with other seeds"] = shlex.join([*train, "-m", *kept, "seed=1,2,3"])
    else:
        commands["the same again"] = shlex.join([*train, *best.overrides])
    if best.run is not None:
        run = Path(best.run)
        where = [] if run.parent == Path("runs").resolve() else [f"runs_dir={near(run.parent)}"]
        file = Path(train[-1])
        name = file.name.replace("train", "evaluate" if classifier else "generate")
        program = [*train[:-1], str(file.with_name(name))]
        does = "once, on its test images" if classifier else "images of this GAN"
        commands[does] = shlex.join(
            [*program, f"runs=[{run.name}]" if classifier else f"run={run.name}", *where]
        )
    return commands


def _runs(outcomes: Sequence[Outcome]) -> int:
    """Count the finished runs; a repeated trial is none of its own."""
    return sum(o.state == "finished" and o.repeat_of is None for o in outcomes)
