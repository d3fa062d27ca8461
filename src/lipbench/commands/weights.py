"""weights: what judges need: list, verify, fetch and convert weights files, with their licences.

lipbench weights                                 every known file: present or absent, where, under which licences
lipbench weights verify [NAME|FILE ...]          hash and structure; of all files that are present, or of these
lipbench weights fetch NAME                      download to where it is looked for, or be told how to get it
lipbench weights convert NAME FILE OUT.safetensors
                                                 a published file becomes lipbench's; nothing in it is executed
"""

import argparse
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lipbench import discovery, paths
from lipbench.errors import UsageError
from lipbench.files import sha256
from lipbench.pretrained import bundled
from lipbench.pretrained.inception import Inception
from lipbench.pretrained.networks import load_arcface, load_i3d, load_syncnet

if TYPE_CHECKING:
    from lipbench.pretrained.published import Known

GROUP = "Train and score"
Chosen = tuple[str, Path | None, "Known | None"]
"""Name, file (None: it is absent), and what is known of it (None: a file in lipbench's format)."""

SHIPPED: Final = bundled.FOLDER
"""Folder of the files that come with lipbench."""
SUMS: Final = "SHA256SUMS"
"""Known hashes of the files of a folder, as `sha256sum` writes and checks them."""

_ACTIONS: Final = {"list": "", "verify": "[NAME|FILE ...]", "fetch": "NAME", "convert": "NAME FILE OUT.safetensors"}
OBSERVER: Final = {"lipnet": "transcript", "lipresnet": "transcript", "syncnet": "syncnet"}  # by file of lipbench.nets


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `lipbench weights`."""
    parser.add_argument(
        "action", nargs="?", default="list", metavar="ACTION", help="list (default), verify, fetch or convert"
    )
    parser.add_argument("words", nargs="*", metavar="NAME|FILE", help="see above; names are those that list shows")
    parser.add_argument("--url", help="fetch: another place that has the same file")


def run(action: str = "list", words: list[str] | None = None, url: str | None = None) -> None:
    """List, verify, fetch or convert.

    Args:
        action: Which of them.
        words: What follows it.
        url: For fetch.

    Raises:
        UsageError: The action or a name is unknown, or the words do not fit the action.
        RuntimeError: A verified file is not as it should be, or a file cannot be fetched.
        ValueError: A file holds something else.
        FileNotFoundError: There is no such file.
    """
    words = words or []
    if action not in _ACTIONS:
        raise discovery.unknown("action", action, _ACTIONS)
    fits = {"list": not words, "verify": True, "fetch": len(words) == 1, "convert": len(words) == 3}
    if not fits[action]:
        raise UsageError(f"type: lipbench weights {action} {_ACTIONS[action]}".rstrip())
    if url is not None and action != "fetch":
        raise UsageError(f"--url belongs to fetch, not to {action}")
    if action == "list":
        _list()
    elif action == "verify":
        _verify(words)
    elif action == "fetch":
        _fetch(words[0], url)
    else:
        _convert(words[0], Path(words[1]).expanduser(), Path(words[2]).expanduser())


# ---------------------------------------------------------------------------------------------------------------- list


def _list() -> None:
    """Print published files, and files in lipbench's own format: each name whole on a line, and what is known below."""
    from lipbench.pretrained.published import KNOWN

    home = paths.home()
    print("Published files")
    for name, known in KNOWN.items():
        use = [f"use: {known.use}".replace(f"{known.observer} FILE", f"{known.observer} {name}")] if known.use else []
        licences = f"licences: code {known.code}; weights {known.weights}; data {known.data}"
        used_by = "; ".join(filter(None, (known.what, columns(known.observer))))
        _entry(name, (used_by, _where(known, home), *use, licences))
    own = _own()
    if own:
        print("\nIn lipbench's format")
        for path in own:
            _entry(path.stem, _card_lines(path))
    else:
        print(f"\nNo file in lipbench's format in {_short(SHIPPED)} or {_short(home / 'weights')}.")
    print("\nunverified: the loader has met only made-up files of the published names and shapes, never the real one.")
    print("`lipbench weights --help` tells how to verify, fetch and convert.")


