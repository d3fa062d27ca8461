"""Heat maps of what a model makes: where each of its stages responds, laid over the frame.

A course report on LipGAN (Kumar, Murphy and Vazirabad, CS766, 2021) proposes activation heat maps to see whether a
change makes the network look at the lips. What is drawn here is our own choice: the mean over channels of the absolute
value of a stage's output, from the 5th to the 95th percentile of each picture: what zero padding makes at the border
would leave the rest dark otherwise. That shows where a stage is active, not why, and not how strongly compared with
another frame or stage.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lipbench.media import geometry
from lipbench.training.generative import GenerativeModel
from lipbench.types import ClipBatch, Timing

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

_CELL: Final = 160  # px: width of a picture in the table
_GAP: Final = 4  # px between pictures
_LINE: Final = 14  # px: height of a line of text
_SIDE: Final = 72  # px: left of the pictures, for the frames' numbers
_STRENGTH: Final = 0.6  # of the colors; the rest is the frame in grey
_SPAN: Final = (0.05, 0.95)  # quantiles that get the first and the last color
_COLORS: Final = np.array([(0, 0, 96), (0, 96, 255), (0, 224, 192), (255, 224, 0), (224, 0, 0)], np.float32)
"""From no response to the strongest: dark blue, blue, green, yellow, red (RGB)."""


def heat(model: GenerativeModel, batch: ClipBatch, timing: Timing, frames: Sequence[int]) -> npt.NDArray[np.uint8]:
    """Draw where the stages of a model respond while it makes a clip.

    The stages are found without knowing the model: the outermost `nn.Sequential`s, and the members of the outermost
    `nn.ModuleList`s, whose output is a map for every frame, or one for the clip, in the picture's own proportions.
    That leaves out encoders of text and of sound, which end in vectors, and the last layer, which makes a picture.

    Args:
        model: In eval mode, on the batch's device.
        batch: One clip, as `GenerativeModel.drive` takes it.
        timing: See there.
        frames: Numbers of the frames to be shown, from 0.

    Returns:
        (height, width, 3) RGB: a row a frame, what was made and then a column a stage, with their names, channels and
        map sizes (height x width).

    Raises:
        ValueError: The batch does not hold exactly one clip, a frame is not in the video, none is named, or the model
            has no stage to be shown.
    """
    clips = len(batch["identity"])
    if clips != 1:
        raise ValueError(f"heat maps are drawn of one clip, found {clips} in the batch")
    stages = dict(_stages(model))
    maps: dict[str, list[Tensor]] = {name: [] for name in stages}
    channels: dict[str, int] = {}

    def watch(name: str, output: Any) -> None:  # noqa: ANN401 - whatever a module returns
        if isinstance(output, Tensor) and output.dim() == 4:
            channels[name] = output.shape[1]
            maps[name].append(output.detach().float().abs().mean(1))  # (M, h, w); now: the next layer may write into it

    hooks = [
        stage.register_forward_hook(lambda module, given, output, name=name: watch(name, output))
        for name, stage in stages.items()
    ]
    try:
        with torch.inference_mode():
            made = model.run_generate(batch, timing)
    finally:
        for hook in hooks:
            hook.remove()

    count = int(made["video_len"][0])
    if not frames or min(frames) < 0 or max(frames) >= count:
        asked = ", ".join(str(frame) for frame in frames) or "none"
        raise ValueError(f"the video has {count} frames (0 to {count - 1}); frames asked for: {asked}")
    video = made["video"][0, list(frames)].float().clamp(0, 1).cpu()  # (F, 3, H, W)
    shown: dict[str, Tensor] = {}
    for name, parts in maps.items():
        found = torch.cat(parts).cpu() if parts else torch.zeros(0, 1, 1)
        if len(found) in (1, count) and channels[name] > 3 and _proportioned(found, video):
            shown[name] = found[list(frames)] if len(found) == count else found.expand(len(frames), -1, -1)
    if not shown:
        raise ValueError(f"{type(model).__name__} has no stage whose output is a map of the picture")
    titles = {name: f"{channels[name]}, {found.shape[1]}x{found.shape[2]}" for name, found in shown.items()}
    return _table(video, shown, titles, frames)


def _stages(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Outermost Sequentials and members of outermost ModuleLists, in the order in which the model names them."""
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList):
            yield from ((f"{prefix}{name}.{place}", stage) for place, stage in enumerate(child))
        elif isinstance(child, nn.Sequential):
            yield prefix + name, child
        else:
            yield from _stages(child, f"{prefix}{name}.")


