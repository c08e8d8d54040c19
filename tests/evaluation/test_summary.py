"""The table of an experiment."""

from __future__ import annotations

import math

from kdmvs.evaluation.summary import per_model, per_scan


def content(scan, overall=None, depth=None):
    return {
        "scan": scan,
        "cloud": None if overall is None else {"reference": "reference_cloud", "overall": overall, "points": 10},
        "depth": None if depth is None else {"depth_error_mean": depth, "depth_within_0.01": 0.5},
    }


def test_models_stand_in_the_order_of_the_experiment():
    names = ["control", "round10", "round2", "teacher", "round1"]
    table = per_model(per_scan([(name, content("a", 1.0)) for name in names]))
    assert list(table["model"]) == ["teacher", "round1", "round2", "round10", "control"]


def test_a_model_has_the_mean_over_its_scans():
    scans = per_scan([("teacher", content("b", 3.0, 8.0)), ("teacher", content("a", 1.0, 4.0))])
    assert list(scans["scan"]) == ["a", "b"]
    row = per_model(scans).iloc[0]
    assert (row["scans"], row["overall"], row["depth_error_mean"], row["points"]) == (2, 2.0, 6.0, 10.0)


def test_the_columns_that_everyone_reads_are_always_there():
    """Even where no scan has a truth; the mean is then empty."""
    scans = per_scan([("teacher", content("a"))])
    models = per_model(scans)
    leading = ["accuracy", "completeness", "overall", "depth_error_mean", "depth_error_median"]
    assert list(models.columns) == ["model", "scans", *leading]
    assert math.isnan(models["overall"][0])
