"""GRID audiovisual sentence corpus: 33 speakers on video, 1,000 sentences each (Cooke et al., JASA 120(5), 2006).

The lists of its protocols are the published ones of LipNet-PyTorch ("overlap": 255 test sentences of each of 33
speakers; "unseen": speakers s1, s2, s20 and s22 are the test), which cover the same 32,823 clips. The package keeps the
clips once, with the overlap test clips marked.
"""

import itertools
import os
import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import ClassVar, Final

from lipbench.data import protocol as protocols_of
from lipbench.data.corpus import Corpus, RawClip
from lipbench.data.protocol import Protocol

# The file name spells the sentence, one character a word (Cooke et al. 2006, table I).
_WORDS: Final[tuple[dict[str, str], ...]] = (
    {"b": "bin", "l": "lay", "p": "place", "s": "set"},
    {"b": "blue", "g": "green", "r": "red", "w": "white"},
    {"a": "at", "b": "by", "i": "in", "w": "with"},
    {letter: letter for letter in "abcdefghijklmnopqrstuvxyz"},
    dict(
        zip("z123456789", ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"], strict=True)
    ),
    {"a": "again", "n": "now", "p": "please", "s": "soon"},
)
_SPEAKER: Final = re.compile(r"s\d+", re.ASCII | re.IGNORECASE)
_UNSEEN: Final = frozenset({"s1", "s2", "s20", "s22"})
_VIDEOS: Final = (".mpg", ".mp4", ".mpeg", ".avi", ".mov")  # in the order of preference


def sentence(code: str) -> str | None:
    """The sentence that a file name spells, such as "bin blue at f two now" for "bbaf2n"; None if it spells none."""
    if len(code) != len(_WORDS) or any(c not in words for c, words in zip(code, _WORDS, strict=True)):
        return None
    return " ".join(words[c] for c, words in zip(code, _WORDS, strict=True))


def scan(root: Path, data: str) -> list[RawClip]:
    """Every clip below a folder in any of GRID's layouts.

    A clip's speaker is the innermost folder named like `s12` around it; videos, alignments and exact landmarks belong
    together by speaker and file name, in upper or lower case, with accents written as one character or as two. No
    sentence belongs to two speakers, so an alignment that lies under the wrong speaker (one distribution has such) is
    found by its file name alone. A name that occurs twice as a video is taken once: as .mpg before .mp4, from
    `mpg_6000` before `mpg_vcd`.

    Args:
        root: Sheffield's layout (`s1/video/mpg_6000/*.mpg`, `s1/align/*.align`), Zenodo's (`s1/*.mpg`,
            `alignments/s1/*.align`), `data/s1/*.mpg` or `video/s1/*.mpg` with `alignments/s1/*.align`, or a mixture.
        data: First part of the clip ids.

    Returns:
        Clips sorted by id; those that cannot be used carry the reason in `problem`.

    Raises:
        FileNotFoundError: No such folder, or no clips or no alignments in it; the message says what was found.
    """
    root = root.expanduser().absolute()
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}; give the corpus folder with --root")
    videos: dict[tuple[str, str], Path] = {}
    aligns: dict[tuple[str, str], Path] = {}
    exacts: dict[tuple[str, str], Path] = {}
    for path, speaker in _files(root):
        key, suffix = (speaker, unicodedata.normalize("NFC", path.stem).lower()), path.suffix.lower()
        if suffix in _VIDEOS:
            if key not in videos or _preference(path) < _preference(videos[key]):
                videos[key] = path
        elif suffix == ".align":
            if key not in aligns or path.is_file():
                aligns[key] = path
        elif suffix == ".npz" and "exact" in path.parts:
            exacts[key] = path
    if not videos:
        seen = sorted(p.name for p in root.iterdir())
        found = ", ".join(seen[:8]) + (", ..." if len(seen) > 8 else "") if seen else "an empty folder"
        raise FileNotFoundError(
            f"no {data} clips in {root}: looked for video files ({', '.join(_VIDEOS)}) inside speaker folders "
            f"named s1, s2, ...; found {found}"
        )
    if not aligns:
        raise FileNotFoundError(
            f"found {len(videos)} video files but no alignments (.align) in {root}; they belong in "
            f"{root / 'alignments' / 's1'} and so on, or in s1/align"
        )
    by_name = {name: path for (_, name), path in aligns.items()}
    clips = []
    for (speaker, name), video in sorted(videos.items()):
        said = sentence(name)
        align = aligns.get((speaker, name)) or by_name.get(name)
        problem = None
        if said is None:
            problem = f"the file name {video.name} spells no GRID sentence (expected six characters such as bbaf2n)"
        elif align is None:
            problem = f"no alignment file {name}.align anywhere in the corpus folder"
        clips.append(
            RawClip(
                clip_id=f"{data}/{speaker}/{name}",
                speaker=speaker,
                video=video,
                align=align,
                sentence=said,
                exact=exacts.get((speaker, name)),
                problem=problem,
            )
        )
    return clips


