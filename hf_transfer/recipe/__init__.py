"""The recipe: schema, loading, overrides, JSON Schema. Imports neither torch nor transformers."""

from .loading import dump_recipe, load_recipe, parse_recipe
from .schema import Recipe

__all__ = ["Recipe", "dump_recipe", "load_recipe", "parse_recipe"]
