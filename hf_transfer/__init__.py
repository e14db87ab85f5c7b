"""Transfer learning for image classification: which backbone, which way of adapting it, at what cost.

Kept unessential on purpose: another distribution installs a package of the same import name, and whichever is installed last
overwrites this file. Nothing inside the package imports from here.
"""

__version__ = "0.1.0"


def register() -> None:
    """Teach transformers' Auto classes the `hf_transfer` model type, so that `from_pretrained` loads such models."""
    from .backbones.wrapper import register

    register()
