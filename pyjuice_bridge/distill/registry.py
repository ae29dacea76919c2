"""The kinds of circuits that a run can train."""

from pyjuice_bridge.distill import growing, hclt, hmm, patches, rat_spn
from pyjuice_bridge.distill.base import Kind

KINDS: dict[str, Kind] = {
    each.name: each for each in (hclt.KIND, patches.KIND, growing.KIND, hmm.KIND, rat_spn.KIND)
}