def _entry(name: str, lines: Iterable[str]) -> None:
    """Print a file's name, and lines about it; whatever comes from a file is shown as text."""
    from lipbench.errors import on_one_line

    print(f"  {on_one_line(name)}")
    for line in lines:
        print(f"      {on_one_line(line)}")


def _where(known: "Known", home: Path) -> str:
    """Present or absent, and the place."""
    verified = "verified" if known.verified else "unverified"
    try:
        found, place = known.find(home), known.place(home)
    except ModuleNotFoundError as error:
        return f"absent, {verified}: {error}"
    state = f"present, {_size(found)}" if found else "absent"
    return f"{state}, {verified}: {_short(found or place)}"


def _card_lines(path: Path) -> list[str]:
    """What a file in lipbench's format says of itself."""
    from lipbench.pretrained import weights

    try:
        card = weights.read_card(path)
    except ValueError as error:
        return [f"broken, {_size(path)}: {error}"]
    observer = OBSERVER.get(card.architecture.partition(".")[0], "")
    lines = [
        "; ".join(filter(None, (f"{card.architecture}, {card.view}", columns(observer)))),
        f"present, {_size(path)}: {_short(path)}",
    ]
    lines += [f"use: --evaluator.files.{observer} {shlex.quote(path.stem)}"] if observer else []
    licence = "; code and weights: Apache-2.0" if path.parent == SHIPPED else ""
    return [*lines, f"trained on {card.trained_on}{licence}"]


def columns(observer: str) -> str:
    """Metric columns that use an observation, without their variants in brackets."""
    from lipbench.evaluation.bank import CATALOGUE, observed

    names = [
        name.partition("[")[0] for name, entry in CATALOGUE.items() if observer in (observed(entry), entry.metric.name)
    ]
    return ", ".join(dict.fromkeys(names))


def _own() -> list[Path]:
    """Files in lipbench's format: those that come with it, and those in the user's folder."""
    return [path for folder in (SHIPPED, paths.home() / "weights") for path in sorted(folder.glob("*.safetensors"))]


def _short(path: Path) -> str:
    """A path as one would type it."""
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"


# -------------------------------------------------------------------------------------------------------------- verify


def _verify(words: list[str]) -> None:
    """Check files and print a line each.

    Raises:
        UsageError: A word names nothing.
        RuntimeError: Something is wrong.
    """
    wrong = []
    chosen = _named(words) if words else _present_files()
    for name, path, known in chosen:
        try:
            found = _checked(name, path, known)
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            wrong.append(name)
            print(f"WRONG {name}: {error}")
        else:
            print(f"ok    {name}: {found}")
    if not chosen:
        print("there is no weights file to verify; `lipbench weights` tells where they are looked for")
    if wrong:
        raise RuntimeError(f"{len(wrong)} of {len(chosen)} weights files are not as they should be: {', '.join(wrong)}")


def _present_files() -> list[Chosen]:
    """Every file that is there."""
    from lipbench.pretrained.published import KNOWN

    found: list[Chosen] = []
    for known in KNOWN.values():
        try:
            path = known.find(paths.home())
        except ModuleNotFoundError:  # a package that is not installed has no file
            continue
        found += [(known.name, path, known)] if path else []
    return found + [(path.stem, path, None) for path in _own()]


def _named(words: list[str]) -> list[Chosen]:
    """The files that names and paths mean.

    Raises:
        UsageError: A word is neither a known name nor a file.
    """
    from lipbench.pretrained.published import KNOWN

    own = {path.stem: path for path in reversed(_own())}  # what comes with lipbench wins
    found: list[Chosen] = []
    for word in words:
        path = Path(word).expanduser()
        if word in KNOWN:
            found.append((word, KNOWN[word].find(paths.home()), KNOWN[word]))
        elif word in own:
            found.append((word, own[word], None))
        elif path.is_file():
            known = next((known for known in KNOWN.values() if known.matches(path.name)), None)
            if known is None and path.suffix != ".safetensors":
                files = ", ".join(known.file for known in KNOWN.values())
                raise UsageError(f"{word} has the name of no published weights file that lipbench knows: {files}")
            found.append((word, path, known))
        else:
            raise discovery.unknown("name or file", word, [*KNOWN, *own])
    return found


