"""What all tests share: four CPU devices, before JAX counts them, and a small disk."""

import os
import subprocess
import sys

import pytest
from fault_proxy import FaultProxy
from s3_server import S3Server, s3_environment

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
)
# Hundreds of processes import JAX; where none may keep bytecode, each compiles it anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


@pytest.fixture
def disk(tmp_path):
    """A file system of 8 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting is not permitted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.fixture(scope="session")
def s3_server():
    """One server that speaks S3 for all tests."""
    pytest.importorskip("moto")
    with S3Server() as server:
        yield server


@pytest.fixture
def s3_bucket(s3_server, monkeypatch):
    """Name of an empty bucket; `s3://` URLs of this process lead there."""
    point_s3_to(s3_server, monkeypatch)
    return s3_server.new_bucket()


@pytest.fixture
def s3_proxy(s3_server, s3_bucket, monkeypatch):
    """A proxy before the server, through which this process now reaches `s3_bucket`."""
    with FaultProxy(s3_server.port) as proxy:
        point_s3_to(proxy, monkeypatch)
        yield proxy


def point_s3_to(server, monkeypatch):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in s3_environment(server).items():
        monkeypatch.setenv(name, value)
