"""A hidden Chow-Liu tree on digits: likelihoods and counts by hand, with automatic derivatives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from pyjuice_bridge.circuit.chow_liu import chow_liu_tree
from pyjuice_bridge.circuit.hclt import bfs_levels, hclt
from pyjuice_bridge.engines.torch import TorchEngine

LATENTS, CATEGORIES = 3, 17


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_likelihoods_and_counts_on_digits(precision: str) -> None:
    """Messages up the tree, node by node, from the tables of a mapping node → parameters."""
    x = load_digits().data.astype(np.uint8)
    tree = chow_liu_tree(x[:500], CATEGORIES)
    circuit = hclt(tree, LATENTS, CATEGORIES, seed=1)
    tensors = [getattr(a, "params", getattr(a, "weights", None)) for a in circuit.layers]
    tables = [None if t is None else torch.tensor(t.astype(float)) for t in tensors]
    for table in tables:
        if table is not None:
            table.requires_grad_()
    leaf = dict(zip(circuit.layers[0].variables.tolist(), tables[0], strict=True))
    levels = bfs_levels(tree)
    edges = {}
    for depth, level in enumerate(reversed(levels)):
        edges |= dict(zip(level.tolist(), tables[2 + 2 * depth], strict=True))
    messages = {node: torch.ones(8, LATENTS, dtype=torch.float64) for node in range(64)}
    for node in np.concatenate(levels[::-1]).tolist():
        here = messages[node] * leaf[node][:, x[:8, node].astype(int)].T
        up = here @ edges[node].T
        if tree[node] >= 0:
            messages[int(tree[node])] = messages[int(tree[node])] * up
    scores = up[:, 0].log()
    scores.sum().backward()
    engine = TorchEngine(precision=precision)
    tolerance = 1e-5 if precision == "float32" else 1e-10
    found = engine.log_likelihood(circuit, x[:8])[:, 0]
    np.testing.assert_allclose(found, scores.detach(), rtol=tolerance)
    for count, table in zip(engine.expected_counts(circuit, x[:8]).layers, tables, strict=True):
        if table is not None:
            np.testing.assert_allclose(count, (table * table.grad).detach(), atol=50 * tolerance)
