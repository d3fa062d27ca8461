"""CPBD: share of edges too narrow to look blurred (Narvekar and Karam 2011); looks at the generated video only."""

from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import conv1d, max_pool2d, pad

from lipbench.scoring import checks
from lipbench.scoring.base import Column, FramesMetric, Spans, finite, over_frames

Variant = Literal["port", "atvgnet"]

BLOCK: Final = 64
"""Side of the blocks in px: pictures are scored block by block, and what is left over on the right and below is not."""
_LONGEST: Final = 101  # steps after which published code stops following an edge
_FLAT: Final = 50  # grey levels: up to this contrast of a block, edges of 5 px are not seen as blurred
_JNB: Final = (5, 3)  # just noticeable blur of low-contrast and other blocks, px
_GATE: Final = 9  # Canny pixels that make an edge block: more than 0.002 * 64 * 64
_LOW, _HIGH = 0.1, 0.2  # Canny thresholds of scikit-image for floating-point pictures; here in grey levels
_RADIUS: Final = 4  # of the Gaussian before Canny, 4 sigma
_MARGIN: Final = _RADIUS + 2  # rows that an exact Canny pixel sees on either side: blur, Sobel, neighbor
_BAND: Final = (28, 36)  # rows of a block that are looked at first
_CHUNK: Final = 2**18  # pixels a pass: the planes of a pass stay in the cache
_COLORS: Final = 3


class _Edges(NamedTuple):
    """Edge pixels of several pictures whose width is measured."""

    place: Tensor  # (E,) int64 position in the flattened pictures
    width: Tensor  # (E,) int64 px


def grey(pictures: Tensor) -> Tensor:
    """Luma of pictures by ITU-R 601, rounded as PIL rounds for its mode "L".

    Args:
        pictures: (..., 3, h, w) uint8 RGB.

    Returns:
        (..., h, w) uint8.

    Raises:
        ValueError: The pictures have another shape or dtype.
    """
    if not checks.fits(pictures.shape, checks.PICTURES) or pictures.dtype != torch.uint8:
        raise ValueError(
            f"expected uint8 pictures (..., 3, h, w), got {pictures.dtype} of shape {tuple(pictures.shape)}"
        )
    return _luma(pictures.float()).to(torch.uint8)


def _luma(levels: Tensor) -> Tensor:
    """(..., 3, h, w) float32 whole numbers in 0..255 -> (..., h, w): exact, since every sum is below 2**24."""
    red, green, blue = levels.unbind(-3)
    total = (red * 19595).add_(green, alpha=38470).add_(blue, alpha=7471)
    return total.add_(32768).mul_(2**-16).floor_()


