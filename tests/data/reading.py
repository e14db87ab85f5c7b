"""A source as a recipe's `data` section names it: what is read of it, or what is said of it."""

import pytest

from hf_transfer.data.sources.source import read_source
from hf_transfer.errors import DataError
from hf_transfer.recipe.schema import Data


def read(source, **options):
    return read_source(Data(source=str(source), **options))


def message(source, **options):
    with pytest.raises(DataError) as caught:
        read(source, **options)
    return str(caught.value)
