"""Who am I among how many, alone, under MPI with real ranks, and under `jax.distributed`."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from jaxstore import topology
from jaxstore.errors import MismatchError
from jaxstore.topology import Place, place, root_only

PROGRAMS = Path(__file__).parent / "programs"
MPIEXEC = Path(sys.prefix) / "bin" / "mpiexec"


def environment(**extra):
    launched = ("OMPI_", "PMI", "MV2_", "HYDRA")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(launched)}
    path = os.pathsep.join([str(PROGRAMS.parents[1]), os.environ.get("PYTHONPATH", "")])
    return kept | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"} | extra


def run(*command, **extra):
    return subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment(**extra),
    )


def mpi(folder, *commands):
    """Three ranks do all commands, one after the other: to start them takes the most time."""
    pytest.importorskip("mpi4py")
    if not MPIEXEC.exists():
        pytest.skip("no mpiexec beside the interpreter")
    for command in commands:
        (folder / command).mkdir()
    done = run(
        MPIEXEC, "-n", 3, sys.executable, "-W", "error", "-m", "mpi4py",
        PROGRAMS / "mpi_storages.py", folder, *commands,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


class TestAlone:
    def test_one_process_is_the_root_of_one(self):
        assert place() == Place(0, 1, "alone")
        assert place().is_root

    def test_the_action_runs_here_and_its_error_arrives(self):
        done = []
        root_only(lambda: done.append(1))
        assert done == [1]
        with pytest.raises(ZeroDivisionError):
            root_only(lambda: 1 / 0)

    @pytest.mark.parametrize(("rank", "size"), [(-1, 2), (2, 2), (0, 0)])
    def test_a_rank_is_below_the_size(self, rank, size):
        with pytest.raises(ValueError, match="rank must be in"):
            Place(rank, size, "mpi")

    def test_importing_it_imports_neither_mpi4py_nor_jax(self):
        code = (
            "import sys, types; package = types.ModuleType('jaxstore');"
            f"package.__path__ = [{str(Path(topology.__file__).parent)!r}];"
            "sys.modules['jaxstore'] = package; import jaxstore.topology;"
            "assert jaxstore.topology.place().kind == 'alone';"
            "assert not {'mpi4py', 'jax', 'jax.distributed'} & set(sys.modules)"
        )
        done = run(sys.executable, "-c", code)
        assert done.returncode == 0, done.stderr

    def test_one_launched_rank_needs_no_mpi4py(self):
        code = (
            "import sys; sys.modules['mpi4py'] = None; from jaxstore.topology import place;"
            "print(place())"
        )
        done = run(sys.executable, "-c", code, PMI_SIZE="1", PMI_RANK="0")
        assert done.stdout.strip() == "Place(rank=0, size=1, kind='mpi')", done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    mpi(folder, "where", "failing", "as_one")
    return folder


class TestUnderMPI:
    def test_each_rank_knows_its_place(self, folder):
        found = sorted(path.read_text() for path in (folder / "where").iterdir())
        assert found == ["0 3 mpi", "1 3 mpi", "2 3 mpi"]

    def test_a_failure_of_the_root_is_an_error_everywhere_and_no_hang(self, folder):
        texts = {path.name: path.read_text() for path in (folder / "failing").iterdir()}
        assert texts["busy0"] == "ExistsError None mine"
        assert texts["disk0"].startswith("OSError 28")
        assert texts["other0"].startswith("KeyError")
        for rank in (1, 2):
            stops = f"rank 0 failed, so rank {rank} of 3 stops"
            assert texts[f"busy{rank}"] == f"ExistsError None {stops}: ExistsError: mine"
            assert texts[f"disk{rank}"].startswith(f"OSError 28 [Errno 28] {stops}")
            assert texts[f"other{rank}"] == f"JaxstoreError None {stops}: KeyError: 'x'"

    def test_what_all_do_together_ends_for_all_and_soon_when_one_fails(self, folder):
        texts = {path.name: path.read_text() for path in (folder / "as_one").iterdir()}
        for i in range(2):
            stops = "rank 1 failed, so rank 0 of 3 stops"
            assert texts[f"said{i}0"] == f"OSError 28 [Errno 28] {stops}: OSError: [Errno 28] full"
            assert texts[f"said{i}1"] == "OSError 28 [Errno 28] full"
            assert texts[f"said{i}2"] == "ValueError None x"
        assert {"stopped0", "stopped2"} < set(texts)

    def test_ranks_that_cannot_see_one_another_are_refused(self):
        pytest.importorskip("mpi4py.MPI")
        code = "from jaxstore.topology import place; place()"
        done = run(sys.executable, "-c", code, OMPI_COMM_WORLD_SIZE="3", OMPI_COMM_WORLD_RANK="1")
        assert done.returncode == 1
        assert "MismatchError: the MPI launcher started 3 ranks, but mpi4py sees 1" in done.stderr
        assert "mpiexec" in done.stderr

    def test_a_missing_mpi4py_is_named(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "mpi4py", None)
        monkeypatch.setenv("PMI_SIZE", "4")
        with pytest.raises(ImportError, match=r"among 4 ranks.*pip install 'jaxstore\[mpi\]'"):
            place()

    def test_a_mismatch_is_seen_before_anything_is_sent(self, monkeypatch):
        class Comm:
            def Get_size(self):
                return 1

        class MPI:
            COMM_WORLD = Comm()

            @staticmethod
            def Get_library_version():
                return "Other MPI 4.1\nbuilt somewhere"

        monkeypatch.setitem(sys.modules, "mpi4py", type("mpi4py", (), {"MPI": MPI}))
        monkeypatch.setenv("PMI_SIZE", "2")
        with pytest.raises(MismatchError, match=r"started 2 ranks.*sees 1.*Other MPI 4.1"):
            root_only(lambda: None)


class TestUnderJax:
    def test_processes_of_one_job_are_numbered_by_jax(self, tmp_path):
        code = """