def _proportioned(maps: Tensor, video: Tensor) -> bool:
    """Whether maps (M, h, w) have the proportions of pictures (F, 3, H, W), to a pixel, and more than one pixel."""
    (h, w), (height, width) = maps.shape[1:], video.shape[2:]
    return min(h, w) > 1 and abs(h * width - w * height) <= max(height, width)


def _table(
    video: Tensor, maps: Mapping[str, Tensor], titles: Mapping[str, str], frames: Sequence[int]
) -> npt.NDArray[np.uint8]:
    """Lay frames (F, 3, H, W) and stages' maps (F, h, w) out with their labels."""
    from PIL import Image, ImageDraw

    height = round(_CELL * video.shape[2] / video.shape[3])
    pictures = geometry.resize(video, (height, _CELL))  # (F, 3, height, 160)
    columns = [pictures.permute(0, 2, 3, 1).numpy(), *(_over(pictures, stage) for stage in maps.values())]
    top, right, down = 2 * _LINE + _GAP, _CELL + _GAP, height + _GAP
    canvas = np.full((top + len(frames) * down, _SIDE + len(columns) * right, 3), 255, np.uint8)
    for column, cells in enumerate(columns):
        for row, cell in enumerate(cells):
            y, x = top + row * down, _SIDE + column * right
            canvas[y : y + height, x : x + _CELL] = np.rint(255 * cell).astype(np.uint8)
    table = Image.fromarray(canvas)
    draw = ImageDraw.Draw(table)
    for column, (name, about) in enumerate({"made": f"{video.shape[2]}x{video.shape[3]}", **titles}.items()):
        for line, text in enumerate((name, about)):
            draw.text((_SIDE + column * right, line * _LINE), _fitted(draw, text), fill=(0, 0, 0))
    for row, frame in enumerate(frames):
        draw.text((_GAP, top + row * down + height // 2 - _LINE // 2), f"frame {frame}", fill=(0, 0, 0))
    return np.asarray(table)


def _over(pictures: Tensor, maps: Tensor) -> npt.NDArray[np.float32]:
    """Colors of maps (F, h, w) over grey pictures (F, 3, H, W): (F, H, W, 3) in [0, 1]."""
    least, greatest = (maps.flatten(1).quantile(share, 1)[:, None, None] for share in _SPAN)  # (F, 1, 1)
    # Where all is alike, rounding is no response.
    share = ((maps - least) / (greatest - least).clamp(min=1e-5 * maps.max().item() + 1e-12)).clamp(0, 1)  # (F, h, w)
    share = geometry.resize(share[:, None], cast("tuple[int, int]", tuple(pictures.shape[2:])))[:, 0]  # (F, H, W)
    steps = np.linspace(0, 1, len(_COLORS))
    color = np.stack([np.interp(share.numpy(), steps, channel) for channel in _COLORS.T / 255], -1)  # (F, H, W, 3)
    grey = pictures.mean(1)[..., None].numpy()
    return np.asarray(_STRENGTH * color + (1 - _STRENGTH) * grey, np.float32)


def _fitted(draw: "ImageDraw", text: str) -> str:
    """A name as wide as a picture at most: its end says more than its beginning."""
    if draw.textlength(text) <= _CELL:
        return text
    while draw.textlength(f"..{text}") > _CELL:
        text = text[1:]
    return f"..{text}"
