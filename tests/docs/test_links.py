"""The check of links finds what leads nowhere."""

import sys

import pytest
from docs.examples import ROOT


@pytest.fixture
def check_links(monkeypatch):
    """The module that checks links."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import check_links

    yield check_links
    del sys.modules["check_links"]


@pytest.fixture
def folder(tmp_path):
    """Two pages that link to each other."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.html").write_text(
        '<a href="sub/b.html#there">b</a> <a href="https://example.org/x">out</a>'
    )
    (tmp_path / "sub" / "b.html").write_text(
        '<p id="there"><a href="../a.html">a</a> <a href="#there">up</a>'
    )
    return tmp_path


def test_good_links_are_good(check_links, folder):
    assert list(check_links.broken_links(folder)) == []
    assert list(check_links.foreign_files(folder)) == []


def test_the_ops_of_a_page_of_show_can_be_linked_to(check_links, folder):
    (folder / "show.html").write_text('<input id="slider"><script>{"ops":[{"op":3,"text":"nop"}]}</script>')
    (folder / "a.html").write_text('<a href="show.html#op=3&amp;gva=0x400000">x</a>')
    assert list(check_links.broken_links(folder)) == []
    (folder / "a.html").write_text('<a href="show.html#op=4&amp;gva=0x400000">x</a>')
    assert list(check_links.broken_links(folder)) == ["a.html: show.html#op=4&gva=0x400000"]


@pytest.mark.parametrize("link", ["c.html", "sub/b.html#nowhere", "#nowhere", "sub/"])
def test_a_link_to_nothing_is_found(check_links, folder, link):
    (folder / "a.html").write_text(f'<a href="{link}">x</a>')
    assert list(check_links.broken_links(folder)) == [f"a.html: {link}"]


@pytest.mark.parametrize("tag", ["<script src='https://x.org/a.js'></script>", "<img src='//x.org/a.png'>"])
def test_what_a_page_fetches_from_elsewhere_is_found(check_links, folder, tag):
    (folder / "a.html").write_text(tag)
    assert len(list(check_links.foreign_files(folder))) == 1
