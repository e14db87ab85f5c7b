"""The funnel fine-tunes the backbones whose frozen features did best on validation, and says why."""

import json
from pathlib import Path

import pytest

from hf_transfer.cli import main
from hf_transfer.errors import RecipeError, UserError
from hf_transfer.studies.execution import run_study
from hf_transfer.studies.funnel import FILE, left_out, stages
from hf_transfer.studies.study import Study, cells

BACKBONES = ("package:efficientnet_lite0", "package:efficientnet_lite1", "package:efficientnet_lite2")


def _study(tmp_path, **changed):
    raw = {
        "output_dir": str(tmp_path / "study"),
        "base": {"data": {"source": "package:textile", "test_fraction": 0.2}, "model": {"backbone": BACKBONES[0]}},
        "axes": {"model.backbone": list(BACKBONES), "strategy": ["linear_probe", "knn", "full"], "seed": [0, 1]},
        "exclude": [{"strategy": "knn", "seed": 1}],
        "funnel": {"finetune_top": 2},
    }
    return Study.model_validate(raw | changed)


def _finish(cell, reached, parameters=1000, figure="accuracy"):
    """Leave what the funnel reads of a finished run."""
    root = Path(cell.recipe.output_dir)
    root.mkdir(parents=True)
    (root / "README.md").write_text("card")
    metrics = {"validation": {figure: reached}, "cost": {"parameters": parameters}}
    (root / "metrics.json").write_text(json.dumps(metrics))


def _of(found, strategy, backbone=None):
    return [
        cell
        for cell in found
        if cell.recipe.strategy.name == strategy and backbone in (None, cell.recipe.model.backbone.removeprefix("package:"))
    ]


def _names(batch):
    return {(cell.recipe.model.backbone.removeprefix("package:"), cell.recipe.strategy.name) for cell in batch}


def test_stages__everything_at_once_without_a_funnel(tmp_path):
    study = _study(tmp_path, funnel=None)
    assert list(stages(study, cells(study), tmp_path / "study")) == [cells(study)]


def test_stages__the_best_on_validation_go_on(tmp_path):
    study, root = _study(tmp_path), tmp_path / "study"
    found = cells(study)
    coming = stages(study, found, root)
    first = next(coming)
    assert [cell.recipe.strategy.name for cell in first].count("linear_probe") == 6 and len(first) == 9
    for cell, accuracy in zip(_of(found, "linear_probe"), (0.7, 0.72, 0.9, 0.5, 0.8, 0.9), strict=True):
        _finish(cell, accuracy)
    for cell in _of(found, "knn"):  # does not rank here
        _finish(cell, 0.99 if "lite1" in cell.id else 0.1)
    assert [cell.id for cell in next(coming)] == [
        cell.id for name in ("efficientnet_lite0", "efficientnet_lite2") for cell in _of(found, "full", name)
    ]
    assert next(coming, None) is None
    told = json.loads((root / FILE).read_text())
    assert (told["rank_by"], told["finetune_top"]) == ("linear_probe", 2)
    assert [(row["backbone"], row["validation_accuracy"], row["seeds"], row["goes_on"]) for row in told["ranking"]] == [
        (BACKBONES[2], pytest.approx(0.85), 2, True),
        (BACKBONES[0], pytest.approx(0.71), 2, True),
        (BACKBONES[1], pytest.approx(0.7), 2, False),
    ]
    assert told["ranking"][0]["model"]["backbone"] == BACKBONES[2]


def test_stages__of_several_labels_an_image_mean_average_precision_ranks(tmp_path):
    data = {"source": str(tmp_path), "task": "multi_label", "test_fraction": 0.2}
    study, root = _study(tmp_path, base={"data": data, "model": {"backbone": BACKBONES[0]}}), tmp_path / "study"
    found = cells(study)
    coming = stages(study, found, root)
    next(coming)
    for cell, figure in zip(_of(found, "linear_probe"), (0.7, 0.72, None, 0.5, 0.8, 0.9), strict=True):
        _finish(cell, figure, figure="mean_average_precision")
    assert {name for name, _ in _names(next(coming))} == {"efficientnet_lite0", "efficientnet_lite2"}
    told = json.loads((root / FILE).read_text())["ranking"]
    assert [row["validation_mean_average_precision"] for row in told] == pytest.approx([0.85, 0.71, 0.25])
    assert not any("accuracy" in key for key in told[0])


