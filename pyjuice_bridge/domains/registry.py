"""The kinds of data that a run can model."""

from pyjuice_bridge.domains import images, table, text, written
from pyjuice_bridge.domains.base import Domain

DOMAINS: dict[str, Domain] = {
    each.name: each for each in (images.DOMAIN, text.DOMAIN, table.DOMAIN, written.DOMAIN)
}
