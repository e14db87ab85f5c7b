"""The input pipeline of training beside the one of the HuggingFace example and timm's loader: images/s on the same JPEGs.

Sides, each in a process of its own:

- `hf example`: `datasets` with `Image()` decoding and `set_transform`: convert("RGB"), RandomResizedCrop, RandomHorizontalFlip,
  ToTensor, Normalize, and the example's collate function, in a torch DataLoader.
- `timm`: `timm.data.ImageDataset` and `create_loader` with its prefetcher, the same crop and flip.
- `ours`: `ImageDataset`, `Collate` and `Finishing`, as `build_trainer` does: the first epoch, or any without cache.
- `ours, cached`: the same with `data.cache: "resized"`: any epoch after the pass that keeps the images, which is timed, too.
- `decoding alone`: Pillow decodes every file in full, and nothing else is done, through the same DataLoader: a ceiling for
  whoever decodes in full with Pillow.

All make batches of 32 float32 inputs of 224 x 224, crops of 50 to 100 % of the area, bilinear, with the same number of loader
processes. The files are textile photographs, enlarged, with texture of several scales, JPEG quality 90, 4:2:0, of as many bits
for a pixel as photographs of that size have. They are read once before anything is timed. Sides work in turn, in an order that
alternates, after a round that does not count; a ratio is that of one round. Processor time is that of a process and its loader
processes. `ours` keeps the memory it frees (`keep_freed_memory`), as a run does on a CPU; the others run as they come.

Memory: what the process of `ours` and its loader processes hold together that is no page of a file (Pss_Anon), at most while
60 batches are read, of a table of some images and of one a hundred times as long that repeats them.

Run from the repository root: python benchmarks/input_pipeline.py
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import itertools
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from printing import machine_facts, print_facts, print_table, spread
from torch.utils.data import DataLoader, Dataset

from hf_transfer.data.augmentation import build_train_transform
from hf_transfer.data.dataset import Collate, ImageDataset
from hf_transfer.data.finishing import Finishing
from hf_transfer.data.images import decode_rgb
from hf_transfer.data.resized import keep_for_training
from hf_transfer.data.sources.folders import read_class_folders
from hf_transfer.data.sources.package_data import read_package
from hf_transfer.data.table import ImageTable
from hf_transfer.data.transforms import Preprocessing
from hf_transfer.training.hardware import keep_freed_memory

SIDES = ("hf example", "timm", "ours", "ours, cached", "decoding alone")
BATCH, SIZE, SCALE, RATIO = 32, 224, (0.5, 1.0), (3 / 4, 4 / 3)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GRAINS = {1: 2.0, 2: 4.0, 8: 6.0, 32: 8.0}  # of the texture: pixels of a grain to its standard deviation
BITS = {500: 2.2, 2000: 1.7}  # of a JPEG for a pixel; scikit-learn's two photographs have 1.6 and 2.9 at 500 px


@dataclass(frozen=True)
class Epoch:
    """What reading all images once took.

    Args:
        images: how many.
        seconds: wall clock.
        cpu_seconds: of this process and its loader processes.
    """

    images: int
    seconds: float
    cpu_seconds: float


def write_images(folder: Path, width: int, count: int) -> float:
    """Write JPEGs of this width in two class folders, and return how many bits they take for a pixel."""
    table = read_package("textile").tables["train"]
    draw = np.random.default_rng(width)
    grain = sum(_grains(draw, width * 3 // 2, 2 * width, size, deviation) for size, deviation in GRAINS.items())
    photographs = [decode_rgb(table.encoded(number * 37 % len(table))) for number in range(count)]

    def encoded(number: int, strength: float) -> bytes:
        height = width * 3 // 4
        # Their own noise, enlarged, would be more than a photograph of this size has.
        photograph = photographs[number].resize((125, 94)).resize((width, height), Image.Resampling.BICUBIC)
        top, left = number * 97 % height, number * 89 % width
        pixels = np.asarray(photograph, dtype=np.float32) + strength * grain[top : top + height, left : left + width]
        file = io.BytesIO()
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=90, subsampling=2)
        return file.getvalue()

    def bits(numbers: range, strength: float) -> float:
        return 8 * statistics.mean(len(encoded(number, strength)) for number in numbers) / (width * width * 3 // 4)

    low, high = 0.0, 4.0
    for _ in range(6):
        middle = (low + high) / 2
        low, high = (middle, high) if bits(range(2), middle) < BITS.get(width, 2.0) else (low, middle)
    for number in range(count):
        path = folder / "train" / "ab"[number % 2] / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(number, low))
    return 8 * sum(path.stat().st_size for path in folder.rglob("*.jpg")) / (count * width * (width * 3 // 4))


def _grains(draw: np.random.Generator, height: int, width: int, size: int, deviation: float) -> np.ndarray:
    coarse = draw.normal(0, deviation, (3, height // size + 1, width // size + 1)).astype(np.float32)
    planes = [Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC) for plane in coarse]
    return np.stack([np.asarray(plane) for plane in planes], axis=2)


def table_of(folder: Path) -> ImageTable:
    """Return the images of a folder with their digests, as a run that has scanned them knows them."""
    table = read_class_folders(folder).tables["train"]
    digests = [hashlib.blake2b(table.encoded(index), digest_size=16).digest() for index in range(len(table))]
    return replace(table, digests=np.array(digests, dtype="S16"))


def hf_example(folder: Path, workers: int) -> Callable[[], Iterator[torch.Tensor]]:
    """Return what reads an epoch as the example `run_image_classification.py` of transformers does."""
    import datasets
    from torchvision import transforms

    paths = sorted(map(str, folder.rglob("*.jpg")))
    data = datasets.Dataset.from_dict({"image": paths, "labels": [index % 2 for index in range(len(paths))]})
    data = data.cast_column("image", datasets.Image())
    steps = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIZE, scale=SCALE, ratio=RATIO),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )

    def train_transforms(examples: dict[str, Any]) -> dict[str, Any]:
        examples["pixel_values"] = [steps(image.convert("RGB")) for image in examples["image"]]
        return examples

    def collate(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        pixels = torch.stack([example["pixel_values"] for example in examples])
        return {"pixel_values": pixels, "labels": torch.tensor([example["labels"] for example in examples])}

    data.set_transform(train_transforms)
    loader = DataLoader(data, BATCH, shuffle=True, num_workers=workers, collate_fn=collate)
    return lambda: (batch["pixel_values"] for batch in loader)


def timm_loader(folder: Path, workers: int) -> Callable[[], Iterator[torch.Tensor]]:
    """Return what reads an epoch with timm's loader."""
    from timm.data import ImageDataset as TimmImages
    from timm.data import create_loader

    loader = create_loader(
        TimmImages(str(folder / "train")),
        input_size=(3, SIZE, SIZE),
        batch_size=BATCH,
        is_training=True,
        scale=SCALE,
        ratio=RATIO,
        hflip=0.5,
        color_jitter=None,
        interpolation="bilinear",
        mean=MEAN,
        std=STD,
        num_workers=workers,
        device=torch.device("cpu"),
        pin_memory=False,
        persistent_workers=False,
    )
    # Of an epoch's last images that fill no batch it reads none: `read` counts what arrives.
    return lambda: (pixels for pixels, _ in loader)


