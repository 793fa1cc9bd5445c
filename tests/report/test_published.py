"""Every published cell, against the paper's own text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cxr.errors import UserError
from cxr.report.published import PublishedValue, load_published, published_papers

NAMES = {
    "Custom CNN": "talukdar_cnn", "Inception V3": "inception_v3", "Resnet50": "resnet50",
    "EfficientNetB0": "efficientnet_b0", "VGG16": "vgg16",
    "DenseNet201": "densenet201", "Xception": "xception",
}  # fmt: skip
METRICS = [
    "precision_macro",
    "recall_macro",
    "f1_macro",
    "train_accuracy",
    "accuracy",
    "train_loss",
    "wall_s",
]


@pytest.fixture
def text(repository: Path) -> str:
    path = repository.parent / "shared" / "papers" / load_published("talukdar").file
    if not path.is_file():
        pytest.skip(f"the paper's text is not here: {path.name}")
    return path.read_text(encoding="utf-8").replace("<b>", "").replace("</b>", "")


def test_tables_2_and_3_cell_by_cell(text: str) -> None:
    paper = load_published("talukdar")
    seen = 0
    for arm, source in (("real_only", "Table 2"), ("synthetic", "Table 3")):
        rows = text[text.rindex(f"{source}.") :].split("\n\n")[1].splitlines()[1:]
        assert [NAMES[row.split("\t")[0]] for row in rows] == list(paper.models)
        for row in rows:
            name, *cells = row.split("\t")
            for metric, cell in zip(METRICS, cells, strict=True):
                value = paper.find(NAMES[name], arm, metric)
                assert value is not None
                assert (value.printed, value.source) == (float(cell), source)
                seen += 1
    assert seen == len(paper.values) == 98


def test_correct_counts_and_facts_stand_in_the_text(text: str) -> None:
    paper = load_published("talukdar")
    for arm in paper.correct.values():
        for counts in arm.values():
            for n in counts:
                assert n is None or f" {n} " in text
    for fact in paper.facts.values():
        shown = str(fact["value"])
        assert shown in text or f"{fact['value']:,}" in text, fact


def test_the_test_sets_totals_follow_from_counts_and_accuracies() -> None:
    """1,172 and 1,254 images, each the only total that gives every printed accuracy of its table."""
    paper = load_published("talukdar")
    for arm, n in paper.n_test.items():
        fits = []
        for total in range(1000, 1400):
            accuracies = [
                (
                    round(100 * sum(c or 0 for c in counts) / total, 2),
                    paper.values[model, arm, "accuracy"].printed,
                )
                for model, counts in paper.correct[arm].items()
            ]
            if all(abs(got - printed) < 0.006 for got, printed in accuracies):
                fits.append(total)
        assert fits == [n]


def test_units_and_unknown_papers() -> None:
    value = load_published("talukdar").find("talukdar_cnn", "synthetic", "accuracy")
    assert value is not None and value.value == pytest.approx(0.9609)
    assert load_published("talukdar").find("talukdar_cnn", "duplicate_real", "accuracy") is None
    with pytest.raises(UserError, match="did you mean 'talukdar'"):
        load_published("taludkar")


# --- the other four: every cell of ours is parsed out of the paper's tables again, and none is left over


Cells = dict[tuple[str, str, str], str]


def paper_text(paper: str, repository: Path) -> str:
    path = repository.parent / "shared" / "papers" / load_published(paper).file
    if not path.is_file():
        pytest.skip(f"the paper's text is not here: {path.name}")
    return re.sub(r"</?b>", "", path.read_text(encoding="utf-8"))


def tabbed(text: str, caption: str) -> list[list[str]]:
    """Return the rows below a caption's table, which ends at an empty line; the heading is the first row."""
    after = text[text.index(caption) + len(caption) :].split("\n\n")
    block = next(part for part in after if "\t" in part)
    return [line.split("\t") for line in block.strip("\n").splitlines()]


def printed(paper: str, source: str) -> Cells:
    """Return ours as text, with bounds."""
    return {key: f"{value.bound}{value.text}" for key, value in load_published(paper).tables[source].items()}


ACRNET = {"VGG16": "vgg16", "InceptionV2": "inception_v2", "ResNet101": "resnet101", "CliqueNet": "cliquenet",
          "CheXNet": "chexnet", "GraphXNet": "graphxnet", "TieNet": "tienet", "AM_DenseNet": "am_densenet"}  # fmt: skip
DISEASES = {"Cardiomegaly": "Cardiomegaly", "Emphysema": "Emphysema", "Normal": "No Finding"}


