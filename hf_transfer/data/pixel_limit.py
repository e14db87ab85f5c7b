"""How many pixels an image may have: more is taken for a decompression bomb, told from its header and never decoded.

A file of some kilobytes may claim to be an image of some gigabytes. Pillow refuses more than 178,956,970 pixels, twice its
`Image.MAX_IMAGE_PIXELS` (from there on it only warns), and so does this package. No camera makes such images; scanners of
slides and satellites do, and whoever trusts theirs says how many pixels they have.
"""

from __future__ import annotations

import os
import warnings

from ..errors import UserError

PIXEL_LIMIT_VARIABLE = "HF_TRANSFER_MAX_PIXELS"


def apply_pixel_limit() -> None:
    """Let Pillow refuse images above $HF_TRANSFER_MAX_PIXELS, in this process; nothing is changed where that is not set.

    Raises:
        UserError: when it is no whole number above 1.
    """
    limit = os.environ.get(PIXEL_LIMIT_VARIABLE)
    if limit is None:
        return
    if not limit.strip().isdecimal() or int(limit) < 2:
        raise UserError(f"{PIXEL_LIMIT_VARIABLE}: expected a whole number of pixels above 1, found '{limit}'")
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = int(limit) // 2  # Pillow warns above this, and refuses above twice as many
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
