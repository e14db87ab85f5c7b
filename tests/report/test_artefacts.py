"""What the card says of exported and quantized files."""

import json

from hf_transfer.report.artefacts import artefacts_section

EXPORT = {
    "artefacts": [
        {
            "format": "onnx",
            "files": [{"name": "model.onnx", "bytes": 13_400_000, "sha256": "0" * 64}],
            "input": {"name": "images", "dtype": "uint8", "shape": ["batch", "height", "width", 3]},
            "opset": 20,
            "preprocessing": {"resize": "shorter side"},
            "parity": {"images": 128, "max_abs_difference": 7.0e-5, "tolerance": 1e-4, "argmax_equal": 128, "passed": True},
        },
        {
            "format": "torch_export",
            "files": [{"name": "model.pt2", "bytes": 13_700_000, "sha256": "1" * 64}],
            "input": {"name": "pixel_values", "dtype": "float32", "shape": ["batch", 3, 224, 224]},
            "parity": {"images": 128, "max_abs_difference": 0.0, "tolerance": 1e-4, "argmax_equal": 128, "passed": True},
        },
    ],
    "timing": {
        "device": "CPU: 2 threads",
        "latency_ms": {"torch": {"median": 9.44, "p95": 9.9, "runs": 50}, "onnx": {"median": 2.7, "p95": 2.81, "runs": 50}},
    },
}
QUANTIZE = {
    "mode": "static",
    "calibration": {"images": 128, "source": "training split"},
    "size_mb": {"float": 13.67, "int8": 3.79},
    "accuracy": {
        "n": 400,
        "before": 0.98,
        "after": 0.9825,
        "difference": 0.0025,
        "difference_ci95": [-0.0095, 0.0158],
        "p_value": 1.0,
    },
}


def write(folder, name, content):
    folder.mkdir()
    (folder / name).write_text(json.dumps(content))


def test_artefacts_section__nothing_there(tmp_path):
    assert artefacts_section(tmp_path) == ""


def test_artefacts_section__exported_files(tmp_path):
    write(tmp_path / "export", "export.json", EXPORT)
    lines = artefacts_section(tmp_path).splitlines()
    assert lines[0] == "## Exported files"
    assert lines[4:6] == [
        "| `export/model.onnx` | ONNX, opset 20 | 13.4 MB | uint8 \\[batch, height, width, 3], preprocessing included | "
        "7.0e-05 | 128 of 128 | 2.7 (2.8) |",
        "| `export/model.pt2` | torch.export | 13.7 MB | float32 \\[batch, 3, 224, 224] | 0.0e+00 | 128 of 128 | \u2013 |",
    ]
    assert lines[-1] == (
        "Compared with this checkpoint on real images. Latency is that of one image through the network alone, on CPU: 2 "
        "threads; torch itself takes 9.4 (9.9). Checksums and versions: `export/export.json`."
    )


def test_artefacts_section__of_several_labels_an_image(tmp_path):
    ranking = {**QUANTIZE["accuracy"], "p_value": 0.4}
    several = {key: value for key, value in QUANTIZE.items() if key != "accuracy"} | {"mean_average_precision": ranking}
    write(tmp_path / "quantized", "quantize.json", several)
    text = artefacts_section(tmp_path)
    assert "Its mean average precision on the 400 test images is 0.9825, the float model's 0.9800" in text
    assert text.endswith("(95 % interval -0.0095 to +0.0158; paired bootstrap p = 0.400).") and "accuracy" not in text


def test_artefacts_section__quantized_copy(tmp_path):
    write(tmp_path / "quantized", "quantize.json", QUANTIZE)
    assert artefacts_section(tmp_path) == (
        "## Quantized copy\n\n`quantized/model.int8.onnx`: 8-bit integers, static quantization, calibrated with 128 images "
        "(training split); 3.8 MB instead of 13.7 MB. Its accuracy on the 400 test images is 0.9825, the float model's "
        "0.9800: a difference of +0.0025 (95 % interval -0.0095 to +0.0158; exact McNemar test p = 1.000)."
    )
