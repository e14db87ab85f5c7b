"""LogME of training features, at a cost that is bounded."""

import numpy as np
import pytest
import torch

from hf_transfer.features import transferability
from hf_transfer.features.transferability import training_logme
from hf_transfer.metrics.logme import logme


def make(count, width, dtype=torch.float32):
    labels = np.arange(count) % 3
    noise = torch.randn(count, width, generator=torch.Generator().manual_seed(0))
    return (noise + torch.from_numpy(labels)[:, None]).to(dtype), labels


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_logme__of_all_images(dtype):
    features, labels = make(60, 8, dtype)
    assert training_logme(features, labels) == {"logme": logme(features.float().numpy(), labels), "logme_images": 60}


@pytest.mark.parametrize(("rows", "work", "count"), [(40, 1e9, 40), (1000, 16 * 16 * 30, 30), (1000, 16 * 10 * 10, 10)])
def test_training_logme__of_a_part_where_there_are_many(monkeypatch, rows, work, count):
    monkeypatch.setattr(transferability, "ROWS", rows)
    monkeypatch.setattr(transferability, "WORK", work)
    features, labels = make(60, 16)
    found = training_logme(features, labels)
    assert found["logme_images"] == count
    assert np.isfinite(found["logme"]) and found["logme"] != logme(features.numpy(), labels)
    assert found == training_logme(features, labels)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 0.0])
def test_training_logme__none_where_it_is_not_defined(value):
    features, labels = make(6, 2)
    assert training_logme(features * value if value == 0 else features.fill_(value), labels)["logme"] is None
    assert training_logme(make(6, 2)[0], np.zeros(6, dtype=np.int64)) == {"logme": None, "logme_images": 6}
