"""Download the parts of a corpus: resumed where a download stopped, checked, and unpacked only when all is well.

`ROOT/.fetched.json` remembers what is there. A part whose authors publish no SHA-256 is checked against the digest of
its first download, and against their MD5 where there is one.
"""

import contextlib
import hashlib
import http.client
import json
import os
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote, urlsplit

from wavbench import __version__
from wavbench.upstream.archives import is_archive, unpack
from wavbench.upstream.claims import alone
from wavbench.upstream.corpus import Archive
from wavbench.upstream.errors import UserError
from wavbench.upstream.listener import Listener

TRIES = 6  # connections in a row without a new byte
WAIT = 2.0  # seconds before the second of them; doubled each time
TIMEOUT = 60.0  # seconds without a byte
BLOCK = 1 << 18
RESERVE = 1 << 28  # bytes of the disk that a download of unknown size leaves free
SIDE_BY_SIDE = 8  # connections where a corpus is thousands of small files
TOLERATED = 100  # files of many that a server may lack before it is asked for no more
MEMORY = ".fetched.json"
SILENT = Listener()
_FAILS = (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ssl.SSLError,
          ValueError)  # the last where a server sends to what is no address  # fmt: skip
_RANGE = re.compile(r"bytes (\d{1,19})-\d{1,19}/(\d{1,19}|\*)")
DOWNLOADS = ".downloads"  # folder under the root for what is not complete


class Absent(UserError):
    """The server says that it has no such file."""


def fetch(archives: Sequence[Archive], root: Path, listener: Listener = SILENT, *, keep: bool = False) -> None:
    """Download, check and unpack parts of a corpus, those that are there already left alone.

    Args:
        archives: what to get.
        root: folder of the corpus; made where absent.
        keep: keep archives after they are unpacked, in `ROOT/.downloads`.

    Raises:
        UserError: an address does not answer, a checksum differs, an archive is refused, the disk is full.
    """
    root.mkdir(parents=True, exist_ok=True)
    (root / DOWNLOADS).mkdir(exist_ok=True)
    with alone(root / DOWNLOADS, "fetch"):
        for archive in archives:
            _fetch_one(archive, root, listener, keep)
    with contextlib.suppress(OSError):  # not empty: kept archives
        (root / DOWNLOADS).rmdir()


def fetch_files(
    files: Sequence[Archive], root: Path, listener: Listener = SILENT, *, spare: Collection[str] = ()
) -> None:
    """Download many small files side by side; those that are there already are left alone.

    A file that the server does not have is named at the end, when all others are there.

    Args:
        files: what to get.
        root: folder of the corpus.
        listener: who is told.
        spare: parts that the authors list and that may be absent all the same.

    Raises:
        UserError: files are absent; or see `fetch`: the first of those errors stops the rest.
    """
    todo = [file for file in files if not _target(file, root).is_file()]
    (root / DOWNLOADS).mkdir(parents=True, exist_ok=True)
    done, absent, spared = len(files) - len(todo), [], []
    with alone(root / DOWNLOADS, "fetch"), ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        futures = [(file, pool.submit(_fetch_file, file, root)) for file in todo]
        try:
            for file, future in futures:
                try:
                    future.result()
                except Absent:
                    (spared if file.part in spare else absent).append(file)
                    if len(absent) >= TOLERATED:
                        break
                done += 1
                listener.progress("fetching files", done, len(files))
        finally:
            pool.shutdown(cancel_futures=True)
    with contextlib.suppress(OSError):
        (root / DOWNLOADS).rmdir()
    if spared:
        listener.say(f"the server lacks {_names(spared)}, as its authors say")
    if absent:
        there = sum(_target(file, root).is_file() for file in files)
        raise UserError(
            f"the server lacks {_names(absent)}",
            where=absent[0].url,
            why=f"{there:,} of {len(files):,} files are there now"
            + ("; no more were asked for" if len(absent) >= TOLERATED else ""),
            remedy="the same command asks for those again; `corpus import` with partial=true does without them",
        )


def _names(files: Sequence[Archive]) -> str:
    shown = ", ".join(file.part for file in files[:5])
    return f"{len(files):,} file{'s' * (len(files) > 1)} ({shown}{', ...' * (len(files) > 5)})"


def remembered(root: Path) -> dict[str, dict]:
    """What `.fetched.json` says of each part; {} where nothing was fetched."""
    try:
        found = json.loads((root / MEMORY).read_text())
        return {part: entry for part, entry in found.items() if isinstance(entry, dict)}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}


