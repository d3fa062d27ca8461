"""What a corpus is to lipbench: where its clips lie, how they are divided, spelled and timed, and under which license.

A corpus is a subclass of `Corpus` in a file of `lipbench/corpora`, or in any other package: the command line takes its
class path (`--data my_package.my_module.MyCorpus`) wherever it takes a short name.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from lipbench import discovery
from lipbench.data import protocol as protocol_registry
from lipbench.data.durations import AlignmentFile, DurationSource
from lipbench.data.protocol import Protocol
from lipbench.errors import UsageError
from lipbench.media.text import CHARACTERS, Tokenizer
from lipbench.paths import default_store, home


@dataclass(frozen=True)
class RawClip:
    """A clip of a raw corpus, as found on the disk; nothing of it has been opened.

    Args:
        clip_id: Such as "grid/s1/bbaf2n", stable across machines: corpus, speaker, name.
        speaker: Such as "s1".
        video: File with video and audio.
        align: File with word times; None if there is none.
        sentence: The spoken text, if the corpus states it apart from the alignment (GRID's file names): the two are
            compared.
        exact: File with exact landmarks (rendered corpus).
        problem: Why the clip cannot be used, if that is known already.
        text: File with the spoken text and no times; None if there is none.
    """

    clip_id: str
    speaker: str
    video: Path
    align: Path | None = None
    sentence: str | None = None
    exact: Path | None = None
    problem: str | None = None
    text: Path | None = None


class Corpus(ABC):
    """Base of all corpora: class attributes and class methods, never an instance.

    Attributes:
        name: First part of clip ids and protocol names, name of the store, and part of the variable `LIPBENCH_<NAME>`.
        protocols: The ways in which the corpus is divided; each name begins with `<name>/`.
        default_protocol: Name of the protocol that is used unless another is asked for.
        license: Of the data, in words.
        access: Page that says how the corpus is obtained.
        tokenizer: How text becomes tokens.
        durations: Where words, their times and so the durations of tokens come from.
        still_camera: Whether every clip shows one speaker before a camera that stands still, as in GRID. `prepare` then
            also rejects clips with cuts, jumps of brightness, repeated or frozen frames and a mouth that does not move:
            in other recordings these are no faults.
    """

    name: ClassVar[str]
    protocols: ClassVar[tuple[Protocol, ...]]
    default_protocol: ClassVar[str]
    license: ClassVar[str]
    access: ClassVar[str]
    tokenizer: ClassVar[Tokenizer] = CHARACTERS
    durations: ClassVar[DurationSource] = AlignmentFile()
    still_camera: ClassVar[bool] = True

    def __init_subclass__(cls, **options: Any) -> None:  # noqa: ANN401 - whatever else a class statement takes
        """Check the class attributes and make the protocols known by their names.

        Raises:
            UsageError: An attribute is missing, or a protocol does not belong to the corpus.
        """
        super().__init_subclass__(**options)
        lacking = [name for name in Corpus.__annotations__ if not hasattr(cls, name)]
        if lacking:
            listed = ", ".join(lacking)
            raise UsageError(f"the corpus {cls.__qualname__} lacks the class attributes {listed}: add them")
        names = [protocol.name for protocol in cls.protocols]
        odd = [name for name in names if not name.startswith(f"{cls.name}/")]
        if odd or cls.default_protocol not in names:
            raise UsageError(
                f"the corpus {cls.__qualname__} has the protocols {', '.join(names) or '(none)'}; each name must begin "
                f"with '{cls.name}/', and default_protocol ({cls.default_protocol!r}) must be one of them"
            )
        protocol_registry.register(f"{cls.__module__}.{cls.__qualname__}", cls.name, cls.protocols)

    @classmethod
    @abstractmethod
    def scan(cls, root: Path) -> list[RawClip]:
        """Find every clip of the raw corpus.

        Args:
            root: The corpus folder.

        Returns:
            Clips sorted by id; those that cannot be used carry the reason in `problem`.

        Raises:
            FileNotFoundError: No such folder, or no clips in it; the message says what was found.
        """

    @classmethod
    def locate(cls, root: str | Path | None = None) -> Path:
        """Folder of the raw corpus: the one given, else that of `LIPBENCH_<NAME>`, else the downloaded one.

        Raises:
            FileNotFoundError: None of these is there.
        """
        variable = f"LIPBENCH_{cls.name.upper()}"
        fetched = home() / "corpora" / cls.name
        chosen = root or os.environ.get(variable) or (fetched if fetched.is_dir() else None)
        if not chosen:
            raise FileNotFoundError(
                f"where is the {cls.name} corpus? Give its folder with --root DIR, or set {variable}. {cls.access}"
            )
        return Path(chosen).expanduser()

    @classmethod
    def prepare_options(cls) -> str:
        """What `lipbench prepare` needs beside `--data`, as typed; empty if the corpus is made on the spot."""
        return "--root DIR"

    @classmethod
    def sentences(cls) -> Iterator[str]:
        """Every sentence of the corpus's grammar, in a fixed order, for streams of text without clips.

        Raises:
            ValueError: The corpus has no grammar.
        """
        raise ValueError(
            f"the corpus {cls.name} has no grammar to draw sentences from; take the text of its clips, "
            "ClipSpec(part='text')"
        )


def prepare_advice(corpus: type[Corpus], store: Path) -> str:
    """What to type for a store that is not there, or lacks clips.

    Args:
        corpus: Of the store.
        store: Its folder.
    """
    where = "" if store == default_store(corpus.name) else f" --store {store}"
    options = f" {corpus.prepare_options()}".rstrip()
    return f"Make it with: lipbench prepare --data {discovery.short_name('data', corpus)}{options}{where}"
