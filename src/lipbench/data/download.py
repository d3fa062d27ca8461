"""Fetching corpora that may be fetched: resumable, checked, unpacked safely.

GRID lies on Zenodo (record 3625687, CC BY 4.0): `s1.zip` to `s34.zip` with the videos of a speaker (s21 has none) and
`alignments.zip`. Their SHA-256 are not published; the first fetch prints and pins them in `checksums.json` beside the
corpus, and a later fetch must agree.
"""

import http.client
import json
import os
import shutil
import stat
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

from lipbench.data.lock import alone
from lipbench.files import sha256, write_text
from lipbench.paths import home

GRID_URL: Final = "https://zenodo.org/records/3625687/files"
_GRID_SPEAKERS: Final = tuple(f"s{k}" for k in range(1, 35) if k != 21)
_ATTEMPTS: Final = 5  # without a byte of progress between them
_BLOCK: Final = 1 << 20
_PINS: Final = "checksums.json"


def download(
    data: str,
    root: str | Path | None = None,
    speakers: Sequence[str] | None = None,
    url_base: str | None = None,
    *,
    progress: bool = True,
) -> Path:
    """Fetch and unpack a corpus; what is there already is not fetched again, what was begun is continued.

    Args:
        data: Only "grid" can be fetched.
        root: Folder to unpack into; by default `$LIPBENCH_HOME/corpora/<data>`, where `prepare` looks by itself.
        speakers: Such as s1 s2; by default all 33 with video.
        url_base: Another place with the same files.
        progress: Show a bar and the hashes.

    Returns:
        The corpus folder.

    Raises:
        ValueError: Unknown corpus or speaker, or a file that differs from its pinned hash or is no safe archive.
        RuntimeError: The server cannot be reached or breaks off again and again (a second call continues), or another
            download into the same folder is going on.
    """
    if data != "grid":
        raise ValueError(f"{data!r} cannot be downloaded, only grid can; other corpora are under licenses to be signed")
    chosen = tuple(speakers or _GRID_SPEAKERS)
    if unknown := [s for s in chosen if s not in _GRID_SPEAKERS]:
        raise ValueError(f"GRID has no videos of {', '.join(unknown)}; speakers are s1 to s34 without s21")
    folder = Path(root).expanduser() if root else home() / "corpora" / data
    base = (url_base or GRID_URL).rstrip("/")
    suffix = "" if url_base else "?download=1"
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder, "download"):
        for name in ("alignments.zip", *(f"{speaker}.zip" for speaker in chosen)):
            _one(folder, name, f"{base}/{name}{suffix}", progress)
    return folder


def _one(folder: Path, name: str, url: str, progress: bool) -> None:
    """Fetch, check and unpack an archive of a corpus, unless that was done before."""
    target = folder / ("alignments" if name == "alignments.zip" else f"video/{name.removesuffix('.zip')}")
    pinned = _pins(folder).get(name)
    if pinned and target.is_dir():
        return
    archive = folder / ".archives" / name
    archive.parent.mkdir(exist_ok=True)
    with bar(progress, name) as advance:
        fetch(url, archive, advance)
    digest = sha256(archive)
    if pinned and pinned["sha256"] != digest:
        raise ValueError(
            f"{archive} has the sha256 {digest}, but {pinned['sha256']} is pinned in {folder / _PINS}: "
            "another file than before. Delete the file to fetch it again, or the pin to trust it"
        )
    try:
        unpack(archive, target)
    except ValueError as error:
        aside = archive.with_name(f"{name}.damaged")
        archive.replace(aside)
        raise ValueError(f"{error}. It lies in {aside} now; the same command fetches it anew") from error
    pins = {**_pins(folder), name: {"sha256": digest, "bytes": archive.stat().st_size}}
    write_text(folder / _PINS, json.dumps(pins, indent=1, sort_keys=True) + "\n")
    archive.unlink()
    archive.with_name(f"{name}.damaged").unlink(missing_ok=True)
    if progress:
        print(f"{name}: sha256 {digest}, pinned in {folder / _PINS}")


def fetch(url: str, path: Path, advance: Callable[[int, int | None], None] = lambda have, total: None) -> None:
    """Fetch a file, continuing after broken connections and earlier calls; it appears under its name when it is whole.

    Args:
        url: http or https.
        path: Where to; the unfinished file lies beside it as `<name>.part`.
        advance: Called with bytes so far and bytes in all (None if the server does not say).

    Raises:
        RuntimeError: No progress in 5 attempts, or the server refuses; what was fetched stays for the next call.
    """
    part = path.with_name(path.name + ".part")
    failures = 0
    while not path.exists():
        have = part.stat().st_size if part.exists() else 0
        try:
            if _continue(url, part, have, advance):
                part.replace(path)
                return
            reason = "the connection broke off"
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in (408, 429):
                raise RuntimeError(f"{url}: the server answers {error.code} {error.reason}") from error
            reason = f"the server answers {error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        failures = 0 if part.exists() and part.stat().st_size > have else failures + 1
        if failures >= _ATTEMPTS:
            got = part.stat().st_size if part.exists() else 0
            raise RuntimeError(f"{url}: {reason}. {got:,} bytes are kept in {part}; the same command continues there")
        time.sleep(min(30.0, 0.5 * 2**failures) if failures else 0)


