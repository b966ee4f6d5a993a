"""Unpack archives of strangers: looked through to the end first, so that nothing of a hostile one lands anywhere.

What cannot be a data set is refused: links, device files, paths that leave the folder, names that overwrite each
other, and sizes that only exist to fill a disk. What is written are plain files with plain permissions.
"""

import bz2
import contextlib
import gzip
import io
import lzma
import os
import re
import shutil
import stat
import tarfile
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from wavbench.upstream.errors import UserError

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")
RATIO = 100  # a whole archive of audio does not shrink more than this
SMALL = 64 << 20  # bytes that any archive may unpack to, whatever its ratio
MAX_MEMBERS = 5_000_000
MAX_READ = 16 << 20  # bytes of one header: libraries read those whole, however large they claim to be
BLOCK = 1 << 20
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError, ValueError,
           NotImplementedError, RuntimeError, UnicodeError, OverflowError, MemoryError)  # fmt: skip


@dataclass(frozen=True)
class Member:
    """One file of an archive.

    Args:
        name: path below the folder that it is unpacked into.
        size: bytes.
    """

    name: str
    size: int


class Refused(Exception):
    """Why an archive is not unpacked."""


def is_archive(path: Path | str) -> bool:
    """Whether the name is one of an archive that can be unpacked."""
    return str(path).lower().endswith(SUFFIXES)


def check(path: Path, limit: int = 0) -> list[Member]:
    """Look through a whole archive without writing anything.

    Args:
        path: .tar (plain, gz, bz2, xz) or .zip.
        limit: most bytes that it may unpack to; a hundred times its size where 0.

    Returns:
        Its files, in order.

    Raises:
        UserError: it is broken, or holds what no data set holds.
    """
    limit = limit or max(RATIO * path.stat().st_size, SMALL)
    seen: dict[str, bool] = {}  # name in lower case -> is a file
    members, total = [], 0
    try:
        for name, size, is_file in _entries(path, limit):
            clean = _safe(name)
            if is_file:
                total += size
                members.append(Member(clean, size))
            _note(seen, clean, is_file)
            if total > limit:
                raise Refused(f"it unpacks to more than {limit / 1e9:.1f} GB from {path.stat().st_size / 1e6:.1f} MB")
            if len(seen) > MAX_MEMBERS:
                raise Refused(f"it has more than {MAX_MEMBERS:,} members")
    except Refused as error:
        raise UserError(
            "the archive is not one of a data set and was not unpacked", where=path, why=str(error),
            remedy="nothing was written; get it again from its authors",
        ) from None  # fmt: skip
    except _BROKEN as error:
        raise UserError(
            "the archive is broken and was not unpacked", where=path, why=f"{error or type(error).__name__}"[:200],
            remedy="nothing was written; delete it and download it again",
        ) from None  # fmt: skip
    if not members:
        raise UserError("the archive is empty", where=path, remedy="delete it and download it again")
    return members


def unpack(path: Path, into: Path, limit: int = 0, progress: Callable[[int, int], None] | None = None) -> list[Member]:
    """Check an archive, then write its files below a folder, each of them whole or not at all.

    Args:
        path: the archive.
        into: folder; made where absent. Nothing is written through links that lie in it.
        limit: see `check`.
        progress: called with (files written, files).

    Raises:
        UserError: see `check`; or the disk has too little room.
    """
    members = check(path, limit)
    size, place = sum(member.size for member in members), into
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if size > free:
        raise UserError(
            f"the archive needs {size / 1e9:.2f} GB and the disk has {free / 1e9:.2f} GB free",
            where=into, remedy="make room, or unpack into another folder; nothing was written",
        )  # fmt: skip
    into.mkdir(parents=True, exist_ok=True)
    real = os.path.realpath(into)
    folders: set[str] = set()
    for number, (name, stream) in enumerate(_contents(path, limit or max(RATIO * path.stat().st_size, SMALL)), start=1):
        target = os.path.join(real, _safe(name))
        folder = os.path.dirname(target)
        if folder not in folders:
            if os.path.realpath(folder) != folder:
                raise UserError(
                    "a link lies where a folder of the archive belongs", where=folder,
                    remedy="remove the link, or unpack into an empty folder",
                )  # fmt: skip
            os.makedirs(folder, exist_ok=True)
            folders.add(folder)
        _write(stream, target)
        if progress and (number % 50 == 0 or number == len(members)):
            progress(number, len(members))
    return members


def _write(stream: io.BufferedIOBase, target: str) -> None:
    temporary = f"{os.path.dirname(target)}/.tmp-{uuid.uuid4().hex}"
    try:
        with open(temporary, "xb") as file:
            shutil.copyfileobj(stream, file, BLOCK)
        os.replace(temporary, target)
    finally:
        if os.path.lexists(temporary):
            os.unlink(temporary)


