"""The teachers that a config can name; each owns its section, in a file of its own."""

from __future__ import annotations

from pyjuice_bridge.teachers.base import ObjectSection, TeacherSection
from pyjuice_bridge.teachers.columns import ColumnsSection
from pyjuice_bridge.teachers.efficientnet import EfficientNetSection
from pyjuice_bridge.teachers.file import FileSection
from pyjuice_bridge.teachers.mae import MaeSection
from pyjuice_bridge.teachers.pixels import PixelSection
from pyjuice_bridge.teachers.text import TextSection
from pyjuice_bridge.teachers.vit_mae import VitMaeSection
from pyjuice_bridge.teachers.vqvae import VqVaeSection
from pyjuice_bridge.teachers.writer import WriterSection

SECTIONS: tuple[type[TeacherSection], ...] = (
    PixelSection,
    MaeSection,
    VqVaeSection,
    VitMaeSection,
    EfficientNetSection,
    FileSection,
    ObjectSection,
    TextSection,
    ColumnsSection,
    WriterSection,
)
