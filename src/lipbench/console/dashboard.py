"""The workspace of W&B: read from its definition, checked, told in words, and built by the package wandb-workspaces."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lipbench import discovery
from lipbench.console import recipe_files
from lipbench.errors import UsageError

LEADERBOARD: Final = "leaderboard"
"""What the names of the tables begin with; also the id and the job type of the run that holds them."""
_TOP: Final = ("name", "x", "group", "others", "sections")
_SECTION: Final = ("name", "open", "panels")
_PANELS: Final = {
    "lines": ("kind", "title", "metrics", "pattern", "log", "smoothing", "range"),
    "media": ("kind", "title", "keys"),
    "bars": ("kind", "title", "metrics"),
    "leaderboards": ("kind",),
}
"""Kind of panel -> its keys."""
_NO_RE2: Final = re.compile(r"\(\?<?[=!]|\(\?P=|\\[1-9]")  # look-around, references to groups


@dataclass(frozen=True)
class Panel:
    """One panel.

    Args:
        kind: "lines", "media", "bars" or "leaderboards".
        title: Above it; empty for "leaderboards".
        names: Metrics, or keys of pictures.
        pattern: Regular expression of metrics, in place of names; RE2's syntax.
        log: Whether the y-axis is logarithmic.
        smoothing: Weight of what lies before a point, 0 to below 1.
        limits: Least and most of the y-axis.
    """

    kind: str
    title: str = ""
    names: tuple[str, ...] = ()
    pattern: str = ""
    log: bool = False
    smoothing: float = 0.0
    limits: tuple[float, float] | None = None

    @property
    def shows(self) -> str:
        """Its names, or its pattern."""
        return f"all that match {self.pattern}" if self.pattern else ", ".join(self.names)


@dataclass(frozen=True)
class Section:
    """Panels under a heading, which may be folded."""

    name: str
    panels: tuple[Panel, ...]
    opened: bool = False


@dataclass(frozen=True)
class Definition:
    """A workspace.

    Args:
        name: As W&B lists it.
        x: Metric on the x-axis of all curves.
        group: Whether runs of a group, a training run and its tests, are listed under one line.
        others: Whether W&B adds panels for names that stand nowhere.
        sections: From top to bottom.
    """

    name: str
    x: str
    group: bool
    others: bool
    sections: tuple[Section, ...]


def default() -> Path:
    """The definition that comes with lipbench, `experiments/wandb.yaml`.

    Raises:
        FileNotFoundError: It is not there.
    """
    path = discovery.workspace()
    if path is None:
        raise FileNotFoundError("no experiments/wandb.yaml in this installation. Give --definition FILE")
    return path


def read(path: Path) -> Definition:
    """Read and check a definition.

    Args:
        path: YAML in UTF-8.

    Raises:
        FileNotFoundError: There is no such file.
        UsageError: It is no such definition; the message says where, what was found and what was expected.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no definition of a workspace at {path}. Give --definition FILE, or leave it out")
    _, content = recipe_files.parsed(path)
    top = _mapping(content, str(path), _TOP, ("name", "sections"))
    sections = tuple(
        _section(own, f"{path}, section {number}")
        for number, own in enumerate(_listed(top["sections"], f"{path}: sections", "sections"), 1)
    )
    names = [section.name for section in sections]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"{path}: two sections are called {twice!r}; expected a name for each")
    return Definition(
        _text(top, "name", str(path)),
        _text(top, "x", str(path), "trainer/global_step"),
        _truth(top, "group", str(path), True),
        _truth(top, "others", str(path), True),
        sections,
    )


def _section(content: object, where: str) -> Section:
    section = _mapping(content, where, _SECTION, ("name", "panels"))
    name = _text(section, "name", where)
    panels = _listed(section["panels"], f"{where} ({name}): panels", "panels")
    return Section(
        name,
        tuple(_panel(own, f"{where} ({name}), panel {number}") for number, own in enumerate(panels, 1)),
        _truth(section, "open", where, False),
    )


