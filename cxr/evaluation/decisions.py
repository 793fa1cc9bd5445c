"""The CSV that a review page exports, checked against the set it is applied to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr.data.synthetic import SyntheticSet
from cxr.data.table import read_table
from cxr.errors import UserError, did_you_mean
from cxr.evaluation.curate import Verdict, curate, done_before, planned
from cxr.evaluation.filter import Review
from cxr.files import file_sha256

__all__ = [
    "COLUMNS",
    "WORDS",
    "Conflict",
    "Decisions",
    "Undecided",
    "curate_by_review",
    "read_decisions",
    "settled",
]

COLUMNS = ("images_sha256", "position", "class", "z_seed", "z_index", "decision", "reviewer", "time")
WORDS = ("keep", "reject", "undecided")
Undecided = Literal["keep", "drop", "refuse"]
Conflict = Literal["keep", "drop", "refuse"]


@dataclass(frozen=True)
class Decisions:
    """What reviewers decided about each of a set's N images.

    Attributes:
        keeps, rejects: (N,) how many reviewers kept or rejected the image; both 0: nobody decided.
        reviewers: their names, sorted; of images that anyone decided.
        files: name and SHA-256 of each CSV.
    """

    keeps: npt.NDArray[np.int64]
    rejects: npt.NDArray[np.int64]
    reviewers: list[str]
    files: list[dict[str, str]]

    @property
    def undecided(self) -> npt.NDArray[np.bool_]:
        """Images (N,) that nobody decided."""
        return np.asarray((self.keeps == 0) & (self.rejects == 0))

    @property
    def disputed(self) -> npt.NDArray[np.bool_]:
        """Images (N,) that one kept and another rejected."""
        return np.asarray((self.keeps > 0) & (self.rejects > 0))


def curate_by_review(source: SyntheticSet, path: Path, chosen: Review) -> SyntheticSet:
    """Return the set `path` of the images that reviewers kept, their CSVs in it; made now, unless it is there.

    Raises:
        UserError: another set is there; a CSV is missing, of another set or incomplete; nothing is left.
    """
    files = [Path(file).expanduser() for file in chosen.csv]
    decisions = read_decisions(files, source)
    inputs = {f"csv {i + 1}": one["sha256"] for i, one in enumerate(decisions.files)}
    parameters = {"undecided": chosen.undecided, "conflict": chosen.conflict}  # not where the CSVs lay
    plan = planned(source, chosen, parameters, inputs)
    if (done := done_before(path, plan)) is not None:
        return done
    kept = settled(decisions, undecided=chosen.undecided, conflict=chosen.conflict)
    facts = {
        "reviewers": decisions.reviewers,
        "csv": decisions.files,
        "undecided": int(decisions.undecided.sum()),
        "disputed": int(decisions.disputed.sum()),
        "warnings": [],
    }
    copies = {f"review-{i + 1}.csv": file.read_bytes() for i, file in enumerate(files)}
    return curate(source, path, plan, Verdict(kept, None, facts, files=copies))


def read_decisions(files: Sequence[Path], synthetic: SyntheticSet) -> Decisions:
    """Read CSVs (the parts of one review, or the reviews of several people) for a set.

    Raises:
        UserError: a CSV of another set, an image that is not the set's, an unknown word, or images of the
            set that no CSV has a row for (an image that is there and undecided is another matter).
    """
    n = len(synthetic.index)
    counts = {word: np.zeros(n, np.int64) for word in WORDS}
    reviewers: set[str] = set()
    if not files:
        raise UserError(
            "filter.csv: names no file, expected what a review page exported; set 'filter.csv=[FILE.csv]'"
        )
    for file in files:
        if not file.is_file():
            raise UserError(
                f"filter.csv: {file}: no such file; expected what {synthetic.path}/review.html exported"
            )
        table = read_table(file)
        if missing := [name for name in COLUMNS if name not in table.columns]:
            raise UserError(
                f"{file}: no column '{missing[0]}'; expected {', '.join(COLUMNS)}, as a review page exports them"
            )
        positions = _positions(table, file, synthetic)
        for i, (position, word, who) in enumerate(
            zip(positions, table["decision"].str.lower(), table["reviewer"], strict=True)
        ):
            word = word or "undecided"
            if word not in counts:
                hint = did_you_mean(word, WORDS)
                raise UserError(
                    f"{file}: row {i + 2}: decision '{word}', expected keep, reject or undecided{hint}"
                )
            counts[word][position] += 1
            if word != "undecided":
                reviewers.add(who or "unnamed")
    absent = np.flatnonzero(sum(counts.values()) == 0)
    if len(absent):
        raise UserError(
            f"filter.csv: no row for {len(absent)} of the {n} images of {synthetic.path.name}, the first is "
            f"{absent[0]}; expected one for each; name the CSV of every review page: 'filter.csv=[A.csv,B.csv]'"
        )
    facts = [{"file": file.name, "sha256": file_sha256(file)} for file in files]
    return Decisions(counts["keep"], counts["reject"], sorted(reviewers), facts)


def settled(decisions: Decisions, *, undecided: Undecided, conflict: Conflict) -> npt.NDArray[np.bool_]:
    """Return which images (N,) are kept: one that anybody decided, as decided; the others as the policies say."""
    open_, disputed = decisions.undecided, decisions.disputed
    if open_.any() and undecided == "refuse":
        raise UserError(
            f"filter.undecided: {open_.sum()} of {len(open_)} images are undecided, the first is {np.argmax(open_)}; "
            "expected a decision for each; finish the review, or set filter.undecided=drop (or keep)"
        )
    if disputed.any() and conflict == "refuse":
        raise UserError(
            f"filter.conflict: {disputed.sum()} of {len(open_)} images were kept by one reviewer and rejected by "
            f"another, the first is {np.argmax(disputed)}; set filter.conflict=drop (or keep)"
        )
    kept = decisions.keeps > 0
    kept[open_] = undecided == "keep"
    kept[disputed] = conflict == "keep"
    return kept


def _positions(table: pd.DataFrame, file: Path, synthetic: SyntheticSet) -> list[int]:
    """Return the positions of a CSV's rows; each must name an image of this very set, and once."""
    own = synthetic.manifest["images_sha256"]
    rows = list(
        zip(*(synthetic.index[name].astype(str) for name in ("class", "z_seed", "z_index")), strict=True)
    )
    found: list[int] = []
    for i, cells in enumerate(table[list(COLUMNS[:5])].itertuples(index=False, name=None)):
        sha256, position, *latent = cells
        if sha256 != own:
            raise UserError(
                f"{file}: row {i + 2} is of another set (its pixels are {sha256[:12]}, those of {synthetic.path.name} "
                f"{own[:12]}); set synthetic=… to the set that was reviewed"
            )
        if not position.isdecimal() or int(position) >= len(rows):
            raise UserError(
                f"{file}: row {i + 2}: position '{position}', expected 0 to {len(rows) - 1}; export it again"
            )
        if tuple(latent) != rows[int(position)]:
            raise UserError(
                f"{file}: row {i + 2}: {' '.join(latent)} is not image {position} of {synthetic.path.name} "
                f"({' '.join(rows[int(position)])}); a spreadsheet may have changed it: export it again"
            )
        found.append(int(position))
    if len(set(found)) < len(found):
        twice = next(position for position in found if found.count(position) > 1)
        raise UserError(f"{file}: image {twice} has more than one row; expected one each: export it again")
    return found
