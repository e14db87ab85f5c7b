"""Image files that a list names by paths or by addresses; those far away are copied once, when they are first needed."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from ..table import read_file
from .addresses import is_address, shown
from .remote import AT_A_TIME, cache_folder, copy_of_image, kept_image

if TYPE_CHECKING:
    import pyarrow as pa


class ListedImages:
    """Encoded images by row (`table.EncodedImages`), each a file here or far away.

    What could not be fetched is not tried again by this process.

    Args:
        places: address or absolute path of each image.
        sample_ids: what messages call each, with its address where that is something else.
    """

    def __init__(self, places: Sequence[str], sample_ids: Sequence[str]) -> None:
        import pyarrow as pa

        self._places: pa.Array = pa.array(places, pa.string())
        self._ids: pa.Array = pa.array(sample_ids, pa.string())
        self._failed: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._places)

    def encoded(self, row: int) -> bytes:
        """Return the encoded bytes of one image; see `table.EncodedImages`."""
        place = self._places[row].as_py()
        if not is_address(place):
            return read_file(place)
        if row not in self._failed:
            self._fetch(row)
        if row in self._failed:
            raise OSError(self._failed[row])
        return read_file(str(kept_image(place)))

    def path(self, row: int) -> str | None:
        """Return the file of one image, None for one far away."""
        place: str = self._places[row].as_py()
        return None if is_address(place) else place

    def prefetch(self, rows: Sequence[int]) -> None:
        """Fetch those of these images that are far away and not here yet, many at a time."""
        from filelock import FileLock
        from tqdm.auto import tqdm

        if not self._missing(rows):
            return
        folder = cache_folder("images")
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"), ThreadPoolExecutor(AT_A_TIME) as pool:
            missing = self._missing(rows)  # another process of the run may have fetched them in the meantime
            fetched = pool.map(self._fetch, missing)
            for _ in tqdm(fetched, desc="fetch", total=len(missing), unit=" images", leave=False, disable=None):
                pass

    def _missing(self, rows: Sequence[int]) -> list[int]:
        places = ((row, self._places[row].as_py()) for row in rows if row not in self._failed)
        return [row for row, place in places if is_address(place) and not kept_image(place).is_file()]

    def _fetch(self, row: int) -> None:
        address = self._places[row].as_py()
        try:
            copy_of_image(address)
        except OSError as error:
            problem = (error.strerror or str(error)).removeprefix(f"{shown(address)}: ")
            known = self._ids[row].as_py().startswith(shown(address))
            self._failed[row] = problem if known else f"{problem} ({shown(address)})"