def _panel(content: object, where: str) -> Panel:
    every = tuple(dict.fromkeys(key for keys in _PANELS.values() for key in keys))
    kind = _mapping(content, where, every, ("kind",))["kind"]
    if not isinstance(kind, str) or kind not in _PANELS:
        raise UsageError(f"{where}: kind is {_shown(kind)}; expected one of {', '.join(_PANELS)}")
    needed = tuple(key for key in ("title", "keys") if key in _PANELS[kind])
    panel = _mapping(content, f"{where} (kind {kind})", _PANELS[kind], needed)
    if kind == "leaderboards":
        return Panel(kind)
    title = _text(panel, "title", where)
    where = f"{where} ({title})"
    either = tuple(key for key in ("keys", "metrics", "pattern") if key in _PANELS[kind])
    given = [key for key in either if key in panel]
    if len(given) != 1:
        raise UsageError(f"{where} has {' and '.join(given) or 'no ' + ' and no '.join(either)}; expected one of them")
    (key,) = given
    return Panel(
        kind,
        title,
        () if key == "pattern" else _names(panel[key], f"{where}: {key}"),
        _pattern(panel["pattern"], where) if key == "pattern" else "",
        _truth(panel, "log", where, False),
        _share(panel.get("smoothing", 0.0), f"{where}: smoothing"),
        _limits(panel["range"], f"{where}: range") if "range" in panel else None,
    )


def _mapping(content: object, where: str, known: Sequence[str], needed: Sequence[str]) -> dict[str, Any]:
    """A mapping with known keys, of which some must be there."""
    if not isinstance(content, dict):
        raise UsageError(f"{where}: found {_shown(content)}; expected a mapping with {', '.join(known)}")
    odd = next((key for key in content if key not in known), None)
    if odd is not None:
        raise UsageError(f"{where}: {discovery.unknown('key', str(odd), known)}")
    lacking = [key for key in needed if key not in content]
    if lacking:
        raise UsageError(f"{where} has no {' and no '.join(lacking)}. Add it, such as {lacking[0]}: ...")
    return content


def _listed(content: object, where: str, what: str) -> list[object]:
    if not isinstance(content, list) or not content:
        raise UsageError(f"{where}: found {_shown(content)}; expected a list of {what}")
    return content


def _text(content: dict[str, Any], key: str, where: str, otherwise: str = "") -> str:
    value = content.get(key, otherwise)
    if not isinstance(value, str) or not value.strip():
        raise UsageError(f"{where}: {key} is {_shown(value)}; expected a text")
    return value


def _truth(content: dict[str, Any], key: str, where: str, otherwise: bool) -> bool:
    value = content.get(key, otherwise)
    if not isinstance(value, bool):
        raise UsageError(f"{where}: {key} is {_shown(value)}; expected true or false")
    return value


def _names(content: object, where: str) -> tuple[str, ...]:
    names = _listed(content, where, "names, such as [train/l1]")
    odd = next((name for name in names if not isinstance(name, str) or not name), None)
    if odd is not None:
        raise UsageError(f"{where}: found {_shown(odd)}; expected names, such as [train/l1]")
    return tuple(str(name) for name in names)


def _pattern(content: object, where: str) -> str:
    """A regular expression that Python and RE2 both take."""
    try:
        if not isinstance(content, str) or not content:
            raise ValueError(f"found {_shown(content)}")
        re.compile(content)
        if odd := _NO_RE2.search(content):
            raise ValueError(f"W&B's expressions (RE2) have no {odd[0]}")
    except (ValueError, re.error) as error:
        raise UsageError(
            f"{where}: pattern {_shown(content)} does not work ({error}); expected a regular expression, such as "
            "^train/grad_norm_"
        ) from error
    return content


