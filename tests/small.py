"""Disks that are full: real ones, where this process may mount them, and pretended ones."""

import errno
import os
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(place, size):
    """A small file system at ``place``; the test is skipped where none can be mounted."""
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"no file system can be mounted here ({done.stderr.strip()})")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def remount(place, option):
    """Change a mounted file system."""
    subprocess.run(["mount", "-o", f"remount,{option}", str(place)], check=True)


@contextmanager
def full(monkeypatch, matches):
    """Inside the block the disk is full for files whose path, perhaps with a temporary name, ``matches`` says so of.

    Gives the list of the paths that were refused.
    """
    refused = []

    def fsync(handle):
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        if matches(path):
            refused.append(path)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        yield refused