def our_loader(
    table: ImageTable, workers: int, cache: Path | None = None
) -> tuple[Callable[[], Iterator[torch.Tensor]], Epoch | None]:
    """Return what reads an epoch as `build_trainer` does, and what keeping the images took."""
    from transformers import ViTImageProcessor

    preprocessing = Preprocessing(ViTImageProcessor(size={"height": SIZE, "width": SIZE}, image_mean=MEAN, image_std=STD))
    transform = build_train_transform("basic", preprocessing)
    kept, passed = None, None
    if cache is not None:
        began, cpu = time.perf_counter(), cpu_seconds()
        kept = keep_for_training(table, transform, None, workers, cache)
        passed = Epoch(len(table), time.perf_counter() - began, cpu_seconds() - cpu)
    data = ImageDataset(table, transform, seed=0, kept=kept)
    finish = Finishing(preprocessing, channels_last=True)
    loader = DataLoader(data, BATCH, shuffle=True, num_workers=workers, collate_fn=Collate(channels_last=True))

    def epoch() -> Iterator[torch.Tensor]:
        data.epoch += 1
        return (finish(batch)["pixel_values"] for batch in loader)

    return epoch, passed


class Decoded(Dataset):
    """The sizes of decoded images."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.rglob("*.jpg"))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self.paths[index]) as image:
            image.load()
            return torch.tensor(image.size)


_SIDE: list[Callable[[], Iterator[torch.Tensor]]] = []
_PASSES: list[Epoch] = []


def start(side: str, folder: Path, workers: int) -> None:
    """Prepare one side in its process."""
    multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.set_verbosity_error()
    if side == "hf example":
        _SIDE.append(hf_example(folder, workers))
    elif side == "timm":
        _SIDE.append(timm_loader(folder, workers))
    elif side == "decoding alone":
        loader = DataLoader(Decoded(folder), BATCH, shuffle=True, num_workers=workers)
        _SIDE.append(lambda: iter(loader))
    else:
        keep_freed_memory()
        cache = folder.parent / f"cache-{folder.name}-{workers}" if side == "ours, cached" else None
        epoch, passed = our_loader(table_of(folder), workers, cache)
        _SIDE.append(epoch)
        if passed is not None:
            _PASSES.append(passed)


def read() -> Epoch:
    """Read an epoch with the side of this process."""
    began, cpu, count = time.perf_counter(), cpu_seconds(), 0
    for batch in _SIDE[0]():
        count += len(batch)
    return Epoch(count, time.perf_counter() - began, cpu_seconds() - cpu)


def passed() -> Epoch | None:
    """Return what the pass took that keeps the images, in the process of the cached side."""
    return _PASSES[0] if _PASSES else None


def cpu_seconds() -> float:
    """Return the processor time of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def peak_anonymous_mb(folder: Path, workers: int, images: int, cached: bool) -> float:
    """Return the most memory that reading 60 batches of a table of `images` takes, in this process and its loader processes."""
    keep_freed_memory()
    table = table_of(folder)
    cache = folder.parent / f"cache-{folder.name}-memory" if cached else None
    if cached:
        our_loader(table, workers, cache)
    repeated = table.select(np.arange(images) % len(table))
    repeated = replace(repeated, sample_ids=np.array([f"{number}/{name}" for number, name in enumerate(repeated.sample_ids)]))
    epoch, _ = our_loader(repeated, workers, cache)
    peak, batches = 0.0, 0
    while batches < 60:
        for _batch in itertools.islice(epoch(), 60 - batches):
            batches += 1
            peak = max(peak, _anonymous_mb())
    return peak


