"""VQ-VAE-2 (Razavi et al., NeurIPS 2019) whose decoder can see one patch at a time.

As teachers in Liu et al. (ICML 2023): two books of codes, one for every patch and one for every two
by two patches.  What a decoder of single patches needs to know of a patch is in its codes, and a
circuit of single patches can learn from them.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Decoder = Literal["independent", "convolutional"]

_COMPONENTS = 3
"""Logistic distributions that a pixel's distribution mixes."""
_LEAST_LOG_SCALE = -7.0
_COMMITMENT = 0.25


class Residual(nn.Module):
    """x + Conv1x1(ReLU(Conv3x3(ReLU(x))))."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.wide = nn.Conv2d(width, inner, 3, padding=1)
        self.back = nn.Conv2d(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, width, h, w] to the same shape."""
        deeper: Tensor = self.back(functional.relu(self.wide(functional.relu(x))))
        return x + deeper


class Book(nn.Module):
    """Codes, each a vector; learnt by gradient.

    Args:
        codes: their number.
        dim: numbers of a code.
    """

    def __init__(self, codes: int, dim: int) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.empty(codes, dim))

    def forward(
        self, z: Tensor, restart: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Replace every vector by the nearest code.

        Args:
            z: [B, dim, h, w].
            restart: chooses, where it is given, a vector for every code that no vector is nearest
                to; the code begins there anew.

        Returns:
            The codes [B, dim, h, w], with the gradient of z; their ids int64 [B, h, w]; and the
            loss that draws codes and vectors together.
        """
        flat = z.detach().movedim(1, -1)
        ids = self._nearest(flat)
        if restart is not None:
            unused = torch.bincount(ids.reshape(-1), minlength=len(self.codes)) == 0
            rows = flat.reshape(-1, flat.shape[-1])
            chosen = torch.randint(len(rows), (len(self.codes),), generator=restart).to(z.device)
            with torch.no_grad():
                self.codes[unused] = rows[chosen[unused]]
            ids = self._nearest(flat)
        codes = self.codes[ids].movedim(-1, 1)
        loss = functional.mse_loss(codes, z.detach())
        loss = loss + _COMMITMENT * functional.mse_loss(z, codes.detach())
        return z + (codes - z).detach(), ids, loss

    def _nearest(self, vectors: Tensor) -> Tensor:
        codes = self.codes.detach()
        return (codes.square().sum(1) / 2 - vectors @ codes.T).argmin(-1)


class VQVAE(nn.Module):
    """Two levels of codes over a grid of patches, and a mixture of logistics for every pixel.

    Args:
        grid: rows and columns of patches.
        patch: side of a patch in pixels.
        channels: of the images.
        white: the pixel value of white.
        width: channels of the networks.
        residual: channels inside a residual block.
        blocks: residual blocks of each network.
        dim: numbers of a code.
        codes: of each of the two books.
        decoder: "independent" sees the codes of one patch, "convolutional" all around.
    """

    def __init__(
        self,
        grid: tuple[int, int],
        patch: int,
        channels: int,
        *,
        white: int,
        width: int,
        residual: int,
        blocks: int,
        dim: int,
        codes: int,
        decoder: Decoder,
    ) -> None:
        super().__init__()
        self.grid, self.patch, self.channels, self.white = grid, patch, channels, white
        half = max(1, width // 2)

        def deep() -> list[nn.Module]:
            return [*(Residual(width, residual) for _ in range(blocks)), nn.ReLU()]

        steps = _strides(patch)
        layers: list[nn.Module] = []
        found = channels
        for i, stride in enumerate(steps):
            out = width if i == len(steps) - 1 else half
            layers += [_down(found, out, stride), nn.ReLU()]
            found = out
        self.bottom = nn.Sequential(*layers, nn.Conv2d(width, width, 3, padding=1), *deep())
        self.top = nn.Sequential(
            _down(width, half, 2), nn.ReLU(), nn.Conv2d(half, width, 3, padding=1), *deep()
        )
        self.to_top, self.top_book = nn.Conv2d(width, dim, 1), Book(codes, dim)
        self.from_top = nn.Sequential(
            nn.Conv2d(dim, width, 3, padding=1),
            *deep(),
            nn.ConvTranspose2d(width, half, 4, stride=2, padding=1),
        )
        self.to_bottom, self.bottom_book = nn.Conv2d(width + half, dim, 1), Book(codes, dim)
        maps = _maps(channels)
        if decoder == "independent":
            self.decoder = nn.Sequential(
                nn.Conv2d(2 * dim, 2 * width, 1),
                nn.ReLU(),
                nn.Conv2d(2 * width, 2 * width, 1),
                nn.ReLU(),
                nn.Conv2d(2 * width, maps * patch**2, 1),
                nn.PixelShuffle(patch),
            )
        else:
            ups: list[nn.Module] = []
            found = width
            for i, stride in enumerate(reversed(steps)):
                out = maps if i == len(steps) - 1 else half
                ups += [_up(found, out, stride), nn.ReLU()]
                found = out
            first = nn.Conv2d(2 * dim, width, 3, padding=1)
            self.decoder = nn.Sequential(first, *deep(), *ups[:-1])

    def initialise(self, generator: torch.Generator) -> None:
        """Draw all weights from ``generator``: the global random state plays no part."""
        for name, parameter in self.named_parameters():
            if name.endswith("book.codes"):
                nn.init.uniform_(parameter, -1 / len(parameter), 1 / len(parameter), generator)
            elif parameter.ndim == 4:
                nn.init.kaiming_uniform_(parameter, a=math.sqrt(5), generator=generator)
            else:
                nn.init.zeros_(parameter)

    def encode(
        self, pixels: Tensor, restart: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Find the codes of every patch.

        Args:
            pixels: float32 [B, C, H, W] in [0, 1].
            restart: of unused codes, see `Book`.

        Returns:
            Both codes of every patch [B, 2 dim, rows, columns]; the ids of the top codes, one for
            two by two patches, and of the bottom ones [B, rows, columns]; and the books' loss.
        """
        rows, columns = self.grid
        below = self.bottom(pixels)
        even = functional.pad(below, (0, columns % 2, 0, rows % 2))
        top, top_ids, top_loss = self.top_book(self.to_top(self.top(even)), restart)
        context = self.from_top(top)[..., :rows, :columns]
        mixed = self.to_bottom(torch.cat([context, below], 1))
        bottom, bottom_ids, bottom_loss = self.bottom_book(mixed, restart)
        wide = top.repeat_interleave(2, 2).repeat_interleave(2, 3)[..., :rows, :columns]
        return torch.cat([wide, bottom], 1), top_ids, bottom_ids, top_loss + bottom_loss

    def log_likelihood(self, codes: Tensor, pixels: Tensor) -> Tensor:
        """Return log p(pixels | codes) of every image in nats, [B]."""
        return mixture_log_likelihood(self.decoder(codes), pixels, self.white)

    def mode(self, codes: Tensor) -> Tensor:
        """Return the means of the likeliest component at every pixel, [B, C, H, W] in [0, 1]."""
        return mixture_mode(self.decoder(codes), self.channels)


def mixture_mode(maps: Tensor, channels: int) -> Tensor:
    """Return the means of every pixel's likeliest component, [B, C, H, W] in [0, 1].

    Args:
        maps: as in `mixture_log_likelihood`.
        channels: of the images.
    """
    batch, _, height, width = maps.shape
    parts = maps.view(batch, _COMPONENTS, -1, height, width)
    best = parts[:, :, 0].argmax(1)[:, None, None].expand(-1, 1, parts.shape[2], -1, -1)
    chosen = parts.gather(1, best)[:, 0]
    means, mix = chosen[:, 1 : 1 + channels], torch.tanh(chosen[:, 1 + 2 * channels :])
    found: list[Tensor] = []
    used = 0
    for c in range(channels):
        value = means[:, c]
        for before in range(c):
            value = value + mix[:, used] * found[before]
            used += 1
        found.append(value.clamp(-1, 1))
    return (torch.stack(found, 1) + 1) / 2


def mixture_log_likelihood(maps: Tensor, pixels: Tensor, white: int) -> Tensor:
    """Return the log-probability of images under mixtures of discretised logistics, [B].

    A component's means of the second and third channel depend on the channels before; pixel values
    0 and ``white`` have all of the distribution beyond them (Salimans et al., ICLR 2017).

    Args:
        maps: float32 [B, maps, H, W]: per component its logit, C means, C log-scales, and C (C - 1)
            / 2 coefficients.
        pixels: float32 [B, C, H, W], in [0, 1].
        white: the largest pixel value; all are multiples of 1 / white.
    """
    batch, channels, height, width = pixels.shape
    logits, means, scales, mix = maps.view(batch, _COMPONENTS, -1, height, width).split(
        [1, channels, channels, channels * (channels - 1) // 2], 2
    )
    x = (2 * pixels - 1)[:, None]
    means = means.unbind(2)
    mix = torch.tanh(mix)
    shifted, used = [], 0
    for c, mean in enumerate(means):
        for before in range(c):
            mean = mean + mix[:, :, used] * x[:, :, before]
            used += 1
        shifted.append(mean)
    inverse = torch.exp(-scales.clamp(min=_LEAST_LOG_SCALE))
    gap = x - torch.stack(shifted, 2)
    above, below = inverse * (gap + 1 / white), inverse * (gap - 1 / white)
    # σ(a) - σ(b) = σ(a) σ(-b) (1 - exp(b - a)), which loses no digits.
    inside = torch.log(-torch.expm1(below - above))
    lower, upper = functional.logsigmoid(above), functional.logsigmoid(-below)
    half = 0.5 / white
    first, last = pixels[:, None] < half, pixels[:, None] > 1 - half
    each = torch.where(first, lower, torch.where(last, upper, lower + upper + inside))
    weighted = each.sum(2) + torch.log_softmax(logits[:, :, 0], 1)
    return torch.logsumexp(weighted, 1).sum((1, 2))


def _maps(channels: int) -> int:
    return _COMPONENTS * (1 + 2 * channels + channels * (channels - 1) // 2)


def _strides(patch: int) -> list[int]:
    """Divide a patch into steps of two pixels and one odd one."""
    strides = []
    while patch % 2 == 0:
        strides.append(2)
        patch //= 2
    return ([patch] if patch > 1 else []) + strides or [1]


def _down(inputs: int, outputs: int, stride: int) -> nn.Conv2d:
    if stride == 2:
        return nn.Conv2d(inputs, outputs, 4, stride=2, padding=1)
    return nn.Conv2d(inputs, outputs, stride, stride=stride)


def _up(inputs: int, outputs: int, stride: int) -> nn.ConvTranspose2d:
    if stride == 2:
        return nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)
    return nn.ConvTranspose2d(inputs, outputs, stride, stride=stride)