def cpbd(images: Tensor, variant: Variant = "port") -> Tensor:
    """CPBD of single pictures: the share of vertical edges not wider than the just noticeable blur of their block.

    The published formula sums the histogram of 1 - exp(-(width / jnb)**3.6) up to 63 %, the value at width = jnb; so
    it counts edges with width <= jnb: 5 px in blocks of 64x64 px with a contrast up to 50 levels, 3 px in others.

    "port" takes the steps of the package `cpbd` 1.0.7 (python-cpbd, commit 11e2553), with Canny as in scikit-image 0.26
    as its gate for blocks. "atvgnet" takes those of ATVGnet's evaluation_matrix.py (commit 02d8f8f): Sobel strength
    above 4 without thinning, width < jnb, and falling edges that run on over flat stretches. It gives 2 to 10 times
    lower numbers. Its Canny gate ran in float32; here it runs in float64. The same steps lie in the script released
    with the correlation GAN (Chen et al. 2018, ECCV), but they are not what its table shows: the paper prints 0.141 for
    the ground truth of GRID at 64x64 px, where "port" gives 0.136 and "atvgnet" 0.015 (the view mouth_square at 64x64
    px, 64 clips; by speaker, "port" lies between 0.075 and 0.194).

    The score depends on the size: the same mouths enlarged to 84x84 px, as they stand in the column `mouth/cpbd`, have
    wider edges and 0.070. Compare with papers at the model's own size only (`native/cpbd`). Pictures lower or narrower
    than a block have no CPBD; `cpbd` 1.0.7 and ATVGnet's script return 0 for them, as for pictures without a sharp
    edge.

    Args:
        images: (..., h, w) grey pictures, integers in 0..255; see `grey` for color.
        variant: Whose steps.

    Returns:
        (...) float64 in [0, 1]; NaN for pictures lower or narrower than 64 px, 0 for pictures without edges.

    Raises:
        ValueError: The pictures are floating point (in [0, 1] they would score high without a word), not in 0..255, or
            look like color pictures (a dimension of 3 where height, width or channels stand); the variant is unknown.
    """
    _refuse(images, variant)
    height, width = images.shape[-2:]
    flat = images.reshape(-1, height, width)
    if min(height, width) < BLOCK or not len(flat):
        return torch.full(images.shape[:-2], torch.nan, dtype=torch.float64, device=images.device)
    count = max(1, _CHUNK // (height * width))
    parts = torch.split(flat, count)
    return torch.cat([_scores(part.to(torch.int16), variant) for part in parts]).reshape(images.shape[:-2])


def edge_widths(images: Tensor, variant: Variant = "port") -> Tensor:
    """Widths of vertical edges by Marziliano et al. 2002: how far the brightness rises or falls through an edge pixel.

    Args:
        images: (..., h, w) grey pictures, integers in 0..255.
        variant: Whose steps, see `cpbd`.

    Returns:
        (..., h, w) int64 px, 0 where no edge is measured.

    Raises:
        ValueError: As `cpbd`.
    """
    _refuse(images, variant)
    flat = images.reshape(-1, *images.shape[-2:]).to(torch.int16)
    edges = _measure(flat, variant, _LONGEST)
    found = torch.zeros(flat.numel(), dtype=torch.int64, device=flat.device)
    found[edges.place] = edges.width
    return found.reshape(images.shape)


def _refuse(images: Tensor, variant: str) -> None:
    if variant not in ("port", "atvgnet"):
        raise ValueError(f"CPBD has no variant {variant!r}; there are 'port' and 'atvgnet'")
    if not isinstance(images, Tensor):
        raise ValueError(f"CPBD takes a tensor of grey pictures (..., h, w), got {type(images).__name__}")
    if images.ndim < 2 or 0 in images.shape[-2:]:
        raise ValueError(f"CPBD takes grey pictures (..., h, w), got shape {tuple(images.shape)}")
    if _COLORS in images.shape[-3:]:
        raise ValueError(
            f"CPBD takes grey pictures (..., h, w), got shape {tuple(images.shape)}, which looks like color; for uint8 "
            "RGB pictures (..., 3, h, w) type cpbd(grey(x)), for three grey pictures (3, h, w) cpbd(x[:, None])[:, 0]"
        )
    if images.dtype.is_floating_point or images.dtype in (torch.bool, torch.complex64, torch.complex128):
        raise ValueError(
            f"CPBD takes grey pictures as integers in 0..255, got {images.dtype}; "
            "for pictures in [0, 1] type (255 * x).round().to(torch.uint8)"
        )
    if images.dtype != torch.uint8 and images.numel():
        low, high = (int(x) for x in images.aminmax())
        if low < 0 or high > 255:
            raise ValueError(f"CPBD takes grey pictures in 0..255, got {low}..{high}")


def _scores(x: Tensor, variant: Variant) -> Tensor:
    """CPBD (F,) of pictures (F, h, w) int16, at least 64 px high and wide."""
    frames, height, width = x.shape
    down, across = height // BLOCK, width // BLOCK
    # Wider than the widest just noticeable blur is as good as any: nobody needs to follow an edge further.
    edges = _measure(x, variant, max(_JNB))
    rows, columns = edges.place // width, edges.place % width  # rows counted over all pictures
    frame, row = rows // height, rows % height
    inside = (row < down * BLOCK) & (columns < across * BLOCK)
    block = ((frame * down + row // BLOCK) * across + columns // BLOCK)[inside]  # (E,)
    cut = x[:, : down * BLOCK, : across * BLOCK].reshape(frames, down, BLOCK, across, BLOCK)
    contrast = (cut.amax((2, 4)) - cut.amin((2, 4))).flatten()  # (F * down * across,)
    jnb = torch.where(contrast <= _FLAT, *_JNB)[block]
    lengths = edges.width[inside]
    sharp = lengths <= jnb if variant == "port" else lengths < jnb
    blocks = frames * down * across
    total = torch.bincount(block, minlength=blocks).reshape(frames, -1).double()  # (F, down * across)
    narrow = torch.bincount(block[sharp], minlength=blocks).reshape(frames, -1).double()
    counted = _edge_blocks(x, total > 0)
    return (narrow * counted).sum(1) / (total * counted).sum(1).clamp(min=1)


def _measure(x: Tensor, variant: Variant, longest: int) -> _Edges:
    """Edge pixels of pictures (F, h, w) int16 and their widths, exact up to `longest` on either side."""
    frames, height, width = x.shape
    place = _sobel_edges(x, variant).flatten().nonzero()[:, 0]
    flat = x.flatten().to(torch.int32)
    gx, gy = flat[place + 1] - flat[place - 1], flat[place + width] - flat[place - width]  # twice the gradient
    # Within 22.5 degrees of the row, whose tangent is sqrt(2) - 1; integers decide it exactly. Where the gradient is
    # purely vertical, published code leaves the angle at 0 and follows a rising edge.
    along = (gx == 0) | ((gx.abs() + gy.abs()).square() < 2 * gx.square())
    if variant == "port":
        along &= _turned(x, place, gx, gy)[place // (height * width)]
    place, falling = place[along], gx[along] < 0
    # Which way the brightness steps from the left neighbor; 2 ends every walk at the edge of the picture.
    step = torch.full((frames, height, width), 2, dtype=torch.int8, device=x.device)
    step[..., 1:] = (x[..., 1:] - x[..., :-1]).sign()
    steps = step.flatten()
    way = torch.where(falling, -1, 1).to(torch.int8)
    sides = _walk(steps, place - 1, -1, way, None, longest)
    sides += _walk(steps, place + 2, 1, way, falling if variant == "atvgnet" else None, longest)
    return _Edges(place, sides)


def _sobel_edges(x: Tensor, variant: Variant) -> Tensor:
    """Where horizontal Sobel strength marks an edge: (F, h, w) bool; False on the border, where none is measured."""
    tall = torch.cat([x[:, :1], x, x[:, -1:]], 1)  # (F, h + 2, w), the border repeated
    column = tall[:, :-2] + tall[:, 2:] + 2 * x
    wide = torch.cat([column[..., :1], column, column[..., -1:]], -1)  # (F, h, w + 2)
    strength = (wide[..., 2:] - wide[..., :-2]).abs_()  # (F, h, w), 8 times Sobel's
    edges = torch.zeros(x.shape, dtype=torch.bool, device=x.device)
    if variant == "atvgnet":
        edges[:, 1:-1, 1:-1] = strength[:, 1:-1, 1:-1] > 16  # strength squared above 4
        return edges
    # The squared strength S is compared with 2 sqrt(mean S), unlike in Octave, where it is 4 mean S.
    mean = strength.to(torch.int32).square_().sum((1, 2), dtype=torch.int64).double() / (64 * x[0].numel())
    least = (64 * (2 * mean.sqrt())).floor().sqrt().floor().to(torch.int16)  # integers: strength**2 > 64 S
    center = strength[:, 1:-1, 1:-1]
    ridge = (center > strength[:, 1:-1, :-2]) & (center > strength[:, 1:-1, 2:])
    ridge |= (center > strength[:, :-2, 1:-1]) & (center > strength[:, 2:, 1:-1])
    edges[:, 1:-1, 1:-1] = ridge & (center > least[:, None, None])
    return edges


def _turned(x: Tensor, place: Tensor, gx: Tensor, gy: Tensor) -> Tensor:
    """Pictures (F,) with any gradient that does not point right: without one, published code measures nothing."""
    found = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    bounds = torch.arange(len(x) + 1, device=x.device) * x[0].numel()  # edges come in order: picture by picture
    told = pad(((gx < 0) | ((gx != 0) & (gy != 0))).cumsum(0), (1, 0))  # mostly an edge tells
    found |= told[torch.searchsorted(place, bounds)].diff() > 0
    for k in (~found).nonzero()[:, 0].tolist():
        down, right = torch.gradient(x[k].double())
        found[k] = bool(((right < 0) | ((right != 0) & (down != 0))).any())
    return found


def _walk(steps: Tensor, start: Tensor, move: int, way: Tensor, loose: Tensor | None, longest: int) -> Tensor:
    """Lengths (E,) of walks along a row: 1 and the steps that go on in `way`, at most `longest`.

    Args:
        steps: Flattened directions of all pictures.
        start: (E,) where each walk begins.
        move: 1 to the right, -1 to the left.
        way: (E,) int8 direction in which the brightness must step, seen from the left.
        loose: (E,) walks that only a rise ends; None if every one must step strictly.
        longest: See above.
    """
    length = torch.ones_like(start)
    going = torch.arange(len(start), device=start.device)
    for taken in range(longest - 1):
        here = steps[start[going] + move * taken]
        on = here == way[going]
        if loose is not None:
            on |= loose[going] & (here <= 0)
        going = going[on]
        if not len(going):
            break
        length[going] += 1
    return length


def _edge_blocks(x: Tensor, asked: Tensor) -> Tensor:
    """Which of the blocks asked for hold at least 9 Canny pixels.

    Eight rows of each block decide nearly always: strong maxima are edges whatever lies around them. Only pictures with
    a block that they leave open go through the whole of Canny, hysteresis included.

    Args:
        x: (F, h, w) int16.
        asked: (F, down * across) bool.

    Returns:
        Same shape as `asked`, bool.
    """
    frames, height, width = x.shape
    down, across = height // BLOCK, width // BLOCK
    first, last = _BAND
    # A band is cut with the rows that its pixels depend on, so that they are those of the whole picture.
    bands = x[:, : down * BLOCK].reshape(frames * down, BLOCK, width)[:, first - _MARGIN : last + _MARGIN]
    strong = _maxima(bands, _MARGIN) >= _HIGH  # (F * down, 20, w)
    found = _per_block(strong, across).reshape(frames, -1) >= _GATE
    for k in (asked & ~found).any(1).nonzero()[:, 0].tolist():
        edges = _canny(x[k])[: down * BLOCK].reshape(down, BLOCK, width)
        found[k] = _per_block(edges, across).flatten() >= _GATE
    return found & asked


def _per_block(found: Tensor, across: int) -> Tensor:
    """Count (N, across) of True in (N, rows, w), 64 columns each."""
    return found[..., : across * BLOCK].reshape(len(found), -1, across, BLOCK).sum((1, 3))


def _canny(x: Tensor) -> Tensor:
    """Canny edges (h, w) bool of a picture (h, w): weak maxima that hang together with a strong one."""
    strength = _maxima(x[None], 1)[0]
    weak, edges = strength > 0, strength >= _HIGH
    count = -1
    while (grown := int(edges.sum())) != count:
        count = grown
        for _ in range(8):  # several rounds between two looks at whether anything still grows
            near = max_pool2d(edges[None].float(), 3, 1, 1)[0] > 0
            edges = near & weak
    return edges


def _maxima(x: Tensor, margin: int) -> Tensor:
    """Gradient magnitude of blurred pictures where it is at least 0.1 and greatest along the gradient, 0 elsewhere.

    Neighbors along the gradient are interpolated between the two nearest pixels, as scikit-image does.

    Args:
        x: (N, h, w) pictures.
        margin: Rows on top and bottom that stay 0; the columns at the border always do.

    Returns:
        (N, h, w) float64.
    """
    width = x.shape[-1]
    blurred = _blur(_blur(x.double(), -1), -2)
    tall = torch.cat([blurred[:, :1], blurred, blurred[:, -1:]], 1)  # the border repeated
    wide = torch.cat([tall[..., :1], tall, tall[..., -1:]], -1)  # (N, h + 2, w + 2)
    column = wide[:, :-2] + 2 * wide[:, 1:-1] + wide[:, 2:]
    row = wide[..., :-2] + 2 * wide[..., 1:-1] + wide[..., 2:]
    gx, gy = column[..., 2:] - column[..., :-2], row[:, 2:] - row[:, :-2]  # (N, h, w)
    magnitude = (gx.square() + gy.square()).sqrt()
    asked = torch.zeros(x.shape, dtype=torch.bool, device=x.device)
    asked[:, margin:-margin, 1:-1] = magnitude[:, margin:-margin, 1:-1] >= _LOW
    place = asked.flatten().nonzero()[:, 0]
    flat, gx, gy = magnitude.flatten(), gx.flatten()[place], gy.flatten()[place]
    falls = torch.where((gx >= 0) == (gy >= 0), 1, -1)  # whether the gradient leads down to the right, or up
    steep = gy.abs() > gx.abs()
    straight = torch.where(steep, falls * width, 1)  # from a pixel to the two that its gradient passes between
    diagonal = falls * width + 1
    share = torch.minimum(gx.abs(), gy.abs()) / torch.maximum(gx.abs(), gy.abs())  # of the diagonal one
    here = flat[place]
    greatest = torch.ones_like(steep)
    for side in (1, -1):
        beyond = flat[place + side * diagonal] * share + flat[place + side * straight] * (1 - share)
        greatest &= beyond <= here
    found = torch.zeros_like(flat)
    found[place[greatest]] = here[greatest]
    return found.reshape(x.shape)


def _blur(x: Tensor, dim: int) -> Tensor:
    """Gaussian of sigma 1 along a dimension; beyond the border lies nothing, and the weights inside sum to 1."""
    reach = torch.arange(-_RADIUS, _RADIUS + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-0.5 * reach.square())
    size = x.shape[dim]
    inside = conv1d(x.new_ones(1, 1, size), kernel[None, None], padding=_RADIUS)[0, 0]
    shape = [1] * x.ndim
    shape[dim] = size
    out = x.clone()  # the middle tap is 1
    for k in range(1, min(_RADIUS, size - 1) + 1):
        tap, rest = float(kernel[_RADIUS + k]), size - k
        out.narrow(dim, k, rest).add_(x.narrow(dim, 0, rest), alpha=tap)
        out.narrow(dim, 0, rest).add_(x.narrow(dim, k, rest), alpha=tap)
    return out.div_(inside.reshape(shape))


class CPBD(FramesMetric):
    """Mean CPBD of the generated video's frames; the reference is not looked at, and its own score is no upper bound.

    Pictures in [0, 1] are rounded to 8 bits and turned to grey as PIL does. Read it beside the ground truth's own.

    Args:
        variant: "port" or "atvgnet", see `cpbd`.
    """

    name = "cpbd"
    unit = ""
    higher_is_better = True
    perfect = None
    aligned = False
    undefined = "the pictures are smaller than 64x64 px, or a frame holds NaN"
    least = BLOCK
    columns = (
        Column("mouth/cpbd", "quality", 60, region="mouth"),
        Column("native/cpbd", "quality", 70, region="native"),
        Column("mouth/cpbd[atvgnet]", "legacy", 10, default=False, region="mouth", options={"variant": "atvgnet"}),
    )

    def __init__(self, variant: Variant = "port") -> None:
        super().__init__()
        self.variant: Variant = variant

    def score(self, pred: Tensor, target: Tensor, spans: Spans) -> tuple[Tensor, Tensor]:
        """Score (B, T, 3, h, w) float pictures in [0, 1]."""
        length = spans.pred_length
        asked = torch.arange(pred.shape[1], device=pred.device) < length.to(pred.device)[:, None]  # (B, T)
        asked &= finite(pred)
        frames = max(1, _CHUNK // pred.shape[-2:].numel())
        pieces = zip(torch.split(pred.flatten(0, 1), frames), torch.split(asked.flatten(), frames), strict=True)
        values = [self._piece(pixels, wanted) for pixels, wanted in pieces]
        return over_frames(torch.cat(values).view(asked.shape), length)

    def _piece(self, pixels: Tensor, wanted: Tensor) -> Tensor:
        """CPBD (N,) of those of (N, 3, h, w) that are wanted, NaN for the others."""
        values = torch.full(wanted.shape, torch.nan, dtype=torch.float64, device=pixels.device)
        levels = (pixels[wanted].float() * 255).round_().clamp_(0, 255)
        values[wanted] = cpbd(_luma(levels).to(torch.uint8)[:, None], self.variant)[:, 0]
        return values
