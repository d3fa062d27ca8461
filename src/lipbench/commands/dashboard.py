"""dashboard: a workspace in Weights & Biases with losses, gradients, pictures, throughput and leaderboards.

The workspace shows what runs with `--tracking.wandb online` log, or those with `offline` once `wandb sync` has sent
them. Its sections and panels stand in experiments/wandb.yaml. The leaderboard of each protocol, as `lipbench compare`
makes it, becomes a table in a run of its own; a PNG, JPEG, GIF or MP4 file beside a record, of the same name, stands in
the row of that record.

--check needs neither an account nor the network. With WANDB_MODE=offline, --leaderboards writes the tables into files
for `wandb sync`. The workspace itself needs an account and the package wandb-workspaces: pip install
'lipbench[dashboard]'.
"""

import argparse
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from lipbench.errors import UsageError

if TYPE_CHECKING:
    from lipbench.console.dashboard import Definition
    from lipbench.leaderboard.boards import Board

GROUP = "Train and score"
_PROJECT: Final = "lipbench"  # that of `--tracking.wandb`
_RESULTS: Final = Path("leaderboards/results")
_PICTURES: Final = (".png", ".jpg", ".jpeg")
_VIDEOS: Final = (".gif", ".mp4")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `lipbench dashboard`."""
    parser.add_argument(
        "--project", help=f"of W&B (default: {_PROJECT}, which --tracking.wandb logs to, or that of --workspace)"
    )
    parser.add_argument("--entity", help="user or team of W&B (default: that of the account)")
    parser.add_argument(
        "--definition", type=Path, metavar="FILE", help="sections and panels (default: experiments/wandb.yaml)"
    )
    parser.add_argument(
        "--results", type=Path, default=_RESULTS, help=f"folder of the records (default: {_RESULTS.as_posix()})"
    )
    parser.add_argument(
        "--workspace", metavar="URL", help="replace this workspace, as printed when it was made (default: a new one)"
    )
    parser.add_argument("--check", action="store_true", help="check the definition and say what it shows; send nothing")
    parser.add_argument("--leaderboards", action="store_true", help="the tables only, no workspace")


def run(
    project: str | None = None,
    entity: str | None = None,
    definition: Path | None = None,
    results: Path = _RESULTS,
    workspace: str | None = None,
    check: bool = False,
    leaderboards: bool = False,
) -> None:
    """Say what would be put up, or put it up.

    Args:
        project: Of W&B; None takes that of `--tracking.wandb`, or that of `workspace`.
        entity: User or team; None takes that of the account, or that of `workspace`.
        definition: Of the workspace; None takes that of lipbench.
        results: Folder of the records.
        workspace: URL of the workspace that is replaced; None makes a new one.
        check: Send nothing.
        leaderboards: The tables only.

    Raises:
        UsageError: Options do not fit together, the definition is wrong, or WANDB_MODE does not allow it.
        FileNotFoundError: The definition or the folder of records is not there.
        ValueError: This machine knows no W&B key.
        RuntimeError: The package wandb-workspaces is not installed, or W&B refuses.
    """
    from lipbench.console import dashboard
    from lipbench.errors import on_one_line
    from lipbench.leaderboard.boards import boards

    if check and (leaderboards or workspace):
        raise UsageError("--check sends nothing; leave out --leaderboards and --workspace")
    if leaderboards and workspace:
        raise UsageError("--leaderboards sends the tables only; leave out --workspace")
    if workspace is not None:
        entity, project = _place(workspace, entity, project)
    defined = dashboard.read(definition or dashboard.default())
    if results != _RESULTS and not results.is_dir():  # the usual one appears with the first record
        raise FileNotFoundError(f"no folder {results}; expected records as `lipbench test` and `evaluate` write them")
    found, unread = boards(results)
    for message in unread:
        print(on_one_line(f"left out: {message}"))
    names = [board.name for board in found]
    if check:
        print("\n".join(dashboard.told(defined, names)))
        return
    _check_mode(leaderboards)
    project = project or _PROJECT
    if found:
        _send(found, results, entity, project)
    else:
        print(f"no records in {results}, so there is no leaderboard")
    if not leaderboards:
        _put_up(defined, names, entity, project, workspace)


def _place(url: str, entity: str | None, project: str | None) -> tuple[str, str]:
    """User or team and project of a workspace.

    Raises:
        UsageError: It is no URL of a workspace, or other options say otherwise.
    """
    parts, query = urlsplit(url).path.strip("/").split("/"), urlsplit(url).query
    if len(parts) != 2 or not all(parts) or "nw=" not in query:
        raise UsageError(f"--workspace {url}: expected a URL such as https://wandb.ai/ENTITY/PROJECT?nw=NAME")
    for option, value, own in (("--entity", entity, parts[0]), ("--project", project, parts[1])):
        if value not in (None, own):
            raise UsageError(f"{option} {value}, but --workspace is of {own!r}; leave out {option}")
    return parts[0], parts[1]


def _check_mode(leaderboards: bool) -> None:
    """Refuse before anything is sent what would fail afterwards.

    Raises:
        UsageError: WANDB_MODE does not allow it.
        RuntimeError: wandb-workspaces is not installed.
        ValueError: There is no key.
    """
    from lipbench import tracking
    from lipbench.console import dashboard

    mode = os.environ.get("WANDB_MODE", "online")
    if mode == "disabled":
        raise UsageError("WANDB_MODE is 'disabled', so nothing would be sent. Type: unset WANDB_MODE")
    offline = mode in ("offline", "dryrun")
    if not leaderboards:
        if offline:
            raise UsageError(
                f"a workspace is put up on W&B's server, and WANDB_MODE is {mode!r}. Type: unset WANDB_MODE, or add "
                "--leaderboards to write the tables alone, or --check to see what would be put up"
            )
        dashboard.packages()
    if not offline:
        tracking.check_wandb_key("set WANDB_MODE=offline and add --leaderboards to write the tables into files")


def _send(found: "Sequence[Board]", results: Path, entity: str | None, project: str) -> None:
    """Log the tables to the run of the leaderboards, which goes on whenever they are sent.

    Raises:
        RuntimeError: W&B refuses.
    """
    import wandb

    from lipbench.console.dashboard import LEADERBOARD

    try:
        with wandb.init(
            entity=entity,
            project=project,
            id=LEADERBOARD,
            name=LEADERBOARD,
            job_type=LEADERBOARD,
            resume="allow",
        ) as logged:
            logged.log({f"{LEADERBOARD}/{board.name}": _table(board, results) for board in found})
            files = Path(logged.dir).parent
    except wandb.errors.Error as error:
        raise RuntimeError(_refused("the leaderboards", entity, project, error)) from error
    for board in found:
        print(f"{LEADERBOARD}/{board.name}: {len(board.lines)} rows")
    if os.environ.get("WANDB_MODE", "online") != "online":
        print(f"written, not sent. Send them with: wandb sync {files}")


def _table(board: "Board", results: Path) -> object:
    """A board as a table of W&B: the columns of its CSV file, and the picture or video of each row."""
    import wandb

    from lipbench.leaderboard import table

    names, rows = table.rows(board)
    place = names.index("model") + 1
    header: list[str | int] = [*names[:place], "media", *names[place:]]  # as wandb has it: lists are invariant
    data: list[Iterable[object]] = []
    for line, row in zip(board.lines, rows, strict=True):
        path, shown = _media(results, (line.path, *line.others)), None
        if path is not None:
            shown = wandb.Video(str(path)) if path.suffix in _VIDEOS else wandb.Image(str(path))
        data.append([*row[:place], shown, *row[place:]])
    return wandb.Table(columns=header, data=data)  # columns keep their types, by which W&B shows pictures


def _media(results: Path, records: Sequence[Path]) -> Path | None:
    """The picture or video beside the first record that has one."""
    files = (results / record.with_suffix(suffix) for record in records for suffix in (*_PICTURES, *_VIDEOS))
    return next((path for path in files if path.is_file()), None)


def _put_up(definition: "Definition", boards: Sequence[str], entity: str | None, project: str, url: str | None) -> None:
    """Make the workspace, or replace the sections, the settings and the groups of one that is there.

    Raises:
        RuntimeError: W&B refuses.
    """
    import wandb

    from lipbench.console import dashboard

    try:
        entity = entity or wandb.Api().default_entity
        if entity is None:
            raise UsageError("the account has no default entity. Give --entity USER_OR_TEAM")
        made = dashboard.workspace(definition, entity, project, boards)
        if url is not None:
            there = dashboard.packages()[0].Workspace.from_url(url)
            there.name, there.sections, there.settings = made.name, made.sections, made.settings
            there.runset_settings.groupby = made.runset_settings.groupby
            made = there
        made.save()
        address = made.url
    except wandb.errors.Error as error:
        raise RuntimeError(_refused("the workspace", entity, project, error)) from error
    print(f"workspace: {address}")
    if url is None:
        print(f"to replace it after a change of the definition: lipbench dashboard --workspace '{address}'")


def _refused(what: str, entity: str | None, project: str, error: Exception) -> str:
    from lipbench.errors import on_one_line

    place = f"{entity}/{project}" if entity else project
    return on_one_line(f"W&B did not take {what} for {place}: {error}. Check --entity and --project, or: wandb login")