def _files(root: Path) -> Iterator[tuple[Path, str]]:
    """Every file inside a speaker's folder, and the speaker in lower case.

    Links are followed, each folder is entered once.
    """
    entered: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders.sort()
        inside = (root.name, *Path(folder).relative_to(root).parts)
        speakers = [part for part in inside if _SPEAKER.fullmatch(part)]
        if speakers:
            for name in sorted(names):
                if not name.startswith("."):
                    yield Path(folder, name), speakers[-1].lower()


def _preference(path: Path) -> tuple[bool, bool, int, str]:
    return not path.is_file(), "mpg_vcd" in path.parts, _VIDEOS.index(path.suffix.lower()), str(path)


@lru_cache(maxsize=1)
def _published() -> dict[str, bool]:
    """Published clip id -> whether it is an overlap test clip."""
    clips: dict[str, bool] = {}
    text = resources.files("lipbench.data").joinpath("splits/grid.txt").read_text("utf-8")
    for line in text.splitlines():
        if line and not line.startswith("#"):
            own, *names = line.split()
            clips |= {f"grid/{own}/{name.rstrip('*')}": name.endswith("*") for name in names}
    return clips


class Grid(Corpus):
    """GRID: 3-second sentences of six words, one frontal speaker each, 25 frames a second."""

    name: ClassVar[str] = "grid"
    protocols: ClassVar[tuple[Protocol, ...]] = (
        Protocol("grid/seen", 1, "grid", lambda clip: _published()[clip], lambda: _published()),
        Protocol("grid/unseen", 1, None, lambda clip: protocols_of.speaker(clip) in _UNSEEN, lambda: _published()),
        # ATVGnet's hold-out (its author, lelechen63/ATVGnet issue 26); of the correlation GAN's only the number of test
        # windows is known, which is that of one speaker.
        Protocol("grid/s29", 1, "grid", lambda clip: protocols_of.speaker(clip) == "s29", lambda: _published()),
        Protocol(
            "grid/s1",
            1,
            None,
            lambda clip: _published()[clip],
            lambda: [clip for clip in _published() if protocols_of.speaker(clip) == "s1"],
        ),
    )
    default_protocol: ClassVar[str] = "grid/seen"
    license: ClassVar[str] = "CC BY 4.0"
    access: ClassVar[str] = "`lipbench download --data grid` fetches it (https://zenodo.org/records/3625687)"

    @classmethod
    def scan(cls, root: Path) -> list[RawClip]:
        """Every clip below a folder in any of GRID's layouts (see `scan`)."""
        return scan(root, cls.name)

    @classmethod
    def sentences(cls) -> Iterator[str]:
        """All 64,000 sentences of the grammar."""
        return (" ".join(words) for words in itertools.product(*(column.values() for column in _WORDS)))
