"""The network of a masked autoencoder: a small vision transformer with a light decoder.

He et al., Masked Autoencoders Are Scalable Vision Learners, CVPR 2022; sizes as in Liu et al.,
ICLR 2023.  The encoder works on any subset of patches, so the same weights serve random masks
in training and 3x3 neighbourhoods in use.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from pyjuice_bridge.teachers.base import neighbours


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, hidden: int, heads: int, mlp: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.query, self.key_value = nn.Linear(hidden, hidden), nn.Linear(hidden, 2 * hidden)
        self.out = nn.Linear(hidden, hidden)
        self.up, self.down = nn.Linear(hidden, mlp), nn.Linear(mlp, hidden)

    def forward(self, x: Tensor, first_only: bool = False) -> Tensor:
        """Map tokens [B, T, hidden] to tokens, or to the first token [B, 1, hidden] alone."""
        normed = self.norm1(x)
        x, queries = (x[:, :1], normed[:, :1]) if first_only else (x, normed)
        query = self._split(self.query(queries))
        key, value = (self._split(part) for part in self.key_value(normed).chunk(2, -1))
        mixed = functional.scaled_dot_product_attention(query, key, value)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        deeper: Tensor = self.down(functional.gelu(self.up(self.norm2(x))))
        return x + deeper

    def _split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)


class MAE(nn.Module):
    """Masked autoencoder over a grid of patches.

    Args:
        grid: rows and columns of patches.
        patch_values: numbers per patch (side * side * channels).
        hidden: width of tokens; mlp: width inside the blocks; heads: attention heads.
        layers: blocks of the encoder and of the decoder.
    """

    def __init__(
        self,
        grid: tuple[int, int],
        patch_values: int,
        *,
        hidden: int,
        mlp: int,
        heads: int,
        layers: tuple[int, int],
    ) -> None:
        super().__init__()
        self.grid = grid
        count = grid[0] * grid[1]
        self.embed = nn.Linear(patch_values, hidden)
        self.position = nn.Parameter(torch.zeros(count, hidden))
        self.encoder = nn.ModuleList(Block(hidden, heads, mlp) for _ in range(layers[0]))
        self.norm = nn.LayerNorm(hidden)
        self.bridge = nn.Linear(hidden, hidden)
        self.mask = nn.Parameter(torch.zeros(hidden))
        self.decoder_position = nn.Parameter(torch.zeros(count, hidden))
        self.decoder = nn.ModuleList(Block(hidden, heads, mlp) for _ in range(layers[1]))
        self.decoder_norm = nn.LayerNorm(hidden)
        self.head = nn.Linear(hidden, patch_values)

    def initialise(self, generator: torch.Generator) -> None:
        """Draw all weights from ``generator``: the global random state plays no part."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2 and "position" not in name:
                nn.init.xavier_uniform_(parameter, generator=generator)
            elif "position" in name or name == "mask":
                nn.init.normal_(parameter, std=0.02, generator=generator)
            elif "norm" in name and name.endswith("weight"):
                nn.init.ones_(parameter)
            else:
                nn.init.zeros_(parameter)

    def loss(self, patches: Tensor, order: Tensor, visible: int) -> Tensor:
        """Return the mean squared error of normalised pixels on the masked patches.

        Args:
            patches: float32 [B, P, values], in [0, 1].
            order: int64 [B, P], a permutation per row; its first ``visible`` are shown.
            visible: how many patches the encoder sees.
        """
        tokens = self.embed(patches) + self.position
        shown, hidden = order[:, :visible, None], order[:, visible:, None]
        x = tokens.gather(1, shown.expand(-1, -1, tokens.shape[2]))
        for block in self.encoder:
            x = block(x)
        x = self.bridge(self.norm(x))
        full = self.mask.expand_as(tokens).scatter(1, shown.expand_as(x), x)
        full = full + self.decoder_position
        for block in self.decoder:
            full = block(full)
        masked = full.gather(1, hidden.expand(-1, -1, full.shape[2]))
        guess = self.head(self.decoder_norm(masked))
        target = patches.gather(1, hidden.expand(-1, -1, patches.shape[2]))
        variance, mean = torch.var_mean(target, -1, keepdim=True, unbiased=False)
        target_pixels = (target - mean) / (variance + 1e-6).sqrt()
        error: Tensor = functional.mse_loss(guess, target_pixels)
        return error

    def features(self, patches: Tensor) -> Tensor:
        """Encode every patch with only its neighbours visible to the encoder.

        Args:
            patches: float32 [B, P, values].

        Returns:
            float32 [B, P, hidden].
        """
        tokens = self.embed(patches) + self.position
        batch, count, width = tokens.shape
        result: Tensor = tokens.new_empty(batch, count, width)
        for positions, members in neighbours(self.grid):
            index = torch.as_tensor(members, device=tokens.device)
            x = tokens[:, index].flatten(0, 1)
            for number, block in enumerate(self.encoder, start=1):
                x = block(x, first_only=number == len(self.encoder))
            target = torch.as_tensor(positions, device=tokens.device)
            result[:, target] = self.norm(x[:, 0]).unflatten(0, (batch, len(positions)))
        return result
