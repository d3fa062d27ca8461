"""One's own videos: a folder of files with a speaker a sub-folder; no text is needed, and none is known.

A fifth of the clips, chosen by a hash of speaker and file name, is the test part; a clip therefore stays on its side
when others are added. Models that are driven by audio train and test on it; columns that need text stay empty.
"""

import os
import unicodedata
from pathlib import Path
from typing import ClassVar, Final

from lipbench.data.corpus import Corpus, RawClip
from lipbench.data.durations import DurationSource, NoDurations
from lipbench.data.protocol import Protocol, hashed

_VIDEOS: Final = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg")  # in the order of preference
_TEST: Final = 5  # one clip in so many
_ALONE: Final = "root"  # speaker of the files that lie in no sub-folder


class Folder(Corpus):
    """Videos of any frame rate, one face each, in sub-folders named after their speakers."""

    name: ClassVar[str] = "folder"
    protocols: ClassVar[tuple[Protocol, ...]] = (
        Protocol("folder/seen", 1, None, lambda clip_id: hashed(clip_id) % _TEST == 0),
    )
    default_protocol: ClassVar[str] = "folder/seen"
    license: ClassVar[str] = "that of your videos"
    access: ClassVar[str] = "A sub-folder a speaker, with a video file a clip"
    durations: ClassVar[DurationSource] = NoDurations()
    still_camera: ClassVar[bool] = False

    @classmethod
    def scan(cls, root: Path) -> list[RawClip]:
        """Every video file below a folder; the speaker is the first sub-folder on the way to it.

        The name of a clip is that of its file, with deeper folders before it (`s1/day2/a.mp4` is `folder/s1/day2__a`).
        Names that differ only in their suffix are one clip, taken once: as .mp4 before .mov and so on.

        Args:
            root: The folder.
        """
        root = root.expanduser().absolute()
        if not root.is_dir():
            raise FileNotFoundError(f"no folder {root}; give the folder of your videos with --root")
        found: dict[str, Path] = {}
        speakers: dict[str, str] = {}
        for folder, folders, names in os.walk(root):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            inside = Path(folder).relative_to(root).parts
            for name in sorted(names):
                path = Path(folder, name)
                if name.startswith(".") or path.suffix.lower() not in _VIDEOS:
                    continue
                speaker = inside[0] if inside else _ALONE
                own = "__".join((*inside[1:], path.stem))
                clip_id = unicodedata.normalize("NFC", f"{cls.name}/{speaker}/{own}")
                if clip_id not in found or _rank(path) < _rank(found[clip_id]):
                    found[clip_id], speakers[clip_id] = path, unicodedata.normalize("NFC", speaker)
        if not found:
            seen = sorted(path.name for path in root.iterdir())
            listed = (", ".join(seen[:8]) + (", ..." if len(seen) > 8 else "")) or "an empty folder"
            raise FileNotFoundError(f"no video files ({', '.join(_VIDEOS)}) in {root} or below it; found {listed}")
        return [
            RawClip(clip_id, speakers[clip_id], path, text=_text(path), problem=_problem(clip_id))
            for clip_id, path in sorted(found.items())
        ]


def _rank(path: Path) -> int:
    return _VIDEOS.index(path.suffix.lower())


def _text(video: Path) -> Path | None:
    """The file beside a video that says what is said in it, if there is one."""
    path = video.with_suffix(".txt")
    return path if path.is_file() else None


def _problem(clip_id: str) -> str | None:
    """Names become names of files, and are stored as UTF-8."""
    if not clip_id.isprintable():
        return "its name holds characters that cannot be shown; give the file another one"
    return None
