"""Files in other places than this computer, named by a URL and reached through fsspec."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.reading import require_file


@dataclass(frozen=True)
class RemoteFile:
    """A file elsewhere, with what is asked of a `Path`.

    Parameters
    ----------
    url : str
        Such as ``s3://bucket/plate/A01.tif``.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    def as_posix(self) -> str:
        """The URL."""
        return self.url

    @property
    def _path(self) -> PurePosixPath:
        return PurePosixPath(unquote(urlsplit(self.url).path))

    @property
    def name(self) -> str:
        """Its name with the ending."""
        return self._path.name

    @property
    def stem(self) -> str:
        """Its name without the ending."""
        return self._path.stem

    @property
    def suffix(self) -> str:
        """Its ending, such as .tif."""
        return self._path.suffix

    def is_file(self) -> bool:
        """Whether it is there."""
        with self._reached() as (file_system, path):
            return bool(file_system.isfile(path))

    def is_dir(self) -> bool:
        """No folders are read from elsewhere."""
        return False

    def read_bytes(self) -> bytes:
        """The whole file.

        Raises
        ------
        MicrodlError
            If it cannot be reached.
        """
        with self._reached() as (file_system, path):
            return bytes(file_system.cat_file(path))

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The file, to be read in parts.

        Raises
        ------
        MicrodlError
            If it cannot be reached.
        """
        with self._reached() as (file_system, path):
            file = file_system.open(path, "rb")
        with file:
            yield file

    @contextmanager
    def _reached(self) -> Iterator[tuple[Any, str]]:
        """Its file system, of which every failure inside is one sentence."""
        file_system, path = self._place()
        try:
            yield file_system, path
        except Exception as error:
            raise self._unreachable(error) from error

    def _place(self) -> tuple[Any, str]:
        try:
            from fsspec.core import url_to_fs

            file_system, path = url_to_fs(self.url)
        except ImportError as error:
            raise MicrodlError(
                f"'{self.url}' needs a package that is not installed ({error}); install fsspec "
                "with what it needs for such places, such as pip install s3fs, or copy the files."
            ) from error
        except Exception as error:
            raise self._unreachable(error) from error
        return file_system, path

    def _unreachable(self, error: Exception) -> MicrodlError:
        return MicrodlError(
            f"'{self.url}' cannot be reached ({type(error).__name__}: {error}); check the address "
            "and your right to read it."
        )


def file_of_url(url: str) -> Path | RemoteFile:
    """The file that a URL names, a path where it is on this computer.

    Raises
    ------
    MicrodlError
        If it is no URL.
    """
    parts = urlsplit(url.strip())
    if parts.scheme == "file":
        return Path(url2pathname(parts.path))
    if "://" not in url:
        raise MicrodlError(f"'{url}' is no URL; write file:///folder/image.tif or s3://...")
    return RemoteFile(url.strip())


@contextmanager
def opened(file: Path | RemoteFile) -> Iterator[Path | BinaryIO]:
    """What readers of images open: a path, or a file elsewhere, of which parts can be read.

    Raises
    ------
    OSError
        If there is no plain file at a path.
    MicrodlError
        If a file elsewhere cannot be reached.
    """
    if isinstance(file, Path):
        require_file(file)
        yield file
    else:
        with file.open() as remote:
            yield remote
