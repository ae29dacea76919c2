"""Kinds of data: images, text and tables.  Adding one is a file and a line here."""

from pyjuice_bridge.domains import images, text
from pyjuice_bridge.domains.base import Domain

DOMAINS: dict[str, Domain] = {each.name: each for each in (images.DOMAIN, text.DOMAIN)}
