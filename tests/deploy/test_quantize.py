"""int8 copies and int8 backbones, on small networks with weights that let signals through."""

import dataclasses
import json
import os
import time
from collections import Counter
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification, ViTImageProcessor

from hf_transfer.backbones.build import build_backbone
from hf_transfer.backbones.transformers_models import label_arguments, load_checkpoint
from hf_transfer.data.build import build_splits
from hf_transfer.data.loose_images import find_images
from hf_transfer.deploy.quantize import (
    LooseInputs,
    calibration_batches,
    calibration_rows,
    check_output,
    compare_speed,
    megabytes,
    natural_mode,
    quantize_graph,
    quantize_model,
    quantize_run,
    quantized_backbone,
)
from hf_transfer.errors import BackboneError, DataError, RunDirectoryError, UserError
from hf_transfer.evaluation.inference import predict_logits
from hf_transfer.evaluation.predictions import Predictions
from hf_transfer.metrics.arrays import predicted_classes
from hf_transfer.metrics.multi_label import predicted_at
from hf_transfer.metrics.paired import compare_paired
from hf_transfer.metrics.ranking_verdict import compare_rankings
from hf_transfer.recipe import dump_recipe, parse_recipe
from hf_transfer.run_directory import RunDirectory, write_json

RECIPE = {
    "data": {
        "source": "package:digits",
        "test_fraction": 0.2,
        "max_train_samples": 40,
        "max_validation_samples": 20,
        "max_test_samples": 30,
    }
}


