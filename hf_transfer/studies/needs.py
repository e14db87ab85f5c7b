"""What recipes need from elsewhere - weights and images - and getting all of it into the caches of this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..errors import UserError
from ..recipe import Recipe
from ..recipe.schema import Data, Model


@dataclass(frozen=True)
class Need:
    """A model or a data set that some of the recipes name.

    Args:
        what: the section that names it; a model with `as_it_is` keeps its own classifier.
        as_it_is: whether it is evaluated, not adapted.
    """

    what: Model | Data
    as_it_is: bool = False

    @property
    def name(self) -> str:
        """How the recipe calls it."""
        return self.what.backbone if isinstance(self.what, Model) else self.what.source


@dataclass(frozen=True)
class Fetched:
    """What became of a need.

    Args:
        name: of the model or data set.
        kind: "model" or "data".
        holds: its size in words; empty where it could not be had.
        problem: why not; empty where it is there.
    """

    name: str
    kind: str
    holds: str
    problem: str


def needs_of(recipes: Sequence[Recipe]) -> list[Need]:
    """Return every model and every data set of some recipes once, models first."""
    models = {_text(need): need for need in (Need(recipe.model, recipe.mode == "evaluate") for recipe in recipes)}
    sources: dict[str, Need] = {}
    for recipe in recipes:
        further = ({"source": source, "config_name": None, "revision": None} for source in recipe.evaluation.extra.values())
        for section in (recipe.data, *(recipe.data.model_copy(update=changed) for changed in further)):
            sources.setdefault(f"{section.source} {section.config_name} {section.revision}", Need(section))
    return [*models.values(), *sources.values()]


def fetch(needs: Sequence[Need]) -> Iterator[Fetched]:
    """Load each need as a run does, so that all its files are in the caches then, and yield what became of it.

    One at a time, so that no two models are in memory together.
    """
    for need in needs:
        kind = "model" if isinstance(need.what, Model) else "data"
        try:
            yield Fetched(need.name, kind, _load(need), "")
        except UserError as error:
            yield Fetched(need.name, kind, "", str(error))


def _load(need: Need) -> str:
    if isinstance(need.what, Data):
        from ..data.sources.source import read_source

        tables = read_source(need.what).tables
        return f"{', '.join(f'{split} {len(table):,}' for split, table in tables.items())} images"
    from ..backbones.build import build_backbone, load_as_it_is

    backbone = load_as_it_is(need.what) if need.as_it_is else build_backbone(need.what, ["0", "1"], 0)
    return f"{backbone.parameter_count / 1e6:.1f} million parameters"


def _text(need: Need) -> str:
    return f"{need.as_it_is} {need.what.model_dump_json()}"
