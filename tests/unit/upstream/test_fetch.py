"""Downloads from a server on this machine: resumed, checked, unpacked, refused."""

import hashlib
import io
import itertools
import socket
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from file_server import Server, serving

from wavbench.upstream import fetch as module
from wavbench.upstream.corpus import Archive
from wavbench.upstream.errors import UserError
from wavbench.upstream.fetch import Listener, fetch, fetch_files, remembered


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving(monkeypatch) as server:
        yield server


def tarred(**files: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(f"corpus/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


NOISE = np.random.default_rng(0).bytes(300_000)


def part(server: Server, data: bytes, name: str = "train.tar.gz", **more: object) -> Archive:
    server.files[f"/{name}"] = data
    return Archive(part="train", url=server.url(f"/{name}"), **more)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_part_is_downloaded_checked_and_unpacked(server: Server, tmp_path: Path) -> None:
    data = tarred(a=NOISE)
    told, said = [], []
    listener = Listener(said.append, lambda what, done, total: told.append((what, done, total)))
    fetch([part(server, data, sha256=sha256(data))], tmp_path / "root", listener)
    assert (tmp_path / "root/corpus/a").read_bytes() == NOISE
    assert remembered(tmp_path / "root")["train"]["sha256"] == sha256(data)
    assert not (tmp_path / "root/.downloads").exists()
    assert any(what.startswith("fetching train") for what, _, _ in told)
    assert any(what.startswith("unpacking train") for what, _, _ in told)


def test_a_part_that_is_there_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    archive = part(server, tarred(a=NOISE))
    fetch([archive], tmp_path)
    requests = len(server.log)
    fetch([archive], tmp_path)
    assert len(server.log) == requests


def test_a_connection_that_ends_early_is_gone_on_with(server: Server, tmp_path: Path) -> None:
    data = tarred(a=NOISE)
    server.cut["/train.tar.gz"] = 100_000
    fetch([part(server, data, sha256=sha256(data))], tmp_path)
    assert (tmp_path / "corpus/a").read_bytes() == NOISE
    assert [wanted for _, wanted in server.log] == ["", "bytes=100000-", "bytes=200000-", "bytes=300000-"]


def test_a_killed_download_goes_on_in_the_next_run(server: Server, tmp_path: Path) -> None:
    data = tarred(a=NOISE)
    archive = part(server, data, sha256=sha256(data))

    def kill(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    server.cut["/train.tar.gz"] = 100_000
    with pytest.raises(KeyboardInterrupt):
        fetch([archive], tmp_path, Listener(progress=kill))
    there = (tmp_path / ".downloads/train.tar.gz.part").stat().st_size
    assert 0 < there <= 100_000
    server.cut.clear()
    fetch([archive], tmp_path)
    assert server.log[-1][1] == f"bytes={there}-"
    assert (tmp_path / "corpus/a").read_bytes() == NOISE


def test_a_file_that_changed_behind_its_address_is_begun_again(server: Server, tmp_path: Path) -> None:
    old, new = tarred(a=NOISE), tarred(a=NOISE[::-1])
    archive = part(server, old)

    def kill(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    server.cut["/train.tar.gz"] = 100_000
    with pytest.raises(KeyboardInterrupt):
        fetch([archive], tmp_path, Listener(progress=kill))
    server.cut.clear()
    server.files["/train.tar.gz"], server.tag = new, '"two"'
    fetch([archive], tmp_path)
    assert (tmp_path / "corpus/a").read_bytes() == NOISE[::-1]


@pytest.mark.parametrize("tag", ["", 'W/"weak"'])
def test_a_server_without_ranges_or_tags_still_gives_the_file(server: Server, tmp_path: Path, tag: str) -> None:
    data = tarred(a=NOISE)
    server.ranges, server.tag = False, tag
    fetch([part(server, data, md5=hashlib.md5(data, usedforsecurity=False).hexdigest())], tmp_path)
    assert (tmp_path / "corpus/a").read_bytes() == NOISE


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_another_file_than_published_is_deleted_and_not_unpacked(server: Server, tmp_path: Path, kind: str) -> None:
    wrong = {"sha256": "0" * 64, "md5": "0" * 32}[kind]
    with pytest.raises(UserError, match="not the file that it should be"):
        fetch([part(server, tarred(a=NOISE), **{kind: wrong})], tmp_path)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_file_without_published_digest_is_held_against_its_first_download(server: Server, tmp_path: Path) -> None:
    archive = part(server, tarred(a=NOISE))
    said = []
    fetch([archive], tmp_path, Listener(said.append))
    assert sha256(server.files["/train.tar.gz"]) in said[0]
    found = (tmp_path / ".fetched.json").read_text().replace('"done": true', '"done": false')
    (tmp_path / ".fetched.json").write_text(found)
    server.files["/train.tar.gz"] = tarred(a=b"something else")
    with pytest.raises(UserError, match="not the file that it should be"):
        fetch([archive], tmp_path)
    assert (tmp_path / "corpus/a").read_bytes() == NOISE


def test_a_hostile_archive_leaves_nothing_and_is_not_remembered_as_there(server: Server, tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        info = tarfile.TarInfo("../evil")
        archive.addfile(info, io.BytesIO())
    with pytest.raises(UserError, match="was not unpacked"):
        fetch([part(server, out.getvalue())], tmp_path / "root")
    assert not (tmp_path / "evil").exists()
    assert not remembered(tmp_path / "root")["train"]["done"]


def test_a_file_that_lies_there_already_needs_no_network(server: Server, tmp_path: Path) -> None:
    data = tarred(a=NOISE)
    archive = part(server, data, sha256=sha256(data))
    (tmp_path / ".downloads").mkdir()
    (tmp_path / ".downloads/train.tar.gz").write_bytes(data)
    fetch([archive], tmp_path, keep=True)
    assert server.log == []
    assert (tmp_path / "corpus/a").read_bytes() == NOISE
    assert (tmp_path / ".downloads/train.tar.gz").read_bytes() == data


def test_a_damaged_file_that_lies_there_is_fetched_again(server: Server, tmp_path: Path) -> None:
    data = tarred(a=NOISE)
    (tmp_path / ".downloads").mkdir()
    (tmp_path / ".downloads/train.tar.gz").write_bytes(data[:-1])
    fetch([part(server, data, sha256=sha256(data))], tmp_path)
    assert (tmp_path / "corpus/a").read_bytes() == NOISE


def test_a_missing_file_is_said_at_once(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="404"):
        fetch([Archive(part="train", url=server.url("/absent.tar.gz"))], tmp_path)
    assert len(server.log) == 1


def test_a_server_that_is_away_is_given_up_with_the_way_to_go_on(server: Server, tmp_path: Path) -> None:
    archive = part(server, b"")
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match="does not go on") as caught:
        fetch([archive], tmp_path)
    assert "the same command goes on" in caught.value.remedy


def test_a_web_page_instead_of_a_file_is_refused(server: Server, tmp_path: Path) -> None:
    server.kind = "text/html; charset=utf-8"
    with pytest.raises(UserError, match="web page"):
        fetch([part(server, b"<html>log in</html>")], tmp_path)


def test_more_bytes_than_the_file_should_have_are_refused(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="larger than"):
        fetch([part(server, NOISE, bytes=200_000)], tmp_path)
    assert (tmp_path / ".downloads/train.tar.gz.part").exists() is False


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/a.tar.gz"])
def test_only_the_web_is_fetched_from(url: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="only http"):
        fetch([Archive(part="train", url=url)], tmp_path)


def test_a_redirect_off_the_web_is_refused(server: Server, tmp_path: Path) -> None:
    server.redirects["/train.tar.gz"] = "ftp://127.0.0.1/a.tar.gz"
    with pytest.raises(UserError, match="sends elsewhere"):
        fetch([Archive(part="train", url=server.url("/train.tar.gz"))], tmp_path)


def test_a_redirect_on_the_web_is_followed(server: Server, tmp_path: Path) -> None:
    server.files["/moved.tar.gz"] = tarred(a=NOISE)
    server.redirects["/train.tar.gz"] = "/moved.tar.gz"
    fetch([Archive(part="train", url=server.url("/train.tar.gz"))], tmp_path)
    assert (tmp_path / "corpus/a").read_bytes() == NOISE


def test_many_small_files_go_to_their_folder_and_those_that_are_there_stay(server: Server, tmp_path: Path) -> None:
    files = []
    for k in range(20):
        server.files[f"/wav/{k}.wav"] = bytes([k]) * 100
        files.append(Archive(part=f"{k}.wav", url=server.url(f"/wav/{k}.wav"), into="AudioWAV"))
    (tmp_path / "AudioWAV").mkdir()
    (tmp_path / "AudioWAV/3.wav").write_bytes(b"mine")
    told = []
    fetch_files(files, tmp_path, Listener(progress=lambda what, done, total: told.append((done, total))))
    assert (tmp_path / "AudioWAV/7.wav").read_bytes() == bytes([7]) * 100
    assert (tmp_path / "AudioWAV/3.wav").read_bytes() == b"mine"
    assert told[-1] == (20, 20)
    assert len(server.log) == 19


def listed(server: Server, names: str, absent: str = "") -> list[Archive]:
    """A file for every letter, of which the server has all but some."""
    server.files |= {f"/{name}.wav": name.encode() for name in names if name not in absent}
    return [Archive(part=name, url=server.url(f"/{name}.wav"), into="wav") for name in names]


def test_files_that_the_server_lacks_are_named_when_all_others_are_there(server: Server, tmp_path: Path) -> None:
    files = listed(server, "abcdef", absent="be")
    with pytest.raises(UserError, match=r"lacks 2 files \(b, e\)") as caught:
        fetch_files(files, tmp_path)
    assert caught.value.where == server.url("/b.wav")
    assert "4 of 6" in caught.value.why
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["a.wav", "c.wav", "d.wav", "f.wav"]
    server.files |= {"/b.wav": b"b", "/e.wav": b"e"}
    server.log.clear()
    fetch_files(files, tmp_path)
    assert sorted(path for path, _ in server.log) == ["/b.wav", "/e.wav"]


def test_a_file_that_may_be_absent_is_mentioned_and_no_error(server: Server, tmp_path: Path) -> None:
    said = []
    fetch_files(listed(server, "abc", absent="b"), tmp_path, Listener(said.append), spare=("b",))
    assert said == ["the server lacks 1 file (b), as its authors say"]


def test_a_server_that_lacks_too_many_is_asked_for_no_more(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TOLERATED", 3)
    names = "".join(chr(k) for k in range(ord("a"), ord("z")))
    with pytest.raises(UserError, match="lacks 3 files") as caught:
        fetch_files(listed(server, names, absent=names), tmp_path)
    assert "no more were asked for" in caught.value.why
    assert len(server.log) <= 3 + 2 * module.SIDE_BY_SIDE


def test_any_other_refusal_stops_the_files_at_once(server: Server, tmp_path: Path) -> None:
    files = listed(server, "ab")
    server.redirects["/a.wav"] = "ftp://127.0.0.1/a.wav"
    with pytest.raises(UserError, match="sends elsewhere"):
        fetch_files(files, tmp_path)


def test_a_plain_file_that_was_deleted_is_fetched_again(server: Server, tmp_path: Path) -> None:
    archive = part(server, b"a list", name="list.csv")
    fetch([archive], tmp_path)
    (tmp_path / "list.csv").unlink()
    fetch([archive], tmp_path)
    assert (tmp_path / "list.csv").read_bytes() == b"a list"


@pytest.mark.parametrize("text", ["", "[]", '"train"', '{"train": 1}', "[" * 100_000])
def test_a_memory_that_is_none_is_as_none_at_all(text: str, server: Server, tmp_path: Path) -> None:
    (tmp_path / module.MEMORY).write_text(text)
    assert remembered(tmp_path) == {}
    data = tarred(a=NOISE)
    fetch([part(server, data)], tmp_path)
    assert remembered(tmp_path)["train"]["sha256"] == sha256(data)


def answering(*replies: bytes) -> str:
    """The address of a server that gives these replies, the last one for ever."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        for reply in itertools.chain(replies, itertools.repeat(replies[-1])):
            connection, _ = listening.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(reply)

    threading.Thread(target=serve, daemon=True).start()
    return f"http://127.0.0.1:{listening.getsockname()[1]}/x.bin"


def get(url: str, path: Path) -> bytes:
    module.download(url, path, {}, lambda done, total: None)
    return path.read_bytes()


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 302 Found\r\nLocation: http://[::1\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://" + b"a" * 300 + b"/x\r\n\r\n",
        b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 5-6/10\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 206 Partial Content\r\nContent-Length: 2\r\n\r\nab",
    ],
)
def test_an_answer_that_makes_no_sense_is_no_file(reply: bytes, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not go on"):
        get(answering(reply), tmp_path / "x.bin")
    assert not (tmp_path / "x.bin").exists()


@pytest.mark.usefixtures("server")
def test_a_length_that_is_no_number_does_no_harm(tmp_path: Path) -> None:
    assert get(answering(b"HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\nabcd"), tmp_path / "x.bin") == b"abcd"


@pytest.mark.usefixtures("server")
def test_a_server_that_sends_less_than_the_rest_is_asked_again(tmp_path: Path) -> None:
    parts = (
        b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\nETag: "one"\r\n\r\nabcd',
        b'HTTP/1.1 206 OK\r\nContent-Range: bytes 4-6/10\r\nContent-Length: 3\r\nETag: "one"\r\n\r\nefg',
        b'HTTP/1.1 206 OK\r\nContent-Range: bytes 7-9/10\r\nContent-Length: 3\r\nETag: "one"\r\n\r\nhij',
    )
    assert get(answering(*parts), tmp_path / "x.bin") == b"abcdefghij"