def acrnet_arm(name: str) -> tuple[str, str]:
    if name.replace(" ", "") in ("ACRnet+DCGAN", "ACRnet+"):
        return "acrnet", "synthetic"
    return {**ACRNET, "ACRnet": "acrnet"}[name], "real_only"


def test_acrnet_table_4(repository: Path) -> None:
    head, *rows = tabbed(paper_text("acrnet", repository), "**Table 4.**")
    assert head == ["", "original images", "synthetic images"]
    found = {}
    for name, *cells in rows:
        metric = {"IS": "inception_score", "FID": "fid"}[name]
        # the paper's FID is one number for both columns; it says how far the synthetic images are
        for arm, cell in zip(("real_only", "synthetic") if cells[1] else ("synthetic",), cells, strict=False):
            found["dcgan", arm, metric] = cell
    assert found == printed("acrnet", "Table 4")


def test_acrnet_table_5(repository: Path) -> None:
    head, *rows = tabbed(paper_text("acrnet", repository), "**Table 5.**")
    assert head == ["Model", "Disease", "Precision", "Recall", "F1-score", "AUC"]
    found: Cells = {}
    key = ("", "")
    for name, disease, *cells in rows:
        key = acrnet_arm(name) if name not in ("", "DCGAN") else key  # "ACRnet +" / "DCGAN" share a name
        for score, cell in zip(("precision", "recall", "f1", "auroc"), cells, strict=True):
            found[(*key, f"{score}/{DISEASES[disease]}")] = cell
    assert found == printed("acrnet", "Table 5")
    assert len(found) == 72


def test_acrnet_table_6(repository: Path) -> None:
    head, *rows = tabbed(paper_text("acrnet", repository), "**Table 6.**")
    assert head == ["Model", "ACC", "average-AUC"]
    found = {}
    for name, *cells in rows:
        for score, cell in zip(("accuracy", "auroc_macro"), cells, strict=True):
            found[(*acrnet_arm(name), score)] = cell
    assert found == printed("acrnet", "Table 6")
    assert len(found) == 12


def test_acrnet_table_7(repository: Path) -> None:
    head, *rows = tabbed(paper_text("acrnet", repository), "**Table 7.**")
    assert head == ["methods", "cardiomegaly", "emphysema", "normal"]
    found = {}
    for name, *cells in rows:
        for disease, cell in zip(DISEASES.values(), cells, strict=True):
            if cell != "-":
                found[(*acrnet_arm(name.replace("\\", "")), f"auroc/{disease}")] = cell
    assert found == printed("acrnet", "Table 7")
    assert len(found) == 15


def test_acrnet_notes() -> None:
    """Counts of one test set explain the recalls and accuracies; four F1 do not follow."""
    paper, sizes = load_published("acrnet"), {"Cardiomegaly": 210, "Emphysema": 180, "No Finding": 200}
    odd, gaps = [], {}
    for model, arm in {key[:2] for key in paper.tables["Table 6"]}:
        score = {
            (s, c): paper.tables["Table 5"][model, arm, f"{s}/{c}"].printed
            for s in ("precision", "recall", "f1") for c in sizes
        }  # fmt: skip
        counts = {c: round(score["recall", c] * n) for c, n in sizes.items()}
        odd += [(model, c) for c, n in sizes.items() if round(counts[c] / n, 4) != score["recall", c]]
        if model == "vgg16":
            counts["No Finding"] = 186
        accuracy = paper.tables["Table 6"][model, arm, "accuracy"].printed
        assert abs(sum(counts.values()) / 590 - accuracy) < 1e-4
        for c in sizes:
            p, r = score["precision", c], score["recall", c]
            gap = abs(2 * p * r / (p + r) - score["f1", c])
            if gap > 2e-4:
                gaps[model, arm, c] = gap
    assert odd == [("vgg16", "No Finding")]
    assert round(186 / 210, 4) == 0.8857 and round(186 / 200, 4) == 0.93
    assert len(gaps) == 4
    assert max(gaps, key=lambda key: gaps[key]) == ("acrnet", "synthetic", "Emphysema")


def test_salehinejad_table_1(repository: Path) -> None:
    head, *rows = tabbed(paper_text("salehinejad", repository), "**Table 1**")
    assert head == ["Accuracy (%)", "DS1", "DS2", "DS3"]
    paper, found = load_published("salehinejad"), {}
    for name, *cells in rows:
        metric = "accuracy" if name == "Total" else f"recall/{paper.class_name(name)}"
        for arm, cell in zip(("real_only", "undersample", "synthetic"), cells, strict=True):
            if cell:
                found["salehinejad_dcnn", arm, metric] = re.sub(r"[$ ]", "", cell).replace(r"\pm", "±")
    assert found == printed("salehinejad", "Table 1")
    assert len(found) == 17  # 5 × 3 − the edema of DS1, and 3 totals
    assert paper.find("salehinejad_dcnn", "real_only", "recall/Edema") is None


