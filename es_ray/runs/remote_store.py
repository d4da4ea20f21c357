"""A folder in a store such as S3, through fsspec: s3://bucket/folder, gs://..., file:///folder."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from es_ray.errors import RunError, UserError
from es_ray.runs.atomic_io import replace_file, write_text

EXTRAS: Final = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
"""The optional extra of es-ray that has a protocol's package."""
WHOLE: Final = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss")
"""Protocols of stores in which a file appears when it is whole."""
RENAMED: Final = ("file", "local")
"""Those in which it appears when it is begun, and can be renamed over another one."""
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
    UserError for a protocol that is unknown or shows files before they are whole, a URL with a password, and
    a missing package.
    """

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        _check(url)
        self.url = url.rstrip("/")
        protocol = urlsplit(url).scheme
        options: dict[str, Any] = {"use_listings_cache": False}  # others write there too
        if protocol in RENAMED:
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
        self._renames = protocol in RENAMED

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
        for some in at_once(names):
            ends = [self._path(name) + TMP * self._renames for name in some]
            try:
                self._fs.put([str(folder / name) for name in some], ends)
                self._take_names(ends)
            finally:  # one of them may have vanished here
                self._drop_temporary(ends)

    def get(self, names: Sequence[str], folder: Path) -> Sequence[str]:
        """Copy files into a local folder; returns those that are not there, or no longer."""
        vanished = []
        for some in at_once(names):
            for name in some:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
            try:
                self._fs.get([self._path(name) for name in some], [str(folder / name) for name in some])
            except FileNotFoundError:
                vanished += [name for name in some if not self._get(name, folder / name)]
        return vanished

    def _get(self, name: str, file: Path) -> bool:
        try:
            self._fs.get_file(self._path(name), str(file))
        except FileNotFoundError:
            file.unlink(missing_ok=True)
            return False
        return True

    def read(self, name: str) -> bytes | None:
        """A file's content; None if it is not there."""
        return self.read_each([name]).get(name)

    def read_each(self, names: Sequence[str]) -> dict[str, bytes]:
        """The contents of small files by name, without those that are not there."""
        found = self._fs.cat([self._path(name) for name in names], on_error="return") if names else {}
        contents = {name: found[self._path(name)] for name in names}
        for content in contents.values():
            if isinstance(content, BaseException) and not isinstance(content, FileNotFoundError):
                raise content
        return {name: content for name, content in contents.items() if isinstance(content, bytes)}

    def write(self, name: str, content: bytes) -> None:
        """Write a small file."""
        end = self._path(name) + TMP * self._renames
        self._fs.pipe_file(end, content)
        self._take_names([end])

    def _take_names(self, ends: Sequence[str]) -> None:
        """Give files that were written under temporary names their own."""
        if self._renames:
            for end in ends:
                replace_file(Path(end), Path(end.removesuffix(TMP)))

    def _drop_temporary(self, ends: Sequence[str]) -> None:
        if self._renames:
            for end in ends:
                with suppress(OSError):  # the store may be gone: what it said first matters
                    os.unlink(end)

    def remove(self, names: Sequence[str]) -> None:
        """Remove files; those that are not there are no error."""
        for some in at_once(names):
            paths = [self._path(name) for name in some]
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


def at_once(names: Sequence[str]) -> Iterator[Sequence[str]]:
    """Names in groups of as many as are copied at the same time."""
    for start in range(0, len(names), AT_ONCE):
        yield names[start : start + AT_ONCE]


def _check(url: str) -> None:
    """Raise UserError for a URL that a run must not be copied to."""
    protocol, _, rest = url.partition("://")
    login, at, host = rest.rpartition("@")
    if at and ":" in login:
        raise UserError(
            f"output.dir: {protocol}://***@{host}: leave the password out, as a URL is written into files "
            "and logs; a store's package finds it in its environment variables or files"
        )
    if protocol not in (*WHOLE, *RENAMED):
        raise UserError(
            f"output.dir: {url}: {protocol} is no store that a run can be copied to; must be "
            f"{', '.join(f'{name}://' for name in (*WHOLE, RENAMED[0]))}"
        )
