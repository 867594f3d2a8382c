"""A store mounted read-only: writable for us, read-only for everybody else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hook.errors import StockOnly
from hook.store.mount import make_writable

SCRIPT = """
import os, subprocess, sys
from hook.store.mount import make_writable
store = sys.argv[1]
outside = os.open("/proc/self/ns/mnt", os.O_RDONLY)
subprocess.run(["mount", "--bind", store, store], check=True)
subprocess.run(["mount", "-o", "remount,bind,ro", store], check=True)
try:
    open(store + "/file", "w")
except OSError as error:
    print(error.strerror)
make_writable(store)
open(store + "/file", "w").close()
make_writable(store)
subprocess.run(["touch", store + "/child"], check=True)
print(subprocess.run(
    ["nsenter", f"--mount=/proc/self/fd/{outside}", "touch", store + "/other"], capture_output=True, pass_fds=[outside]
).stderr.decode())
"""


@pytest.mark.lab
def test_a_read_only_store_becomes_writable_for_us_alone(tmp_path: Path) -> None:
    """NixOS protects its store from everybody but Nix; our children are included, other processes are not."""
    result = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("Read-only file system") == 2
    assert sorted(os.listdir(tmp_path)) == ["child", "file"]


THREADS = """
import subprocess, sys, threading
from hook.store.mount import make_writable
store = sys.argv[1]
subprocess.run(["mount", "--bind", store, store], check=True)
subprocess.run(["mount", "-o", "remount,bind,ro", store], check=True)
together = threading.Barrier(3)
def write(number):
    make_writable(store)
    together.wait()
    open(store + f"/file{number}", "w").close()
    subprocess.run(["touch", store + f"/child{number}"], check=True)
threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
try:
    open(store + "/main", "w")
except OSError as error:
    print(error.strerror)
"""


@pytest.mark.lab
def test_every_thread_makes_it_writable_for_itself(tmp_path: Path) -> None:
    """A broker has one thread a build, and each of them opens the store."""
    result = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", THREADS, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "Read-only file system\n"
    assert sorted(os.listdir(tmp_path)) == ["child0", "child1", "child2", "file0", "file1", "file2"]


def test_a_writable_store_needs_nothing(tmp_path: Path) -> None:
    """The usual case, for which no namespace is left."""
    before = os.readlink("/proc/self/ns/mnt")
    make_writable(str(tmp_path))
    assert os.readlink("/proc/self/ns/mnt") == before


def test_a_store_that_is_not_there_is_left_to_stock(tmp_path: Path) -> None:
    """Creating one is Nix's business."""
    with pytest.raises(StockOnly, match="absent"):
        make_writable(str(tmp_path / "absent"))
