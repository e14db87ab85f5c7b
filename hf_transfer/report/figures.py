"""How every figure is made: matplotlib's object interface, its default settings, and text that is taken literally.

pyplot is never imported: it keeps figures alive in a global list and picks a window system. matplotlib itself is
imported when the first figure is drawn.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..run_directory import replacing
from .names import plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 150
_PADDING = 0.09  # inches that the constrained layout leaves around each axis

# Tried in this order for characters that matplotlib's own font lacks; only those that are installed are used.
_FALLBACK_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "Noto Sans JP",
    "Noto Sans KR",
    "PingFang SC",
    "Hiragino Sans",
    "Apple SD Gothic Neo",
    "Microsoft YaHei",
    "Yu Gothic",
    "Malgun Gothic",
    "WenQuanYi Zen Hei",
    "Noto Sans Arabic",
    "Noto Sans Hebrew",
    "Noto Sans Devanagari",
    "Noto Sans Thai",
    "Arial Unicode MS",
)


@contextmanager
def drawing() -> Iterator[None]:
    """Draw with matplotlib's defaults, whatever the user's own settings are, and restore those afterwards.

    A figure is built and saved inside: fonts and formats are looked up at both times. Characters that no font has are
    drawn as boxes; the warnings about them go no further.
    """
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams["font.family"] = ["DejaVu Sans", *_installed_fallbacks()]
        matplotlib.rcParams["axes.spines.top"] = False
        matplotlib.rcParams["axes.spines.right"] = False
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*missing from.*", category=UserWarning)
        warnings.filterwarnings("ignore", message=".*does not support .* natively.*", category=UserWarning)
        yield


def new_figure(width: float, height: float, *, layout: Literal["constrained"] | None = "constrained") -> Figure:
    """Return an empty figure of `width` x `height` inches with its own Agg canvas."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    if layout is not None:
        figure.set_layout_engine(layout, w_pad=_PADDING, h_pad=_PADDING)
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, output: Path) -> None:
    """Write a figure as PNG of exactly its own size; equal figures give equal bytes."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with replacing(output) as temporary:
        # Level 3 takes half the time of zlib's default here; sheets of photos even come out smaller.
        figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None}, pil_kwargs={"compress_level": 3})


def literal(text: object) -> str:
    """Return text that matplotlib draws as it is, on one line: `$` starts no formula."""
    return plain(text).replace("$", r"\$")


def text_width(text: str, font_size: float) -> float:
    """Return how many inches wide a text is drawn, in points of `font_size`."""
    figure = new_figure(1, 1, layout=None)
    return float(figure.text(0, 0, text, fontsize=font_size).get_window_extent().width) / DPI


@functools.cache
def _installed_fallbacks() -> tuple[str, ...]:
    from matplotlib import font_manager

    installed = set(font_manager.get_font_names())
    return tuple(name for name in _FALLBACK_FONTS if name in installed)
