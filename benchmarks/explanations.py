"""Do explanations find what is there? Maps of a fine-tuned network against defects that were located without any network.

The textile images of class `local` have one small defect each, a patch of noise of about 12 x 21 pixels in 250 x 250. It is
located from the pixels alone: each pixel is predicted from its 24 neighbours by least squares fitted on the same image (an
autoregressive texture model); the squared residual, smoothed, has its largest robust z-score on the defect. The defect's box
holds the connected pixels above a quarter of that. `--parts locator` checks the locator: on `local` images its largest z-score
must lie above every one that images without a defect have. `--look FILE` draws twelve located defects.

- `hits`: test images of class `local` that the run recognised. A hit is a map whose peak (the centre of its largest cell; of
  adjacent cells within 1 % of the largest, their mean, or the one nearest to it) falls into the defect's box, grown on each
  side by half a cell of the map. Beside it `chance`: the share of the map's cells whose centre falls there, which is how
  often a random map of that resolution hits. Wilson intervals of 95 %. `distance` is the median distance of the peak from the
  middle of the box, in pixels of the image, beside that of cells taken at random.
- `faithfulness`: areas under the insertion and deletion curves (RISE) over test images of all classes, and the mean difference
  to a random map of the same resolution with a 95 % interval by a bootstrap over images (10,000 resamples).
- `memory`: peak resident memory of `hf-transfer explain` (gradcam) over 100 and over 1,000 images, each in its own process.

Run from the repository root, after `hf-transfer run recipes/quickstart.json`:
    python benchmarks/explanations.py --run runs/quickstart
Needs the packages of the `demo` and `explain` extras.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from printing import machine_facts, print_facts, print_table
from scipy import ndimage

from hf_transfer.backbones.build import load_as_it_is
from hf_transfer.data.images import decode_rgb
from hf_transfer.evaluation.predictions import Predictions
from hf_transfer.explain.explanations import ask, evaluating, explain_batch
from hf_transfer.explain.view import View
from hf_transfer.metrics import wilson_interval
from hf_transfer.recipe.schema import Model

PARTS = ("locator", "hits", "faithfulness", "memory")
# (method, layer); occlusion comes last, it takes longest.
QUESTIONS = (
    ("gradcam", "last"),
    ("gradcam", "third"),
    ("gradcam", "second"),
    ("gradcam++", "last"),
    ("gradcam++", "third"),
    ("layercam", "last"),
    ("layercam", "third"),
    ("layercam", "second"),
    ("hirescam", "last"),
    ("hirescam", "third"),
    ("eigencam", "last"),
    ("eigencam", "third"),
    ("integrated_gradients", "last"),
    ("occlusion", "last"),
)
LOCAL = "local"
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the original image


def residual_scores(image: Image.Image, reach: int = 2, smoothing: float = 2.5, border: int = 6) -> np.ndarray:
    """Return the robust z-score of each pixel's smoothed squared residual, 0 at the border: float64 [height, width]."""
    gray = np.asarray(image.convert("L"), dtype=np.float64)
    gray -= gray.mean()
    height, width = gray.shape
    inner = slice(reach, height - reach), slice(reach, width - reach)
    shifts = [(y, x) for y in range(2 * reach + 1) for x in range(2 * reach + 1) if (y, x) != (reach, reach)]
    around = np.stack([gray[y : height - 2 * reach + y, x : width - 2 * reach + x].ravel() for y, x in shifts])
    weights = np.linalg.solve(around @ around.T, around @ gray[inner].ravel())
    residual = np.zeros_like(gray)
    residual[inner] = gray[inner] - (weights @ around).reshape(gray[inner].shape)
    energy = ndimage.gaussian_filter(residual**2, smoothing)[border:-border, border:-border]
    middle = np.median(energy)
    scores = np.zeros_like(gray)
    scores[border:-border, border:-border] = (energy - middle) / (1.4826 * np.median(np.abs(energy - middle)))
    return scores


def defect_box(image: Image.Image) -> Box:
    """Return the box of the defect."""
    scores = residual_scores(image)
    parts, _ = ndimage.label(scores > scores.max() / 4)
    rows, columns = np.nonzero(parts == parts[np.unravel_index(scores.argmax(), scores.shape)])
    return float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)


