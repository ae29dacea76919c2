"""Region graphs: which sets of variables a circuit splits, and how.

A region is a set of variables; a partition splits it into smaller regions.  A region may have
several partitions, and a region without any is a leaf.  Some of a region's variables may be its
own: in a hidden Chow-Liu tree the region of a subtree owns the variable at the subtree's root, and
its children's subtrees have the rest.  ``region_rectangles`` makes the graphs of images.  On disk
a region graph is JSON, specified in ``docs/region_graph.md``::

    {"num_vars": 3,
     "regions": [{"scope": [0, 1, 2]}, {"scope": [0]}, {"scope": [1, 2]}],
     "partitions": [{"region": 0, "children": [1, 2]}]}
"""

from __future__ import annotations

import json
import operator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike

from pyjuice_bridge.circuit.hclt import bfs_levels, check_parents
from pyjuice_bridge.errors import UserError, shown


@dataclass(frozen=True)
class RegionGraph:
    """Regions and partitions over ``num_vars`` variables, checked when made.

    Attributes:
        num_vars: number of variables.
        scopes: the variables of each region.
        partitions: (region, child, child, …), indices into ``scopes``.
        own: by region the variables that stay with it where it is split; empty if none do.

    Raises:
        UserError: ``num_vars`` is out of range, a partition does not split its region, a region
            with variables of its own has other than one partition, or there is not exactly one
            region that is nobody's child, or that one does not hold every variable.
    """

    num_vars: int
    scopes: tuple[tuple[int, ...], ...]
    partitions: tuple[tuple[int, ...], ...]
    own: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        for name in ("scopes", "partitions", "own"):
            object.__setattr__(self, name, _tuples(getattr(self, name), name))
        if self.num_vars < 1:
            _fail("num_vars must be at least 1")
        if self.num_vars >= 2**31:
            _fail(f"num_vars is {shown(self.num_vars)}, must be below {2**31}")
        for i, scope in enumerate(self.scopes):
            if not scope or len(set(scope)) != len(scope):
                _fail(f"regions[{i}].scope must list at least one variable, none twice")
            if min(scope) < 0 or max(scope) >= self.num_vars:
                _fail(f"regions[{i}].scope must hold variables from 0 to {self.num_vars - 1}")
        self._check_partitions()
        below = {child for _, *children in self.partitions for child in children}
        tops = [region for region in range(len(self.scopes)) if region not in below]
        if len(tops) != 1:
            _fail(
                f"exactly one region must be no child of a partition, but these are: {shown(tops)}"
            )
        if len(self.scopes[tops[0]]) != self.num_vars:
            _fail(f"region {tops[0]} is at the top and must hold all {self.num_vars} variables")

    def _check_partitions(self) -> None:
        if self.own and len(self.own) != len(self.scopes):
            _fail(f"own has {len(self.own)} entries for {len(self.scopes)} regions")
        for i, partition in enumerate(self.partitions):
            if not partition:
                _fail(f"partitions[{i}] must name a region and its children")
            region, *children = partition
            if not all(0 <= r < len(self.scopes) for r in (region, *children)):
                _fail(f"partitions[{i}] must name regions from 0 to {len(self.scopes) - 1}")
            own = self.own[region] if self.own else ()
            parts = [own, *(self.scopes[child] for child in children)]
            together = sorted(v for part in parts for v in part)
            if together != sorted(self.scopes[region]) or sum(map(bool, parts)) < 2:
                beside = " (with its own variables)" if own else ""
                _fail(
                    f"partitions[{i}].children must split the scope of region {region} into two or "
                    f"more{beside}"
                )
        for region, own in enumerate(self.own):
            if own and len(self.splits[region]) != 1:
                _fail(f"regions[{region}] has own variables, so it must have exactly one partition")

    @cached_property
    def root(self) -> int:
        """The region that is no child of any partition."""
        below = {child for _, *children in self.partitions for child in children}
        return next(region for region in range(len(self.scopes)) if region not in below)

    @cached_property
    def splits(self) -> tuple[tuple[tuple[int, ...], ...], ...]:
        """The partitions of each region as its children."""
        partitions: list[list[tuple[int, ...]]] = [[] for _ in self.scopes]
        for region, *children in self.partitions:
            partitions[region].append(tuple(children))
        return tuple(tuple(parts) for parts in partitions)

    @cached_property
    def leaves(self) -> tuple[tuple[int, ...], ...]:
        """The variables that each region reads itself: a leaf's scope, another's own variables."""
        own = self.own or ((),) * len(self.scopes)
        return tuple(
            mine if splits else scope
            for scope, mine, splits in zip(self.scopes, own, self.splits, strict=True)
        )

    @cached_property
    def heights(self) -> tuple[int, ...]:
        """The longest path from each region down to a leaf."""
        height = [0] * len(self.scopes)
        for region in sorted(range(len(height)), key=lambda i: len(self.scopes[i])):
            below = [height[child] for part in self.splits[region] for child in part]
            height[region] = 1 + max(below) if below else 0
        return tuple(height)

    def to_json(self) -> str:
        """Return the text of a region-graph file."""
        regions: list[dict[str, list[int]]] = [{"scope": list(scope)} for scope in self.scopes]
        for region, own in zip(regions, self.own, strict=False):
            if own:
                region["own"] = list(own)
        partitions = [{"region": r, "children": children} for r, *children in self.partitions]
        graph = {"num_vars": self.num_vars, "regions": regions, "partitions": partitions}
        return json.dumps(graph)

    def __repr__(self) -> str:
        return (
            f"RegionGraph({self.num_vars:,} variables, {len(self.scopes):,} regions, "
            f"{len(self.partitions):,} partitions)"
        )


