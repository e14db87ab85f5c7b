from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

from hf_transfer.backbones.build import load_as_it_is
from hf_transfer.data.build import build_splits
from hf_transfer.data.dataset import ImageDataset
from hf_transfer.data.decoding import evaluation_decoder
from hf_transfer.data.images import decode_rgb
from hf_transfer.data.sources.package_data import read_package
from hf_transfer.data.transforms import Preprocessing
from hf_transfer.errors import DataError
from hf_transfer.evaluation.inference import predict_logits, predict_views, tta_scores
from hf_transfer.evaluation.views import TTA
from hf_transfer.recipe.schema import Data, Model


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


def test_predict_logits__reduced_decoding_scores_the_images_it_decodes(model, preprocessing):
    """Photographs of 250 pixels for inputs of 32 are decoded at a half; in full where nothing is said."""
    photographs = read_package("textile").tables["train"].select(np.arange(0, 2000, 400))
    passes = {"device": torch.device("cpu"), "batch_size": 4, "workers": 0, "channels_last": False}
    found = {
        decoding: predict_logits(model, preprocessing, photographs, decoding=decoding, **passes)
        for decoding in ("full", "reduced")
    }
    for decoding, decode in (("full", decode_rgb), ("reduced", evaluation_decoder("reduced", (32, 32)))):
        pixels = torch.stack([preprocessing(decode(photographs.encoded(index))) for index in range(5)])
        with torch.no_grad():
            np.testing.assert_allclose(found[decoding], model.eval()(pixel_values=pixels).logits, atol=1e-5)
    assert not np.array_equal(found["full"], found["reduced"])


def test_predict_logits__leaves_batch_norm_alone(model, preprocessing, table):
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.train()
    predict_logits(model, preprocessing, table, device=torch.device("cpu"), batch_size=16, workers=0, channels_last=False)
    assert not model.training
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]), name


def score(model, preprocessing, table, views, batch_size=16, workers=0):
    return predict_views(
        model,
        preprocessing,
        table,
        views,
        device=torch.device("cpu"),
        batch_size=batch_size,
        workers=workers,
        channels_last=False,
    )


def test_predict_views__the_image_as_it_is_gives_the_logits(model, preprocessing, table):
    expected = predict_logits(
        model, preprocessing, table, device=torch.device("cpu"), batch_size=16, workers=0, channels_last=False
    )
    found = score(model, preprocessing, table, TTA["none"])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected[:, None])


@pytest.fixture(scope="module")
def few(table):
    return table.select(np.arange(11))


@pytest.fixture(scope="module")
def each_view_alone(model, preprocessing, few):
    return [score(model, preprocessing, few, [view])[:, 0] for view in TTA["dihedral"]]


# Batches that hold every image, less than one image's views, and a last batch that is not full.
@pytest.mark.parametrize(("batch_size", "workers"), [(88, 0), (3, 0), (20, 2)])
def test_predict_views__equals_each_view_alone(model, preprocessing, few, each_view_alone, batch_size, workers):
    found = score(model, preprocessing, few, TTA["dihedral"], batch_size, workers)
    assert found.shape == (11, 8, 10)
    np.testing.assert_allclose(found, np.stack(each_view_alone, axis=1), atol=1e-5)


# Eight views: two images at a time; the views of one image in parts.
@pytest.mark.parametrize(("batch_size", "expected"), [(20, [16, 16, 8]), (3, [3, 3, 2] * 5)])
def test_predict_views__never_computes_more_views_than_the_batch_size(preprocessing, table, batch_size, expected):
    sizes = []

    class Mean(torch.nn.Module):
        config = SimpleNamespace(num_labels=1)

        def forward(self, pixel_values):
            sizes.append(len(pixel_values))
            return SimpleNamespace(logits=pixel_values.mean(dim=(1, 2, 3))[:, None])

    score(Mean(), preprocessing, table.select(np.arange(5)), TTA["dihedral"], batch_size)
    assert sizes == expected


def test_predict_views__a_view_is_told_which_sample_it_sees(model, preprocessing, table):
    seen = []

    def watching(image, sample_id):
        seen.append((image.size, sample_id))
        return image

    score(model, preprocessing, table, [watching])
    assert seen == [((8, 8), str(sample_id)) for sample_id in table.sample_ids]


def test_predict_views__of_no_images(model, preprocessing, table):
    assert score(model, preprocessing, table.select(np.arange(0)), TTA["flip"]).shape == (0, 2, 10)


def test_predict_views__names_an_image_that_cannot_be_read(model, preprocessing, tmp_path):
    for number in range(4):
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "a" / f"{number}.png")
    table = build_splits(Data(source=str(tmp_path)), ["test"], training=False).tables["test"]
    (tmp_path / "a" / "2.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"data: cannot read the image .*2\.png"):
        score(model, preprocessing, table, TTA["flip"])


def test_tta_scores__of_one_view_are_the_logarithms_of_its_softmax():
    logits = np.random.default_rng(0).normal(size=(6, 1, 5)).astype(np.float32) * 30
    np.testing.assert_allclose(tta_scores(logits), torch.from_numpy(logits[:, 0]).log_softmax(dim=1), rtol=1e-6, atol=1e-6)


def test_tta_scores__are_the_logarithms_of_the_mean_probabilities():
    logits = np.log(np.array([[[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]], dtype=np.float32))
    np.testing.assert_allclose(np.exp(tta_scores(logits)), [[0.3, 0.225, 0.475]], rtol=1e-6)
    # A view that is certain does not turn the others into infinities.
    assert np.isfinite(tta_scores(np.array([[[1000.0, 0.0], [0.0, 1000.0]]], dtype=np.float32))).all()


def test_tta_scores__real_weights_on_real_images():
    backbone = load_as_it_is(Model(backbone="package:efficientnet_lite0"))
    table = build_splits(Data(source="package:textile", max_test_samples=4), ["test"], training=False).tables["test"]
    found = score(backbone.model, backbone.preprocessing, table, TTA["flip"])
    probabilities = torch.from_numpy(found).softmax(dim=2).mean(dim=1).numpy()
    np.testing.assert_allclose(np.exp(tta_scores(found)), probabilities, rtol=1e-4)
    assert np.abs(found[:, 0] - found[:, 1]).max() > 0.01  # the mirrored image is another one


def test_tta_scores__of_several_labels_give_the_mean_of_the_sigmoids():
    logits = np.array([[[2.0, -3.0], [0.0, 1.0]], [[800.0, -800.0], [800.0, -800.0]]], dtype=np.float32)
    found = tta_scores(logits, multi_label=True)
    expected = (1 / (1 + np.exp(-logits[0].astype(np.float64)))).mean(axis=0)
    np.testing.assert_allclose(1 / (1 + np.exp(-found[0])), expected, rtol=1e-6)
    assert np.isfinite(found).all()