def _fetch_one(archive: Archive, root: Path, listener: Listener, keep: bool) -> None:
    known = remembered(root).get(archive.part, {})
    path = root / DOWNLOADS / _file_name(archive)
    there = is_archive(path) or _target(archive, root).is_file()
    if known.get("url") == archive.url and known.get("done") and there:
        listener.say(f"{archive.part} is there already (remove {root / MEMORY} to fetch it again)")
        return

    def told(done: int, total: int) -> None:
        listener.progress(f"fetching {archive.part} (MB)", done // 1_000_000, max(total // 1_000_000, 1))

    digest = download(archive.url, path, _checks(archive, known), told, most=archive.bytes)
    if not archive.sha256:
        listener.say(f"{archive.part}: nobody publishes its SHA-256; remembered for the next time: {digest}")
    _remember(root, archive, {"url": archive.url, "sha256": digest, "done": False})
    if is_archive(path):
        what = f"unpacking {archive.part} (files)"
        unpack(path, root / archive.into, archive.unpacked, lambda done, total: listener.progress(what, done, total))
        if not keep:
            path.unlink()
    else:
        _target(archive, root).parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, _target(archive, root))
    _remember(root, archive, {"url": archive.url, "sha256": digest, "done": True})


def _fetch_file(file: Archive, root: Path) -> None:
    path = root / DOWNLOADS / _file_name(file)
    download(file.url, path, _checks(file, {}), lambda done, total: None, most=file.bytes)
    _target(file, root).parent.mkdir(parents=True, exist_ok=True)
    os.replace(path, _target(file, root))


def _file_name(archive: Archive) -> str:
    """The last part of the address, as a name that is a file's and nothing else."""
    name = Path(unquote(urlsplit(archive.url).path)).name
    if not name or name in (".", "..") or name.startswith("."):
        raise UserError("the address names no file", where=archive.url)
    return name


def _target(archive: Archive, root: Path) -> Path:
    return root / archive.into / _file_name(archive)


def _checks(archive: Archive, known: dict) -> dict[str, str]:
    sha256 = archive.sha256 or (known.get("sha256", "") if known.get("url") == archive.url else "")
    return {name: value for name, value in (("sha256", sha256), ("md5", archive.md5)) if value}


def _remember(root: Path, archive: Archive, entry: dict) -> None:
    found = remembered(root) | {archive.part: entry}
    temporary = root / f"{MEMORY}.{os.getpid()}"
    temporary.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    os.replace(temporary, root / MEMORY)


def download(
    url: str, path: Path, checks: dict[str, str], progress: Callable[[int, int], None], *, most: int = 0
) -> str:
    """Get a file, going on where an earlier try stopped; it has its name only when it is whole and checked.

    Args:
        url: http or https; an https address is never left for an http one.
        path: where it goes; until then its bytes are in `PATH.part`.
        checks: hexadecimal digests by name of their function (sha256, md5).
        progress: called with (bytes there, bytes in all).
        most: bytes that it may have, 0 where unknown.

    Returns:
        Its SHA-256.

    Raises:
        UserError: no answer after several tries, a digest differs, too large.
    """
    if urlsplit(url).scheme not in ("https", "http"):
        raise UserError("only http and https addresses are fetched", where=url)
    part, note = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.json")
    if path.is_file():  # kept from before, or put here by hand where there is no network
        os.replace(path, part)
        note.unlink(missing_ok=True)
        digests = _digests(part, checks)
        if all(digests[name] == value for name, value in checks.items()):
            os.replace(part, path)
            return digests["sha256"]
        part.unlink()
    wait, fails = WAIT, 0
    while True:
        before = part.stat().st_size if part.is_file() else 0
        try:
            if _receive(url, part, note, progress, most, checked=bool(checks)):
                break
            reason = "the connection ended early"
        except _FAILS as e:
            reason = str(getattr(e, "reason", "") or e or type(e).__name__)
            if isinstance(e, urllib.error.HTTPError) and e.code in (400, 401, 403, 404, 410, 451):
                raise (Absent if e.code in (404, 410) else UserError)(
                    f"the server refuses: {e.code} {e.reason}", where=url,
                    remedy="look at the corpus' page (`wavbench corpus list`): the file may have moved",
                ) from None  # fmt: skip
        after = part.stat().st_size if part.is_file() else 0
        fails = 0 if after > before else fails + 1
        if fails >= TRIES:
            raise UserError(
                "the download does not go on", where=url, why=reason,
                remedy=f"the same command goes on behind the {after / 1e6:.0f} MB that are there; "
                f"https_proxy names a proxy, and a file got elsewhere can be put at {path}",
            )  # fmt: skip
        wait = WAIT if after > before else wait * 2
        time.sleep(min(wait, 60.0))
    digests = _digests(part, checks)
    wrong = [f"{name} {digests[name]} instead of {value}" for name, value in checks.items() if digests[name] != value]
    if wrong:
        part.unlink()
        note.unlink(missing_ok=True)
        raise UserError(
            "the download is not the file that it should be, and was deleted", where=url, why="; ".join(wrong),
            remedy="try again; if it stays so, the file was exchanged: look at the corpus' page",
        )  # fmt: skip
    os.replace(part, path)
    note.unlink(missing_ok=True)
    return digests["sha256"]


