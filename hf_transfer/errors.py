"""The user's mistakes, told in one clear message.

Everything a user can get wrong raises a `UserError`; the command line prints its text and exits with status 2, without a
traceback. Anything else is our mistake and keeps its traceback.
"""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class UserError(Exception):
    """A mistake the user can mend: what was expected, what was found, what to do.

    Attributes:
        of_this_process: whether other processes of the run may not have met it; then the one that did has to tell it.
    """

    of_this_process = False


class DataError(UserError):
    """The data cannot be used as the recipe asks."""


class BackboneError(UserError):
    """The backbone cannot be found, loaded or used as the recipe asks."""


class LabelError(UserError):
    """The labels of a data set and of a checkpoint do not match."""


class RunDirectoryError(UserError):
    """The output directory is in a state that forbids the run."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a recipe.

    Args:
        path: dotted path of the key, such as `training.learning_rate`; empty for the recipe as a whole.
        message: what was expected, what was found, what to do.
    """

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class RecipeError(UserError):
    """All problems of one recipe at once."""

    def __init__(self, problems: Sequence[Problem], source: str = "the recipe") -> None:
        self.problems = list(problems)
        self.source = source
        count = len(self.problems)
        head = f"Found {count} problem{'s' if count != 1 else ''} in {source}:"
        super().__init__("\n".join([head, *(f"  - {problem}" for problem in self.problems)]))


def require(module: str, extra: str, purpose: str, otherwise: str = "") -> None:
    """Stop when an optional package is not installed.

    Args:
        module: what will be imported.
        extra: the extra of this package that brings it.
        purpose: what needs it, such as `strategy 'lora'`.
        otherwise: what else may be done, such as `, or set it to false`.

    Raises:
        UserError: naming the extra.
    """
    if importlib.util.find_spec(module) is None:
        raise UserError(f"{purpose} needs {module}: pip install 'hf-transfer-learning[{extra}]'{otherwise}")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ` (did you mean 'x'?)` for the known name nearest to `name`, or an empty string when none is near."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean '{matches[0]}'?)" if matches else ""


def listed(names: Iterable[str], limit: int = 10) -> str:
    """Return names joined by commas, cut after `limit` with a count of the rest."""
    names = list(names)
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")


def message_of(error: UserError) -> str:
    """Return the message alone, also of an error that crossed a loader process and carries that process's traceback."""
    text = str(error)
    return text.rpartition(f"{type(error).__name__}: ")[2].strip() if text.startswith("Caught ") else text
