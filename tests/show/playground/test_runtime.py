"""Python for the browser: fetched by npm once, checked, kept; whatever fails is one line with a remedy."""

import base64
import gzip
import hashlib
import io
import json
import tarfile

import pytest

from shadowmmu.show.playground import runtime
from shadowmmu.show.playground.runtime import FILES, RELEASE, RuntimeUnusable, runtime_files

NPM = """#!/bin/sh
echo "$@" >>{log}
{does}
"""


def archive() -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as packed:
        for name in FILES:
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(name)
            packed.addfile(member, io.BytesIO(name.encode()))
    return gzip.compress(written.getvalue(), mtime=0)


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """An npm that does what a test says; the log of what it was asked."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")
    data = archive()
    digest = base64.b64encode(hashlib.sha512(data).digest()).decode()
    monkeypatch.setattr(runtime, "INTEGRITY", f"sha512-{digest}")
    (tmp_path / "packed.tgz").write_bytes(data)
    (tmp_path / "bin").mkdir()
    log = tmp_path / "asked"
    log.touch()

    def install(does: str):
        program = tmp_path / "bin" / "npm"
        program.write_text(NPM.format(log=log, does=does))
        program.chmod(0o755)
        return log

    return install


def packs(tmp_path, source: str = "packed.tgz") -> str:
    return f'for folder; do :; done; cp {tmp_path / source} "$folder/pyodide-{RELEASE}.tgz"'


def test_npm_is_asked_once(npm, tmp_path):
    log = npm(packs(tmp_path))
    for _ in range(2):
        assert runtime_files() == {name: name.encode() for name in FILES}
    (asked,) = log.read_text().splitlines()
    assert asked.startswith(f"pack pyodide@{RELEASE} --silent --pack-destination ")


def test_a_kept_archive_that_is_damaged_is_fetched_anew(npm, tmp_path):
    log = npm(packs(tmp_path))
    kept = tmp_path / "cache" / "shadowmmu" / f"pyodide-{RELEASE}.tgz"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"half of it")
    assert runtime_files()
    assert len(log.read_text().splitlines()) == 1
    assert kept.read_bytes() == archive()
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


def test_an_archive_with_another_digest_is_refused_and_not_kept(npm, tmp_path):
    (tmp_path / "other.tgz").write_bytes(archive() + b"\0")
    npm(packs(tmp_path, "other.tgz"))
    with pytest.raises(RuntimeUnusable, match=f"not Pyodide {RELEASE}: its digest is another"):
        runtime_files()
    assert list((tmp_path / "cache" / "shadowmmu").iterdir()) == []


def test_what_npm_says_is_passed_on_with_a_remedy(npm):
    npm("echo 'npm error code ENOTFOUND' >&2; echo more >&2; exit 1")
    with pytest.raises(RuntimeUnusable) as refused:
        runtime_files()
    assert str(refused.value).startswith(f"npm cannot fetch Pyodide {RELEASE}: npm error code ENOTFOUND; ")
    assert "--pyodide" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_without_npm_the_line_says_what_to_do(npm, invoke, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    done = invoke("playground", "-o", tmp_path / "out")
    assert done.exit_code != 0
    assert "npm is not installed; install npm, or run `npm pack" in done.output
    assert not (tmp_path / "out").exists()


def unpacked(folder, release=RELEASE):
    folder.mkdir()
    for name in FILES:
        (folder / name).write_text(name)
    (folder / "package.json").write_text(json.dumps({"version": release}))
    return folder


def test_an_unpacked_package_needs_no_npm(npm, tmp_path):
    log = npm("exit 1")
    assert runtime_files(unpacked(tmp_path / "package"))["pyodide.mjs"] == b"pyodide.mjs"
    assert log.read_text() == ""


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda folder: (folder / "pyodide.asm.wasm").unlink(), "pyodide.asm.wasm is missing"),
        (lambda folder: (folder / "package.json").write_text('{"version": "0.1"}'), "Pyodide 0.1 is not"),
        (lambda folder: (folder / "package.json").write_text("{"), "Pyodide None is not"),
        (lambda folder: (folder / "package.json").write_text("[]"), "Pyodide None is not"),
    ],
)
def test_a_folder_that_is_no_such_package_is_refused(change, says, tmp_path):
    folder = unpacked(tmp_path / "package")
    change(folder)
    with pytest.raises(RuntimeUnusable, match=says):
        runtime_files(folder)


def test_the_folder_is_built_the_same_each_time_and_names_nothing_outside(tmp_path, invoke):
    package = unpacked(tmp_path / "package")
    built = []
    for name in ("one", "two"):
        done = invoke("playground", "-o", tmp_path / name, "--pyodide", package)
        assert done.exit_code == 0, done.output
        assert "open it in a browser" in done.output
        built.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert built[0] == built[1]
    texts = "".join(built[0][name].decode() for name in ("index.html", "playground.css", "playground.js"))
    assert "://" not in texts
    assert b"GNU GENERAL PUBLIC LICENSE" in built[0]["LICENSE.txt"]
    assert RELEASE in built[0]["NOTICE.txt"].decode()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, invoke):
    (tmp_path / "file").touch()
    done = invoke("playground", "-o", tmp_path / "file", "--pyodide", unpacked(tmp_path / "package"))
    assert done.exit_code == 2
    assert "is a file" in done.output
