"""Data: sources, splits, integrity, transforms, augmentation."""

from .pixel_limit import apply_pixel_limit

apply_pixel_limit()
