"""weights: what judges need: list, verify, fetch and convert weights files, with their licenses.

lipbench weights                                 every known file: present or absent, where, under which licenses
lipbench weights verify [NAME|FILE ...]          hash and structure; of all files that are present, or of these
lipbench weights fetch NAME                      download to where it is looked for, or be told how to get it
lipbench weights convert NAME FILE OUT.safetensors [--vocabulary FILE]
                                                 a published file becomes lipbench's; nothing in it is executed
"""

import argparse
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lipbench import discovery, paths
from lipbench.console import weights_files
from lipbench.console.weights_files import SUMS, short
from lipbench.errors import UsageError
from lipbench.files import sha256, write_text
from lipbench.pretrained import bundled

if TYPE_CHECKING:
    from lipbench.pretrained.published import Known

GROUP = "Train and score"

_ACTIONS: Final = {"list": "", "verify": "[NAME|FILE ...]", "fetch": "NAME", "convert": "NAME FILE OUT.safetensors"}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `lipbench weights`."""
    parser.add_argument(
        "action", nargs="?", default="list", metavar="ACTION", help="list (default), verify, fetch or convert"
    )
    parser.add_argument("words", nargs="*", metavar="NAME|FILE", help="see above; names are those that list shows")
    parser.add_argument("--url", help="fetch: another place that has the same file")
    parser.add_argument(
        "--vocabulary",
        metavar="FILE",
        help="convert avhubert, conformer or mvm: the list of its units of text (dict.wrd.txt, unigram5000_units.txt) "
        "or words (500WordsSortedList.txt)",
    )


def run(
    action: str = "list", words: list[str] | None = None, url: str | None = None, vocabulary: str | None = None
) -> None:
    """List, verify, fetch or convert.

    Args:
        action: Which of them.
        words: What follows it.
        url: For fetch.
        vocabulary: For convert.

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
    if vocabulary is not None and action != "convert":
        raise UsageError(f"--vocabulary belongs to convert, not to {action}")
    if action == "list":
        _list()
    elif action == "verify":
        _verify(words)
    elif action == "fetch":
        _fetch(words[0], url)
    else:
        source, out = (Path(word).expanduser() for word in words[1:])
        _convert(words[0], source, out, Path(vocabulary).expanduser() if vocabulary else None)


# ---------------------------------------------------------------------------------------------------------------- list


def _list() -> None:
    """Print published files, and files in lipbench's own format: each name whole on a line, and what is known below."""
    from lipbench.pretrained.published import KNOWN

    home = paths.home()
    print("Published files")
    for name, known in KNOWN.items():
        by_name = (
            known.use.replace(f"{known.observer} FILE", f"{known.observer} {name}") if known.observer else known.use
        )
        use = [f"use: {by_name}"] if by_name else []
        licenses = f"licenses: code {known.code}; weights {known.weights}; data {known.data}"
        used_by = "; ".join(filter(None, (known.what, weights_files.columns(known.observer))))
        _entry(name, (used_by, _where(known, home), *use, licenses))
    own = weights_files.own()
    if own:
        print("\nIn lipbench's format")
        for path in own:
            _entry(path.stem, _card_lines(path))
    else:
        print(f"\nNo file in lipbench's format in {short(weights_files.SHIPPED)} or {short(home / 'weights')}.")
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
    return f"{state}, {verified}: {short(found or place)}"


def _card_lines(path: Path) -> list[str]:
    """What a file in lipbench's format says of itself."""
    from lipbench.pretrained import weights

    try:
        card = weights.read_card(path)
    except ValueError as error:
        return [f"broken, {_size(path)}: {error}"]
    observer = bundled.OBSERVER.get(card.architecture.partition(".")[0], "")
    lines = [
        "; ".join(filter(None, (f"{card.architecture}, {card.view or 'no view'}", weights_files.columns(observer)))),
        f"present, {_size(path)}: {short(path)}",
    ]
    lines += [f"use: --evaluator.files.{observer} {shlex.quote(path.stem)}"] if observer else []
    license = "; code and weights: Apache-2.0" if path.parent == weights_files.SHIPPED else ""
    return [*lines, f"trained on {card.trained_on}{license}"]


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
    chosen = weights_files.named(words) if words else weights_files.present()
    for name, path, known in chosen:
        try:
            found = weights_files.checked(name, path, known)
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            wrong.append(name)
            print(f"WRONG {name}: {error}")
        else:
            print(f"ok    {name}: {found}")
    if not chosen:
        print("there is no weights file to verify; `lipbench weights` tells where they are looked for")
    if wrong:
        raise RuntimeError(f"{len(wrong)} of {len(chosen)} weights files are not as they should be: {', '.join(wrong)}")


