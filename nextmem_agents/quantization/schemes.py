"""Latents to few bits and back: where the scales lie, and how they are chosen.

In the first two schemes each value is the nearest NF4 code times an FP8 scale; the third has no scales:

``per_dimension``
    One scale for each of the D hidden dimensions, over the chunk's L latents. This is the format of the
    released checkpoints. The error stays small where some dimensions are a hundred times larger than others.
``per_latent``
    Each value is first divided by a calibrated table (one float per dimension, part of the codec's
    configuration), then each latent has one scale. A short chunk costs L bytes of scales in place of D.
``few_levels``
    Each value is divided by that table, and is then the nearest of 2, 3, 4 or 8 Lloyd-Max levels (see
    :mod:`~nextmem_agents.quantization.lloyd_max`): 1.6, 2 or 3 bits a value. Values beyond the outermost level
    come back as that level.

Range of the first two. A scale never overflows: an absolute maximum above 448 is stored as 448, and the
values beyond it come back as ±448 (times the table). Between 0 and 2^-9 = 0.00195 there is no scale: what is
nearer to 0 than to any code times 2^-9 comes back as 0. Zeros come back as zeros, and nothing becomes NaN. A
codec's table should bring its latents near 1, where both ends are far.

Everything is computed on the CPU, whichever device the latents are on, and every reduction has a fixed order:
the bytes of one row depend neither on the device nor on the other rows of its batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from nextmem_agents.errors import InvalidArgument
from nextmem_agents.quantization import lloyd_max
from nextmem_agents.quantization.latents import (
    MAX_SCALE_BYTE,
    NF4_LEVELS,
    SCHEMES,
    QuantizedLatents,
    Scheme,
    check_levels,
    n_row_bytes,
)
from nextmem_agents.quantization.nf4 import (
    CPU,
    byte_tensor,
    code_values,
    nearest_code,
    pack,
    pair_values,
    released_bfloat16_index,
    round_scale,
    scale_values,
)

# Scales tried, in FP8 steps from the rounded absolute maximum. Over a few latents a larger scale pays when an
# inner code happens to fit the column's largest value; over a whole latent the optimum lies below it.
# Wider windows lower the error by less than 0.5 % (Gaussian data, L = 15, D = 64 to 4096; a 256-wide codec's
# own latents).
_WINDOWS: dict[Scheme, tuple[int, ...]] = {
    "per_dimension": (0, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8),
    "per_latent": (0, -4, -3, -2, -1, 1),
}

# Values beyond this saturate under every scale; keeping them would overflow the squared error.
_SEARCH_LIMIT = 2.0**16

# Bounds the temporaries of one pass to a few times 4 MB, which is also the fastest size on a laptop.
_BLOCK_VALUES = 2**20

_TABLE_RANGE = (1e-20, 1e20)


def quantize(
    latents: Tensor,
    scheme: Scheme,
    table: Tensor | None = None,
    search: bool = True,
    levels: int = NF4_LEVELS,
) -> QuantizedLatents:
    """Quantise one chunk's latents.

    Args:
        latents: floating point ``[L, D]``, on any device; all but bfloat16 is worked on in float32.
        scheme: where the scales are; see the module's text.
        table: float32 ``[D]``, positive; ``per_latent`` and ``few_levels`` need it and ``per_dimension`` takes
            none.
        search: choose codes against the rounded scale, and the scale among neighbouring FP8 values by least
            squared error in the latents' own units. ``False`` with ``per_dimension`` gives the released
            quantiser's bits: codes against the unrounded scale, the lower of two equally near, in bfloat16
            where the latents are. ``False`` with ``per_latent`` takes the rounded absolute maximum.
            ``few_levels`` has nothing to search.
        levels: 2, 3, 4 or 8 for ``few_levels``; 16 for the others.

    Returns:
        Packed codes and scales: ``L * ceil(D / 2)`` bytes and D (per dimension) or L (per latent) bytes;
        ``L * n_row_bytes(D, levels)`` bytes with few levels.

    Raises:
        InvalidArgument: a wrong shape, scheme, table or number of levels, or a value that is not finite.

    >>> quantize(torch.zeros(15, 4096), "per_dimension").n_bytes
    34816
    >>> quantize(torch.tensor([[1.0, -0.5, 0.0]]), "per_latent", table=torch.ones(3))
    QuantizedLatents(scheme='per_latent', codes=b'\\xf2p', scales=b'8', shape=(1, 3), levels=16)
    >>> quantize(torch.randn(8, 256), "few_levels", table=torch.ones(256), levels=3).n_bytes
    416
    """
    if latents.dim() != 2:
        raise InvalidArgument(f"one chunk's latents are [L, D], not {list(latents.shape)}")
    return quantize_batch(latents[None], [latents.shape[0]], scheme, table, search, levels)[0]


def quantize_batch(
    latents: Tensor,
    lengths: Sequence[int] | Tensor,
    scheme: Scheme,
    table: Tensor | None = None,
    search: bool = True,
    levels: int = NF4_LEVELS,
) -> list[QuantizedLatents]:
    """Quantise a padded batch: :func:`quantize` for every row, bit for bit, in one pass.

    Args:
        latents: floating point ``[B, L, D]``; what lies beyond a row's length is ignored, whatever it is.
        lengths: ``[B]``, each from 1 to L.
        scheme: see :func:`quantize`, like all that follow.
        table: float32 ``[D]`` for ``per_latent`` and ``few_levels``.
        search: see :func:`quantize`.
        levels: see :func:`quantize`.

    Returns:
        B quantised chunks, in order.

    Raises:
        InvalidArgument: a wrong shape, scheme, length, table or number of levels, or a value that is not finite
            (row named).

    >>> [q.shape for q in quantize_batch(torch.ones(2, 3, 8), [3, 1], "per_latent", torch.ones(8))]
    [(3, 8), (1, 8)]
    """
    x, sizes = _checked(latents, lengths)
    scale_table = _checked_table(scheme, table, dim=x.shape[-1])
    check_levels(scheme, levels)
    if not sizes:
        return []
    if scale_table is None:
        return _quantize_per_dimension(x, sizes, search)
    if scheme == "few_levels":
        return _quantize_few_levels(x, sizes, scale_table, levels)
    return _quantize_per_latent(x, sizes, scale_table, search)


def dequantize(
    rows: Iterable[QuantizedLatents], table: Tensor | None = None, as_released: bool = False
) -> tuple[Tensor, Tensor]:
    """Give the latents back.

    Args:
        rows: quantised chunks of one scheme, one number of levels and one D.
        table: float32 ``[D]`` for ``per_latent`` and ``few_levels``, the one that quantised them.
        as_released: round as the released code does, for ``per_dimension``: code and scale in bfloat16, and
            their product too. Otherwise the product is float32.

    Returns:
        float32 ``[B, Lmax, D]`` padded with zeros, and int64 lengths ``[B]``, both on the CPU. No rows give
        ``[0, 0, 0]`` and ``[0]``.

    Raises:
        InvalidArgument: schemes, levels or widths are mixed, or the table is missing or of another width.

    >>> row = quantize(torch.tensor([[1.0, -1.0], [0.0, 1.0]]), "per_dimension")
    >>> values, lengths = dequantize([row])
    >>> values.tolist(), lengths.tolist()
    ([[[1.0, -1.0], [0.0, 1.0]]], [2])
    """
    batch = list(rows)
    if not batch:
        no_lengths = torch.zeros(0, dtype=torch.long, device=CPU)
        return torch.zeros(0, 0, 0, dtype=torch.float32, device=CPU), no_lengths
    scheme, levels, dim = batch[0].scheme, batch[0].levels, batch[0].shape[1]
    for i, row in enumerate(batch):
        if (row.scheme, row.levels, row.shape[1]) != (scheme, levels, dim):
            raise InvalidArgument(
                f"row {i} is {row.scheme} ({row.levels} levels) of width {row.shape[1]}, row 0 is {scheme} "
                f"({levels}) of width {dim}: one call takes one scheme and one width"
            )
    scale_table = _checked_table(scheme, table, dim)
    if as_released and scheme != "per_dimension":
        raise InvalidArgument("as_released is for per_dimension, the released format")

    lengths = torch.tensor([row.shape[0] for row in batch], device=CPU)
    valid = _valid(lengths, int(lengths.max()))
    packed = byte_tensor(b"".join(row.codes for row in batch))
    if scheme == "few_levels":
        codes = lloyd_max.unpack(packed.view(-1, n_row_bytes(dim, levels)), dim, levels)
        values = lloyd_max.level_values(levels)[codes.int()]
    else:
        values = pair_values(as_released).index_select(0, packed.int()).view(-1, dim + dim % 2)[:, :dim]
        values *= _scales_of(batch, lengths)
    if scale_table is not None:
        values *= scale_table
    elif as_released:
        values = values.bfloat16().float()
    padded = values.new_zeros(*valid.shape, dim)
    padded[valid] = values
    return padded, lengths


def _scales_of(batch: Sequence[QuantizedLatents], lengths: Tensor) -> Tensor:
    """The scale of each value, float32 [all latents, D or 1]."""
    scales = scale_values().index_select(0, byte_tensor(b"".join(row.scales for row in batch)).int())
    if batch[0].scheme == "per_latent":
        return scales[:, None]
    return scales.view(len(batch), -1).repeat_interleave(lengths, dim=0)


def _quantize_per_dimension(x: Tensor, sizes: list[int], search: bool) -> list[QuantizedLatents]:
    rows: list[QuantizedLatents | None] = [None] * len(sizes)
    # Chunks of equal length go together, unpadded: the order of each sum is then the row's own.
    for size in sorted(set(sizes)):
        members = [i for i, s in enumerate(sizes) if s == size]
        step = max(1, _BLOCK_VALUES // (size * x.shape[-1]))
        for start in range(0, len(members), step):
            block = members[start : start + step]
            values = x[block, :size]
            if search:
                codes, scales = _search(values.float(), -2, _WINDOWS["per_dimension"])
            else:
                codes, scales = _choose_as_released(values)
            packed = pack(codes).numpy()
            for j, i in enumerate(block):
                rows[i] = QuantizedLatents(
                    "per_dimension", packed[j].tobytes(), scales[j].numpy().tobytes(), (size, x.shape[-1])
                )
    return [row for row in rows if row is not None]


def _quantize_per_latent(x: Tensor, sizes: list[int], table: Tensor, search: bool) -> list[QuantizedLatents]:
    dim = x.shape[-1]
    weights = (table / table.max()).square() if search else None
    window = _WINDOWS["per_latent"] if search else (0,)
    latents = x[_valid(torch.tensor(sizes, device=CPU), x.shape[1])]
    packed, scales = bytearray(), bytearray()
    for block in torch.split(latents, max(1, _BLOCK_VALUES // dim)):
        codes, block_scales = _search(block.float() / table, -1, window, weights)
        packed += pack(codes).numpy().tobytes()
        scales += block_scales.numpy().tobytes()
    rows, start, width = [], 0, (dim + 1) // 2
    for size in sizes:
        end = start + size
        codes_of_row = bytes(packed[start * width : end * width])
        rows.append(QuantizedLatents("per_latent", codes_of_row, bytes(scales[start:end]), (size, dim)))
        start = end
    return rows


def _quantize_few_levels(x: Tensor, sizes: list[int], table: Tensor, levels: int) -> list[QuantizedLatents]:
    latents = x[_valid(torch.tensor(sizes, device=CPU), x.shape[1])].float()
    codes = torch.bucketize(latents / table, lloyd_max.thresholds(levels)).to(torch.uint8)
    packed = torch.split(lloyd_max.pack(codes, levels), sizes)
    return [
        QuantizedLatents("few_levels", rows.numpy().tobytes(), b"", (size, x.shape[-1]), levels)
        for rows, size in zip(packed, sizes, strict=True)
    ]


def _search(
    x: Tensor, dim: int, window: Sequence[int], weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The scales, among FP8 neighbours of the absolute maximum, with the least (weighted) squared error.

    Args:
        x: float32; values that share a scale lie along ``dim``.
        dim: the dimension that is reduced.
        window: steps from the rounded absolute maximum; the first wins a tie.
        weights: broadcast over ``x``.

    Returns:
        uint8 codes of the shape of ``x``, and uint8 scale bytes with ``dim`` of size 1.
    """
    x = x.clamp(-_SEARCH_LIMIT, _SEARCH_LIMIT)
    nearest, codes, scales = nearest_code(), code_values(), scale_values()
    centre = round_scale(x.abs().amax(dim, keepdim=True)).int()

    def codes_at(scale: Tensor) -> Tensor:
        # Dividing by infinity gives code 7, the value 0, where the scale is 0.
        return nearest(x / scale.masked_fill(scale == 0, torch.inf))

    best, least = centre, torch.full_like(centre, torch.inf, dtype=torch.float32)
    for step in window if len(window) > 1 else ():
        byte = (centre + step).clamp_(0, MAX_SCALE_BYTE)
        scale = scales[byte]
        error = codes.index_select(0, codes_at(scale).view(-1).int()).view(x.shape)
        error.mul_(scale).sub_(x).square_()
        if weights is not None:
            error *= weights
        total = _fold_sum(error, dim)
        better = total < least
        best, least = torch.where(better, byte, best), torch.where(better, total, least)
    return codes_at(scales[best]), best.to(torch.uint8)