def check_locator(every: int) -> None:
    from conformal_clip_data import textile_simulated_root

    root = Path(str(textile_simulated_root()))
    rows, tops = [], {}
    for name in (LOCAL, "nominal", "global"):
        files = sorted((root / name).glob("*.jpg"))[::every]
        tops[name] = [residual_scores(Image.open(file)).max() for file in files]
        rows.append((name, str(len(files)), *(f"{value:.1f}" for value in np.quantile(tops[name], [0, 0.5, 1]))))
    print_table(("largest z-score, class", "n", "lowest", "median", "highest"), rows)
    if min(tops[LOCAL]) <= max(tops["nominal"]):
        sys.exit("the locator does not tell images with a defect from images without")


def draw_defects(images: list[Image.Image], output: Path) -> None:
    tiles = []
    for image in images:
        left, top, right, bottom = defect_box(image)
        shown, zoom = image.resize((500, 500)), 10
        ImageDraw.Draw(shown).rectangle([2 * left - 6, 2 * top - 6, 2 * right + 6, 2 * bottom + 6], outline=(255, 60, 0))
        corner = int(left + right) // 2 - 25, int(top + bottom) // 2 - 25
        near = image.crop((*corner, corner[0] + 50, corner[1] + 50)).resize((500, 500), Image.Resampling.NEAREST)
        edges = [zoom * (value - corner[side % 2]) for side, value in enumerate((left, top, right, bottom))]
        ImageDraw.Draw(near).rectangle(edges, outline=(255, 60, 0))
        tiles.append(np.vstack([np.asarray(shown), np.asarray(near)]))
    sheet = np.vstack([np.hstack(tiles[first : first + 6]) for first in range(0, len(tiles) - 5, 6)])
    Image.fromarray(sheet).save(output)


def grown(box: Box, cell: tuple[float, float]) -> Box:
    return box[0] - cell[0] / 2, box[1] - cell[1] / 2, box[2] + cell[0] / 2, box[3] + cell[1] / 2


def holds(box: Box, x: np.ndarray | float, y: np.ndarray | float) -> np.ndarray:
    return (box[0] <= np.asarray(x)) & (x <= box[2]) & (box[1] <= np.asarray(y)) & (y <= box[3])


def explained(run: Path, predictions: Predictions, positions: np.ndarray, batch_size: int = 8, **asked: Any) -> Iterator:
    """Yield (position, original size, explanation, view, input size) of each image; `asked` goes to `ask`."""
    backbone, view = run_model(run)
    question = ask(backbone, **asked)
    with evaluating(backbone.model):
        for first in range(0, len(positions), batch_size):
            some = positions[first : first + batch_size]
            images = [read(predictions, position) for position in some]
            pixels = torch.stack([backbone.preprocessing(image) for image in images])
            names, sizes = [predictions.sample_ids[position] for position in some], [image.size for image in images]
            for position, size, result in zip(
                some, sizes, explain_batch(backbone, view, question, names, sizes, pixels), strict=True
            ):
                yield position, size, result.explanations[0], view, pixels.shape[2:]


def run_model(run: Path) -> tuple:
    backbone = load_as_it_is(Model(backbone=str(run)))
    backbone.model.float().to(memory_format=torch.channels_last)
    return backbone, View(backbone.preprocessing)


def read(predictions: Predictions, position: int) -> Image.Image:
    return decode_rgb(Path(predictions.paths[position]).read_bytes())


