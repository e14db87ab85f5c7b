"""Data: sources, splits, integrity, transforms, augmentation."""