def test_salehinejad_notes() -> None:
    cells = load_published("salehinejad").tables["Table 1"]

    def of(arm: str) -> list[float]:
        return [v.printed for (_, a, metric), v in cells.items() if a == arm and metric != "accuracy"]

    assert round(sum(of("undersample")) / 5, 2) == 58.91
    assert round(sum(of("synthetic")) / 5, 2) == 92.01
    assert round(5 * 70.87 - sum(of("real_only")), 2) == 65.82


@pytest.mark.parametrize(("number", "metric"), [(1, "train_accuracy"), (2, "accuracy")])
def test_densenet14_tables_1_and_2(number: int, metric: str, repository: Path) -> None:
    text = paper_text("densenet14", repository)
    block = text[text.index(f"\nTable {number}. " if number == 1 else f" Table {number}. ") :].split("\n\n")[
        1
    ]
    without, rest = re.findall(r"Without data augmentation (\S+)", block), block.splitlines()
    with_it = {line.split()[0]: line.split()[-1] for line in rest if "With data augmentation" in line}
    assert re.search(r"Without.*\nDenseNet121[ -]*\nWith ", block)  # its name stands between its two rows
    assert printed("densenet14", f"Table {number}") == {
        ("densenet121", "real_only", metric): without[0],
        ("densenet121", "augmented", metric): with_it["With"],
        ("resnet50", "augmented", metric): with_it["ResNet50"],
    }
    assert len(without) == 1


def test_densenet14_aurocs_of_the_text(repository: Path) -> None:
    """Sentences of section 3.3; the line breaks and hyphens of the print are undone."""
    text = " ".join(re.sub(r"-\n", "", paper_text("densenet14", repository)).split())
    paper = load_published("densenet14")

    def below(sentence: str) -> set[str]:
        names = re.search(sentence, text)
        assert names is not None, sentence
        return {
            paper.class_name(n.strip().capitalize().replace(" t", " T"))
            for n in re.split(r", and |,", names[1])
        }

    def bounds(source: str, sign: str) -> set[str]:
        return {m.partition("/")[2] for (*_, m), v in paper.tables[source].items() if v.bound == sign}

    def exact(source: str) -> dict[str, str]:
        return {m.partition("/")[2]: v.text for (*_, m), v in paper.tables[source].items() if not v.bound}

    four, five, six = (f"section 3.3 on Figure {n}" for n in (4, 5, 6))
    assert bounds(four, "<") == below(r"pathologies, i\.e\., (.*?), were all less than 0\.5")
    assert exact(four) == {"Cardiomegaly": re.findall(r"for cardiomegaly, the AUCROC was (\d\.\d+)", text)[0]}
    assert "all of the AUCROC values are larger than 0.5" in text
    assert bounds(five, ">") == set(paper.classes) - {"Fibrosis"} and not bounds(five, "<")
    assert exact(five) == {"Fibrosis": re.findall(r"was the largest with a value of (\d\.\d+)", text)[0]}
    assert bounds(six, "<") == below(r"values of three classes, i\.e\., (.*?), were smaller than 0\.5")
    largest = re.findall(r"largest AUCROC value was for fibrosis, with the value of (\d\.\d+)", text)
    assert exact(six) == {"Fibrosis": largest[0]}
    assert {v.printed for s in (four, five, six) for v in paper.tables[s].values() if v.bound} == {0.5}


COVIDGAN = {"VGG16": "vgg16", "ResNet50": "resnet50", "CNN": "covid_cnn"}


def test_covidgan_table_9(repository: Path) -> None:
    text = paper_text("covidgan", repository)
    rows = tabbed(text, "Table 9 concludes our work")
    assert rows[0] == ["network", "accuracy[%]", "precision[%]", "recall[%]", "f1-score[%]"]
    found = {}
    for name, *cells in rows[1:]:
        network, _, gan = name.partition(" - ")
        for score, cell in zip(
            ("accuracy", "precision_macro", "recall_macro", "f1_macro"), cells, strict=True
        ):
            found[COVIDGAN[network], "synthetic" if gan else "real_only", score] = cell
    assert found == printed("covidgan", "Table 9")
    assert len(found) == 24
    for (_, _, metric), cell in found.items():  # they are what the sections call validation accuracy
        assert metric != "accuracy" or f"The validation accuracy is {cell}%" in text


