"""How fast a model is and what it costs: latency, throughput, operations, parameters, memory.

The network alone is timed, on pixels that are where it computes; decoding and preprocessing are not part of it.
"""

from __future__ import annotations

import contextlib
import functools
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..backbones.backbone import Backbone
from ..backbones.onnx_body import OnnxBody
from ..backbones.precision import full_precision
from ..errors import UserError
from ..training.hardware import device_name, peak_memory_mb, reset_peak_memory
from .inference import prepare_model

_AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_LARGEST_BATCH = 1024
_GROWTH = 1.02  # a batch size is better when it brings 2 % more
_GROUP_SECONDS = 0.05  # short batches are timed several together, so that a GPU need not wait for its next batch
_WARM_UP = 2  # passes; the first one also sets kernels up
_LEAST_TIMINGS = 3


@dataclass(frozen=True)
class Speed:
    """Speed and cost of one model on one device.

    Args:
        latency_ms: median milliseconds of one image alone, from the call to the logits being there.
        latency_p95_ms: 95th percentile of the same.
        latency_runs: how many times it was timed.
        images_per_second: throughput at `batch_size`, from the median seconds of a batch.
        batch_size: the batch size of the best throughput among those tried.
        throughput: (batch size, images per second) of each batch size tried, from fewer timings.
        parameters: all of them; of a quantized network, those of the float one.
        macs: multiply-adds of one image, in convolutions, matrix products and attention; other operations are not counted. None
            where an ONNX graph computes, whose operations torch does not see.
        flops: floating-point operations of one image, two for a multiply-add; None likewise.
        peak_memory_mb: on a GPU, of tensors allocated during the measurement; on a CPU, resident memory of the whole process,
            libraries included, during the measurement (on Linux; elsewhere since the process started).
        precision: "fp32", or the dtype of autocast, "bf16" or "fp16".
        device: its name.
        threads: torch's threads on the CPU.
        input_size: (height, width) of the input.
    """

    latency_ms: float
    latency_p95_ms: float
    latency_runs: int
    images_per_second: float
    batch_size: int
    throughput: tuple[tuple[int, float], ...]
    parameters: int
    macs: int | None
    flops: int | None
    peak_memory_mb: float
    precision: str
    device: str
    threads: int
    input_size: tuple[int, int]


def measure_speed(
    backbone: Backbone,
    *,
    device: torch.device,
    precision: str = "fp32",
    batch_sizes: Iterable[int] | None = None,
    seconds: float = 10.0,
) -> Speed:
    """Measure a model in eval mode, without gradients, convolutional networks in NHWC memory layout.

    Three tenths of the time go to the latency, up to four to the search for the best batch size, what is left to the throughput
    at that size. Whatever is timed is timed three times at least, after a warm-up, so a very slow model takes longer.

    Args:
        backbone: the model, with the preprocessing that says its input's size; it stays on `device` in eval mode.
        device: where to compute.
        precision: "fp32" (a GPU does not round to TF32), or "bf16" or "fp16" for autocast.
        batch_sizes: the sizes to try; None to double the size until two in a row bring no more images a second, memory ends, or
            the time for the search is over.
        seconds: about how long this may take.

    Raises:
        ValueError: for another precision.
        UserError: when not even the smallest batch fits in memory.
    """
    if precision not in _AUTOCAST:
        raise ValueError(f"unknown precision '{precision}'; expected {', '.join(_AUTOCAST)}")
    end = time.perf_counter() + seconds
    prepare_model(backbone.model, device, channels_last=backbone.is_convolutional)
    clock = _Clock(backbone, device)
    reset_peak_memory(device)
    with torch.no_grad(), _arithmetic(device, precision):
        latency = clock.timings(1, 0.3 * seconds)
        if latency is None:
            raise UserError(f"speed: {device_name(device)} has not enough memory for one image")
        if batch_sizes is None:
            search = functools.partial(clock.images_per_second, seconds=0.02 * seconds)
            throughput = search_batch_sizes(search, 1 / statistics.median(latency), 0.4 * seconds)
        else:
            wanted = sorted(set(batch_sizes))
            found = {size: clock.images_per_second(size, 0.4 * seconds / len(wanted)) for size in wanted}
            throughput = {size: rate for size, rate in found.items() if rate is not None}
        if not throughput:
            raise UserError(f"speed: {device_name(device)} has not enough memory for any of the batch sizes given")
        best = max(throughput, key=lambda size: throughput[size])
        left = end - time.perf_counter()
        images_per_second = clock.images_per_second(best, left) if left > 0 else None
    peak = peak_memory_mb(device)
    flops = count_flops(backbone, device)
    return Speed(
        latency_ms=1000 * statistics.median(latency),
        latency_p95_ms=1000 * sorted(latency)[math.ceil(0.95 * len(latency)) - 1],
        latency_runs=len(latency),
        images_per_second=images_per_second or throughput[best],
        batch_size=best,
        throughput=tuple(throughput.items()),
        parameters=backbone.parameter_count,
        macs=None if flops is None else flops // 2,
        flops=flops,
        peak_memory_mb=peak,
        precision=precision,
        device=device_name(device),
        threads=torch.get_num_threads(),
        input_size=backbone.preprocessing.size,
    )


