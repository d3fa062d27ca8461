"""Downloads from a local server: resumed, checked, unpacked safely."""

import hashlib
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lipbench.data import download as downloads
from lipbench.data.download import download, fetch, unpack
from lipbench.data.lock import alone

ALIGN = b"0 23750 sil\n23750 53000 bin\n53000 74500 sil\n"


def zipped(files: dict[str, bytes], link: str | None = None) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as pack:
        for name, content in files.items():
            pack.writestr(name, content)
        if link:
            entry = zipfile.ZipInfo(link)
            entry.external_attr = 0o120777 << 16
            pack.writestr(entry, "/etc/passwd")
    return out.getvalue()


class Server(ThreadingHTTPServer):
    """Serves `files`; breaks the connection off after `cut` bytes, as often as `breaks` says."""

    files: dict[str, bytes]
    asked: list[tuple[str, str | None]]
    breaks = 0
    cut = 0
    ranges = True
    lasting = False


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        content = self.server.files.get(self.path.partition("?")[0].rpartition("/")[2])
        wanted = self.headers.get("Range")
        self.server.asked.append((self.path, wanted))
        if content is None:
            self.send_error(404)
            return
        first = 0
        if wanted and self.server.ranges:
            first = int(wanted.removeprefix("bytes=").rstrip("-"))
            if first >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        body = content[first:]
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.server.breaks > 0:
            self.server.breaks -= not self.server.lasting
            body = body[: self.server.cut]
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(downloads.time, "sleep", lambda seconds: None)
    with Server(("127.0.0.1", 0), Handler) as running:
        running.files = {
            "alignments.zip": zipped({"alignments/s1/bbaf2n.align": ALIGN}),
            "s1.zip": zipped({"s1/bbaf2n.mpg": b"picture" * 5000, "s1/": b""}),
        }
        running.asked = []
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_port}/files"


