import numpy as np
import pytest
import torch
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

from hf_transfer.data.build import build_splits
from hf_transfer.data.dataset import ImageDataset
from hf_transfer.data.transforms import Preprocessing
from hf_transfer.evaluation.inference import predict_logits
from hf_transfer.recipe.schema import Data


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=10)
    return ResNetForImageClassification(config)


@pytest.fixture(scope="module")
def preprocessing():
    return Preprocessing(ViTImageProcessor(size={"height": 32, "width": 32}))


@pytest.fixture(scope="module")
def table():
    return build_splits(Data(source="package:digits", max_test_samples=37), ["test"], training=False).tables["test"]


@pytest.mark.parametrize(("batch_size", "workers", "channels_last"), [(8, 0, False), (37, 0, True), (5, 2, True)])
def test_predict_logits__equals_one_image_at_a_time(model, preprocessing, table, batch_size, workers, channels_last):
    found = predict_logits(
        model,
        preprocessing,
        table,
        device=torch.device("cpu"),
        batch_size=batch_size,
        workers=workers,
        channels_last=channels_last,
    )
    data = ImageDataset(table, preprocessing)
    with torch.no_grad():
        expected = torch.cat([model.eval()(pixel_values=data[i]["pixel_values"][None]).logits for i in range(len(data))])
    assert found.shape == (37, 10)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_predict_logits__leaves_batch_norm_alone(model, preprocessing, table):
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.train()
    predict_logits(model, preprocessing, table, device=torch.device("cpu"), batch_size=16, workers=0, channels_last=False)
    assert not model.training
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]), name
