"""Articles out of a MediaWiki dump: XML in, plain paragraphs out."""

from __future__ import annotations

import bz2
import html
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from pyjuice_bridge.data.files import reading

_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_EMPTY_REFERENCE = re.compile(r"<ref\b[^<>]*/\s*>", re.IGNORECASE)
_NOT_PROSE = re.compile(
    r"<(ref|math|gallery|timeline|syntaxhighlight|source|pre|score|imagemap|hiero)\b[^<>]*>"
    r".*?</\1\s*>",
    re.IGNORECASE | re.DOTALL,
)
_TEMPLATE = re.compile(r"\{\{[^{}]*\}\}")
_TABLE = re.compile(r"\{\|(?:(?!\{\|).)*?\n\s*\|\}", re.DOTALL)
_BRACES = re.compile(r"\{\{|\}\}|\{\||\|\}")
_LINK = re.compile(r"\[\[([^\[\]]*)\]\]")
_NO_TEXT_LINK = re.compile(r"\s*(file|image|media|category)\s*:", re.IGNORECASE)
_LANGUAGE_LINK = re.compile(r"\s*[a-z]{2,3}(-[a-z]+)*:[^|]*$")
_ADDRESS = re.compile(r"\[(?:https?:|ftp:)?//[^\s\]]+\s*([^\[\]]*)\]")
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_HEADING = re.compile(r"(={1,6})\s*(.*?)\s*\1\s*$")
_SWITCH = re.compile(r"__[A-Z]+__")
_LIST = re.compile(r"^[*#:;]+\s*")
_AFTER_PROSE = frozenset(
    {
        *("references", "external links", "see also", "further reading", "notes", "footnotes"),
        *("bibliography", "sources", "citations", "notes and references"),
    }
)
_EMPTY_BRACKETS = re.compile(r"\(\s*[,;:]?\s*\)")
_BEFORE_MARK = re.compile(r"\s+(?=[,.;:)])")
_NO_ARTICLE = re.compile(r"\{\{\s*(disambig|hndis|geodis)", re.IGNORECASE)


def dump_articles(path: Path) -> Iterator[str]:
    """Read the articles of a MediaWiki export, ``.xml.bz2``, as plain text.

    Redirects, disambiguation pages and pages outside the main name space are left out.

    Raises:
        UserError: a damaged file.
    """
    with reading(path, "a whole MediaWiki dump"), bz2.open(path) as stream:
        for _, element in ElementTree.iterparse(stream):
            if _local(element) != "page":
                continue
            fields = {_local(part): part.text or "" for part in element.iter()}
            element.clear()
            text = fields.get("text", "")
            if fields.get("ns") == "0" and "redirect" not in fields and not _dividing(fields):
                yield f"{fields['title']}\n{plain_text(text)}"


def plain_text(markup: str) -> str:
    """Return a page's prose, one paragraph, heading or list item per line.

    Templates (with what they would show), tables, references, formulas, pictures and the sections
    that follow the prose (references, external links, …) are dropped.
    """
    text = _NOT_PROSE.sub("", _EMPTY_REFERENCE.sub("", _COMMENT.sub("", markup)))
    text = _BRACES.sub(" ", _innermost(_TABLE, " ", _innermost(_TEMPLATE, " ", text)))
    text = _innermost(_LINK, _label, _ADDRESS.sub(r"\1", text))
    text = html.unescape(_SWITCH.sub("", _TAG.sub("", re.sub("'{2,}", "", text))))
    return "\n".join(_lines(text))


def _local(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _dividing(fields: dict[str, str]) -> bool:
    return "(disambiguation)" in fields["title"] or bool(_NO_ARTICLE.search(fields["text"]))


def _innermost(pattern: re.Pattern[str], replacement: object, text: str) -> str:
    """Replace from the inside outwards until nothing matches."""
    count = 1
    while count:
        text, count = pattern.subn(replacement, text)  # type: ignore[call-overload]
    return text


def _label(link: re.Match[str]) -> str:
    inside = link[1]
    if _NO_TEXT_LINK.match(inside) or _LANGUAGE_LINK.match(inside):
        return ""
    return inside.rpartition("|")[2].lstrip(":")


def _lines(text: str) -> Iterator[str]:
    skipped = 0
    for line in text.splitlines():
        heading = _HEADING.match(line.strip())
        if heading:
            level, line = len(heading[1]), heading[2]
            if not skipped or level <= skipped:
                skipped = level if line.lower() in _AFTER_PROSE else 0
        if skipped or line.lstrip().startswith(("|", "!")):
            continue
        line = line if heading else _LIST.sub("", line.strip(), count=1)
        line = _BEFORE_MARK.sub("", " ".join(_EMPTY_BRACKETS.sub("", line).split()))
        if re.search(r"\w", line):
            yield line