def _choose_as_released(x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and scale bytes of ``x`` [n, L, D], bfloat16 or float32, as the released quantiser has them."""
    scale = x.abs().amax(-2, keepdim=True)
    ratio = x / (scale + 1e-12)
    if x.dtype == torch.bfloat16:
        pattern = ratio.contiguous().view(torch.int16).int() + 2**15
        codes = released_bfloat16_index().index_select(0, pattern.view(-1)).view(x.shape)
    else:
        # Around a midpoint float32 differences are exact (Sterbenz), so the first minimum is "not above it".
        codes = nearest_code(released=True)(ratio)
    return codes, round_scale(scale)


def _fold_sum(x: Tensor, dim: int) -> Tensor:
    """Sum over ``dim`` (kept, of size 1), overwriting ``x``, in an order that depends on that size alone.

    ``torch.sum`` splits its work by the whole tensor's shape, so a row's sum can change with its batch.
    """
    size = x.shape[dim]
    while size > 1:
        half = size // 2
        x.narrow(dim, 0, half).add_(x.narrow(dim, size - half, half))
        size -= half
    return x.narrow(dim, 0, 1)


def _valid(lengths: Tensor, longest: int) -> Tensor:
    """bool ``[B, longest]``: which positions of a padded batch hold a latent."""
    return torch.arange(longest, device=CPU) < lengths[:, None]


def _checked(latents: Tensor, lengths: Sequence[int] | Tensor) -> tuple[Tensor, list[int]]:
    """Latents on the CPU as bfloat16 or float32, and their lengths as a list."""
    if latents.dim() != 3 or not latents.is_floating_point():
        raise InvalidArgument(
            f"a batch of latents is floating point [B, L, D], not {latents.dtype} {list(latents.shape)}"
        )
    batch, longest, dim = latents.shape
    if batch and not (longest and dim):
        raise InvalidArgument(f"latents of shape {list(latents.shape)} hold no values")
    sizes = [int(n) for n in (lengths.tolist() if isinstance(lengths, Tensor) else lengths)]
    if len(sizes) != batch:
        raise InvalidArgument(f"{len(sizes)} lengths for a batch of {batch}")
    for i, size in enumerate(sizes):
        if not 1 <= size <= longest:
            raise InvalidArgument(f"row {i} has length {size}; it must be from 1 to {longest}")
    x = latents.detach().to("cpu")
    if x.dtype not in (torch.bfloat16, torch.float32):
        x = x.float()
    finite = torch.isfinite(x)
    if not finite.all():
        bad = ~finite & _valid(torch.tensor(sizes, device=CPU), longest)[..., None]
        if bad.any():
            row, latent, column = bad.nonzero()[0].tolist()
            raise InvalidArgument(
                f"row {row} is not finite: latent {latent}, dimension {column} "
                f"is {x[row, latent, column].item()}"
            )
    return x, sizes


def _checked_table(scheme: Scheme, table: Tensor | None, dim: int) -> Tensor | None:
    if scheme not in SCHEMES:
        raise InvalidArgument(f"unknown scheme {scheme!r}; known are {', '.join(SCHEMES)}")
    if scheme == "per_dimension":
        if table is not None:
            raise InvalidArgument("per_dimension takes no table: its scales are the chunk's own")
        return None
    if table is None:
        raise InvalidArgument(f"{scheme} needs the codec's table of scales, one float per dimension")
    checked = table.detach().to("cpu", torch.float32)
    low, high = _TABLE_RANGE
    if checked.shape != (dim,):
        raise InvalidArgument(f"the table has shape {list(checked.shape)}, the latents have width {dim}")
    # Written so that NaN fails too.
    if not bool(((checked >= low) & (checked <= high)).all()):
        raise InvalidArgument(f"the table's scales must lie between {low} and {high}")
    return checked