def test_whole_road(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = download("grid", tmp_path / "grid", ["s1"], url(server))
    assert (folder / "video/s1/s1/bbaf2n.mpg").read_bytes() == b"picture" * 5000
    assert (folder / "alignments/alignments/s1/bbaf2n.align").read_bytes() == ALIGN
    digest = hashlib.sha256(server.files["s1.zip"]).hexdigest()
    assert json.loads((folder / "checksums.json").read_text())["s1.zip"]["sha256"] == digest
    assert digest in capsys.readouterr().out
    from lipbench.corpora.grid import Grid

    assert [clip.clip_id for clip in Grid.scan(folder)] == ["grid/s1/bbaf2n"]
    server.asked.clear()
    download("grid", folder, ["s1"], url(server), progress=False)
    assert server.asked == []


def test_default_folder_is_where_prepare_looks(server: Server, home: Path) -> None:
    assert download("grid", None, ["s1"], url(server), progress=False) == home / "corpora/grid"


def test_changed_file_is_noticed(server: Server, tmp_path: Path) -> None:
    folder = download("grid", tmp_path, ["s1"], url(server), progress=False)
    (folder / "video/s1").rename(tmp_path / "elsewhere")
    server.files["s1.zip"] = zipped({"s1/bbaf2n.mpg": b"another"})
    with pytest.raises(ValueError, match="is pinned in"):
        download("grid", tmp_path, ["s1"], url(server), progress=False)
    assert not (folder / "video/s1").exists()


def test_broken_connections_are_continued(server: Server, tmp_path: Path) -> None:
    content = server.files["blob"] = bytes(range(256)) * 400
    server.breaks, server.cut = 3, 30_000
    steps: list[tuple[int, int | None]] = []
    fetch(f"{url(server)}/blob", tmp_path / "blob", lambda have, total: steps.append((have, total)))
    assert (tmp_path / "blob").read_bytes() == content
    assert [wanted for _, wanted in server.asked] == [None, "bytes=30000-", "bytes=60000-", "bytes=90000-"]
    assert steps[-1] == (len(content), len(content))


def test_a_later_call_continues(server: Server, tmp_path: Path) -> None:
    content = server.files["blob"] = b"0123456789" * 100
    (tmp_path / "blob.part").write_bytes(content[:700])
    fetch(f"{url(server)}/blob", tmp_path / "blob")
    assert (tmp_path / "blob").read_bytes() == content
    assert server.asked == [("/files/blob", "bytes=700-")]
    (tmp_path / "blob").rename(tmp_path / "blob.part")  # killed between the last byte and the rename
    fetch(f"{url(server)}/blob", tmp_path / "blob")
    assert (tmp_path / "blob").read_bytes() == content


def test_servers_that_cannot_continue(server: Server, tmp_path: Path) -> None:
    content = server.files["blob"] = b"0123456789" * 100
    server.ranges = False
    (tmp_path / "blob.part").write_bytes(b"x" * 700)
    fetch(f"{url(server)}/blob", tmp_path / "blob")
    assert (tmp_path / "blob").read_bytes() == content


def test_giving_up_keeps_what_was_fetched(server: Server, tmp_path: Path) -> None:
    server.files["blob"] = b"0123456789" * 100
    server.breaks, server.cut, server.lasting = 1, 0, True
    with pytest.raises(RuntimeError, match=r"the same command continues there"):
        fetch(f"{url(server)}/blob", tmp_path / "blob")
    assert len(server.asked) == 5
    with pytest.raises(RuntimeError, match="404"):
        fetch(f"{url(server)}/nothing", tmp_path / "nothing")
    server.shutdown()
    server.server_close()
    with pytest.raises(RuntimeError, match="refused"):
        fetch(f"{url(server)}/blob", tmp_path / "other")
    assert not (tmp_path / "blob").exists()


@pytest.mark.parametrize("name", ["../out", "/etc/out", "s1/../../out", "C:\\out", "..\\out"])
def test_paths_that_lead_outside_are_refused(tmp_path: Path, name: str) -> None:
    archive = tmp_path / "s1.zip"
    archive.write_bytes(zipped({"s1/good.mpg": b"x", name: b"bad"}))
    with pytest.raises(ValueError, match="leads outside"):
        unpack(archive, tmp_path / "in" / "s1")
    tape = tmp_path / "s1.tar"
    with tarfile.open(tape, "w") as out:
        entry = tarfile.TarInfo(name)
        out.addfile(entry, io.BytesIO(b""))
    with pytest.raises(ValueError, match="leads outside"):
        unpack(tape, tmp_path / "in" / "s1")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["s1.tar", "s1.zip"]


def test_links_are_refused(tmp_path: Path) -> None:
    archive = tmp_path / "s1.zip"
    archive.write_bytes(zipped({"s1/good.mpg": b"x"}, link="s1/link"))
    with pytest.raises(ValueError, match="holds a link or device"):
        unpack(archive, tmp_path / "s1")
    with tarfile.open(tmp_path / "s1.tar", "w") as out:
        entry = tarfile.TarInfo("s1/link")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc"
        out.addfile(entry)
    with pytest.raises(ValueError, match="holds a link or device"):
        unpack(tmp_path / "s1.tar", tmp_path / "s1")
    assert not (tmp_path / "s1").exists()


def test_tar_and_damaged_archives(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s1.tar.gz", "w:gz") as out:
        entry = tarfile.TarInfo("s1/a.mpg")
        entry.size = 3
        out.addfile(entry, io.BytesIO(b"abc"))
    unpack(tmp_path / "s1.tar.gz", tmp_path / "s1")
    assert (tmp_path / "s1/s1/a.mpg").read_bytes() == b"abc"
    content = bytearray(zipped({"a.mpg": bytes(1000)}))
    content[200] ^= 1
    (tmp_path / "bad.zip").write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        unpack(tmp_path / "bad.zip", tmp_path / "bad")
    (tmp_path / "page.zip").write_text("<html>Sorry</html>")
    with pytest.raises(ValueError, match=r"no zip or tar archive \(18 bytes\)"):
        unpack(tmp_path / "page.zip", tmp_path / "bad")
    assert not (tmp_path / "bad").exists()
    assert not list(tmp_path.glob(".*.part"))


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="GRID has no videos of s21, s35"):
        download("grid", tmp_path, ["s1", "s21", "s35"])
    with pytest.raises(ValueError, match="only grid can"):
        download("lrs2", tmp_path)


def damage(content: bytes, kind: str) -> bytes:
    """A zip file whose one kind of fault shows only while it is read."""
    out = io.BytesIO()
    if kind == "compressed data":  # zlib.error
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as pack:
            pack.writestr("a.mpg", bytes(range(256)) * 40)
        changed = bytearray(out.getvalue())
        changed[40:60] = b"\xff" * 20
        return bytes(changed)
    changed = bytearray(content)
    at = content.index(b"PK\x01\x02")
    if kind == "unknown compression":  # NotImplementedError
        changed[8] = changed[at + 10] = 99
    elif kind == "encrypted":  # RuntimeError
        changed[6] |= 1
        changed[at + 8] |= 1
    elif kind == "cut off":
        del changed[len(changed) // 2 :]
    return bytes(changed)


@pytest.mark.parametrize("kind", ["compressed data", "unknown compression", "encrypted", "cut off"])
def test_damaged_archives_leave_nothing_and_are_fetched_anew(server: Server, tmp_path: Path, kind: str) -> None:
    whole = server.files["s1.zip"]
    server.files["s1.zip"] = damage(whole, kind)
    (tmp_path / "video").mkdir()
    (tmp_path / "video/.s1.1.part").mkdir()  # of a run that was killed
    with pytest.raises(ValueError, match=r"s1\.zip is (damaged|no zip).*the same command fetches it anew") as caught:
        download("grid", tmp_path, ["s1"], url(server), progress=False)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.part"))
    assert not (tmp_path / "video/s1").exists()
    server.files["s1.zip"] = whole
    download("grid", tmp_path, ["s1"], url(server), progress=False)
    assert (tmp_path / "video/s1/s1/bbaf2n.mpg").read_bytes() == b"picture" * 5000
    assert not list((tmp_path / ".archives").iterdir())


def test_a_full_disk_is_no_damaged_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    archive = tmp_path / "s1.zip"
    archive.write_bytes(zipped({"a.mpg": b"x"}))
    monkeypatch.setattr(downloads.shutil, "copyfileobj", full)
    with pytest.raises(OSError, match="No space left"):
        unpack(archive, tmp_path / "in" / "s1")
    assert not list(tmp_path.rglob("*.part"))


def test_a_name_that_is_file_and_folder(tmp_path: Path) -> None:
    archive = tmp_path / "s1.zip"
    archive.write_bytes(zipped({"s1": b"x", "s1/a.mpg": b"y"}))
    with pytest.raises(ValueError, match="'s1' as a file and as a folder"):
        unpack(archive, tmp_path / "in")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s1.zip"]


@pytest.mark.parametrize("pins", [b"", b"[1]", b"3", b"\xff", b'{"s1.zip": "abc"}', b'{"s1.zip": {"sha256": 3}}'])
def test_odd_pins_are_a_sentence(server: Server, tmp_path: Path, pins: bytes) -> None:
    (tmp_path / "checksums.json").write_bytes(pins)
    with pytest.raises(ValueError, match=r"checksums\.json cannot be read .*delete it"):
        download("grid", tmp_path, ["s1"], url(server), progress=False)
    assert (tmp_path / "checksums.json").read_bytes() == pins


def test_one_download_at_a_time(server: Server, tmp_path: Path) -> None:
    with alone(tmp_path, "download"), pytest.raises(RuntimeError, match="another `lipbench download`"):
        download("grid", tmp_path, ["s1"], url(server), progress=False)