def _checked(name: str, path: Path | None, known: "Known | None") -> str:
    """Check one file; what was found, in words.

    Raises:
        FileNotFoundError: It is absent.
        ValueError: Its hash is another one, or its content does not fit.
        RuntimeError: A package that reads it is missing, or its content does not fit.
    """
    from lipbench.pretrained import weights
    from lipbench.pretrained.published import KNOWN

    if path is None:
        place = KNOWN[name].place(paths.home())
        raise FileNotFoundError(f"absent, looked for at {_short(place)}. Type: lipbench weights fetch {name}")
    digest = sha256(path)
    folder = path.parent if known is None else paths.home() / "weights"
    recorded = _recorded(folder).get(path.name, "")
    compared = []
    if known is not None and known.sha256:
        _same(_short(path), digest, known.sha256, f"known from {known.sha256_source}")
        compared.append(f"begins as {known.sha256_source} says")
    if recorded:
        _same(_short(path), digest, recorded, f"recorded in {_short(folder / SUMS)}")
        compared.append(f"as recorded in {_short(folder / SUMS)}")
    if known is None:
        import torch

        card = weights.load(path, torch.nn.Module)[1]
        structure = f"loads as {card.architecture}"
    else:
        structure = _STRUCTURE[known.name](path)
    return f"sha256 {digest} ({', '.join(compared) or 'nothing to compare it with'}); {structure}; {_short(path)}"


def _same(what: str, digest: str, expected: str, source: str) -> None:
    """Compare a hash with the leading digits of another.

    Raises:
        ValueError: They differ.
    """
    if not digest.startswith(expected):
        raise ValueError(f"{what} has sha256 {digest}, {source} is {expected}: damaged, or another file")


def _recorded(folder: Path) -> dict[str, str]:
    """File name -> hash, from a folder's SHA256SUMS; empty if there is none."""
    file = folder / SUMS
    if not file.is_file():
        return {}
    lines = (line.split(maxsplit=1) for line in file.read_text("utf-8").splitlines() if line.strip())
    return {name.removeprefix("*"): digest for digest, name in lines}


# ----------------------------------------------------------------------------------------- what a published file holds


def _alexnet(path: Path) -> str:
    from lipbench.metrics import lpips
    from lipbench.pretrained import weights

    weights.read_published(path)
    lpips.load(path)
    return "LPIPS loads it"


def _inception(path: Path) -> str:

    Inception(str(path))
    return "FID loads it"


def _syncnet(path: Path) -> str:

    return f"loads as {type(load_syncnet(path)[0]).__name__}"


def _arcface(path: Path) -> str:

    return f"loads as {type(load_arcface(path)[0]).__name__}"


def _i3d(path: Path) -> str:

    return f"loads as {type(load_i3d(path)[0]).__name__}"


def _lipnet(path: Path) -> str:
    from lipbench.nets import lipnet
    from lipbench.pretrained import weights

    lipnet.from_published(weights.read_published(path))
    return "loads as LipNet"


def _only_tensors(path: Path) -> str:
    from lipbench.pretrained import weights

    return f"{len(weights.read_published(path))} tensors and nothing else"


def _dlib(path: Path) -> str:
    import dlib

    dlib.shape_predictor(str(path))
    return "dlib loads it"


_STRUCTURE: Final[dict[str, Callable[[Path], str]]] = {
    "alexnet": _alexnet,
    "inception": _inception,
    "syncnet": _syncnet,
    "lipnet": _lipnet,
    "arcface": _arcface,
    "i3d": _i3d,
    "fan": _only_tensors,  # the package face-alignment builds the network
    "s3fd": _only_tensors,
    "dlib": _dlib,
}
"""Name of a published file -> what reads it; says so, or raises."""


# --------------------------------------------------------------------------------------------------------------- fetch


