from hf_transfer.report import run_tables as tables
from hf_transfer.report.formats import NOTHING
from hf_transfer.report.saved_run import SavedRun


def run_of(tmp_path, metrics, environment=None):
    return SavedRun(tmp_path, {}, environment or {}, metrics, None, [])


def test_splits_table__order_and_columns(tmp_path):
    run = run_of(
        tmp_path, {"camera": {"accuracy": 0.5, "n": 10}, "test": {"accuracy": 0.75, "accuracy_ci95": [0.7, 0.8], "n": 1200}}
    )
    found = tables.splits_table(run)
    assert found.header[:4] == ["Split", "Images", "Accuracy", "95 % interval"]
    assert "Top-5" not in found.header
    assert [row[:4] for row in found.rows] == [
        ["test", "1,200", "0.7500", "0.7000 to 0.8000"],
        ["camera", "10", "0.5000", NOTHING],
    ]


def test_splits_table__top5_where_a_split_has_it(tmp_path):
    assert "Top-5" in tables.splits_table(run_of(tmp_path, {"test": {"top5_accuracy": 0.9}})).header


def test_shifts_table__without_a_shift_there_is_none(tmp_path):
    assert tables.shifts_table(run_of(tmp_path, {"test": {}, "camera": {"shift": {"accuracy": None}}})) is None
    run = run_of(tmp_path, {"camera": {"shift": {"accuracy": 0.01}}})
    assert tables.shifts_table(run).rows == [["camera", "test", "+0.0100", NOTHING]]


def test_robustness_tables__severities_that_are_missing(tmp_path):
    robustness = {"jpeg": {"5": {"accuracy": 0.1}}, "blur": {"1": {"accuracy": 0.9, "accuracy_ci95": [0.85, 0.95]}}}
    [(split, found)] = tables.robustness_tables(run_of(tmp_path, {"test": {"accuracy": 0.95, "robustness": robustness}}))
    assert split == "test"
    assert found.header == ["Corruption", "None", "Severity 1", "Severity 5"]
    assert found.rows == [["jpeg", "0.950", NOTHING, "0.100"], ["blur", "0.950", "0.900\n0.85 to 0.95", NOTHING]]


def test_data_table__counts_and_what_was_evaluated(tmp_path):
    counts = {"test": {"a": 3, "b": 40}, "train": {"a": 1000, "b": 2000}}
    run = run_of(tmp_path, {"test": {"n": 42, "skipped": 1}}, {"class_counts": counts})
    assert tables.data_table(run).rows == [
        ["train", "3,000", "1,000", "2,000", NOTHING, NOTHING],
        ["test", "43", "3", "40", "42", "1"],
    ]
    assert tables.class_counts_table(run).rows == [["a", "3", "1,000"], ["b", "40", "2,000"]]


def test_tables__nothing_known(tmp_path):
    run = run_of(tmp_path, {}, {"class_counts": "many"})
    assert tables.splits_table(run).rows == []
    assert tables.robustness_tables(run) == []
    for table in (tables.phases_table, tables.cost_table, tables.speed_table, tables.data_table, tables.environment_table):
        assert table(run) is None
    assert tables.calibration_table(run) is None


def test_speed_table__units(tmp_path):
    speed = {"latency_ms": 1234.56, "flops": 385_000_000, "input_size": [224, 192], "precision": "fp32", "threads": 2}
    assert tables.speed_table(run_of(tmp_path, {"speed": speed})).rows == [
        ["Latency of one image, median", "1,234.6 ms"],
        ["Floating-point operations for an image", "0.385 billion"],
        ["Input, height and width", "224 x 192"],
        ["Precision", "fp32"],
        ["Threads", "2"],
    ]


def test_settings_table__what_is_off_is_left_out(tmp_path):
    recipe = {
        "seed": 0,
        "strategy": {"name": "full", "layer_decay": None},
        "ema": None,
        "model": {"backbone": "x", "head": {"hidden": []}},
    }
    rows = tables.settings_table(run_of(tmp_path, {}), recipe).rows
    assert rows == [["Backbone", "x"], ["Strategy", "name full"], ["Seed", "0"]]
