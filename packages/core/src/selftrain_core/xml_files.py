"""Reading XML of strangers."""

from __future__ import annotations

import xml.etree.ElementTree as ET  # what could expand is refused, see `_NoDeclarations`
from typing import Any


class _NoDeclarations(ET.TreeBuilder):
    """Refuses a document type, and with it entities: a kilobyte of them grows to gigabytes, or reads other files."""

    def doctype(self, *_: Any) -> None:
        raise ValueError("it declares a document type, which files of labels have no use for; take the DOCTYPE out")


def parse_xml(data: bytes) -> ET.Element:
    """Return the root of an XML text, in whatever encoding it says.

    Raises:
        ET.ParseError: It is no XML.
        ValueError: It declares a document type, or its encoding is not supported.
        LookupError: Its encoding is not known.
    """
    parser = ET.XMLParser(target=_NoDeclarations())  # noqa: S314  # see above
    parser.feed(data)
    root = parser.close()
    assert isinstance(root, ET.Element)
    return root
