"""embed: how well the audio embeddings of models tell similar words apart: t-SNE plots, and silhouettes.

Figures 3, 5 and 7 of TalkLip (CVPR 2023): the vectors that a model makes of the sound of each frame are summed up over
the interval of a word, and the sums of two words are shown by t-SNE, for each checkpoint side by side. The silhouette
is computed on the sums themselves, not on the plot: 1 if the two words lie far apart, about 0 if they are mixed.

Writes tsne.png (a row a pair, a column a checkpoint), silhouettes.csv (a row a pair and checkpoint) and words.csv
(every word with its place in the plot).
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from lipbench.console import systems as compared
from lipbench.errors import UsageError

if TYPE_CHECKING:
    from pytorch_lightning.loggers import WandbLogger

    from lipbench.console.systems import System
    from lipbench.data.datamodule import ClipDataModule
    from lipbench.evaluation.audio_embeddings import Occurrence, Panel

GROUP = "Train and score"
_PAIRS: Final = ("b/p", "m/n")  # letters of GRID's sentences
_PARTS: Final = ("test", "validation", "train", "all")
_WORDS: Final = ("checkpoint", "pair", "word", "clip_id", "first_frame", "end_frame", "x", "y", "silhouette")
_SILHOUETTES: Final = ("checkpoint", "pair", "words_first", "words_second", "silhouette", "tsne_perplexity")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `lipbench embed`."""
    compared.arguments(parser)
    parser.add_argument(
        "--pairs",
        nargs="+",
        default=_PAIRS,
        metavar="WORD/WORD",
        help=f"words to be told apart (default: {' '.join(_PAIRS)}: letters in the sentences of grid and rendered)",
    )
    parser.add_argument(
        "--part", choices=_PARTS, default=_PARTS[0], help="clips of the protocol that say them (default: test)"
    )
    parser.add_argument(
        "--words", type=int, help="of each word at most so many, a sample that is the same in every run (default: all)"
    )
    parser.add_argument(
        "--perplexity", type=float, help="of t-SNE (default: 30, where there are 90 words or fewer a third, at least 5)"
    )
    parser.add_argument(
        "--wandb",
        choices=("off", "offline", "online"),
        default="off",
        help="log plot and silhouettes to Weights & Biases, too (default: off)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the files go (default: embeddings/<data>)")


def run(
    checkpoints: Sequence[Path],
    labels: Sequence[str] | None = None,
    data: str | None = None,
    store: Path | None = None,
    protocol: str | None = None,
    model: Sequence[str] | None = None,
    pairs: Sequence[str] = _PAIRS,
    part: str = _PARTS[0],
    words: int | None = None,
    perplexity: float | None = None,
    wandb: Literal["off", "offline", "online"] = "off",
    out: Path | None = None,
) -> None:
    """Embed, write the three files, print the silhouettes.

    Args:
        checkpoints: Of models with `audio_embeddings`.
        labels: What they are called.
        data: Corpus; None takes what the checkpoints were trained on.
        store: Folder of its store.
        protocol: None takes what the checkpoints were trained on.
        model: Class paths of models that are neither built in nor installed.
        pairs: Two words with a slash between them, each.
        part: "test", "validation", "train" or "all".
        words: At most so many of each word.
        perplexity: Of t-SNE.
        wandb: See `lipbench.tracking.loggers`.
        out: Folder of the files.

    Raises:
        UsageError: Options do not fit together, or a word is said too rarely.
        FileNotFoundError: A checkpoint or the store is not there.
        ValueError: A checkpoint is of another kind, or its model offers no audio embeddings.
        OSError: The folder cannot be written; known before anything is computed.
    """
    for option, value, least in (("--words", words, 2), ("--perplexity", perplexity, 1)):
        if value is not None and not least <= value < math.inf:
            raise UsageError(f"{option} {value:g}: expected {least} or more")

    from lipbench import tracking
    from lipbench.data import progress
    from lipbench.evaluation import audio_embeddings, output_folder

    systems = compared.load(checkpoints, labels, model)
    _check_embedding(systems)
    corpus = compared.datamodule(systems, data, store, protocol)
    chosen = [_pair(corpus, pair) for pair in pairs]
    said = _said(corpus, chosen, part, words)
    perplexities = [_perplexity(pair, said, perplexity, part) for pair in chosen]
    folder = out or Path("embeddings") / corpus.corpus.name
    output_folder.probe(folder)
    logger = None if wandb == "off" else tracking.wandb_logger(folder, f"embed_{corpus.corpus.name}", wandb, "embed")
    every = sorted({one for own in said.values() for one in own}, key=lambda one: (one.clip_id, one.first))
    place = {one: k for k, one in enumerate(every)}
    clips = {one.clip_id for one in every}
    for system in systems:
        if learned := clips & compared.training_clips(system, corpus):
            told = f"training clips of {system.line} ({system.origin.protocol})"
            print(f"{len(learned)} of the {len(clips)} clips are {told}")
    panels: list[list[Panel]] = [[] for _ in chosen]
    with progress.bar(True, len(clips) * len(systems), 0, "embedding") as advance:
        for system in systems:
            features = audio_embeddings.embed(system.model, corpus.store, every, advance)  # (n, C)
            for row, (first, second), own in zip(panels, chosen, perplexities, strict=True):
                both = [*said[first], *said[second]]
                sums = features[[place[one] for one in both]]
                row.append(audio_embeddings.panel(system.line, sums, both, own))
    _write(folder, chosen, panels)
    _print(chosen, panels)
    if logger is not None:
        _log(logger, folder, chosen, panels)
    print(f"{folder}: tsne.png, silhouettes.csv, words.csv")