def load_region_graph(path: str | Path) -> RegionGraph:
    """Read a region-graph file.

    Raises:
        UserError: the file cannot be read or is not a region graph; the message names the entry.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        return _parsed(data)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not JSON text ({error}).") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def random_region_graph(num_vars: int, depth: int, replicas: int, *, seed: int) -> RegionGraph:
    """Split all variables into random halves, ``replicas`` times below one root.

    Source: Peharz et al., *Random Sum-Product Networks*, UAI 2019, algorithm 1.  Here replicas only
    meet at the root: equal regions of two replicas stay apart.

    Args:
        num_vars: number of variables.
        depth: how often a region is split at most (regions of one variable are not).
        replicas: number of partitions of the root.
        seed: of the splits.
    """
    if num_vars < 1 or depth < 0 or replicas < 1:
        raise UserError("num_vars and replicas must be at least 1 and depth at least 0.")
    rng = np.random.default_rng(seed)
    scopes: list[tuple[int, ...]] = [tuple(range(num_vars))]
    partitions: list[tuple[int, int, int]] = []
    level = [0] * replicas
    for _ in range(depth):
        following: list[int] = []
        for region in level:
            scope = rng.permutation(scopes[region])
            if len(scope) < 2:
                continue
            half = len(scope) // 2
            children = (len(scopes), len(scopes) + 1)
            scopes += [tuple(sorted(part.tolist())) for part in (scope[:half], scope[half:])]
            partitions.append((region, *children))
            following += children
        level = following
    return RegionGraph(num_vars, tuple(scopes), tuple(partitions))


def tree_regions(parents: ArrayLike) -> RegionGraph:
    """Return the regions of a tree over variables: every subtree, which owns its top variable.

    Of a Chow-Liu tree these are the regions of an HCLT; of a chain (``parents[i] = i - 1``), those
    of an HMM.

    Args:
        parents: int [n], the parent of each variable, -1 at the root; region i is i's subtree.
    """
    tree = check_parents(parents)
    children: list[list[int]] = [[] for _ in tree]
    scopes: list[tuple[int, ...]] = [()] * len(tree)
    for level in reversed(bfs_levels(tree)):
        for i in level.tolist():
            scopes[i] = tuple(sorted([i, *(v for child in children[i] for v in scopes[child])]))
            if tree[i] >= 0:
                children[tree[i]].append(i)
    partitions = tuple((i, *below) for i, below in enumerate(children) if below)
    own = tuple((i,) if below else () for i, below in enumerate(children))
    return RegionGraph(len(tree), tuple(scopes), partitions, own if any(own) else ())


def _fail(problem: str) -> NoReturn:
    raise UserError(f"{problem}.")


def _tuples(rows: Any, name: str) -> tuple[tuple[int, ...], ...]:
    """Return lists of whole numbers, of any kind, as tuples of Python's."""
    try:
        return tuple(tuple(map(operator.index, row)) for row in rows)
    except TypeError:
        _fail(f"{name} must be lists of whole numbers, as [[0, 1], [2]]")


def _parsed(data: Any) -> RegionGraph:
    """Return the graph in decoded JSON, checking types entry by entry."""
    _check_keys(data, ("num_vars", "regions", "partitions"), "the file")
    num_vars = _integer(data["num_vars"], "num_vars")
    for key in ("regions", "partitions"):
        if not isinstance(data[key], list):
            _fail(f"{key} must be a list")
    scopes, own = [], []
    for i, region in enumerate(data["regions"]):
        _check_keys(region, ("scope",), f"regions[{i}]", optional="own")
        scopes.append(_integers(region["scope"], f"regions[{i}].scope"))
        own.append(_integers(region.get("own", []), f"regions[{i}].own"))
    partitions = []
    for i, partition in enumerate(data["partitions"]):
        _check_keys(partition, ("region", "children"), f"partitions[{i}]")
        region = _integer(partition["region"], f"partitions[{i}].region")
        children = _integers(partition["children"], f"partitions[{i}].children")
        partitions.append((region, *children))
    return RegionGraph(num_vars, tuple(scopes), tuple(partitions), tuple(own) if any(own) else ())


def _check_keys(data: Any, keys: tuple[str, ...], where: str, *, optional: str = "") -> None:
    if not isinstance(data, dict) or sorted(data.keys() - {optional}) != sorted(keys):
        _fail(f"{where} must be an object with the entries {', '.join(keys)} and no others")


def _integer(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        _fail(f"{where} must be an integer")
    return value


def _integers(values: Any, where: str) -> tuple[int, ...]:
    if not isinstance(values, list):
        _fail(f"{where} must be a list of integers")
    return tuple(_integer(value, where) for value in values)
