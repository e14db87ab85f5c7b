"""A file far away that is read like any other, in parts."""

from __future__ import annotations

import io
from typing import Any

from .remote import SourceFile, read_part


class PartsReader(io.RawIOBase):
    """A file that is read in parts, as a Python file; a part is as long as what is asked for, and what follows it.

    Args:
        file: the file; its size is known.
        ahead: bytes to read beyond those that are asked for, so that a walk through near places asks seldom.
    """

    def __init__(self, file: SourceFile, ahead: int = 0) -> None:
        self._file, self._size, self._ahead = file, file.size or 0, ahead
        self._position, self._start, self._part = 0, 0, b""

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Change the position without reading anything, and return it."""
        self._position = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence])
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """Return the next bytes, fewer than asked for at the end of the file only."""
        end = self._size if size is None or size < 0 else min(self._position + size, self._size)
        if end <= self._position:
            return b""
        if not self._start <= self._position <= end <= self._start + len(self._part):
            self._part = read_part(self._file, self._position, min(end + self._ahead, self._size))
            self._start = self._position
        found = self._part[self._position - self._start : end - self._start]
        self._position = end
        return found

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer with the next bytes and return their number."""
        found = self.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)
