"""Data sets of the Hub, through `datasets.load_dataset`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DataError, listed, nearest
from .folders import SPLIT_NAMES, SourceTables, natural_order
from .table import ImageTable

if TYPE_CHECKING:
    from ..recipe.schema import Data

_LABEL_COLUMNS = ("label", "labels", "class", "target", "category")


def read_hub(section: Data) -> SourceTables:
    """Read a Hub data set: `data.source` is its id, `config_name` and `revision` choose among its variants.

    Raises:
        DataError: when it cannot be reached (with what was tried and how to work offline), or its columns are ambiguous.
    """
    import datasets

    loaded = _load(section)
    tables: dict[str, ImageTable] = {}
    class_names: list[str] | None = None
    for name, dataset in loaded.items():
        split = SPLIT_NAMES.get(str(name).lower())
        if split is None:
            continue
        image_column = _image_column(section, dataset)
        label_column = _label_column(section, dataset, image_column)
        images = dataset.select_columns([image_column]).cast_column(image_column, datasets.Image(decode=False))
        if class_names is None:
            class_names = _class_names(loaded, label_column)
        tables[split] = ImageTable(
            images=images,
            column=image_column,
            rows=np.arange(len(dataset)),
            labels=_labels(dataset, label_column, class_names, str(name)),
            sample_ids=np.array([f"{name}/{row}" for row in range(len(dataset))]),
        )
    if class_names is None:
        raise DataError(
            f"data.source: expected a split called train, validation or test in {section.source}; found {listed(loaded)}"
        )
    return SourceTables(tables, class_names, split_by_source=len(tables) > 1, revision=_revision(loaded))


def _load(section: Data) -> Any:
    import datasets
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    source = section.source
    offline = (
        f"To work offline: download it once with a connection ('hf download --repo-type dataset {source}' or by running this "
        "recipe), or give a folder of class folders, or use package:textile."
    )
    try:
        loaded = datasets.load_dataset(source, section.config_name, revision=section.revision)
    except GatedRepoError:
        raise DataError(
            f"data.source: {source} is gated: accept its terms on its Hub page, then log in with 'hf auth login'"
        ) from None
    except RevisionNotFoundError:
        raise DataError(f"data.revision: {source} has no revision '{section.revision}'") from None
    except (RepositoryNotFoundError, datasets.exceptions.DatasetNotFoundError):
        raise DataError(
            f"data.source: no data set '{source}' was found on the Hub, and no folder of that name exists here. "
            "Check the spelling; for a private one log in with 'hf auth login'."
        ) from None
    except (ConnectionError, OSError, HfHubHTTPError) as error:
        raise DataError(
            f"data.source: {source} is not a local folder, and the Hub data set of that name could not be loaded: "
            f"{str(error).splitlines()[0]}. {offline}"
        ) from None
    except ValueError as error:  # such as a missing or unknown configuration name
        raise DataError(f"data.source: {source}: {str(error).splitlines()[0]}") from None
    return loaded


def _image_column(section: Data, dataset: Any) -> str:
    import datasets

    columns = [name for name, feature in dataset.features.items() if isinstance(feature, datasets.Image)]
    wanted = section.image_column
    if wanted is not None:
        if wanted not in dataset.features:
            raise DataError(
                f"data.image_column: no column '{wanted}'{nearest(wanted, dataset.features)}; found {listed(dataset.features)}"
            )
        if wanted not in columns:
            raise DataError(f"data.image_column: '{wanted}' holds no images; image columns: {listed(columns) or 'none'}")
        return wanted
    if len(columns) != 1:
        raise DataError(
            f"data.image_column: expected exactly one image column to infer it, found {len(columns)} "
            f"({listed(columns) or 'none'}) among {listed(dataset.features)}; name the one to use"
        )
    return columns[0]


def _label_column(section: Data, dataset: Any, image_column: str) -> str:
    import datasets

    wanted = section.label_column
    if wanted is not None:
        if wanted not in dataset.features or wanted == image_column:
            raise DataError(
                f"data.label_column: no label column '{wanted}'{nearest(wanted, dataset.features)}; "
                f"found {listed(dataset.features)}"
            )
        return wanted
    typed = [name for name, feature in dataset.features.items() if isinstance(feature, datasets.ClassLabel)]
    named = [name for name in dataset.features if name in _LABEL_COLUMNS]
    candidates = typed or named
    if len(candidates) != 1:
        raise DataError(
            f"data.label_column: expected exactly one label column to infer it, found {len(candidates)} "
            f"({listed(candidates) or 'none'}) among {listed(dataset.features)}; name the one to use"
        )
    return candidates[0]


def _class_names(loaded: Any, column: str) -> list[str]:
    import datasets

    features = [dataset.features[column] for dataset in loaded.values() if column in dataset.features]
    if isinstance(features[0], datasets.ClassLabel):
        return list(features[0].names)
    values: set[str] = set()
    for dataset in loaded.values():
        values |= {str(value) for value in dataset.unique(column) if value is not None}
    return sorted(values, key=natural_order)


def _labels(dataset: Any, column: str, class_names: list[str], split: str) -> np.ndarray:
    import datasets

    feature = dataset.features[column]
    values = dataset.with_format(None)[column]
    if isinstance(feature, datasets.ClassLabel):
        labels = np.array([-1 if value is None else value for value in values], dtype=np.int64)
    elif isinstance(feature, datasets.Value):
        index = {name: label for label, name in enumerate(class_names)}
        labels = np.array([-1 if value is None else index[str(value)] for value in values], dtype=np.int64)
    else:
        raise DataError(f"data.label_column: expected one label an image in '{column}', found {feature}")
    missing = int((labels < 0).sum())
    if missing:
        raise DataError(
            f"data.label_column: {missing} of {len(labels)} images of the {split} split have no label in '{column}'"
        )
    return labels


def _revision(loaded: Any) -> str | None:
    """Return the commit that the data came from, as far as `datasets` records it in the names of the files it read."""
    for dataset in loaded.values():
        for url in dataset.info.download_checksums or {}:
            _, at, rest = str(url).partition("@")
            if at:
                return rest.split("/", 1)[0]
    return None