def test_stages__fewer_parameters_decide_between_equals_and_knn_may_rank(tmp_path):
    study, root = _study(tmp_path, funnel={"finetune_top": 1, "rank_by": "knn"}), tmp_path / "study"
    found = cells(study)
    for cell, parameters in zip(_of(found, "knn"), (3000, 1000, 2000), strict=True):
        _finish(cell, 0.8, parameters)
    last = list(stages(study, _of(found, "full"), root))[-1]
    assert _names(last) == {("efficientnet_lite1", "full")}


def test_stages__a_backbone_that_failed_does_not_go_on(tmp_path):
    study, root = _study(tmp_path), tmp_path / "study"
    found = cells(study)
    (root / "failed").mkdir(parents=True)
    for cell in _of(found, "linear_probe"):
        if "lite0" in cell.id:
            _finish(cell, 0.4)
        else:
            (root / "failed" / f"{cell.id}.json").write_text("{}")
    assert _names(list(stages(study, _of(found, "full"), root))[-1]) == {("efficientnet_lite0", "full")}
    ranking = json.loads((root / FILE).read_text())["ranking"]
    assert [(row["validation_accuracy"], row["goes_on"]) for row in ranking] == [(0.4, True), (None, False), (None, False)]


def test_stages__what_ranks_has_to_be_done_first(tmp_path):
    study, root = _study(tmp_path), tmp_path / "study"
    found = cells(study)
    for cell in _of(found, "linear_probe")[:4]:
        _finish(cell, 0.5)
    with pytest.raises(UserError) as raised:
        list(stages(study, _of(found, "full"), root))
    missing = ", ".join(cell.id for cell in _of(found, "linear_probe")[4:])
    assert str(raised.value) == (
        f"funnel: 2 of 6 cells that rank the backbones are not done ({missing}); carry them out first, without --only or with "
        "patterns that include them"
    )
    assert not (root / FILE).exists()


def test_run_study__says_so_before_it_writes_anything(tmp_path):
    study = _study(tmp_path)
    with pytest.raises(UserError, match=r"funnel: 4 of 6 cells that rank the backbones are not done"):
        run_study(study, cells(study), only=["efficientnet_lite0-*"])
    assert not (tmp_path / "study").exists()


def test_left_out__is_known_when_what_ranks_is_done(tmp_path, capsys):
    study, root = _study(tmp_path), tmp_path / "study"
    found = cells(study)
    assert left_out(study, found, root) is None
    for cell in _of(found, "linear_probe"):
        _finish(cell, {"0": 0.5, "1": 0.9, "2": 0.7}[cell.recipe.model.backbone[-1]])
    assert left_out(study, found, root) == {cell.id for cell in _of(found, "full", "efficientnet_lite0")}
    file = tmp_path / "study.json"
    file.write_text(study.model_dump_json(by_alias=True))
    assert main(["study", str(file), "--dry-run", "--only", "*-full-*"]) == 0
    told = capsys.readouterr().out
    assert told.count("left out") == 2 and "6 cells, 4 to be carried out" in told


def test_cells__a_funnel_that_cannot_rank_is_refused(tmp_path):
    wrong = {
        "axes": {"model.backbone": list(BACKBONES[:2]), "strategy": ["knn", "full"], "data.samples_per_class": [5, 10]},
        "exclude": [],
        "base": {
            "data": {"source": "package:textile", "test_fraction": 0.2},
            "model": {"backbone": BACKBONES[0]},
            "evaluation": {"splits": ["test"]},
        },
    }
    with pytest.raises(RecipeError) as raised:
        cells(_study(tmp_path, **wrong))
    assert [str(problem) for problem in raised.value.problems] == [
        "funnel.rank_by: expected cells with strategy 'linear_probe' for every backbone that may be fine-tuned; found none for "
        "package:efficientnet_lite0, package:efficientnet_lite1",
        "funnel: ranks backbones on one data section; found 2 in the axes",
        "funnel: ranks on validation; expected it among evaluation.splits",
    ]
