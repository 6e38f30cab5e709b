"""Where paths lead, and whether the guest may write there."""

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from shadowmmu.guest.linux.directory import Directory
from shadowmmu.guest.linux.paths import Tree
from shadowmmu.guest.linux.tasks import Process

NOBODY = cast(Process, None)
"""A process that is not asked: none of the paths is in /proc."""


def opened(path: Path) -> Directory:
    return Directory(os.open(path, os.O_PATH))


def grow(folder: Path, choose: random.Random) -> list[str]:
    """A tree of directories, files, and links to each other; the names in it."""
    names = ["."]
    for number in range(40):
        parent = folder / choose.choice(names)
        path = parent / f"n{number}"
        if not parent.is_dir() or os.path.lexists(path):
            continue
        target = choose.choice(
            ["..", "../..", ".", "missing", *names, *(str(folder / name) for name in names)]
        )
        kind = choose.random()
        if kind < 0.5:
            path.mkdir()
        elif kind < 0.6:
            path.touch()
        else:
            path.symlink_to(target)
        names.append(str(path.relative_to(folder)))
    return names


@pytest.mark.parametrize("seed", range(20))
def test_a_path_leads_where_it_leads_the_host(seed: int, tmp_path: Path) -> None:
    choose = random.Random(seed)
    names = grow(tmp_path, choose)
    folders = [tmp_path / name for name in names if (tmp_path / name).is_dir()]
    root = Path(os.path.realpath(choose.choice(folders)))
    tree = Tree(root)
    for _ in range(300):
        start = choose.choice(folders)
        parts = [choose.choice(["..", ".", "", *names]) for _ in range(choose.randrange(1, 5))]
        path = "/".join(parts).lstrip("/") or "."
        try:
            status = os.stat(f"{start}/{path}")
        except OSError as error:
            with pytest.raises(type(error)):
                tree.find(path, opened(start), NOBODY, {}).status()
            continue
        place = tree.find(path, opened(start), NOBODY, {})
        expected = os.path.realpath(f"{start}/{path}")
        assert os.path.samestat(place.status(), status)
        beneath = expected == str(root) or expected.startswith(f"{root}/")
        assert tree.may_change(place) == beneath, (path, expected)


@pytest.mark.parametrize(
    "move",
    [
        lambda tmp: (tmp / "root/a/b").rename(tmp / "b"),
        lambda tmp: (tmp / "root/a").rename(tmp / "a"),
    ],
)
def test_a_directory_that_was_moved_out_is_outside(move: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "root" / "a" / "b").mkdir(parents=True)
    tree, start = Tree(tmp_path / "root"), opened(tmp_path / "root/a/b")
    assert tree.entry("new", start, NOBODY, {}).inside
    move(tmp_path)
    assert not tree.entry("new", start, NOBODY, {}).inside
    assert not tree.entry("../new", start, NOBODY, {}).inside


def test_the_name_of_the_root_is_outside(tmp_path: Path) -> None:
    (tmp_path / "root" / "a").mkdir(parents=True)
    tree, start = Tree(tmp_path / "root"), opened(tmp_path / "root")
    for path in (str(tmp_path / "root"), "../root", f"{tmp_path}/root/", "a/../../root"):
        assert not tree.entry(path, start, NOBODY, {}).inside
        assert tree.may_change(tree.find(path, start, NOBODY, {}))
    for path in ("a", "a/..", f"{tmp_path}/root/a", "../root/a"):
        assert tree.entry(path, start, NOBODY, {}).inside


def test_endless_links_are_refused(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    with pytest.raises(OSError, match="too many symbolic links"):
        Tree(tmp_path).find("one/x", opened(tmp_path), NOBODY, {})