def measure_hits(run: Path, predictions: Predictions, positions: np.ndarray, questions: list[tuple[str, str]]) -> None:
    boxes = {position: defect_box(read(predictions, position)) for position in positions}
    print(f"{len(positions)} recognised test images of class {LOCAL}\n")
    print("| method | layer | map | hits [95 %] | chance | distance | random | blank | s/image |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for method, layer in questions:
        hits, blank, chances, distances, random_distances = 0, 0, [], [], []
        began, cells = time.perf_counter(), (0, 0)
        for position, size, found, view, seen in explained(run, predictions, positions, method=method, layers=layer):
            cells = tuple(found.raw.shape)
            cell = size[0] / cells[1], size[1] / cells[0]
            centres = [
                view.in_original(((column + 0.5) * seen[1] / cells[1], (row + 0.5) * seen[0] / cells[0]), size)
                for row in range(cells[0])
                for column in range(cells[1])
            ]
            x, y = np.array(centres).T
            region = grown(boxes[position], cell)
            chances.append(holds(region, x, y).mean())
            middle = (boxes[position][0] + boxes[position][2]) / 2, (boxes[position][1] + boxes[position][3]) / 2
            random_distances.extend(np.hypot(x - middle[0], y - middle[1]))
            if found.blank:
                blank += 1
                continue
            hits += int(holds(region, *found.original_peak))
            distances.append(float(np.hypot(*np.subtract(found.original_peak, middle))))
        n, seconds = len(positions), (time.perf_counter() - began) / len(positions)
        print(
            f"| {method} | {found.layer_name or '-'} | {cells[0]} x {cells[1]} | {share(hits, n)} | {np.mean(chances):.3f} | "
            f"{np.median(distances):.0f} | {np.median(random_distances):.0f} | {blank} | {seconds:.2f} |",
            flush=True,
        )


def share(hits: int, n: int) -> str:
    low, high = wilson_interval(hits, n)
    return f"{hits / n:.3f} [{low:.3f}, {high:.3f}]"


def measure_faithfulness(run: Path, predictions: Predictions, positions: np.ndarray, questions: list[tuple[str, str]]) -> None:
    print(f"\n{len(positions)} test images, all classes\n")
    print("| method | layer | deletion | - random [95 %] | insertion | - random [95 %] | n |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    generator = np.random.default_rng(0)
    for method, layer in questions:
        scores = [
            found.scores
            for _, _, found, _, _ in explained(run, predictions, positions, method=method, layers=layer, faithfulness=True)
            if not found.blank
        ]
        cells = []
        for name in ("deletion_auc", "insertion_auc"):
            own = np.array([score[name] for score in scores])
            gain = own - np.array([score[f"random_{name}"] for score in scores])
            means = gain[generator.integers(0, len(gain), (10_000, len(gain)))].mean(axis=1)
            low, high = np.quantile(means, [0.025, 0.975])
            cells.append(f"{own.mean():.3f} | {gain.mean():+.3f} [{low:+.3f}, {high:+.3f}]")
        print(f"| {method} | {layer} | {' | '.join(cells)} | {len(scores)} |", flush=True)


def measure_memory(run: Path, counts: list[int]) -> None:
    from conformal_clip_data import textile_simulated_root

    files = sorted(Path(str(textile_simulated_root())).rglob("*.jpg"))
    rows = []
    for count in counts:
        with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
            folder = Path(scratch, "images")
            folder.mkdir()
            for index, file in enumerate(files[:count]):
                (folder / f"{index}.jpg").symlink_to(file)
            command = ["explain", str(run), str(folder), "--output", f"{scratch}/out"]
            began = time.perf_counter()
            subprocess.run([sys.executable, "-m", "hf_transfer.cli", *command], check=True, stdout=subprocess.DEVNULL)
            seconds = time.perf_counter() - began
        # The largest child so far: the second one counts only where it needed more.
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        rows.append((str(count), f"{peak:.0f}", f"{seconds:.0f}"))
    print_table(("images", "peak MB", "seconds"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/quickstart"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--methods", nargs="+", help="only these methods")
    parser.add_argument("--layers", nargs="+", help="only these depths")
    parser.add_argument("--images", type=int, help="at most so many images for hits")
    parser.add_argument("--faithfulness-images", type=int, default=30)
    parser.add_argument("--memory-images", type=int, nargs="+", default=[100, 1000], metavar="N")
    parser.add_argument("--locator-every", type=int, default=5, metavar="K", help="check the locator on every K-th image")
    parser.add_argument("--look", type=Path, metavar="FILE", help="draw twelve located defects")
    options = parser.parse_args()
    print_facts(machine_facts())
    predictions = Predictions.read(options.run / "predictions" / "test.parquet")
    label = predictions.class_names.index(LOCAL)
    local = np.flatnonzero((predictions.labels == label) & (predictions.predicted == label))[: options.images]
    questions = [
        (method, layer)
        for method, layer in QUESTIONS
        if (options.methods is None or method in options.methods) and (options.layers is None or layer in options.layers)
    ]
    if options.look:
        draw_defects([read(predictions, position) for position in local[:: len(local) // 12][:12]], options.look)
    if "locator" in options.parts:
        check_locator(options.locator_every)
    if "hits" in options.parts:
        measure_hits(options.run, predictions, local, questions)
    if "faithfulness" in options.parts:
        count = len(predictions.labels)
        spread = np.linspace(0, count - 1, min(options.faithfulness_images, count)).round().astype(int)
        measure_faithfulness(options.run, predictions, spread, questions)
    if "memory" in options.parts:
        measure_memory(options.run, options.memory_images)


if __name__ == "__main__":
    main()
