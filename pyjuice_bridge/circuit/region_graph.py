"""Region graphs: which sets of variables a circuit splits, and how.

A region is a set of variables; a partition splits one region into two.  A region may have several
partitions, and a region without any is a leaf.  On disk a region graph is JSON, specified in
``docs/region_graph.md``::

    {"num_vars": 3,
     "regions": [{"scope": [0, 1, 2]}, {"scope": [0]}, {"scope": [1, 2]}],
     "partitions": [{"region": 0, "children": [1, 2]}]}
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from pyjuice_bridge.errors import UserError, shown


@dataclass(frozen=True)
class RegionGraph:
    """Regions and partitions over ``num_vars`` variables, checked when made.

    Attributes:
        num_vars: number of variables.
        scopes: the variables of each region.
        partitions: (region, left child, right child), indices into ``scopes``.

    Raises:
        UserError: ``num_vars`` is out of range, a partition does not split its region in two, or
            there is not exactly one region that is nobody's child, or that one does not hold every
            variable.
    """

    num_vars: int
    scopes: tuple[tuple[int, ...], ...]
    partitions: tuple[tuple[int, int, int], ...]

    def __post_init__(self) -> None:
        if self.num_vars < 1:
            _fail("num_vars must be at least 1")
        if self.num_vars >= 2**31:
            _fail(f"num_vars is {shown(self.num_vars)}, must be below {2**31}")
        for i, scope in enumerate(self.scopes):
            if not scope or len(set(scope)) != len(scope):
                _fail(f"regions[{i}].scope must list at least one variable, none twice")
            if min(scope) < 0 or max(scope) >= self.num_vars:
                _fail(f"regions[{i}].scope must hold variables from 0 to {self.num_vars - 1}")
        for i, (region, *children) in enumerate(self.partitions):
            if not all(0 <= r < len(self.scopes) for r in (region, *children)):
                _fail(f"partitions[{i}] must name regions from 0 to {len(self.scopes) - 1}")
            together = sorted(v for child in children for v in self.scopes[child])
            if together != sorted(self.scopes[region]):
                _fail(f"partitions[{i}].children must split the scope of region {region} in two")
        below = {child for _, *children in self.partitions for child in children}
        tops = [region for region in range(len(self.scopes)) if region not in below]
        if len(tops) != 1:
            _fail(
                f"exactly one region must be no child of a partition, but these are: {shown(tops)}"
            )
        if len(self.scopes[tops[0]]) != self.num_vars:
            _fail(f"region {tops[0]} is at the top and must hold all {self.num_vars} variables")

    @cached_property
    def root(self) -> int:
        """The region that is no child of any partition."""
        below = {child for _, *children in self.partitions for child in children}
        return next(region for region in range(len(self.scopes)) if region not in below)

    @cached_property
    def splits(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """The partitions of each region as (left child, right child)."""
        partitions: list[list[tuple[int, int]]] = [[] for _ in self.scopes]
        for region, left, right in self.partitions:
            partitions[region].append((left, right))
        return tuple(tuple(pairs) for pairs in partitions)

    def to_json(self) -> str:
        """Return the text of a region-graph file."""
        regions = [{"scope": list(scope)} for scope in self.scopes]
        partitions = [{"region": r, "children": [a, b]} for r, a, b in self.partitions]
        graph = {"num_vars": self.num_vars, "regions": regions, "partitions": partitions}
        return json.dumps(graph)


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


def _fail(problem: str) -> NoReturn:
    raise UserError(f"{problem}.")


def _parsed(data: Any) -> RegionGraph:
    """Return the graph in decoded JSON, checking types entry by entry."""
    _check_keys(data, ("num_vars", "regions", "partitions"), "the file")
    num_vars = _integer(data["num_vars"], "num_vars")
    for key in ("regions", "partitions"):
        if not isinstance(data[key], list):
            _fail(f"{key} must be a list")
    scopes = []
    for i, region in enumerate(data["regions"]):
        _check_keys(region, ("scope",), f"regions[{i}]")
        scopes.append(_integers(region["scope"], f"regions[{i}].scope"))
    partitions = []
    for i, partition in enumerate(data["partitions"]):
        _check_keys(partition, ("region", "children"), f"partitions[{i}]")
        region = _integer(partition["region"], f"partitions[{i}].region")
        children = _integers(partition["children"], f"partitions[{i}].children")
        if len(children) != 2:
            _fail(f"partitions[{i}].children must name two regions")
        partitions.append((region, children[0], children[1]))
    return RegionGraph(num_vars, tuple(scopes), tuple(partitions))


def _check_keys(data: Any, keys: tuple[str, ...], where: str) -> None:
    if not isinstance(data, dict) or sorted(data) != sorted(keys):
        _fail(f"{where} must be an object with the entries {', '.join(keys)} and no others")


def _integer(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        _fail(f"{where} must be an integer")
    return value


def _integers(values: Any, where: str) -> tuple[int, ...]:
    if not isinstance(values, list):
        _fail(f"{where} must be a list of integers")
    return tuple(_integer(value, where) for value in values)