def _share(content: object, where: str) -> float:
    if isinstance(content, bool) or not isinstance(content, int | float) or not 0 <= content < 1:
        raise UsageError(f"{where} is {_shown(content)}; expected a number from 0 to below 1")
    return float(content)


def _limits(content: object, where: str) -> tuple[float, float]:
    ends = content if isinstance(content, list) else []
    if len(ends) != 2 or not all(isinstance(end, int | float) for end in ends) or not ends[0] < ends[1]:
        raise UsageError(f"{where} is {_shown(content)}; expected the least and the most, such as [0, 1]")
    return float(ends[0]), float(ends[1])


def _shown(value: object) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def told(definition: Definition, boards: Sequence[str]) -> list[str]:
    """What would be put up, a line a section or panel.

    Args:
        definition: Of the workspace.
        boards: Names of the leaderboards that there are.
    """
    lines = [
        f"workspace {definition.name!r}: curves over {definition.x}; runs "
        f"{'in groups, each a training run with its tests' if definition.group else 'one by one'}"
        f"{'; what else is logged gets panels of its own' if definition.others else ''}"
    ]
    for section in definition.sections:
        lines.append(f"{section.name}{'' if section.opened else ' (folded)'}")
        for panel in section.panels:
            if panel.kind == "leaderboards":
                lines += [f"  table  {LEADERBOARD}/{board}" for board in boards] or ["  table  none yet"]
            else:
                lines.append(f"  {panel.kind:6} {panel.title}: {panel.shows}")
    return lines


def workspace(definition: Definition, entity: str, project: str, boards: Sequence[str]) -> Any:  # noqa: ANN401 - no types without the package
    """The workspace as wandb-workspaces holds it; nothing is sent.

    Args:
        definition: What it shall show.
        entity: User or team.
        project: Its project.
        boards: Names of the leaderboards that there are.

    Raises:
        RuntimeError: The package wandb-workspaces is not installed.
    """
    workspaces, _ = packages()
    grouped = [workspaces.Metric("Group")] if definition.group else []
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=definition.name,
        sections=[
            workspaces.Section(
                name=section.name,
                is_open=section.opened,
                panels=[one for panel in section.panels for one in _built(panel, definition.x, boards)],
            )
            for section in definition.sections
        ],
        settings=workspaces.WorkspaceSettings(x_axis=definition.x),
        runset_settings=workspaces.RunsetSettings(groupby=grouped),
        auto_generate_panels=definition.others,
    )


def _built(panel: Panel, x: str, boards: Sequence[str]) -> list[Any]:
    """A panel of wandb-workspaces; of the leaderboards one each."""
    _, panels = packages()
    names = list(panel.names)
    if panel.kind == "leaderboards":
        return [panels.WeavePanelSummaryTable(table_name=f"{LEADERBOARD}/{board}") for board in boards]
    if panel.kind == "media":
        return [panels.MediaBrowser(title=panel.title, media_keys=names, gallery_axis="step", num_columns=1)]
    if panel.kind == "bars":
        return [panels.BarPlot(title=panel.title, metrics=names)]
    return [
        panels.LinePlot(
            title=panel.title,
            x=x,
            y=names,
            metric_regex=panel.pattern or None,
            log_y=panel.log or None,
            range_y=panel.limits or (None, None),
            smoothing_type="exponential" if panel.smoothing else None,
            smoothing_factor=panel.smoothing or None,
        )
    ]


def packages() -> tuple[Any, Any]:
    """The modules of wandb-workspaces for workspaces and for panels.

    Raises:
        RuntimeError: It is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as panels
        import wandb_workspaces.workspaces as workspaces
    except ModuleNotFoundError as error:
        raise RuntimeError(
            f"a workspace needs the package wandb-workspaces, which is not installed ({error}). Type: pip install "
            "'lipbench[dashboard]'. Without it there are --check, which only says what would be put up, and "
            "--leaderboards, which sends the tables alone"
        ) from error
    return workspaces, panels
