"""Nothing outside of the root changes, and no descriptor of the host is reached, by whatever name."""

import os
import random
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from guest.linux.running import ENVIRONMENT, RUN, Done, native, shadowmmu

ACTIONS = (
    "read",
    "write",
    "create",
    "exclusive",
    "append",
    "empty",
    "temporary",
    "mapped",
    "at",
    "unlink",
    "rmdir",
    "mkdir",
    "mknod",
    "fifo",
    "symlink",
    "rename-from",
    "rename-to",
    "exchange",
    "link-from",
    "link-to",
    "chmod",
    "chown",
    "truncate",
    "times",
    "link-times",
    "chdir",
)
SECRET = b"what only a descriptor of the host leads to"
ATTEMPTS = 4000


class Spellings:
    """A grammar of paths; `outside` holds the root and is where `process` works, one of the host."""

    def __init__(self, outside: Path, seed: int, process: int) -> None:
        self.outside = outside
        self.process = process
        self.random = random.Random(seed)

    def attempts(self, count: int) -> list[str]:
        return [f"{self.random.choice(ACTIONS)} {self._path()}" for _ in range(count)]

    def _path(self) -> str:
        kind = self.random.random()
        path = self._descriptor() if kind < 0.4 else f"{self._way_out()}/{self._target()}"
        return self._disguised(path)

    def _proc(self) -> str:
        names = ["/proc", "//proc", "/dev/../proc", "/proc/self/root/proc", "proc-link", "/proc/sys/.."]
        return self.random.choice([*names, f"{self._to_top()}/proc", "/proc/self/cwd/proc-link"])

    def _to_top(self) -> str:
        return "/".join([".."] * self.random.choice([20, 21, 40]))

    def _process(self) -> str:
        parent = str(self.process)
        names = [
            "self",
            "thread-self",
            "100",
            "self/task/100",
            "self/task/..",
            "thread-self/task/100",
            parent,
        ]
        names += [f"{parent}/task/{parent}", "self/../self", "tty/../self", "../proc/self"]
        return self.random.choice(names)

    def _descriptor(self) -> str:
        number = self.random.randrange(40)
        choices = [f"/dev/fd/{number}", "/dev/stdin", f"fd-link/{number}", "/dev/core"]
        about = f"{self._proc()}/{self._process()}"
        endings = [f"fd/{number}", f"fd/../fd/{number}", f"fdinfo/../fd/{number}", f"map_files/{number}"]
        endings += ["exe", "mem", "cwd/kept", f"root{self.outside}/kept", "environ", "cwd/../kept", "ns/mnt"]
        return self.random.choice([*choices, *[f"{about}/{ending}" for ending in endings]])

    def _way_out(self) -> str:
        """The directory outside."""
        ways = [
            str(self.outside),
            "..",
            "out",
            "sub/../..",
            "deep/../../..",
            "../root/..",
            "up/..",
            "loop/../..",
        ]
        ways += [f"/proc/self/root{self.outside}", "/proc/self/cwd/..", f"{self._to_top()}{self.outside}"]
        ways += [f"{self._proc()}/{self._process()}/cwd/..", f"{self.outside}/root/sub/../..", "out-of-sub"]
        return self.random.choice(ways)

    def _target(self) -> str:
        names = [
            "kept",
            "new",
            "folder",
            "folder/kept",
            "folder/new",
            "pointer",
            "",
            ".",
            "root",
            "root/..",
            "fifo",
        ]
        return self.random.choice([*names, "root/out/kept", "dangling", "root/dangling", "root/pointer"])

    def _disguised(self, path: str) -> str:
        """The same with slashes and dots that mean nothing."""
        for old, new in (("/", "//"), ("/", "/./"), ("/kept", "/./kept")):
            if self.random.random() < 0.2:
                path = path.replace(old, new, 1)
        return path + self.random.choice(["", "", "", "/", "/."])


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory that holds the root, and more."""
    place = tmp_path / "outside"
    make(place)
    return place


def make(place: Path) -> None:
    root = place / "root"
    (root / "sub").mkdir(parents=True)
    (root / "a" / "b").mkdir(parents=True)
    (place / "folder").mkdir()
    for name in ("kept", "folder/kept"):
        (place / name).write_text("as it was")
    os.mkfifo(place / "fifo")
    (place / "pointer").symlink_to("folder/kept")
    (place / "dangling").symlink_to("folder/new")
    links = {
        "out": place,
        "deep": "a/b",
        "up": "..",
        "loop": "sub",
        "pointer": place / "kept",
        "proc-link": "/proc",
    }
    links |= {"dangling": place / "new", "fd-link": "/dev/fd", "sub/up": "../..", "out-of-sub": "sub/up"}
    for name, target in links.items():
        (root / name).symlink_to(target)


def state(place: Path) -> dict[str, tuple[object, ...]]:
    """What there is but what is in the root: its attributes and contents."""
    found: dict[str, tuple[object, ...]] = {}
    for path in [place, *place.rglob("*")]:
        name = str(path.relative_to(place))
        if name.startswith("root/"):
            continue
        status = path.lstat()
        kept = status.st_mtime_ns, status.st_mode, status.st_uid, status.st_ino
        if name == "root":
            kept = 0, stat.S_IFMT(status.st_mode), 0, status.st_ino
        data = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        found[name] = *kept, os.readlink(path) if path.is_symlink() else data
    return found


@pytest.fixture
def secret(tmp_path: Path) -> Iterator[int]:
    """A descriptor of a file without a name."""
    path = tmp_path / "secret"
    path.write_bytes(SECRET)
    fd = os.open(path, os.O_RDWR)
    path.unlink()
    yield fd
    os.close(fd)


@pytest.fixture
def bystander(outside: Path, secret: int) -> Iterator[int]:
    """A process of the host that works outside and has the secret, too; what is done to it hurts nobody."""
    process = subprocess.Popen(["sleep", "300"], cwd=outside, stdin=subprocess.DEVNULL, pass_fds=(secret,))
    yield process.pid
    process.kill()
    process.wait()


def model_with(secret: int, program: Path, root: Path, attempts: Path) -> Done:
    command = [sys.executable, "-c", RUN, "run", "--root", str(root), str(program), "--", str(attempts)]
    done = subprocess.run(
        command,
        cwd=root,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
        check=False,
        pass_fds=(secret,),
    )
    return Done(done.stdout, done.returncode, done.stderr.decode(errors="replace"), {})


@pytest.mark.parametrize("seed", range(3))
def test_no_spelling_leads_outside(
    compiled: Callable[[str], Path], outside: Path, secret: int, bystander: int, seed: int, tmp_path: Path
) -> None:
    attempts = tmp_path / "attempts-of-a-guest"
    attempts.write_text("\n".join(Spellings(outside, seed, bystander).attempts(ATTEMPTS)) + "\n")
    before = state(outside)
    found = model_with(secret, compiled("attempts"), outside / "root", attempts)
    assert found.status == 0, found.told
    assert "Traceback" not in found.told
    assert state(outside) == before, found.output.decode(errors="replace")
    assert SECRET not in found.output
    assert os.pread(secret, 100, 0) == SECRET
    succeeded = {
        line.split()[0] for line in found.output.decode(errors="replace").splitlines() if line[:1] != "/"
    }
    assert {"read", "create", "chmod", "mkdir", "at", "chdir"} <= succeeded


def test_such_attempts_succeed_natively(
    compiled: Callable[[str], Path], outside: Path, tmp_path: Path
) -> None:
    """A few by hand, within the directory: random ones could change anything of the host."""
    attempts = tmp_path / "attempts-of-a-guest"
    attempts.write_text(
        "create ../new\nwrite out/kept\nchmod ../pointer\nmkdir deep/../../../made\nat out/folder\n"
    )
    before = state(outside)
    native(compiled("attempts"), str(attempts), folder=outside / "root")
    after = state(outside)
    assert {name for name in after if after[name] != before.get(name)} >= {"new", "kept", "made", "folder"}
    assert after["kept"][-1] == b"wrote was"


REPLACE = """rmdir {root}
unlink {root}
rename-from {root}
symlink {root}
exchange {root}
rmdir ../root
rmdir .
rename-from sub/..
create {root}/sub
symlink {root}
exchange ../root
create {root}/new
"""


def test_the_root_cannot_be_replaced_between_two_runs(
    compiled: Callable[[str], Path], outside: Path, tmp_path: Path
) -> None:
    root = outside / "root"
    shutil.rmtree(root)
    root.mkdir()
    attempts = tmp_path / "attempts-of-a-guest"
    attempts.write_text(f"unlink given\nrmdir {root}\n" * 2 + REPLACE.format(root=root))
    before = state(outside)
    for _ in range(2):
        words = ["run", "--root", str(root), str(compiled("attempts")), "--", str(attempts)]
        shadowmmu(*words, folder=root)
        assert state(outside) == before
        assert (root / "new").read_text() == "wrote"


def test_a_root_that_is_a_symbolic_link_is_refused(
    compiled: Callable[[str], Path], outside: Path, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(outside / "folder")
    found = shadowmmu("run", "--root", str(link), str(compiled("hello")), folder=tmp_path)
    assert (found.output, found.status) == (b"", 2)
    assert "is a symbolic link; give the directory that it leads to" in " ".join(found.told.split())
    assert "Traceback" not in found.told
