"""Learned temperatures of the attention: in words, as a picture, and of several runs together."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .figures import drawing, new_figure, save_figure
from .formats import finite

ABOUT = (
    "Each attention layer learned what its scores are divided by besides the root of a head's width: above 1 its attention is "
    "more even than plain attention's, below 1 it is sharper. Training began at 1."
)
_WIDTH, _HEIGHT = 6.0, 2.6  # inches
_COLOUR, _GREY = "#0072B2", "#8a8a8a"


@dataclass(frozen=True)
class Temperatures:
    """What metrics.json tells of learned temperatures.

    Args:
        values: of each attention layer, shallow to deep.
        mean: over the layers.
        deviation: over the layers.
    """

    values: list[float]
    mean: float
    deviation: float

    @property
    def words(self) -> str:
        """Mean and deviation, in a line."""
        layers = "1 layer" if len(self.values) == 1 else f"{len(self.values)} layers"
        return f"mean {self.mean:.4f}, standard deviation {self.deviation:.4f} over {layers}"


def learned_temperatures(metrics: Mapping[str, Any]) -> Temperatures | None:
    """Return the learned temperatures of a run, None where it has none.

    Args:
        metrics: content of metrics.json.
    """
    found = metrics.get("attention_temperatures")
    if not isinstance(found, Mapping) or not isinstance(found.get("values"), list):
        return None
    values = [value for value in map(finite, found["values"]) if value is not None]
    mean, deviation = finite(found.get("mean")), finite(found.get("deviation"))
    if not values or mean is None or deviation is None:
        return None
    return Temperatures(values, mean, deviation)


def over_runs(runs: Sequence[Mapping[str, Any]]) -> tuple[float, float] | None:
    """Return mean and deviation over the layers, each the mean over runs; None where no run has learned temperatures.

    Args:
        runs: metrics.json of each, such as those of a candidate's seeds.
    """
    found = [temperatures for metrics in runs if (temperatures := learned_temperatures(metrics)) is not None]
    if not found:
        return None
    return statistics.fmean(one.mean for one in found), statistics.fmean(one.deviation for one in found)


def plot_temperatures(temperatures: Temperatures, output: Path) -> None:
    """Draw the temperature of each layer, their mean and the deviation around it into a PNG.

    Args:
        temperatures: of a run.
        output: the PNG to write, 900 pixels wide; its folder is made if need be.
    """
    with drawing():
        save_figure(draw_temperatures(temperatures), output)


def draw_temperatures(temperatures: Temperatures) -> Any:
    """Return the figure of `plot_temperatures`; see there."""
    mean, deviation = temperatures.mean, temperatures.deviation
    layers = range(1, len(temperatures.values) + 1)
    figure = new_figure(_WIDTH, _HEIGHT)
    axis: Any = figure.subplots()
    axis.axhspan(mean - deviation, mean + deviation, color=_COLOUR, alpha=0.12, linewidth=0)
    axis.axhline(mean, color=_COLOUR, linewidth=1, label="mean, and the deviation around it")
    axis.axhline(1.0, color=_GREY, linewidth=1, linestyle=(0, (4, 3)), label="where training began")
    axis.plot(layers, temperatures.values, color=_COLOUR, marker="o", markersize=5, linewidth=1.8)
    axis.ticklabel_format(axis="y", useOffset=False)
    axis.set_xlim(0.5, len(layers) + 0.5)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_xlabel("attention layer, shallow to deep")
    axis.set_ylabel("temperature")
    axis.grid(True, color="#e6e6e6", linewidth=0.7)
    axis.set_axisbelow(True)
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    return figure
