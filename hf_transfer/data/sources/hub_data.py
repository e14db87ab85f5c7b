"""Data sets of the Hub, through `datasets.load_dataset`."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import DataError, listed, nearest
from ...hub_errors import HubFailure, Wanted, hub_failure, reading_problem
from ..table import ImageTable, StoredImages
from .columns import Columns, flags_of, labels_of, names_in
from .folders import SPLIT_NAMES, SourceTables, natural_order
from .parquet_shards import read_parquet_shards
from .tar_shards import read_tar_shards

if TYPE_CHECKING:
    from ...recipe.schema import Data

_log = logging.getLogger(__name__)

_COMMIT = re.compile("[0-9a-f]{40}")
_LABEL_COLUMNS = ("label", "labels", "class", "target", "category")


def read_hub(section: Data) -> SourceTables:
    """Read a Hub data set: `data.source` is its id, `config_name` and `revision` choose among its variants.

    The commit is resolved first and that commit is loaded, so what is recorded is what was read. With `data.streaming` the
    data set's Parquet files or tars stay where they are. A validation or test split
    without any label (ImageNet's test split) is left out, and that is said; other splits of other names are passed over.

    Raises:
        DataError: when it cannot be reached (with what was tried and how to work offline), or its columns are ambiguous.
    """
    import datasets

    commit = _commit(section)
    if section.streaming:
        return _streamed(section, commit)
    loaded = _used_splits(section, _load(section, commit))
    image_column = _image_column(section, next(iter(loaded.values()))[1])
    label_column = _label_column(section, next(iter(loaded.values()))[1], image_column)
    class_names, labels_of_split = _labels_by_split(section, loaded, label_column)
    if section.group_column is not None:
        _check_group_column(section.group_column, next(iter(loaded.values()))[1], image_column, label_column)
    tables: dict[str, ImageTable] = {}
    for split, (name, dataset) in loaded.items():
        labels, missing = labels_of_split[split]
        if missing == len(labels) and split != "train":
            _log.warning("left out the %s split of %s: none of its %d images has a label", name, section.source, missing)
            continue
        if missing:
            raise DataError(
                f"data.label_column: {missing} of {len(labels)} images of the {name} split have no label in '{label_column}'"
            )
        tables[split] = ImageTable(
            images=StoredImages(
                dataset.select_columns([image_column]).cast_column(image_column, datasets.Image(decode=False)), image_column
            ),
            rows=np.arange(len(dataset)),
            labels=labels,
            sample_ids=np.array([f"{name}/{row}" for row in range(len(dataset))]),
            groups=None if section.group_column is None else _groups(dataset, section.group_column, name),
        )
    if not tables:
        raise DataError(f"data.label_column: no image of {section.source} has a label in '{label_column}'")
    return SourceTables(tables, class_names, split_by_source=len(tables) > 1, revision=commit)


def _commit(section: Data) -> str:
    """Return the commit that `data.revision` (the main branch by default) stands for; offline, the one the cache knows."""
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    source, revision = section.source, section.revision
    try:
        try:  # downloading the card writes into the cache which commit the revision is: it is found there offline
            return Path(hf_hub_download(source, "README.md", repo_type="dataset", revision=revision)).parent.name
        except LocalEntryNotFoundError:
            known = _cached_commit(section)
            if known is None:
                raise
            return known
        except EntryNotFoundError:  # a data set without a card
            return str(HfApi().dataset_info(source, revision=revision).sha)
    except Exception as error:
        failure = hub_failure(error)
        if failure is None:
            raise
        raise DataError(reading_problem(failure, _wanted(section))) from None


def _cached_commit(section: Data) -> str | None:
    """Return the commit that the revision was when its repository was last read."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    reference = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=section.source, repo_type="dataset"), "refs")
    reference /= section.revision or constants.DEFAULT_REVISION
    if reference.is_file():
        return reference.read_text(encoding="utf-8").strip()
    return section.revision if section.revision is not None and _COMMIT.fullmatch(section.revision) else None


def _streamed(section: Data, commit: str) -> SourceTables:
    """Return the data set's Parquet files or tars at this commit as they are where they are; samples are called as ever."""
    import datasets

    from .source_files import cannot_stream, kind_of

    source, configuration = section.source, _configuration(section, commit)
    builder = _asked(section, commit, lambda: datasets.load_dataset_builder(source, configuration, revision=commit))
    if not builder.config.data_files:  # what the cache holds is offered where there is no connection
        raise DataError(
            f"data.streaming: reading {source} while training needs a connection to the Hub; leave data.streaming out to work "
            "with what the cache holds"
        )
    used = _used_splits(section, {split: list(files) for split, files in builder.config.data_files.items()})
    files = [str(file) for _, found in used.values() for file in found]
    splits = [split for split, (_, found) in used.items() for _ in found]
    if {kind_of(file) for file in files} == {"tar"}:
        return replace(read_tar_shards(section, files, source, splits=splits), revision=commit)
    if not all(file.lower().endswith(".parquet") for file in files):
        cannot_stream(f"{source}, whose files are {listed(sorted({Path(file).suffix for file in files}))},")
    features = None if builder.info.features is None else builder.info.features.to_dict()
    found = read_parquet_shards(section, files, source, splits=splits, features=features)
    tables = {split: _called(table, split, used[split][0]) for split, table in found.tables.items()}
    return replace(found, tables=tables, revision=commit)


def _called(table: ImageTable, split: str, name: str) -> ImageTable:
    """Return a table whose sample ids begin with the name that the data set gives the split."""
    rows = (str(sample_id).removeprefix(f"{split}/") for sample_id in table.sample_ids)
    return table if split == name else replace(table, sample_ids=np.array([f"{name}/{row}" for row in rows]))


def _load(section: Data, commit: str) -> Any:
    import datasets

    source, configuration = section.source, _configuration(section, commit)
    loaded = _asked(section, commit, lambda: datasets.load_dataset(source, configuration, revision=commit))
    if _loaded_commit(loaded) in (None, commit):
        return loaded
    return _prepared(section, configuration, commit, instead=_loaded_commit(loaded))


def _asked(section: Data, commit: str, load: Callable[[], Any]) -> Any:
    """Return what `datasets` loads; what it raises becomes a message."""
    import datasets

    source = section.source
    try:
        return load()
    except datasets.exceptions.DatasetNotFoundError as error:  # the card could be read, the files could not
        raise DataError(
            f"data.source: the files of {source} cannot be read ({_summary(error)}): accept its terms on its Hub page, "
            "then log in with 'hf auth login'"
        ) from None
    except (datasets.data_files.EmptyDatasetError, datasets.exceptions.DataFilesNotFoundError):
        raise DataError(
            f"data.source: expected images, parquet or other data files in {source}, found none at commit {commit}"
        ) from None
    except Exception as error:
        if isinstance(error, RuntimeError) and "scripts are no longer supported" in str(error):
            raise DataError(
                f"data.source: {source} consists of a Python script, and code from the Hub is never run. Name a copy that "
                "holds images or parquet files; where the Hub has made one, set data.revision to 'refs/convert/parquet'."
            ) from None
        failure = hub_failure(error)
        if failure is None and isinstance(error, ConnectionError):  # the client's, and `datasets` keeps only its text
            failure = HubFailure("unreachable", _summary(error))
        if failure is not None:
            raise DataError(reading_problem(failure, _wanted(section))) from None
        if not isinstance(error, (ValueError, OSError, datasets.exceptions.DatasetsError)):
            raise
        raise DataError(f"data.source: {source} could not be loaded: {_summary(error.__cause__ or error)}") from None


def _wanted(section: Data) -> Wanted:
    import datasets

    return Wanted(
        key="data.source",
        name=section.source,
        kind="data set",
        local="folder",
        cache=str(datasets.config.HF_DATASETS_CACHE),
        offline="run this recipe, or 'hf-transfer check --data RECIPE', once with a connection; or give a folder of class "
        "folders; or use package:textile",
        revision=section.revision,
    )


def _configuration(section: Data, commit: str) -> str | None:
    """Return the configuration to load, by what the card says of them; `data.config_name` itself where it says nothing.

    `datasets` would see to it with a connection; without one it takes any that the cache holds.
    """
    from huggingface_hub import metadata_load, try_to_load_from_cache

    source, wanted = section.source, section.config_name
    card = try_to_load_from_cache(source, "README.md", revision=commit, repo_type="dataset")
    try:
        configs = (metadata_load(card) or {}).get("configs") or [] if isinstance(card, str) else []
        defaults = {config.get("config_name", "default"): bool(config.get("default")) for config in configs}
    except Exception as error:  # a front matter that is no YAML or of another structure
        raise DataError(f"data.source: the front matter of {source}'s README.md cannot be read: {_summary(error)}") from None
    if not defaults or wanted in defaults:
        return wanted
    if wanted is not None:
        raise DataError(
            f"data.config_name: {source} has no configuration '{wanted}'{nearest(wanted, defaults)}; found {listed(defaults)}"
        )
    chosen = [name for name, default in defaults.items() if default or name == "default" or len(defaults) == 1]
    if not chosen:
        raise DataError(
            f"data.config_name: {source} has {len(defaults)} configurations ({listed(defaults)}); name the one to use"
        )
    return chosen[0]


def _summary(error: BaseException) -> str:
    """Return the first two lines of an error as one: what is wrong, and often what there is instead."""
    return " ".join((str(error).strip() or type(error).__name__).splitlines()[:2]).rstrip(".")


def _loaded_commit(loaded: Any) -> str | None:
    """Return the commit that was read, as far as the cache's folder, which `datasets` names after it, tells."""
    folders = [Path(entry["filename"]).parent.name for dataset in loaded.values() for entry in dataset.cache_files]
    return folders[0] if folders and _COMMIT.fullmatch(folders[0]) else None


def _prepared(section: Data, configuration: str | None, commit: str, instead: str | None) -> Any:
    """Return what `datasets` once prepared from this commit: where it cannot reach it, it gives its latest work, `instead`."""
    import datasets
    from datasets.packaged_modules.cache.cache import Cache

    folders = list(Path(datasets.config.HF_DATASETS_CACHE).glob(f"*/{configuration or '*'}/*/{commit}"))
    if len(folders) != 1:
        raise DataError(
            f"data.revision: expected commit {commit} of {section.source}, which is neither reachable nor in the cache; the "
            f"cache holds {instead}. Connect once, or set data.revision to '{instead}'."
        )
    config_name, version, _ = folders[0].parts[-3:]
    name = section.source.rpartition("/")[2]
    return Cache(repo_id=section.source, dataset_name=name, config_name=config_name, version=version, hash=commit).as_dataset()


def _used_splits(section: Data, loaded: Any) -> dict[str, tuple[str, Any]]:
    """Return the data set of each of our splits, with the name it has in the source."""
    used: dict[str, tuple[str, Any]] = {}
    for name, dataset in loaded.items():
        split = SPLIT_NAMES.get(str(name).lower())
        if split in used:
            raise DataError(
                f"data.source: {section.source} has two splits for {split}: {used[split][0]} and {name}; "
                "expected one, such as a configuration (data.config_name) may bring"
            )
        if split is not None:
            used[split] = (str(name), dataset)
    if not used:
        raise DataError(
            f"data.source: expected a split called train, validation or test in {section.source}; found {listed(loaded)}"
        )
    return used


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
    else:
        typed = [name for name, feature in dataset.features.items() if isinstance(_entries(feature)[0], datasets.ClassLabel)]
        named = [name for name in dataset.features if name in _LABEL_COLUMNS]
        candidates = typed or named
        if len(candidates) != 1:
            raise DataError(
                f"data.label_column: expected exactly one label column to infer it, found {len(candidates)} "
                f"({listed(candidates) or 'none'}) among {listed(dataset.features)}; name the one to use"
            )
        wanted = candidates[0]
    kind, several = _entries(dataset.features[wanted])
    if not isinstance(kind, (datasets.ClassLabel, datasets.Value)) or (several and section.task == "single_label"):
        hint = "; set data.task to 'multi_label' where an image may show several classes" if several else ""
        expected = "one label an image" if section.task == "single_label" else "labels"
        found = type(dataset.features[wanted]).__name__
        raise DataError(f"data.label_column: expected {expected} in '{wanted}', found a column of type {found}{hint}")
    return wanted


def _entries(feature: Any) -> tuple[Any, bool]:
    """Return what the lists of a column hold, or its values where they are none; and whether they are lists."""
    import datasets

    if isinstance(feature, list):  # an older way to write one
        return feature[0], True
    several = isinstance(feature, (datasets.List, datasets.LargeList))
    return (feature.feature, True) if several else (feature, False)


def _check_group_column(column: str, dataset: Any, image_column: str, label_column: str) -> None:
    import datasets

    if column not in dataset.features:
        raise DataError(
            f"data.group_column: no column '{column}'{nearest(column, dataset.features)}; found {listed(dataset.features)}"
        )
    if column in (image_column, label_column):
        kind = "images" if column == image_column else "labels"
        raise DataError(f"data.group_column: expected a column that says which images belong together, found the {kind}")
    if not isinstance(dataset.features[column], (datasets.ClassLabel, datasets.Value)):
        kind = type(dataset.features[column]).__name__
        raise DataError(f"data.group_column: expected one value an image in '{column}', found a column of type {kind}")


def _groups(dataset: Any, column: str, split: str) -> np.ndarray:
    """Return each image's group as text [n]."""
    import datasets

    values = dataset.data.column(column).to_pylist()
    unknown = -1 if isinstance(dataset.features[column], datasets.ClassLabel) else None
    missing = sum(value in (None, "", unknown) or value != value for value in values)  # not a number differs from itself
    if missing:
        raise DataError(
            f"data.group_column: {missing} of {len(values)} images of the {split} split have no value in '{column}'"
        )
    return np.array([str(value) for value in values])


def _labels_by_split(
    section: Data, loaded: dict[str, tuple[str, Any]], column: str
) -> tuple[list[str], dict[str, tuple[np.ndarray, int]]]:
    """Return the names of the classes, and each split's labels as `ImageTable` has them with the number that is missing."""
    import datasets

    if section.task == "single_label":
        class_names = _class_names([dataset for _, dataset in loaded.values()], column)
        encoded = {split: _labels(dataset, column, class_names) for split, (_, dataset) in loaded.items()}
        return class_names, {split: (labels, int((labels < 0).sum())) for split, labels in encoded.items()}
    kind, _ = _entries(next(iter(loaded.values()))[1].features[column])
    class_names = list(kind.names) if isinstance(kind, datasets.ClassLabel) else []
    columns = Columns("", column, None, None, multi_label=True)
    read = {
        split: labels_of(dataset.data.column(column).to_pylist(), class_names, columns, f"the {name} split of {section.source}")
        for split, (name, dataset) in loaded.items()
    }
    class_names = class_names or sorted({name for labels in read.values() for name in names_in(labels)}, key=natural_order)
    index = {name: place for place, name in enumerate(class_names)}
    return class_names, {
        split: (flags_of(labels, index), sum(label is None for label in labels)) for split, labels in read.items()
    }


def _class_names(parts: list[Any], column: str) -> list[str]:
    import datasets

    feature = parts[0].features[column]
    if isinstance(feature, datasets.ClassLabel):
        return list(feature.names)
    values = {str(value) for dataset in parts for value in dataset.unique(column) if value is not None}
    return sorted(values, key=natural_order)


def _labels(dataset: Any, column: str, class_names: list[str]) -> np.ndarray:
    """Return int64 [n], -1 where an image has no label."""
    import datasets

    values = dataset.data.column(column).to_pylist()  # a hundred times as fast as dataset[column]
    if isinstance(dataset.features[column], datasets.ClassLabel):
        return np.array([-1 if value is None else value for value in values], dtype=np.int64)
    index = {name: label for label, name in enumerate(class_names)}
    return np.array([-1 if value is None else index[str(value)] for value in values], dtype=np.int64)
