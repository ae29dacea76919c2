"""The kinds of data that a run can model."""

from pyjuice_bridge.domains import images, text
from pyjuice_bridge.domains.base import Domain

DOMAINS: dict[str, Domain] = {each.name: each for each in (images.DOMAIN, text.DOMAIN)}
