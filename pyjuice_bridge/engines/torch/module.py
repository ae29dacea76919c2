"""A circuit as a ``torch.nn.Module``: log p, differentiable by its parameters and soft evidence.

This is the definition of a circuit written out in PyTorch, for gradients: losses that EM does not
serve, circuits as parts of larger models, optimisers of ``torch.optim``.  It keeps every value of
a batch for the backward pass, so batches are to be small; ``engine.fit`` and ``engine.m_step`` are
faster wherever EM will do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from pyjuice_bridge.circuit.families.categorical import Categorical
from pyjuice_bridge.circuit.ties import leads
from pyjuice_bridge.circuit.types import (
    Circuit,
    InputLayer,
    Layer,
    ProductLayer,
    SumLayer,
    layer_params,
)
from pyjuice_bridge.engines.evidence import check_circuit, check_latents, check_rows

Tensor = torch.Tensor


class CircuitModule(nn.Module):
    """The log-likelihood of ``circuit``, with logits in place of its parameters.

    Rows of parameters are the softmax of ``logits[<layer>]``, taken over all edges of a block, so
    any values of the logits make a circuit.  ``state_dict`` holds the logits.  To freeze a layer:
    ``module.logits["0"].requires_grad_(False)``.

    Args:
        circuit: where it starts from; it stays as it is.
        dtype: of logits and values.  float32 loses terms of a sum that are 10³⁸ times smaller
            than its largest input.

    Raises:
        UserError: the circuit is not valid.
    """

    def __init__(self, circuit: Circuit, *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        check_circuit(circuit)
        self._circuit = circuit
        self.logits = nn.ParameterDict()
        for index, layer in enumerate(circuit.layers):
            params = layer_params(layer)
            if params is not None:
                logs = torch.from_numpy(params.astype(np.float64)).log()
                self.logits[str(index)] = nn.Parameter(logs.to(dtype))
        self._layers = nn.ModuleList(_layer(circuit, layer) for layer in circuit.layers)
        self._roots = _Gather(circuit, circuit.roots)
        self._sites = nn.ModuleList(
            _Site(circuit, name, layer)
            for name in circuit.latents
            for layer in sorted({circuit.layer_of(int(b)) for b in circuit.latents[name]})
        )

    def forward(self, x: ArrayLike | Tensor, latents: Mapping[str, Any] | None = None) -> Tensor:
        """Return log p of the observed values, [N, roots]; -inf, with gradient 0, if impossible.

        Args:
            x: integers [N, num_vars], -1 where a value is missing.
            latents: name → states [N, positions] (-1 = unknown), or weights from 0 to 1
                [N, positions, width], which may require gradients; that of a weight of 0 is 0.

        Raises:
            UserError: the rows or latents do not fit the circuit.
        """
        rows = torch.as_tensor(check_rows(self._circuit, _plain(x)).astype(np.int64))
        given = {name: _plain(values) for name, values in (latents or {}).items()}
        check_latents(self._circuit, given, len(rows))
        some = self._some_logits
        evidence = self._evidence(latents or {}, some)
        tables, rows = self._log_params(), rows.to(some.device)
        values: list[Tensor] = []
        for index, layer in enumerate(self._layers):
            value: Tensor = layer(values, tables.get(index), rows)
            for site in cast(list[_Site], self._sites):
                if site.layer == index and site.name in evidence:
                    value = site(value, evidence[site.name])
            values.append(value)
        found: Tensor = self._roots(values)
        return found[:, :, 0].t()

    def circuit(self) -> Circuit:
        """Return the circuit of the logits as they are now.

        Leaves become categorical where logits may take them out of their family.
        """
        dtype = str(self._some_logits.dtype).removeprefix("torch.")
        params: list[NDArray[Any] | None] = [None] * len(self._circuit.layers)
        with torch.no_grad():
            for index, logs in self._log_params(torch.float64).items():
                if str(index) in self.logits:
                    params[index] = logs.exp().cpu().numpy().astype(dtype)
        circuit = self._circuit.with_layer_params(params)
        layers = (
            replace(layer, family=Categorical())
            if isinstance(layer, InputLayer) and layer.family.constrained
            else layer
            for layer in circuit.layers
        )
        return replace(circuit, layers=tuple(layers))

    @property
    def _some_logits(self) -> Tensor:
        return next(self.parameters())

    def _log_params(self, dtype: torch.dtype | None = None) -> dict[int, Tensor]:
        """Return the logs of all layers' parameters; tied layers have their owner's."""
        layers = cast(list[_Layer], self._layers)
        found: dict[int, Tensor] = {}
        for index, layer in enumerate(layers):
            owner = layer.owner
            if owner is None:
                continue
            if owner not in found:
                found[owner] = layers[owner].normalise(self.logits[str(owner)].to(dtype))
            found[index] = found[owner]
        return found

    def _evidence(self, latents: Mapping[str, Any], like: Tensor) -> dict[str, Tensor]:
        """Return weights [N, positions, width] of all states of the latents given."""
        found = {}
        for name, values in latents.items():
            given = torch.as_tensor(values, device=like.device)
            if not given.is_floating_point():
                blocks = self._circuit.latents[name]
                width = max(self._circuit.widths[self._circuit.layer_of(int(b))] for b in blocks)
                states = torch.arange(width, device=like.device)
                given = (given[..., None] == states) | (given[..., None] < 0)
            found[name] = given.to(like.dtype)
        return found


class _Gather(nn.Module):
    """Reads blocks of earlier layers, all of one width, in a given order: [count, N, width]."""

    order: Tensor

    def __init__(self, circuit: Circuit, blocks: NDArray[np.integer[Any]]) -> None:
        super().__init__()
        layers = np.array([circuit.layer_of(int(block)) for block in blocks])
        self._sources = [int(layer) for layer in np.unique(layers)]
        order = np.argsort(layers, kind="stable")
        local = blocks - circuit.starts[layers]
        for layer in self._sources:
            _keep(self, f"local_{layer}", local[layers == layer])
        _keep(self, "order", np.argsort(order, kind="stable"))

    def forward(self, values: Sequence[Tensor]) -> Tensor:
        parts = [values[s].index_select(0, getattr(self, f"local_{s}")) for s in self._sources]
        return torch.cat(parts).index_select(0, self.order)


class _Layer(nn.Module):
    """Values [blocks, N, width], as logs, from those of earlier layers."""

    owner: int | None = None
    """The layer whose logits are the parameters, if there are any."""

    def normalise(self, logits: Tensor) -> Tensor:
        """Return logs of parameters whose rows sum to one."""
        raise NotImplementedError


class _Input(_Layer):
    variables: Tensor
    groups: Tensor

    def __init__(self, circuit: Circuit, layer: InputLayer) -> None:
        super().__init__()
        self.owner = _index(circuit, layer)
        _keep(self, "variables", layer.variables)
        _keep(self, "groups", layer.groups)

    def normalise(self, logits: Tensor) -> Tensor:
        return logits.log_softmax(2)

    def forward(self, values: Sequence[Tensor], logs: Tensor, rows: Tensor) -> Tensor:
        table = torch.cat([logs.new_zeros(*logs.shape[:2], 1), logs], 2).transpose(1, 2)
        places = rows.t().index_select(0, self.variables) + 1
        return table[self.groups[:, None], places]


class _Hadamard(_Layer):
    parents: Tensor

    def __init__(self, circuit: Circuit, layer: ProductLayer) -> None:
        super().__init__()
        self._count = layer.num_blocks
        self._children = _Gather(circuit, layer.children)
        _keep(self, "parents", np.repeat(np.arange(layer.num_blocks), np.diff(layer.offsets)))

    def forward(self, values: Sequence[Tensor], logs: None, rows: Tensor) -> Tensor:
        factors: Tensor = self._children(values)
        product = factors.new_zeros(self._count, *factors.shape[1:])
        return product.index_add(0, self.parents, factors)


class _Listed(_Layer):
    """Kronecker and concat blocks; those whose children have the same widths go together."""

    order: Tensor

    def __init__(self, circuit: Circuit, layer: ProductLayer) -> None:
        super().__init__()
        self._kind = layer.kind
        children = np.split(layer.children, layer.offsets[1:-1])
        alike: dict[tuple[int, ...], list[int]] = {}
        for block, listed in enumerate(children):
            widths = tuple(circuit.widths[circuit.layer_of(int(child))] for child in listed)
            alike.setdefault(widths, []).append(block)
        self._slots = nn.ModuleList(
            nn.ModuleList(
                _Gather(circuit, np.array([children[block][slot] for block in blocks]))
                for slot in range(len(widths))
            )
            for widths, blocks in alike.items()
        )
        _keep(self, "order", np.argsort(np.concatenate(list(alike.values()))))

    def forward(self, values: Sequence[Tensor], logs: None, rows: Tensor) -> Tensor:
        parts = []
        for slots in cast(list[nn.ModuleList], self._slots):
            found = [slot(values) for slot in slots]
            if self._kind == "kronecker":
                parts.append((found[0][..., None] + found[1][..., None, :]).flatten(2))
            else:
                parts.append(torch.cat(found, 2))
        return torch.cat(parts).index_select(0, self.order)


class _Sum(_Layer):
    groups: Tensor
    parents: Tensor
    lead: Tensor
    """By group: the first group of the blocks that it belongs to."""

    def __init__(self, circuit: Circuit, layer: SumLayer) -> None:
        super().__init__()
        self.owner = _index(circuit, layer) if layer.tied_to is None else layer.tied_to
        self._count = layer.num_blocks
        self._children = _Gather(circuit, layer.children)
        edges = np.diff(layer.offsets)
        _keep(self, "groups", layer.groups)
        _keep(self, "parents", np.repeat(np.arange(layer.num_blocks), edges))
        _keep(self, "lead", leads(layer))

    def normalise(self, logits: Tensor) -> Tensor:
        """Divide by the sum over a row, which spans the groups of a block."""
        index = self.lead[:, None].expand(-1, logits.shape[1])
        top = logits.detach().amax(2)
        top = torch.full_like(top, -torch.inf).scatter_reduce(0, index, top, "amax")[self.lead]
        shifted = logits - top[..., None]
        total = torch.zeros_like(top).index_add(0, self.lead, shifted.exp().sum(2))
        return shifted - total[self.lead].log()[..., None]

    def forward(self, values: Sequence[Tensor], logs: Tensor, rows: Tensor) -> Tensor:
        terms: Tensor = self._children(values)
        top = terms.detach().amax(2)
        index = self.parents[:, None].expand_as(top)
        top = top.new_full((self._count, top.shape[1]), -torch.inf).scatter_reduce(
            0, index, top, "amax"
        )
        top = torch.where(top.isfinite(), top, 0.0)
        linear = (terms - top[self.parents][..., None]).exp()
        mixed = torch.bmm(linear, logs.exp()[self.groups].transpose(1, 2))
        total = mixed.new_zeros(self._count, *mixed.shape[1:]).index_add(0, self.parents, mixed)
        return _log(total) + top[..., None]


class _Site(nn.Module):
    """The positions of a latent that are in one layer."""

    positions: Tensor
    blocks: Tensor

    def __init__(self, circuit: Circuit, name: str, layer: int) -> None:
        super().__init__()
        self.name, self.layer, self._width = name, layer, circuit.widths[layer]
        blocks = circuit.latents[name]
        here = np.array([circuit.layer_of(int(block)) == layer for block in blocks])
        _keep(self, "positions", np.flatnonzero(here))
        _keep(self, "blocks", blocks[here] - circuit.starts[layer])

    def forward(self, value: Tensor, weights: Tensor) -> Tensor:
        logs = _log(weights.index_select(1, self.positions)[..., : self._width]).transpose(0, 1)
        return value.index_add(0, self.blocks, logs)


def _layer(circuit: Circuit, layer: Layer) -> _Layer:
    if isinstance(layer, InputLayer):
        return _Input(circuit, layer)
    if isinstance(layer, SumLayer):
        return _Sum(circuit, layer)
    return _Hadamard(circuit, layer) if layer.kind == "hadamard" else _Listed(circuit, layer)


def _log(values: Tensor) -> Tensor:
    """Return logs, -inf with gradient 0 where a value is 0."""
    positive = values > 0
    return torch.where(positive, torch.where(positive, values, 1.0).log(), -torch.inf)


def _keep(module: nn.Module, name: str, indices: NDArray[np.integer[Any]]) -> None:
    """Register indices that move with the module and are no part of its state."""
    tensor = torch.from_numpy(np.asarray(indices, np.int64).copy())
    module.register_buffer(name, tensor, persistent=False)


def _index(circuit: Circuit, layer: InputLayer | SumLayer) -> int:
    return next(index for index, other in enumerate(circuit.layers) if other is layer)


def _plain(values: Any) -> Any:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else values