def _check_embedding(systems: "Sequence[System]") -> None:
    """Every model must offer audio embeddings.

    Raises:
        ValueError: One does not; the message names those that do.
    """
    from lipbench.training.generative import GenerativeModel

    for system in systems:
        if type(system.model).audio_embeddings is GenerativeModel.audio_embeddings:
            raise ValueError(
                f"{system.path} holds {type(system.model).__name__}, which offers no audio embeddings; models that do: "
                f"{', '.join(compared.generating('audio_embeddings'))}. Another model offers them by the method "
                "`audio_embeddings` of lipbench.training.generative.GenerativeModel"
            )


def _pair(data: "ClipDataModule", pair: str) -> tuple[str, str]:
    """Two different words.

    Raises:
        UsageError: It is something else.
    """
    parts = pair.split("/")
    if len(parts) != 2 or not all(parts):
        raise UsageError(f"--pairs {pair}: expected two words with a slash between them, such as b/p")
    try:
        first, second = (data.corpus.tokenizer.normalize(part) for part in parts)
    except ValueError as error:
        raise UsageError(f"--pairs {pair}: {error}") from error
    if first == second or " " in first + second:
        raise UsageError(f"--pairs {pair}: expected two different words, found {first!r} and {second!r}")
    return first, second


def _said(
    data: "ClipDataModule", pairs: Sequence[tuple[str, str]], part: str, most: int | None
) -> "dict[str, list[Occurrence]]":
    """Where the clips of a part say the words.

    Raises:
        UsageError: The corpus has no word times, or a word is said less than twice.
    """
    from lipbench.evaluation import audio_embeddings

    parts = {"train": data.split.train, "validation": data.split.validation, "test": data.split.test}
    ids = data.store.clip_ids if part == "all" else [clip for clip in parts[part] if clip in data.store]
    words = list(dict.fromkeys(word for pair in pairs for word in pair))
    found = audio_embeddings.occurrences(data.store, ids, words, data.corpus.tokenizer, most)
    rare = [word for word in words if len(found[word]) < 2]
    if rare:
        clips = f"the {len(ids):,} {part} clips of {data.protocol.name}" if part != "all" else "the store"
        known = sorted({word for text in data.store.column("text") for word in text.split()})
        told = f"its words are {', '.join(known[:60])}{', ...' if len(known) > 60 else ''}" if known else "it has none"
        raise UsageError(
            f"{clips} in {data.store.path} say {', '.join(map(repr, rare))} less than twice, with times; {told}"
        )
    return found


def _perplexity(pair: tuple[str, str], said: "dict[str, list[Occurrence]]", asked: float | None, part: str) -> float:
    """The perplexity for a pair.

    Raises:
        UsageError: The words are too few.
    """
    from lipbench.evaluation import audio_embeddings

    first, second = (len(said[word]) for word in pair)
    try:
        return audio_embeddings.perplexity_for(first + second, asked)
    except ValueError as error:
        more = "" if part == "all" else "; --part all takes all clips of the store"
        raise UsageError(f"{pair[0]} is said {first} times and {pair[1]} {second} times: {error}{more}") from error


def _write(folder: Path, pairs: Sequence[tuple[str, str]], panels: "Sequence[Sequence[Panel]]") -> None:
    """Write the three files, the numbers last."""
    from PIL import Image

    from lipbench.evaluation import audio_embeddings, writing
    from lipbench.files import write_text, written_whole

    with written_whole(folder / "tsne.png") as aside:
        Image.fromarray(audio_embeddings.figure(panels)).save(aside, "PNG")
    rows, numbers = [], []
    for pair, row in zip(pairs, panels, strict=True):
        for own in row:
            said = [one.word for one in own.occurrences]
            numbers.append([own.label, "/".join(pair), *map(said.count, pair), own.silhouette, own.perplexity])
            for one, (x, y), score in zip(own.occurrences, own.places.tolist(), own.silhouettes.tolist(), strict=True):
                rows.append([own.label, "/".join(pair), one.word, one.clip_id, one.first, one.last, x, y, score])
    write_text(folder / "words.csv", writing.csv_text(_WORDS, rows))
    write_text(folder / "silhouettes.csv", writing.csv_text(_SILHOUETTES, numbers))


def _print(pairs: Sequence[tuple[str, str]], panels: "Sequence[Sequence[Panel]]") -> None:
    """A table: a row a checkpoint, a column a pair."""
    from rich import box
    from rich.table import Table

    from lipbench.evaluation import formatting

    table = Table(box=box.SIMPLE_HEAD, title="silhouette of the audio embeddings", title_justify="left")
    table.add_column("checkpoint")
    for (first, second), row in zip(pairs, panels, strict=True):
        said = [one.word for one in row[0].occurrences]
        table.add_column(f"{first}/{second} ({said.count(first)}, {said.count(second)})", justify="right")
    for own in zip(*panels, strict=True):
        table.add_row(own[0].label, *(f"{panel.silhouette:.3f}" for panel in own))
    formatting.console().print(table)


def _log(
    logger: "WandbLogger", folder: Path, pairs: Sequence[tuple[str, str]], panels: "Sequence[Sequence[Panel]]"
) -> None:
    """Hand plot and silhouettes to a run of W&B, and end it."""
    from lipbench import tracking

    numbered = ((pair, own) for pair, row in zip(pairs, panels, strict=True) for own in row)
    logger.log_metrics({f"silhouette/{'-'.join(pair)}/{own.label}": own.silhouette for pair, own in numbered}, step=0)
    tracking.show([logger], "tsne", folder / "tsne.png", step=0)
    logger.experiment.finish()
