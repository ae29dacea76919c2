"""The kinds of circuits that a run can train."""

from pyjuice_bridge.distill import growing, hclt, hmm, patches, rat_spn, regions
from pyjuice_bridge.distill.base import Kind

KINDS: dict[str, Kind] = {
    each.name: each
    for each in (
        hclt.KIND,
        patches.KIND,
        growing.KIND,
        regions.KIND,
        hmm.KIND,
        rat_spn.KIND,
    )
}