@pytest.mark.parametrize(
    ("number", "model", "arm"),
    [(2, "vgg16", "real_only"), (4, "resnet50", "real_only"), (5, "covid_cnn", "real_only"),
     (6, "vgg16", "synthetic"), (7, "resnet50", "synthetic"), (8, "covid_cnn", "synthetic")],
)  # fmt: skip
def test_covidgan_reports(number: int, model: str, arm: str, repository: Path) -> None:
    text = paper_text("covidgan", repository)
    above = text[: text.index(f"\nTable {number}: ")].rstrip()
    block = above[above.rindex("\tprecision\trecall") :].splitlines()
    found: Cells = {}
    for name, *cells in (line.split("\t") for line in block[1:]):
        if name == "accuracy":
            found[model, arm, "accuracy"], found[model, arm, "n_test"] = cells[-2:]
        elif name.endswith(" avg"):
            kind = name.removesuffix(" avg")
            for score, cell in zip(("precision", "recall", "f1"), cells, strict=False):
                found[model, arm, f"{score}_{kind}"] = cell
            assert cells[3] == found[model, arm, "n_test"]
        else:
            for score, cell in zip(("precision", "recall", "f1", "support"), cells, strict=True):
                found[model, arm, f"{score}/{name}"] = cell
    assert found == printed("covidgan", f"Table {number}")
    assert len(found) == 20
    assert int(found[model, arm, "n_test"]) == load_published("covidgan").n_test[arm]


def test_covidgan_correct_counts(repository: Path) -> None:
    """The confusion counts give the accuracies of the note, which round to those of the reports."""
    text, paper = paper_text("covidgan", repository), load_published("covidgan")
    blocks = re.findall(
        r"\tTP\tTN\tFP\tFN\nCOVID\t(\d+)\t.*\nNormal\t(\d+)\t.*\nViral Pneumonia\t(\d+)\t", text
    )
    assert [list(map(int, b)) for b in blocks] == list(paper.correct["real_only"].values())
    for model, counts in paper.correct["real_only"].items():
        accuracy = 100 * sum(c or 0 for c in counts) / paper.n_test["real_only"]
        assert f"{accuracy:.2f} %" in " ".join(paper.notes)
        tested = paper.find(model, "real_only", "accuracy", ["Table 2", "Table 4", "Table 5"])
        assert tested is not None and tested.text == f"{accuracy / 100:.2f}"


@pytest.mark.parametrize("name", ["acrnet", "salehinejad", "densenet14", "covidgan"])
def test_facts_stand_in_the_text(name: str, repository: Path) -> None:
    paper = load_published(name)
    text = re.sub(r"\s+", " ", paper_text(name, repository)).replace("\\_", "_")
    for fact in paper.facts.values():
        value = fact["value"]
        forms = [str(value)] + ([f"{value:,}"] if isinstance(value, int) else [])
        assert any(re.search(rf"(?<![\d.,]){re.escape(form)}(?!\d)", text) for form in forms), fact


@pytest.mark.parametrize("name", published_papers())
def test_every_cell_has_a_model_a_class_and_its_own_digits(name: str) -> None:
    paper = load_published(name)
    assert sum(len(cells) for cells in paper.tables.values()) >= len(paper.values)
    for (model, _, metric), value in paper.values.items():
        assert model in paper.models
        assert "/" not in metric or metric.partition("/")[2] in paper.classes
        assert paper.find(model, _, metric) == value
        assert value.unit in ("percent", "fraction", "seconds", "nats", "images", "score")


def test_a_value_is_shown_in_the_units_of_its_heading() -> None:
    assert PublishedValue("0.9700", "fraction", "t").shown(percent=False) == "0.9700"
    assert PublishedValue("0.8508", "fraction", "t").shown(percent=True) == "85.08"
    assert PublishedValue("93.19", "percent", "t").shown(percent=False) == "0.9319"
    assert PublishedValue("70.87±0.47", "percent", "t").shown(percent=True) == "70.87±0.47"
    assert PublishedValue("70.87±0.47", "percent", "t").value == pytest.approx(0.7087)
    assert PublishedValue("0.5", "fraction", "t", "<").shown(percent=False) == "< 0.5"
    assert PublishedValue("160", "seconds", "t").shown(percent=False) == "160"


def test_other_names_of_a_class_find_its_values() -> None:
    paper = load_published("acrnet")
    assert paper.find("vgg16", "real_only", "auroc/Normal") == paper.find(
        "vgg16", "real_only", "auroc/No Finding"
    )
    tables = [
        paper.find("acrnet", "real_only", "auroc/Cardiomegaly", s) for s in (None, ["Table 7"], ["Table 6"])
    ]
    assert [t and t.text for t in tables] == ["0.92", "0.91", None]
