"""A folder in a store such as S3, through fsspec: s3://bucket/folder, gs://..., or any other it knows."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from es_ray.errors import RunError, UserError
from es_ray.runs.atomic_io import write_text

EXTRAS: Final = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
"""The optional extra of es-ray that has a protocol's package."""
AT_ONCE: Final = 16
TMP: Final = ".part"
URL: Final = ".remote"
"""The file in a run's local folder that holds the URL to which it is copied."""


def is_remote(folder: str | None) -> bool:
    """Whether output.dir is a URL, not a folder of this machine."""
    return folder is not None and "://" in folder


def local_folder(url: str) -> Path:
    """Where the run of a URL is written on this machine: in runs/, named by the URL's last part and hash."""
    last = urlsplit(url).path.rstrip("/").rpartition("/")[2] or urlsplit(url).netloc
    return Path("runs") / f"{last}-{sha256(url.rstrip('/').encode()).hexdigest()[:8]}"


def remember(folder: Path, url: str) -> None:
    """Write down to where a run is copied, so that resuming its local folder goes on with that."""
    if remote_of(folder) != url:
        write_text(folder / URL, f"{url}\n")


def remote_of(folder: Path) -> str | None:
    """The URL to which a local folder's run is copied; None without any."""
    file = folder / URL
    return file.read_text(encoding="utf-8").strip() if file.is_file() else None


class RemoteStore:
    """The folder that a URL names; names of files in it are relative, with slashes.

    Credentials and endpoints are found as the store's own package does (environment, profiles, roles). Raises
    UserError for an unknown protocol and a missing package.
    """

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        self.url = url.rstrip("/")
        protocol = urlsplit(url).scheme
        options: dict[str, Any] = {"use_listings_cache": False}  # others write there too
        if protocol == "file":
            options = {"auto_mkdir": True}
        try:
            self._fs, path = url_to_fs(self.url, **options)
        except ImportError as error:
            extra = EXTRAS.get(protocol)
            how = f"pip install 'es-ray[{extra}]'" if extra else str(error)
            raise UserError(f"output.dir: {url} needs a package that is not installed: {how}") from error
        except ValueError as error:
            raise UserError(f"output.dir: {url}: {error}") from error
        self._root = path.rstrip("/")
        self._renames = protocol == "file"  # elsewhere a file appears when it is whole

    def list(self) -> dict[str, int]:
        """The size of each file, by name; raises what the store's package does."""
        self._fs.invalidate_cache()
        try:
            found = self._fs.find(self._root, detail=True)
        except FileNotFoundError:
            return {}
        prefix = f"{self._root}/"
        names = {path.removeprefix(prefix): int(info["size"]) for path, info in found.items()}
        return {name: size for name, size in names.items() if not name.endswith(TMP)}

    def put(self, folder: Path, names: Sequence[str]) -> None:
        """Copy files of a local folder there."""
        for start in range(0, len(names), AT_ONCE):
            some = names[start : start + AT_ONCE]
            ends = [self._path(name) + TMP * self._renames for name in some]
            self._fs.put([str(folder / name) for name in some], ends)
            if self._renames:
                for end in ends:
                    self._fs.mv(end, end.removesuffix(TMP))

    def get(self, names: Sequence[str], folder: Path) -> None:
        """Copy files into a local folder."""
        for start in range(0, len(names), AT_ONCE):
            some = names[start : start + AT_ONCE]
            for name in some:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
            self._fs.get([self._path(name) for name in some], [str(folder / name) for name in some])

    def read(self, name: str) -> bytes | None:
        """A file's content; None if it is not there."""
        try:
            found: bytes = self._fs.cat_file(self._path(name))
        except FileNotFoundError:
            return None
        return found

    def write(self, name: str, content: bytes) -> None:
        """Write a small file."""
        self._fs.pipe_file(self._path(name), content)

    def remove(self, names: Sequence[str]) -> None:
        """Remove files; those that are not there are no error."""
        for start in range(0, len(names), AT_ONCE):
            paths = [self._path(name) for name in names[start : start + AT_ONCE]]
            try:
                self._fs.rm(paths)
            except FileNotFoundError:
                for path in paths:
                    if self._fs.exists(path):
                        self._fs.rm_file(path)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


@contextmanager
def reaching(store: RemoteStore, kind: type[UserError] | type[RunError] = UserError) -> Iterator[None]:
    """Turn any error of a store into one line, as that kind; its packages raise errors of many libraries."""
    try:
        yield
    except (UserError, RunError):
        raise
    except Exception as error:
        raise kind(f"output.dir: {store.url} cannot be used: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """What a store's error says, in a line."""
    said = " ".join(str(error).split()) or type(error).__name__
    return said[:300]


def sizes(folder: Path, names: Mapping[str, int]) -> set[str]:
    """Those of the names whose local file is there, with that size."""
    return {name for name, size in names.items() if _size(folder / name) == size}


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
