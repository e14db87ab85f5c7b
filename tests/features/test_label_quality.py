"""Planted label errors and near-duplicates are found; nothing is removed."""

import dataclasses

import numpy as np
import pytest
import torch

from hf_transfer.data.table import ImageTable
from hf_transfer.features.label_quality import label_quality

CLASSES = ["cat", "dog", "owl"]


class Rows:
    """Stands for a data set whose images are stored inside it."""

    def path(self, row):
        return None


@pytest.fixture
def clusters():
    """Three well separated classes in train (90) and test (30): features and tables."""
    generator = torch.Generator().manual_seed(0)
    centres = 3 * torch.randn(3, 16, generator=generator)
    features, tables = {}, {}
    for split, count in (("train", 90), ("test", 30)):
        labels = np.arange(count) % 3
        features[split] = centres[labels] + torch.randn(count, 16, generator=generator)
        ids = np.array([f"{split}/{row}" for row in range(count)])
        tables[split] = ImageTable(Rows(), np.arange(count), labels, ids)
    return features, tables


def test_label_quality__clean_data_is_left_alone(clusters):
    found = label_quality(*clusters, CLASSES, 0)
    assert found == {"images": 120, "label_issues": [], "near_duplicates": [], "left_out": None}


def test_label_quality__planted_errors_are_named(clusters):
    features, tables = clusters
    labels = tables["train"].labels.copy()
    planted = np.arange(0, 90, 7)
    labels[planted] = (labels[planted] + 1) % 3
    tables["train"] = dataclasses.replace(tables["train"], labels=labels)
    issues = label_quality(features, tables, CLASSES, 0)["label_issues"]
    named = {(issue["split"], issue["sample_id"]) for issue in issues}
    assert named <= {("train", f"train/{row}") for row in planted}
    assert len(named) == len(issues) >= len(planted) * 0.8
    for issue in issues:
        row = int(issue["sample_id"].rpartition("/")[2])
        assert issue["label"] == CLASSES[labels[row]]
        assert issue["suggested"] == CLASSES[row % 3]
        assert issue["label_probability"] < issue["suggested_probability"]
    assert (tables["train"].labels == labels).all()


def test_label_quality__near_duplicates_across_splits_only(clusters):
    features, tables = clusters
    features["test"][4] = features["train"][10] * 1.00001
    features["train"][20] = features["train"][50] * 1.00001
    found = label_quality(features, tables, CLASSES, 0)["near_duplicates"]
    assert [[(place["split"], place["sample_id"]) for place in group] for group in found] == [
        [("train", "train/10"), ("test", "test/4")]
    ]


def test_label_quality__too_few_images_of_a_class(clusters):
    features, tables = clusters
    features, tables = {"test": features["test"][:12]}, {"test": tables["test"].select(np.arange(12))}
    found = label_quality(features, tables, CLASSES, 0)
    assert found["left_out"] == "expected at least 5 images of every class that occurs, found 4"
    assert found["label_issues"] == []