def _receive(url: str, part: Path, note: Path, progress: Callable[[int, int], None], most: int, checked: bool) -> bool:
    """One connection's worth of bytes; True when the file is whole."""
    there, tag = part.stat().st_size if part.is_file() else 0, ""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        held = json.loads(note.read_text())
        tag = held.get("tag", "") if held.get("url") == url else ""
    if not tag and not checked:
        there = 0  # nobody could know whether the file behind the address is still the same
    headers = {"User-Agent": f"wavbench/{__version__}", "Accept-Encoding": "identity"}
    if there:
        headers |= {"Range": f"bytes={there}-", **({"If-Range": tag} if tag else {})}
    request = urllib.request.Request(url, headers=headers)
    try:
        answer = _opener(url).open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and there:  # nothing behind what is there: whole, or longer than the file has become
            whole = error.headers.get("Content-Range", "").rpartition("/")[2] == str(there)
            if not whole:
                part.unlink()
            return whole
        raise
    with answer:
        if answer.headers.get_content_type() == "text/html" and not url.endswith((".html", ".htm")):
            raise UserError("the server sends a web page instead of the file", where=url, remedy="see the corpus' page")
        part_of = _RANGE.fullmatch(answer.headers.get("Content-Range", "")) if answer.status == 206 else None
        if answer.status == 206 and (part_of is None or int(part_of[1]) != there):
            part.unlink(missing_ok=True)  # bytes from elsewhere in the file
            return False
        resumed = bool(there and part_of)
        there = there if resumed else 0
        total = there + answer.length if answer.length is not None else -1
        if part_of and part_of[2].isdecimal():  # what is sent may be less than what is left
            total = int(part_of[2])
        _refuse_size(url, part, total, there, most)
        tag = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        note.write_text(json.dumps({"url": url, "tag": "" if tag.startswith("W/") else tag}))
        with open(part, "ab" if resumed else "wb") as file:
            while block := answer.read(BLOCK):
                there += len(block)
                _refuse_size(url, part, there, there, most)
                file.write(block)
                progress(there, max(total, there))
    return total < 0 or there == total


def _refuse_size(url: str, part: Path, total: int, there: int, most: int) -> None:
    if most and total > most:
        raise UserError(f"the file is larger than the {most / 1e6:.0f} MB it should be", where=url)
    if total > there or there % (64 * BLOCK) < BLOCK:  # when its size is said, and now and then
        free = shutil.disk_usage(part.parent).free
        if total - there > free or free < RESERVE:
            raise UserError(
                f"the download needs {(total - there) / 1e9:.2f} GB more and the disk has {free / 1e9:.2f} GB free",
                where=part.parent,
                remedy="make room: the same command goes on from here",
            )


def _opener(url: str) -> urllib.request.OpenerDirector:
    """Redirects stay on the web, and on https where the address was."""

    class Redirects(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, request, file, code, message, headers, target):
            schemes = ("https",) if urlsplit(url).scheme == "https" else ("https", "http")
            if urlsplit(target).scheme not in schemes:
                raise UserError("the server sends elsewhere, out of https", where=url, why=target[:200])
            return super().redirect_request(request, file, code, message, headers, target)

    return urllib.request.build_opener(Redirects)


def _digests(path: Path, checks: dict[str, str]) -> dict[str, str]:
    digests = {name: hashlib.new(name, usedforsecurity=False) for name in {"sha256", *checks}}
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            for digest in digests.values():
                digest.update(block)
    return {name: digest.hexdigest() for name, digest in digests.items()}
