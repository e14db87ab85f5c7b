"""What the card says of exported and quantized files: only what their own reports, `export.json` and `quantize.json`, hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .formats import NOTHING, count, number
from .markdown import code, escape, table
from .saved_run import read_object

_FORMATS = {"onnx": "ONNX", "torch_export": "torch.export"}


def artefacts_section(run: Path) -> str:
    """Return Markdown on the exported and quantized copies of a run's model; empty where there are none."""
    return "\n\n".join(filter(None, [_exported(run / "export"), _quantized(run / "quantized")]))


def _exported(folder: Path) -> str:
    if not (folder / "export.json").is_file():
        return ""
    report = read_object(folder / "export.json")
    timing = report.get("timing") or {}
    rows = [_export_row(folder.name, artefact, timing) for artefact in report.get("artefacts", [])]
    header = ["File", "Format", "Size", "Input", "Largest difference of a logit", "Same class", "Latency, ms (p95)"]
    beside = _latency(timing, "torch")
    said = "Compared with this checkpoint on real images. Latency is that of one image through the network alone"
    said += f", on {escape(timing['device'])}" if timing.get("device") else ""
    said += f"; torch itself takes {beside}." if beside != NOTHING else "."
    return "\n\n".join(
        ["## Exported files", table(header, rows, left=4), f"{said} Checksums and versions: `export/export.json`."]
    )


def _export_row(folder: str, artefact: Mapping[str, Any], timing: Mapping[str, Any]) -> list[str]:
    files, parity, taken = artefact["files"], artefact["parity"], artefact["input"]
    kind = _FORMATS.get(artefact["format"], artefact["format"])
    shape = f"{taken['dtype']} [{', '.join(map(str, taken['shape']))}]"
    return [
        code(f"{folder}/{files[0]['name']}"),
        escape(kind + (f", opset {artefact['opset']}" if artefact.get("opset") else "")),
        f"{sum(file['bytes'] for file in files) / 1e6:.1f} MB",
        escape(shape + (", preprocessing included" if artefact.get("preprocessing") else "")),
        f"{parity['max_abs_difference']:.1e}",
        f"{count(parity.get('argmax_equal', parity.get('said_equal')))} of {count(parity['images'])}",
        _latency(timing, artefact["format"]),
    ]


def _latency(timing: Mapping[str, Any], name: str) -> str:
    found = (timing.get("latency_ms") or {}).get(name)
    return NOTHING if not found else f"{number(found['median'], 1)} ({number(found['p95'], 1)})"


def _quantized(folder: Path) -> str:
    if not (folder / "quantize.json").is_file():
        return ""
    report = read_object(folder / "quantize.json")
    size, calibration = report["size_mb"], report.get("calibration")
    how = f"{report['mode']} quantization"
    if calibration:
        how += f", calibrated with {count(calibration['images'])} images ({calibration['source']})"
    lines = [
        f"{code(f'{folder.name}/model.int8.onnx')}: 8-bit integers, {escape(how)}; {number(size['int8'], 1)} MB instead of "
        f"{number(size['float'], 1)} MB."
    ]
    if accuracy := report.get("accuracy"):
        low, high = accuracy["difference_ci95"]
        lines.append(
            f"Its accuracy on the {count(accuracy['n'])} test images is {number(accuracy['after'])}, the float model's "
            f"{number(accuracy['before'])}: a difference of {accuracy['difference']:+.4f} (95 % interval {low:+.4f} to "
            f"{high:+.4f}; exact McNemar test p = {number(accuracy['p_value'], 3)})."
        )
    if ranking := report.get("mean_average_precision"):
        low, high = ranking["difference_ci95"]
        lines.append(
            f"Its mean average precision on the {count(ranking['n'])} test images is {number(ranking['after'])}, the float "
            f"model's {number(ranking['before'])}: a difference of {ranking['difference']:+.4f} (95 % interval {low:+.4f} to "
            f"{high:+.4f}; paired bootstrap p = {number(ranking['p_value'], 3)})."
        )
    return "\n\n".join(["## Quantized copy", " ".join(lines)])