def _safe(name: str) -> str:
    """A member's path below the folder, or why it cannot have one."""
    if _CONTROL.search(name):
        raise Refused(f"a name holds control characters: {name[:80]!r}")
    if "\\" in name or re.match(r"^[A-Za-z]:", name):
        raise Refused(f"a name is a path of another system: {name[:80]!r}")
    path = PurePosixPath(name)
    if path.is_absolute() or name.startswith("~"):
        raise Refused(f"a name is an absolute path: {name[:80]!r}")
    if ".." in path.parts:
        raise Refused(f"a name leaves the folder: {name[:80]!r}")
    try:
        long = any(len(part.encode()) > 255 for part in path.parts) or len(name.encode()) > 2_000
    except UnicodeEncodeError:
        raise Refused(f"a name is no text: {name[:80]!r}") from None
    if long:
        raise Refused(f"a name is longer than files can be named: {name[:80]!r}...")
    return str(path)


def _note(seen: dict[str, bool], name: str, is_file: bool) -> None:
    """Refuse a name that would overwrite another, on file systems that ignore case as well."""
    key = name.casefold()
    if key in seen and (is_file or seen[key]):
        raise Refused(f"two members write to one name: {name[:80]!r}")
    seen[key] = is_file
    for parent in PurePosixPath(key).parents:
        if seen.get(str(parent)):
            raise Refused(f"a file lies where a folder belongs: {str(parent)[:80]!r}")
        if str(parent) in seen:
            break
        seen[str(parent)] = False


def _entries(path: Path, limit: int) -> Iterator[tuple[str, int, bool]]:
    """(name, size, is a file) of each member, after its kind was looked at; zip data is read against its checksums."""
    if zipfile.is_zipfile(path) and path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            _refuse_overlaps(infos, path.stat().st_size)
            if sum(info.file_size for info in infos) > limit:
                raise Refused(f"it unpacks to more than {limit / 1e9:.1f} GB")
            for info in infos:
                kind = stat.S_IFMT(info.external_attr >> 16)
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise Refused(f"{info.filename[:80]!r} is a link or a device file")
                if info.flag_bits & 1:
                    raise Refused(f"{info.filename[:80]!r} is encrypted")
                if not info.is_dir():
                    with archive.open(info) as stream:
                        while stream.read(BLOCK):
                            pass
                yield info.filename, info.file_size, not info.is_dir()
        return
    with _tar(path, limit) as (archive, guard):
        for info in archive:
            if info.issparse() or not (info.isreg() or info.isdir()):
                raise Refused(f"{info.name[:80]!r} is a link, a device file or a sparse file")
            if info.size > limit:
                raise Refused(f"{info.name[:80]!r} claims {info.size / 1e9:.1f} GB")
            yield info.name, info.size, info.isreg()
        guard.finish()


def _contents(path: Path, limit: int) -> Iterator[tuple[str, io.BufferedIOBase]]:
    if zipfile.is_zipfile(path) and path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if not info.is_dir():
                    with archive.open(info) as stream:
                        yield info.filename, stream
        return
    with _tar(path, limit) as (archive, _):
        for info in archive:
            if info.isreg():
                yield info.name, archive.extractfile(info)


def _refuse_overlaps(infos: list[zipfile.ZipInfo], size: int) -> None:
    """A zip may name the same compressed bytes many times over."""
    end = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        if info.header_offset < end:
            raise Refused(f"{info.filename[:80]!r} overlaps another member")
        end = info.header_offset + 30 + len(info.filename.encode()) + info.compress_size
    if end > size:
        raise Refused("its members reach beyond its end")


@contextlib.contextmanager
def _tar(path: Path, limit: int) -> Iterator[tuple[tarfile.TarFile, "_Guard"]]:
    with open(path, "rb") as file:
        start = file.read(6)
    opener = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}.get(start[:2], open)
    with opener(path, "rb") as stream:
        guard = _Guard(stream, limit + MAX_READ + 1_024 * MAX_MEMBERS)
        with tarfile.open(fileobj=guard, mode="r:", errorlevel=2) as archive:
            yield archive, guard


class _Guard:
    """A decompressed stream that neither hands out too much at once nor goes on for ever.

    Args:
        file: decompressing.
        limit: last byte that may be asked for.
    """

    def __init__(self, file: io.BufferedIOBase, limit: int) -> None:
        self.file, self.limit, self.last = file, limit, b""

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_READ:
            raise Refused(f"a header claims {size / 1e6:.0f} MB")
        self._far(self.file.tell() + size)
        self.last = self.file.read(size)
        return self.last

    def seek(self, place: int, whence: int = 0) -> int:
        self._far(place)
        return self.file.seek(place, whence)

    def tell(self) -> int:
        return self.file.tell()

    def finish(self) -> None:
        """See that the archive ends with its mark, and read to the end of the compressed stream.

        tarfile takes a damaged header for the end, and a stream that was cut says so only at its end.
        """
        if len(self.last) < tarfile.BLOCKSIZE or any(self.last):
            raise Refused("it is cut off, or damaged behind the members that can be read")
        while self.file.read(BLOCK):
            self._far(self.file.tell())

    def _far(self, place: int) -> None:
        if place > self.limit:
            raise Refused(f"it unpacks to more than {self.limit / 1e9:.1f} GB")