def lively(model):
    """Random weights under which different images get different logits."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, (2 / parameter[0].numel()) ** 0.5, generator=generator)
    return model.eval()


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    recipe = parse_recipe({**RECIPE, "output_dir": "x", "model": {"backbone": "x"}})
    return build_splits(recipe.data, ["test"], training=True)


def saved(model, folder):
    lively(model).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def resnet_folder(splits, tmp_path_factory):
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 24], depths=[1, 2, 1], layer_type="basic", **label_arguments(splits.class_names)
    )
    return saved(ResNetForImageClassification(config), tmp_path_factory.mktemp("resnet"))


@pytest.fixture
def resnet(resnet_folder):
    return load_checkpoint(str(resnet_folder), None, class_names=None)


@pytest.fixture(scope="module")
def vit(splits, tmp_path_factory):
    config = ViTConfig(
        image_size=32,
        patch_size=8,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        **label_arguments(splits.class_names),
    )
    folder = saved(ViTForImageClassification(config), tmp_path_factory.mktemp("vit"))
    return load_checkpoint(str(folder), None, class_names=None)


@pytest.fixture
def batches(splits, resnet):
    return list(calibration_batches(splits.tables["train"], resnet.preprocessing, calibration_rows(splits.tables["train"])))


def run(path, pixels):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"pixel_values": pixels.numpy()})[0])


def error_of(found, expected):
    return float((found - expected).norm() / (expected - expected.mean(0)).norm())


@pytest.fixture(scope="module")
def static(splits, resnet_folder, tmp_path_factory):
    """A static int8 copy of the ResNet beside the float32 file it was made from."""
    folder = tmp_path_factory.mktemp("static")
    backbone = load_checkpoint(str(resnet_folder), None, class_names=None)
    train = splits.tables["train"]
    batches = calibration_batches(train, backbone.preprocessing, calibration_rows(train))
    quantize_model(backbone, folder / "int8.onnx", mode="static", calibration=batches, exact=folder / "float.onnx")
    return folder


def test_quantize_model__static_is_near_the_float_model(static, resnet, batches):
    pixels = torch.cat(batches)
    with torch.no_grad():
        expected = resnet.model(pixel_values=pixels).logits
    found = run(static / "int8.onnx", pixels)
    assert found.shape == expected.shape == (40, 10)
    assert 0 < error_of(found, expected) < 0.1
    torch.testing.assert_close(run(static / "int8.onnx", pixels[:1]), found[:1])


def test_quantize_model__static_weights_are_int8_per_channel(static):
    graph = onnx.load(static / "int8.onnx").graph
    constants = {constant.name: constant for constant in graph.initializer}
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    dequantized = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    assert len(layers) > 5
    for layer in layers:
        weight, scale = (constants[name] for name in dequantized[layer.input[1]].input[:2])
        assert weight.data_type == onnx.TensorProto.INT8
        assert list(scale.dims) and scale.dims[0] in weight.dims


def test_quantize_graph__two_calibrations_give_equal_files(static, batches, tmp_path):
    quantize_graph(static / "float.onnx", tmp_path / "again.onnx", mode="static", calibration=batches)
    assert (tmp_path / "again.onnx").read_bytes() == (static / "int8.onnx").read_bytes()
    quantize_graph(static / "float.onnx", tmp_path / "other.onnx", mode="static", calibration=[batches[0] * 2])
    assert (tmp_path / "other.onnx").read_bytes() != (static / "int8.onnx").read_bytes()


def test_quantize_graph__static_without_images(static, tmp_path):
    with pytest.raises(ValueError, match="static quantization needs calibration images, found none"):
        quantize_graph(static / "float.onnx", tmp_path / "int8.onnx", mode="static")
    assert not list(tmp_path.iterdir())


def test_quantize_model__static_of_group_norm(splits, tmp_path):
    recipe = parse_recipe({**RECIPE, "output_dir": "x", "model": {"backbone": "scratch:resnet18-gn"}})
    backbone = build_backbone(recipe.model, splits.class_names, seed=0)
    lively(backbone.model)
    train = splits.tables["train"]
    batches = list(calibration_batches(train, backbone.preprocessing, calibration_rows(train)))
    quantize_model(backbone, tmp_path / "int8.onnx", mode="static", calibration=batches)
    pixels = torch.cat(batches)
    with torch.no_grad():
        expected = backbone.model(pixel_values=pixels).logits
    found = run(tmp_path / "int8.onnx", pixels)
    assert 0 < error_of(found, expected) < 0.3  # of 20 layers with random weights; 0.24, as with batch norm in its place
    assert (found.argmax(1) == expected.argmax(1)).float().mean() > 0.8

    graph = onnx.load(tmp_path / "int8.onnx").graph
    kinds = Counter(node.op_type for node in graph.node)
    assert kinds["InstanceNormalization"] == kinds["Conv"] == 20
    made_by = {node.output[0]: node.op_type for node in graph.node}
    integers = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    assert {made_by[name] for node in integers for name in node.input[:2]} == {"DequantizeLinear"}


def test_quantize_model__dynamic_quantizes_linear_layers(vit, batches, tmp_path):
    quantize_model(vit, tmp_path / "int8.onnx", mode="dynamic")
    pixels = torch.cat(batches)
    with torch.no_grad():
        expected = vit.model(pixel_values=pixels).logits
    assert 0 < error_of(run(tmp_path / "int8.onnx", pixels), expected) < 0.1
    kinds = {node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node}
    assert kinds >= {"Conv", "MatMulInteger", "DynamicQuantizeLinear"}


def test_natural_mode__by_what_does_the_work(resnet, vit):
    assert (natural_mode(resnet), natural_mode(vit)) == ("static", "dynamic")


@pytest.mark.parametrize("network", ["resnet", "vit"])
def test_quantized_backbone__gives_the_features_and_saves(network, request, splits, batches, tmp_path):
    backbone = request.getfixturevalue(network)
    pixels = torch.cat(batches)
    features = []
    head = backbone.model.get_submodule(backbone.heads[0])
    linear = head if isinstance(head, torch.nn.Linear) else head[-1]
    hook = linear.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0]))
    with torch.no_grad():
        backbone.model(pixel_values=pixels)
    hook.remove()
    quantized = quantized_backbone(backbone, batches, seed=3)
    body = quantized.model.get_submodule("network.body")
    found = body(pixels)
    assert 0 < error_of(found, features[0]) < 0.2
    assert torch.equal(torch.cat([body(image[None]) for image in pixels]), found)  # whatever else is in the batch
    assert quantized.feature_width == found.shape[1]
    assert [group.name for group in quantized.groups] == ["head"]
    assert megabytes(quantized) < megabytes(backbone)
    assert quantized.parameter_count == backbone.parameter_count == sum(p.numel() for p in backbone.model.parameters())

    quantized.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors", "preprocessor_config.json"}
    again = load_checkpoint(str(tmp_path), None, class_names=None)
    with torch.no_grad():
        assert torch.equal(again.model(pixel_values=pixels).logits, quantized.model.eval()(pixel_values=pixels).logits)
    assert [again.model.config.id2label[label] for label in range(10)] == splits.class_names
    assert again.model.config.architecture == network
    assert again.parameter_count == backbone.parameter_count


def test_quantized_backbone__a_processor_that_cannot_be_saved_is_refused_before_the_work(resnet):
    bordered = SimpleNamespace(data_config={"crop_mode": "border"})

    def never():
        raise AssertionError("calibration has begun")
        yield

    with pytest.raises(BackboneError, match="this checkpoint pads images with a border, which our wrapper cannot store"):
        quantized_backbone(dataclasses.replace(resnet, processor=bordered), never())


def test_loose_inputs__each_pass_reads_anew_and_in_small_batches(resnet, tmp_path):
    for number in range(9):
        Image.new("RGB", (40, 40), (20 * number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    inputs = LooseInputs(find_images([str(tmp_path)]), resnet.preprocessing)
    first = list(inputs)
    assert max(map(len, first)) <= 4
    assert torch.cat(first).shape == (9, 3, 32, 32)
    (tmp_path / "8.png").unlink()
    assert torch.equal(torch.cat(list(inputs)), torch.cat(first)[:8])
    assert inputs.names == [str(tmp_path / f"{number}.png") for number in range(8)]
    assert inputs.unreadable.keys() == {str(tmp_path / "broken.png"), str(tmp_path / "8.png")}


def test_calibration_rows__evenly_spread_and_always_the_same(splits):
    train = splits.tables["train"]
    assert calibration_rows(train, 4).tolist() == [0, 13, 26, 39]
    assert calibration_rows(train, 1000).tolist() == list(range(40))
    assert calibration_rows(train, 1).tolist() == [0]
    assert calibration_rows(["a", "b", "c"], 2).tolist() == [0, 2]


def test_compare_speed__each_has_its_own_times():
    found = compare_speed({"fast": lambda x: None, "slow": lambda x: time.sleep(0.002)}, (4, 5), seconds=0.05)
    assert 2 <= found["slow"]["latency_ms"] <= found["slow"]["latency_p95_ms"]
    assert found["fast"]["latency_ms"] < 1
    assert 0 < found["slow"]["images_per_second"] <= 32 / 0.002


@pytest.mark.parametrize(
    ("files", "overwrite", "message"),
    [
        (["quantize.json"], False, "holds a quantized model; choose another folder, or replace it with --overwrite"),
        (["quantize.json", "notes.txt"], True, r"holds other files \(notes.txt\); choose another folder"),
    ],
)
def test_check_output__nothing_is_lost(files, overwrite, message, tmp_path):
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=message):
        check_output(tmp_path, overwrite=overwrite)
    check_output(tmp_path / "new", overwrite=False)


def test_check_output__a_file_in_the_way(tmp_path):
    file = tmp_path / "file"
    file.touch()
    for output in (file, file / "sub" / "deeper"):
        with pytest.raises(UserError, match=f"^--output: {file} is a file"):
            check_output(output, overwrite=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_check_output__without_write_permission(tmp_path):
    (tmp_path / "int8").mkdir()
    tmp_path.chmod(0o500)
    try:
        for output in (tmp_path / "int8", tmp_path / "new"):
            with pytest.raises(UserError, match=f"^--output: nothing may be written in {tmp_path}"):
                check_output(output, overwrite=False)
    finally:
        tmp_path.chmod(0o700)


@pytest.fixture
def finished(splits, resnet, resnet_folder, tmp_path):
    """A run directory of the ResNet, as a training leaves it."""
    directory = RunDirectory(tmp_path / "run")
    recipe = parse_recipe({**RECIPE, "output_dir": str(directory.root), "model": {"backbone": "timm:resnet18"}})
    directory.begin(dump_recipe(recipe), overwrite=False)
    resnet.save(directory.model)
    table = splits.tables["test"]
    logits = predict_logits(
        resnet.model,
        resnet.preprocessing,
        table,
        device=torch.device("cpu"),
        batch_size=8,
        workers=0,
        channels_last=True,
    )
    Predictions.of(table, logits, predicted_classes(logits), splits.class_names).write(directory.predictions / "test.parquet")
    write_json(directory.environment, {"data_fingerprint": splits.fingerprint})
    write_json(directory.metrics, {})
    directory.card.touch()
    return directory


def test_quantize_run__scores_the_copy_beside_the_run(finished, resnet, splits):
    output = finished.root / "quantized"
    report = quantize_run(finished, resnet, output, mode="static", calibration_images=16, seconds=0.1)
    assert report == json.loads((output / "quantize.json").read_text())
    assert sorted(path.name for path in output.iterdir()) == ["model.int8.onnx", "predictions", "quantize.json"]
    names = report["calibration"]["names"]
    assert len(names) == report["calibration"]["images"] == 16
    assert set(names) <= set(splits.tables["train"].sample_ids)
    assert not set(names) & set(splits.tables["test"].sample_ids)

    before, after = (Predictions.read(folder / "predictions" / "test.parquet") for folder in (finished.root, output))
    assert after.sample_ids == before.sample_ids
    right = [found.labels == found.predicted for found in (before, after)]
    expected = vars(compare_paired(*right)) | {"split": "test"}
    assert report["accuracy"] == expected | {"difference_ci95": list(expected["difference_ci95"])}
    same = int((before.predicted == after.predicted).sum())
    assert report["same_class"] == {"images": 30, "count": same, "measured_on": "test images"}
    assert report["processor"]["size"] == {"height": 32, "width": 32}
    assert report["processor"]["image_processor_type"].startswith("ViTImageProcessor")
    assert report["processor"]["do_resize"] is True
    pixels = torch.cat(list(calibration_batches(splits.tables["test"], resnet.preprocessing, np.arange(30))))
    np.testing.assert_allclose(run(output / "model.int8.onnx", pixels).numpy(), after.logits, atol=1e-5)
    assert report["size_mb"]["int8"] == (output / "model.int8.onnx").stat().st_size / 1e6
    assert {"torch_fp32", "onnxruntime_fp32", "onnxruntime_int8"} <= report["speed"].keys()


def test_quantize_run__other_images_than_the_run_had(finished, resnet):
    write_json(finished.environment, {"data_fingerprint": "0" * 32})
    with pytest.raises(DataError, match=r"package:digits: its images or labels are not those of the run .* any more"):
        quantize_run(finished, resnet, finished.root / "quantized", mode="static")
    assert not (finished.root / "quantized").exists()


def test_quantize_run__unfinished(finished, resnet):
    finished.card.unlink()
    with pytest.raises(RunDirectoryError, match="expected a finished run"):
        quantize_run(finished, resnet, finished.root / "quantized", mode="static")


def test_quantize_run__without_test_predictions(finished, resnet):
    (finished.predictions / "test.parquet").unlink()
    with pytest.raises(RunDirectoryError, match="the run has not scored a test split"):
        quantize_run(finished, resnet, finished.root / "quantized", mode="static")


def test_quantize_run__of_several_labels_compares_mean_average_precision(resnet, splits, tmp_path):
    names, rng = splits.class_names, np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    lines = ["file_name,labels"]
    for number in range(40):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / "data" / f"{number}.png")
        said = [name for name in names if rng.random() < 0.4]
        lines.append(f"{number}.png,{'|'.join(said) or '|'}")
    (tmp_path / "data" / "metadata.csv").write_text("\n".join(lines))
    directory = RunDirectory(tmp_path / "run")
    data = {"source": str(tmp_path / "data"), "task": "multi_label", "validation_fraction": 0.2, "test_fraction": 0.4}
    recipe = parse_recipe({"data": data, "output_dir": str(directory.root), "model": {"backbone": "timm:resnet18"}})
    directory.begin(dump_recipe(recipe), overwrite=False)
    found = build_splits(recipe.data, ["test"], training=True)
    table, limits = found.tables["test"], np.full(len(names), 0.5)
    passes = {"device": torch.device("cpu"), "batch_size": 8, "workers": 0, "channels_last": True}
    logits = predict_logits(resnet.model, resnet.preprocessing, table, **passes)
    before = Predictions.of(table, logits, predicted_at(logits, limits), found.class_names, limits)
    before.write(directory.predictions / "test.parquet")
    write_json(directory.environment, {"data_fingerprint": found.fingerprint})
    write_json(directory.metrics, {})
    directory.card.touch()

    report = quantize_run(directory, resnet, tmp_path / "int8", mode="static", calibration_images=8, seconds=0.1)
    after = Predictions.read(tmp_path / "int8" / "predictions" / "test.parquet")
    expected = compare_rankings(before.logits, after.logits, before.labels)
    interval = {"difference_ci95": list(expected.difference_ci95)}
    assert report["mean_average_precision"] == {"split": "test", **vars(expected), **interval}
    same = int((before.predicted == after.predicted).all(axis=1).sum())
    assert report["same_classes"] == {"images": 16, "count": same, "measured_on": "test images"}
    assert "accuracy" not in report and "same_class" not in report and after.thresholds.tolist() == limits.tolist()
