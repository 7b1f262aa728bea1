"""XML of strangers."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from selftrain_core.xml_files import parse_xml

BOMB = '<!DOCTYPE a [<!ENTITY x "yyyyyyyy"><!ENTITY y "&x;&x;&x;">]><a>&y;</a>'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1"])
def test_texts_in_any_encoding(encoding: str) -> None:
    root = parse_xml(f'<?xml version="1.0" encoding="{encoding}"?><a><b>é</b></a>'.encode(encoding))
    assert (root.tag, root.findtext("b")) == ("a", "é")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_document_types_are_refused_in_any_encoding(encoding: str) -> None:
    with pytest.raises(ValueError, match="it declares a document type, which files of labels have no use for"):
        parse_xml(f'<?xml version="1.0" encoding="{encoding}"?>{BOMB}'.encode(encoding))


def test_what_is_no_xml_is_refused() -> None:
    with pytest.raises(ET.ParseError):
        parse_xml(b"<a>")
    with pytest.raises(LookupError, match="unknown encoding"):
        parse_xml(b'<?xml version="1.0" encoding="none-such"?><a/>')