def _fetch(name: str, url: str | None) -> None:
    """Download a published file to where it is looked for; an interrupted download goes on where it stopped.

    Its hash is compared with the known digits, and recorded: a later fetch of another file is noticed.

    Raises:
        UsageError: The name is unknown.
        RuntimeError: No address is known, or the server cannot be reached or breaks off.
        ValueError: What is there, or came, is another file.
    """
    from lipbench.data import download, store
    from lipbench.pretrained.published import KNOWN

    if name not in KNOWN:
        own = {path.stem: path for path in _own()}
        if name in own:
            print(f"{name} is there already: {_short(own[name])}")
            return
        raise discovery.unknown("weights", name, KNOWN)
    known, home = KNOWN[name], paths.home()
    found = known.find(home)
    if found is not None:
        try:
            print(f"{name} is there already: {_checked(name, found, known)}")
        except ValueError as error:
            raise ValueError(f"{name} is there already, but {error}. Delete it to fetch it again") from error
        return
    place = known.place(home)
    address = url or known.address()
    if address is None:
        use = f"; then {known.use}" if known.use else ""
        raise RuntimeError(
            f"no address of {name} is known here: get {known.file} from {known.origin} and put it into "
            f"{_short(place.parent)} (or give --url){use}"
        )
    if "*" in known.file:
        place = place.with_name(address.partition("?")[0].rpartition("/")[2])
        if not known.matches(place.name):
            raise UsageError(f"{place.name} is not called {known.file}, as {name} is published")
    print(
        f"{address}\n  -> {_short(place)}\n"
        f"  licences: code {known.code}; weights {known.weights}; data {known.data}. Using it is agreeing to them"
    )
    place.parent.mkdir(parents=True, exist_ok=True)
    fresh = place.with_name(f"{place.name}.fetched")  # under its own name only when its hash is right
    with download.bar(True, name) as advance:
        download.fetch(address, fresh, advance)
    digest = sha256(fresh)
    folder = home / "weights"
    sums = _recorded(folder)
    try:
        _same(address, digest, known.sha256, f"known from {known.sha256_source}")
        _same(address, digest, sums.get(place.name, ""), f"recorded in {_short(folder / SUMS)}")
    except ValueError:
        fresh.unlink()
        raise
    fresh.replace(place)
    folder.mkdir(parents=True, exist_ok=True)
    lines = sorted((sums | {place.name: digest}).items())
    store.write_text(folder / SUMS, "".join(f"{value}  {file}\n" for file, value in lines))
    print(f"sha256 {digest}, recorded in {_short(folder / SUMS)}. `lipbench weights verify {name}` loads it")


# ------------------------------------------------------------------------------------------------------------- convert


def _convert(name: str, source: Path, out: Path) -> None:
    """Read a published file, and write it as a safetensors file with a card.

    Raises:
        UsageError: The name is not one of those that are converted, or `out` has another suffix or is there already.
        FileNotFoundError: There is no such file.
        ValueError: The file holds something else.
    """
    from lipbench.media import text
    from lipbench.nets import lipnet, syncnet
    from lipbench.pretrained import weights
    from lipbench.pretrained.published import KNOWN
    from lipbench.types import View

    converted = ("lipnet", "syncnet")
    if name in KNOWN and name not in converted:
        raise UsageError(f"{name} is used as it is published; converted are {' and '.join(converted)}")
    if name not in converted:
        raise discovery.unknown("network", name, converted)
    if out.suffix != ".safetensors":
        raise UsageError(f"{out} must end in .safetensors")
    if out.exists():
        raise UsageError(f"{out} is there already; delete it, or choose another name")
    if not source.is_file():
        raise FileNotFoundError(f"no file at {source}")
    if source.suffix == ".safetensors":
        raise UsageError(f"{source} is no published file of {name}: those are read by torch")
    known = KNOWN[name]
    net: lipnet.LipNet | syncnet.SyncNet
    if name == "lipnet":
        net = lipnet.from_published(weights.read_published(source))
        view, vocabulary = View("mouth", 64, 128), text.SYMBOLS
    else:
        net, _ = load_syncnet(source)
        view, vocabulary = net.view, ()
    card = weights.save(
        out,
        net,
        arguments=net.arguments,
        view=view,
        trained_on=(
            f"published by {known.origin}; data: {known.data}. Licence of its code: {known.code}, of its weights: "
            f"{known.weights}. Converted from {source.name}, sha256 {sha256(source)}"
        ),
        vocabulary=vocabulary,
    )
    print(f"{out}: {card.architecture} in half precision, sha256 {card.sha256}")
    print(f"use: --evaluator.files.{known.observer} {out}")
    if name == "syncnet":
        print(f"without rounding to half precision: --evaluator.files.syncnet {source}")
    if not known.verified:
        print("unverified: names and shapes fit, but no score of the real file was compared with a published one here")