def _anonymous_mb() -> float:
    own = os.getpid()
    children = Path(f"/proc/{own}/task/{own}/children").read_text().split()
    total = 0
    for process in (str(own), *children):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss_Anon:"))
    return total / 2**10


def compare(folder: Path, workers: int, rounds: int) -> dict[str, Any]:
    """Return the epochs of each side, round by round, and what the pass took."""
    with contextlib.ExitStack() as stack:
        context = multiprocessing.get_context("spawn")
        pools = {side: stack.enter_context(ProcessPoolExecutor(1, context, start, (side, folder, workers))) for side in SIDES}
        for pool in pools.values():
            pool.submit(read).result()
        epochs: dict[str, list[Epoch]] = {side: [] for side in SIDES}
        for number in range(rounds):
            for side in SIDES if number % 2 == 0 else reversed(SIDES):
                epochs[side].append(pools[side].submit(read).result())
        return {"epochs": epochs, "the pass": pools["ours, cached"].submit(passed).result()}


def show(found: dict[str, Any]) -> None:
    """Print one table: a row a side, ratios of one round."""
    speeds = {side: [epoch.images / epoch.seconds for epoch in epochs] for side, epochs in found["epochs"].items()}
    rows = []
    for side, epochs in found["epochs"].items():
        cpu = [1000 * epoch.cpu_seconds / epoch.images for epoch in epochs]
        ratios = [
            spread([mine / theirs for mine, theirs in zip(speeds[side], speeds[other], strict=True)])
            for other in ("hf example", "timm")
        ]
        rows.append((side, spread(speeds[side], ".0f"), *ratios, spread(cpu)))
    took = found["the pass"]
    rows.append(("the pass", f"{took.images / took.seconds:.0f}", "", "", f"{1000 * took.cpu_seconds / took.images:.2f}"))
    print_table(("", "images/s", "x hf example", "x timm", "processor ms/image"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[500, 2000])
    parser.add_argument("--images", type=int, nargs="+", default=[3000, 384], help="of each width")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--memory", type=int, default=2000, help="images of the memory test, and a hundred times; 0: leave it out"
    )
    parser.add_argument("--json", type=Path, help="keep every figure in this file")
    options = parser.parse_args()
    if len(options.widths) != len(options.images):
        sys.exit("give as many --images as --widths")
    print_facts(machine_facts())
    kept: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        for width, count in zip(options.widths, options.images, strict=True):
            folder = Path(scratch, str(width))
            bits = write_images(folder, width, count)
            for workers in options.workers:
                print(f"{count} JPEGs of {width} x {width * 3 // 4}, {bits:.1f} bits a pixel, {workers} loader processes")
                found = compare(folder, workers, options.rounds)
                show(found)
                kept[f"{width} px, {workers} workers"] = {
                    side: [vars(epoch) for epoch in epochs] for side, epochs in found["epochs"].items()
                } | {"the pass": vars(found["the pass"])}
        if options.memory:
            kept["anonymous memory"] = _memory(Path(scratch), options.widths[0], max(options.workers), options.memory)
    if options.json:
        options.json.write_text(json.dumps(kept, indent=1), encoding="utf-8")


def _memory(scratch: Path, width: int, workers: int, images: int) -> dict[str, float]:
    found = {}
    for cached in (False, True):
        for factor in (1, 100):
            # A process of its own, which has held nothing before.
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                peak = pool.submit(peak_anonymous_mb, scratch / str(width), workers, factor * images, cached).result()
            found[f"{'ours, cached' if cached else 'ours'}, {factor * images:,} images"] = peak
    print(f"most memory besides pages of files, {width} px, {workers} loader processes")
    print_table(("", "MB"), [(name, f"{peak:.0f}") for name, peak in found.items()])
    ratios = [
        found[f"{side}, {100 * images:,} images"] / found[f"{side}, {images:,} images"] for side in ("ours", "ours, cached")
    ]
    print(f"100 x the images / 1 x: {statistics.mean(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f})\n")
    return found


if __name__ == "__main__":
    main()
