"""The browser of the page's tests, for pages with lanes."""

from show.browser.conftest import chromium

__all__ = ["chromium"]