def count_flops(backbone: Backbone, device: torch.device) -> int | None:
    """Return the floating-point operations of one image: two for each multiply-add of convolutions, matrix products, attention.

    None where an ONNX graph computes: torch sees nothing of its operations.

    Args:
        backbone: its model is on `device`, in eval mode.
        device: where to compute.
    """
    if any(isinstance(module, OnnxBody) for module in backbone.model.modules()):
        return None
    # Attention as plain matrix products, because torch has no formula for every fused kernel.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        backbone.model(pixel_values=_pixels(backbone, 1, device))
    return int(counter.get_total_flops())


class _Clock:
    """Times the forward pass of a model that is ready.

    Args:
        backbone: the model.
        device: where it is.
    """

    def __init__(self, backbone: Backbone, device: torch.device) -> None:
        self.backbone = backbone
        self.device = device
        self.synchronize = _nothing if device.type == "cpu" else functools.partial(torch.accelerator.synchronize, device)

    def images_per_second(self, size: int, seconds: float) -> float | None:
        """Return the throughput at a batch size, None when the batch does not fit in memory."""
        took = self.timings(size, seconds, _GROUP_SECONDS)
        return None if took is None else size / statistics.median(took)

    def timings(self, size: int, seconds: float, group_seconds: float = 0.0) -> list[float] | None:
        """Return the seconds of each forward pass of a batch, None when it does not fit in memory.

        Args:
            size: images in the batch.
            seconds: how long to go on, warm-up included; there are three timings at least.
            group_seconds: passes that are shorter than this are timed several together.
        """
        try:
            return self._timings(size, seconds, group_seconds)
        except RuntimeError as error:  # torch.OutOfMemoryError of CUDA, plain ones of other allocators
            if not any(words in str(error) for words in ("out of memory", "can't allocate memory")):
                raise
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _timings(self, size: int, seconds: float, group_seconds: float) -> list[float]:
        forward = functools.partial(self.backbone.model, pixel_values=_pixels(self.backbone, size, self.device))
        end = time.perf_counter() + seconds
        once = [self._seconds(forward, 1) for _ in range(_WARM_UP)][-1]
        group = max(1, math.ceil(group_seconds / once))
        took: list[float] = []
        while len(took) < _LEAST_TIMINGS or time.perf_counter() < end:
            took.append(self._seconds(forward, group) / group)
        return took

    def _seconds(self, forward: Callable[[], Any], passes: int) -> float:
        began = time.perf_counter()
        for _ in range(passes):
            forward()
        self.synchronize()
        return time.perf_counter() - began


def search_batch_sizes(measure: Callable[[int], float | None], single: float, seconds: float) -> dict[int, float]:
    """Double the batch size while that brings more images a second; return what each size brought.

    Args:
        measure: batch size to images per second, None when the batch does not fit in memory.
        single: images per second at batch size 1.
        seconds: no size is begun whose five passes would end later.
    """
    rates = {1: single}
    without_growth = 0
    end = time.perf_counter() + seconds
    size = 2
    while size <= _LARGEST_BATCH and without_growth < 2:
        best = max(rates.values())
        if time.perf_counter() + (_WARM_UP + _LEAST_TIMINGS) * size / best > end:
            break
        rate = measure(size)
        if rate is None:
            break
        without_growth = 0 if rate > _GROWTH * best else without_growth + 1
        rates[size] = rate
        size *= 2
    return rates


def _pixels(backbone: Backbone, size: int, device: torch.device) -> torch.Tensor:
    """Return random inputs [size, 3, height, width] in the memory layout the model computes in."""
    pixels = torch.randn((size, 3, *backbone.preprocessing.size), generator=torch.Generator().manual_seed(0))
    layout = torch.channels_last if backbone.is_convolutional else torch.contiguous_format
    return pixels.to(device, memory_format=layout)


@contextlib.contextmanager
def _arithmetic(device: torch.device, precision: str) -> Iterator[None]:
    dtype = _AUTOCAST[precision]
    with full_precision(device) if dtype is None else torch.autocast(device.type, dtype):
        yield


def _nothing() -> None:
    """Stand in for the synchronisation that a CPU does not need."""
