from hf_transfer.metrics.headline import ACCURACY, MEAN_AVERAGE_PRECISION, headline_of, headline_of_task


def test_headline_of__what_a_split_has():
    assert headline_of({"accuracy": 0.9, "n": 3}) == ACCURACY
    assert headline_of({"mean_average_precision": None}) == MEAN_AVERAGE_PRECISION  # undefined, but of that task
    assert headline_of({}) == ACCURACY


def test_headline_of_task():
    assert headline_of_task("multi_label") == MEAN_AVERAGE_PRECISION
    assert headline_of_task("single_label") == headline_of_task(None) == ACCURACY
    assert MEAN_AVERAGE_PRECISION.interval == "mean_average_precision_ci95"