import sys, jax
from jaxstore.errors import ExistsError, MismatchError
from jaxstore.topology import from_root, place, root_only, together
rank, port = int(sys.argv[1]), sys.argv[2]
# Not to stdout, where the collectives of JAX write as well, in pieces.
answers = open(sys.argv[3], "w", encoding="utf-8")
jax.distributed.initialize(f"127.0.0.1:{port}", 2, rank)
print(place(), file=answers)
root_only(lambda: None)
def fail():
    raise ExistsError("mine ä")
try:
    root_only(fail)
except ExistsError as error:
    print(error, file=answers)
assert from_root(lambda: [rank, "ä" * 100_000]) == [0, "ä" * 100_000]
assert together(lambda watch: "ä" * rank) == ["", "ä"]
def other(watch):
    if rank == 1:
        raise MismatchError("other")
try:
    together(other)
except MismatchError as error:
    print(type(error).__name__, error, file=answers)
answers.close()
"""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        ranks = [
            subprocess.Popen(
                [sys.executable, "-c", code, str(rank), str(port), tmp_path / str(rank)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment(),
            )
            for rank in (0, 1)
        ]
        outputs = [rank.communicate(timeout=120) for rank in ranks]
        assert [rank.returncode for rank in ranks] == [0, 0], outputs
        said = [(tmp_path / str(r)).read_text("utf-8").splitlines() for r in (0, 1)]
        assert said[0] == [
            "Place(rank=0, size=2, kind='jax')",
            "mine ä",
            "MismatchError rank 1 failed, so rank 0 of 2 stops: MismatchError: other",
        ]
        assert said[1] == [
            "Place(rank=1, size=2, kind='jax')",
            "rank 0 failed, so rank 1 of 2 stops: ExistsError: mine ä",
            "MismatchError other",
        ]