def _continue(url: str, part: Path, have: int, advance: Callable[[int, int | None], None]) -> bool:
    """One attempt from byte `have` on; whether the file is whole now."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer: Any = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing after byte `have`: whole, or another file than before
            total = (error.headers.get("Content-Range") or "").rpartition("/")[2]
            if total == str(have):
                return True
            part.unlink()
            return False
        raise
    with answer:
        if have and answer.status != 206:
            have = 0  # the server does not continue: from the start
        length = answer.headers.get("Content-Length")
        total_bytes = have + int(length) if length else None
        with part.open("ab" if have else "wb") as file:
            while block := answer.read(_BLOCK):
                file.write(block)
                have += len(block)
                advance(have, total_bytes)
    return total_bytes is None or have == total_bytes


def unpack(archive: Path, target: Path) -> None:
    """Unpack a zip or tar archive; every name is judged before anything is written, and all files appear at the end.

    Args:
        archive: The file.
        target: Folder to unpack into.

    Raises:
        ValueError: It is no such archive, is damaged, or holds a link, a device or a path that leads outside.
    """
    for left in target.parent.glob(f".{target.name}.*.part"):  # of a run that was killed
        shutil.rmtree(left, ignore_errors=True)
    aside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        _unpack_aside(archive, aside)
        for path in sorted(aside.rglob("*")):
            if path.is_file():
                place = target / path.relative_to(aside)
                place.parent.mkdir(parents=True, exist_ok=True)
                path.replace(place)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _unpack_aside(archive: Path, aside: Path) -> None:
    if zipfile.is_zipfile(archive):
        with _named(archive), zipfile.ZipFile(archive) as pack:
            files = [entry for entry in pack.infolist() if not entry.is_dir()]
            links = [entry.filename for entry in files if stat.S_ISLNK(entry.external_attr >> 16)]
            _judge(archive, [entry.filename for entry in files], links)
            for entry in files:
                with pack.open(entry) as source:
                    _write(aside, entry.filename, source)
    elif tarfile.is_tarfile(archive):
        with _named(archive), tarfile.open(archive) as tape:
            members = [member for member in tape.getmembers() if not member.isdir()]
            _judge(archive, [m.name for m in members], [m.name for m in members if not m.isreg()])
            for member in members:
                content = tape.extractfile(member)
                if content is not None:
                    _write(aside, member.name, content)
    else:
        size = archive.stat().st_size
        raise ValueError(f"{archive.name} is no zip or tar archive ({size:,} bytes); delete it and try again")


@contextmanager
def _named(archive: Path) -> Iterator[None]:
    """Whatever the readers of archives raise over damaged ones becomes one error; those of the disk pass through."""
    try:
        yield
    except _Unsafe:
        raise
    except Exception as error:  # zlib, lzma, bz2, struct, zipfile and tarfile each have several
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{archive.name} is damaged ({reason}); delete it and try again") from error


class _Unsafe(ValueError):
    """An archive that would write where it must not."""


def _judge(archive: Path, names: Sequence[str], others: Sequence[str]) -> None:
    """Refuse an archive with anything but plain files inside its own folder, each under a name of its own."""
    if others:
        raise _Unsafe(f"{archive.name} holds a link or device ({others[0]!r}); nothing was unpacked")
    for name in names:
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if not parts or parts[0] == "/" or ".." in parts or ":" in parts[0]:
            raise _Unsafe(f"{archive.name} holds a path that leads outside ({name!r}); nothing was unpacked")
    plain = {str(PurePosixPath(name.replace("\\", "/"))) for name in names}
    for name in plain:
        if inside := next((str(p) for p in PurePosixPath(name).parents if str(p) in plain), None):
            raise _Unsafe(f"{archive.name} holds {inside!r} as a file and as a folder; nothing was unpacked")


def _write(folder: Path, name: str, source: IO[bytes]) -> None:
    place = folder / name.replace("\\", "/")
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("wb") as file:
        shutil.copyfileobj(source, file, _BLOCK)


@contextmanager
def bar(show: bool, name: str) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar; yields the function that `fetch` calls."""
    if not show:
        yield lambda have, total: None
        return
    from rich import progress as bars

    columns = [bars.TextColumn(name), bars.BarColumn(), bars.DownloadColumn(), bars.TransferSpeedColumn()]
    with bars.Progress(*columns, bars.TimeRemainingColumn()) as bar:
        task = bar.add_task("", total=None)
        yield lambda have, total: bar.update(task, completed=have, total=total)


def _pins(folder: Path) -> dict[str, Any]:
    """Name of an archive -> its hash and size.

    Raises:
        ValueError: The file is not what was written.
    """
    file = folder / _PINS
    if not file.is_file():
        return {}
    try:
        pins = dict(json.loads(file.read_bytes()))
        if not all(isinstance(pin, dict) and isinstance(pin.get("sha256"), str) for pin in pins.values()):
            raise TypeError("an entry has no sha256")
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{file} cannot be read ({error}); delete it, and the archives are fetched again and pinned anew"
        ) from error
    return pins
