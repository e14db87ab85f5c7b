import json

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image
from torch import nn
from transformers import BitImageProcessor, ConvNextImageProcessor, ViTImageProcessor, ViTImageProcessorPil

from hf_transfer.backbones.build import build_backbone
from hf_transfer.data.images import decode_rgb
from hf_transfer.data.transforms import Preprocessing
from hf_transfer.deploy.onnx_graph import run_onnx, write_onnx
from hf_transfer.deploy.preprocessing_graph import add_preprocessing
from hf_transfer.errors import UserError
from hf_transfer.recipe.schema import Model


class Nothing(nn.Module):
    def forward(self, pixels):
        return pixels * 1


@pytest.fixture
def prepared(tmp_path):
    """Give the ONNX graph of a processor's preprocessing, as a function of an image, and what is told about it."""

    def make(preprocessing, images=()):
        path = tmp_path / "model.onnx"
        write_onnx(Nothing(), torch.zeros(2, 3, *preprocessing.size), path, metadata={"about": json.dumps([1])})
        told = add_preprocessing(path, preprocessing, images)
        assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
        session = run_onnx(path)
        assert session.get_modelmeta().custom_metadata_map == {"about": "[1]"}
        assert session.get_inputs()[0].type == "tensor(uint8)"
        return lambda image: session.run(["logits"], {"images": np.asarray(image)[None]})[0][0], told

    return make


def _photographs(textile):
    """Return real images of several shapes: square, landscape, portrait, smaller and much larger than the input."""
    image = decode_rgb(textile.read_bytes())
    shapes = [(250, 250), (333, 190), (121, 250), (40, 57), (700, 512)]
    return [image, *(image.rotate(30).resize(shape) for shape in shapes)]


@pytest.fixture(scope="module")
def textile():
    data = pytest.importorskip("conformal_clip_data")
    return sorted((data.textile_simulated_root() / "local").glob("*.jpg"))[0]


PROCESSORS = {
    "square, bilinear, torch": lambda: ViTImageProcessor(size={"height": 64, "width": 64}),
    "square, bilinear, Pillow": lambda: ViTImageProcessorPil(size={"height": 64, "width": 64}),
    "not square, bicubic": lambda: ViTImageProcessorPil(size={"height": 48, "width": 80}, resample=3),
    "shorter side and crop, torch": lambda: BitImageProcessor(
        size={"shortest_edge": 73}, crop_size={"height": 64, "width": 64}
    ),
    "crop_pct": lambda: ConvNextImageProcessor(size={"shortest_edge": 64}, crop_pct=0.875),
    "crop_pct from 384": lambda: ConvNextImageProcessor(size={"shortest_edge": 384}, crop_pct=0.875),
    "bytes": lambda: ViTImageProcessorPil(size={"height": 64, "width": 64}, do_rescale=False, do_normalize=False),
}


@pytest.mark.parametrize("processor", PROCESSORS.values(), ids=PROCESSORS.keys())
def test_add_preprocessing__gives_the_processors_inputs(processor, prepared, textile):
    preprocessing = Preprocessing(processor())
    prepare, told = prepared(preprocessing)
    step = float((preprocessing.high - preprocessing.low).max()) / 255
    for image in _photographs(textile):
        assert np.abs(prepare(image) - preprocessing(image).numpy()).max() < 1e-3 * step, image.size
    assert told["max_difference_in_steps"] < 1e-3


@pytest.mark.parametrize(("crop_pct", "resize"), [(1.0, 224), (0.875, 256)])
def test_add_preprocessing__timm(crop_pct, resize, prepared, textile):
    section = Model(backbone="timm:resnet18", pretrained=False, crop_pct=crop_pct)
    preprocessing = build_backbone(section, ["a", "b"], 0).preprocessing
    prepare, told = prepared(preprocessing, [Image.new("RGB", (10, 20), (1, 2, 3))])
    assert told["resize"] == resize and told["crop"] == (224, 224) and told["arithmetic"] == "pillow"
    for image in _photographs(textile):
        assert np.abs(prepare(image) - preprocessing(image).numpy()).max() < 1e-4, image.size


def test_add_preprocessing__several_images_at_once(prepared, tmp_path):
    preprocessing = Preprocessing(ViTImageProcessorPil(size={"height": 32, "width": 32}))
    prepared(preprocessing)
    images = np.random.default_rng(0).integers(0, 256, (3, 50, 40, 3), dtype=np.uint8)
    (found,) = run_onnx(tmp_path / "model.onnx").run(None, {"images": images})
    wanted = np.stack([preprocessing(Image.fromarray(image)).numpy() for image in images])
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_add_preprocessing__another_filter(prepared):
    processor = ViTImageProcessorPil(size={"height": 64, "width": 64}, resample=0)
    with pytest.raises(UserError) as caught:
        prepared(Preprocessing(processor))
    assert str(caught.value) == (
        "--with-preprocessing: ViTImageProcessorPil with nearest interpolation and these sizes cannot be put into the graph "
        "(bilinear and bicubic can, to a fixed size or a shorter side); export without it"
    )


class Mirrored(hf.ViTImageProcessorPil):
    """Does more than it declares."""

    def __call__(self, images, **kwargs):
        return super().__call__(images.transpose(Image.Transpose.FLIP_LEFT_RIGHT), **kwargs)


def test_add_preprocessing__a_processor_that_does_more_than_it_declares(prepared):
    processor = Mirrored(size={"height": 64, "width": 64})
    with pytest.raises(UserError, match=r"no arithmetic that is known gives the bytes of Mirrored \(nearest: \d+ of 255 steps"):
        prepared(Preprocessing(processor))