# --------------------------------------------------------------------------------------------------------------- fetch


def _fetch(name: str, url: str | None) -> None:
    """Download a published file to where it is looked for; an interrupted download goes on where it stopped.

    Its hash is compared with the known digits, and recorded: a later fetch of another file is noticed.

    Raises:
        UsageError: The name is unknown.
        RuntimeError: No address is known, or the server cannot be reached or breaks off.
        ValueError: What is there, or came, is another file.
    """
    from lipbench.data import download
    from lipbench.pretrained.published import KNOWN

    if name not in KNOWN:
        own = {path.stem: path for path in weights_files.own()}
        if name in own:
            print(f"{name} is there already: {short(own[name])}")
            return
        raise discovery.unknown("weights", name, KNOWN)
    known, home = KNOWN[name], paths.home()
    found = known.find(home)
    if found is not None:
        try:
            print(f"{name} is there already: {weights_files.checked(name, found, known)}")
        except ValueError as error:
            raise ValueError(f"{name} is there already, but {error}. Delete it to fetch it again") from error
        return
    place = known.place(home)
    address = url or known.address()
    if address is None:
        use = f"; then {known.use}" if known.use else ""
        raise RuntimeError(
            f"no address of {name} is known here: get {known.file} from {known.origin} and put it into "
            f"{short(place.parent)} (or give --url){use}"
        )
    if "*" in known.file:
        place = place.with_name(address.partition("?")[0].rpartition("/")[2])
        if not known.matches(place.name):
            raise UsageError(f"{place.name} is not called {known.file}, as {name} is published")
    print(
        f"{address}\n  -> {short(place)}\n"
        f"  licenses: code {known.code}; weights {known.weights}; data {known.data}. Using it is agreeing to them"
    )
    place.parent.mkdir(parents=True, exist_ok=True)
    fresh = place.with_name(f"{place.name}.fetched")  # under its own name only when its hash is right
    with download.bar(True, name) as advance:
        download.fetch(address, fresh, advance)
    digest = sha256(fresh)
    folder = home / "weights"
    sums = weights_files.recorded(folder)
    try:
        weights_files.compare_hash(address, digest, known.sha256, f"known from {known.sha256_source}")
        weights_files.compare_hash(address, digest, sums.get(place.name, ""), f"recorded in {short(folder / SUMS)}")
    except ValueError:
        fresh.unlink()
        raise
    fresh.replace(place)
    folder.mkdir(parents=True, exist_ok=True)
    lines = sorted((sums | {place.name: digest}).items())
    write_text(folder / SUMS, "".join(f"{value}  {file}\n" for file, value in lines))
    print(f"sha256 {digest}, recorded in {short(folder / SUMS)}. `lipbench weights verify {name}` loads it")


# ------------------------------------------------------------------------------------------------------------- convert


def _convert(name: str, source: Path, out: Path, vocabulary: Path | None) -> None:
    """Convert, and say how the new file is used; see `lipbench.pretrained.conversion.convert`."""
    from lipbench.pretrained import conversion
    from lipbench.pretrained.published import KNOWN

    card = conversion.convert(name, source, out, vocabulary)
    known = KNOWN[name]
    print(f"{out}: {card.architecture} in half precision, sha256 {card.sha256}")
    print(f"use: --evaluator.files.{known.observer} {out}" if known.observer else f"use: --model.vocoder {out}")
    if name == "syncnet":
        print(f"without rounding to half precision: --evaluator.files.syncnet {source}")
    if not known.verified:
        print("unverified: names and shapes fit, but no score of the real file was compared with a published one here")
