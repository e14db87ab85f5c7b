"""What `hf-transfer predict` costs: memory over many images, and speed beside a bare loop and `transformers.pipeline`.

Memory: the peak of a process that predicts the first tenth of the images, and of another one that predicts them all. Speed: the
same images through `predict_images`, through a loop that does nothing but decode, preprocess and call the model (same batch
size, memory layout and precision, no threads), and through the stock pipeline; in turn, in an order that alternates, after a
warm-up; all three must name the same classes. Reading alone, with 0, 1 and 2 threads, says what the threads bring.

Run from the repository root: python benchmarks/predict.py
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
import transformers
from printing import machine_facts, print_facts, print_table, spread

from hf_transfer.data.images import decode_rgb
from hf_transfer.data.loose_images import LooseImage, find_images, read_batches
from hf_transfer.deploy.predict import Classifier, Prediction, load_model, predict_images
from hf_transfer.training.hardware import peak_memory_mb

CPU = torch.device("cpu")


def predicted_classes(model: str, images: list[LooseImage], batch_size: int) -> tuple[int, float]:
    """Predict in this process; return how many images got a class, and the peak memory in MB."""
    rows = predict_images(load_model(model), images, device=CPU, batch_size=batch_size, top_k=1)
    return sum(isinstance(row, Prediction) for row in rows), peak_memory_mb(CPU)


def measure_memory(model: str, images: list[LooseImage], batch_size: int) -> None:
    rows = []
    for count in (len(images) // 10, len(images)):
        with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
            done, peak = pool.submit(predicted_classes, model, images[:count], batch_size).result()
        assert done == count
        rows.append((count, peak))
    print_table(["images", "peak MB", "ratio"], [[str(n), f"{peak:.0f}", f"{peak / rows[0][1]:.3f}"] for n, peak in rows])


def measure_reading(model: str, images: list[LooseImage], batch_size: int, rounds: int) -> None:
    preprocessing = load_model(model).preprocessing
    seconds: dict[int, list[float]] = {workers: [] for workers in (0, 1, 2)}
    for turn in range(rounds + 1):
        for workers in list(seconds) if turn % 2 else reversed(seconds):
            began = time.perf_counter()
            for _ in read_batches(images, preprocessing, batch_size, workers=workers, keep_images=False):
                pass
            if turn:
                seconds[workers].append(time.perf_counter() - began)
    rows = [
        [f"reading, {workers} threads", spread([len(images) / s for s in took], ".0f")] for workers, took in seconds.items()
    ]
    print_table(["", "images/s"], rows)


def measure_speed(model: str, images: list[LooseImage], batch_size: int, rounds: int) -> None:
    backbone = load_model(model)
    classifier = Classifier(backbone, device=CPU)  # every way below computes in its memory layout
    network, processor = backbone.model, backbone.processor
    pipe = transformers.pipeline("image-classification", model=network, image_processor=processor, device="cpu")

    def ours() -> list[str]:
        rows = predict_images(backbone, images, device=CPU, batch_size=batch_size, top_k=1)
        return [row.classes[0] for row in rows if isinstance(row, Prediction)]

    def bare() -> list[str]:
        found = []
        with torch.no_grad():
            for start in range(0, len(images), batch_size):
                decoded = [decode_rgb(Path(image.name).read_bytes()) for image in images[start : start + batch_size]]
                pixels = torch.stack([processor(image, return_tensors="pt")["pixel_values"][0] for image in decoded])
                if backbone.is_convolutional:
                    pixels = pixels.to(memory_format=torch.channels_last)
                found += network(pixel_values=pixels).logits.argmax(dim=1).tolist()
        return [classifier.class_names[label] for label in found]

    def stock() -> list[str]:
        answers = pipe([image.name for image in images], batch_size=batch_size, top_k=1)
        return [answer[0]["label"] for answer in answers]

    ways = {"predict_images": ours, "bare loop": bare, "transformers.pipeline": stock}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        answers = {}
        for name in list(ways) if turn % 2 else reversed(ways):
            began = time.perf_counter()
            answers[name] = ways[name]()
            if turn:
                seconds[name].append(time.perf_counter() - began)
        assert answers["predict_images"] == answers["bare loop"] == answers["transformers.pipeline"]
    ours_took = statistics.median(seconds["predict_images"])
    rows = [
        [name, spread([len(images) / s for s in took], ".1f"), f"{statistics.median(took) / ours_took:.3f}"]
        for name, took in seconds.items()
    ]
    print_table(["", "images/s", "time / predict_images"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="package:efficientnet_lite0")
    parser.add_argument("--folder", help="by default the images of package:textile")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--timed-images", type=int, default=320)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    folder = options.folder
    if folder is None:
        from conformal_clip_data import textile_simulated_root

        folder = str(textile_simulated_root())
    found = find_images([folder])
    images = found[:: max(1, len(found) // options.images)][: options.images]
    transformers.utils.logging.set_verbosity_error()
    print_facts(machine_facts() | {"model": options.model, "images": str(len(images)), "batch": str(options.batch_size)})
    measure_memory(options.model, images, options.batch_size)
    measure_reading(options.model, images[: options.timed_images], options.batch_size, options.rounds)
    measure_speed(options.model, images[: options.timed_images], options.batch_size, options.rounds)


if __name__ == "__main__":
    main()
