"""The recipe: schema, loading, overrides, JSON Schema. Imports neither torch nor transformers."""

from .benchmark import Benchmark, load_any, parse_any
from .loading import dump_recipe, load_recipe, parse_recipe
from .schema import Recipe

__all__ = ["Benchmark", "Recipe", "dump_recipe", "load_any", "load_recipe", "parse_any", "parse_recipe"]
