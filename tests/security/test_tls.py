"""A cluster that speaks TLS alone, with certificates made as docs/security.md says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from distributed import Client, LocalCluster, Security

import dgmm
from dgmm.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "security.md"

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


def fenced(kind: str) -> str:
    (block,) = re.findall(rf"^```{kind}\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)
    return block


def make_certificates(folder: Path) -> Path:
    for line in fenced("console").splitlines():
        subprocess.run(
            ["sh", "-ec", line.removeprefix("$ ")],
            cwd=folder,
            check=True,
            capture_output=True,
            timeout=60,
        )
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_certificates(tmp_path_factory.mktemp("tls"))
    x = np.random.default_rng(0).normal(size=(600, 3))
    x[:200] += 9
    np.save(folder / "rows.npy", x)
    return folder


def of_client(folder: Path) -> Security:
    return Security(
        tls_ca_file=str(folder / "ca.pem"),
        tls_client_cert=str(folder / "cert.pem"),
        tls_client_key=str(folder / "key.pem"),
        require_encryption=True,
    )


@pytest.fixture(scope="module")
def cluster(folder: Path) -> Iterator[LocalCluster]:
    pair = {"cert": str(folder / "cert.pem"), "key": str(folder / "key.pem")}
    files = {
        f"tls_{role}_{kind}": path
        for role in ("scheduler", "worker", "client")
        for kind, path in pair.items()
    }
    security = Security(tls_ca_file=str(folder / "ca.pem"), require_encryption=True, **files)
    with LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        host="tls://127.0.0.1",
        security=security,
        dashboard_address=":0",
    ) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("strangers"))


def test_keys_are_for_their_owner_alone(folder: Path) -> None:
    for name in ("ca-key.pem", "key.pem"):
        assert os.stat(folder / name).st_mode & 0o077 == 0


def test_a_fit_over_tls_is_the_fit(cluster: LocalCluster, folder: Path) -> None:
    here = dgmm.GaussianMixture(2, random_state=0).fit(folder / "rows.npy")
    with Client(cluster.scheduler_address, security=of_client(folder)) as client:
        addresses = [client.scheduler.address, *client.nthreads()]
        assert all(address.startswith("tls://") for address in addresses)
        engine = dgmm.DaskEngine(client)
        there = dgmm.GaussianMixture(2, random_state=0, engine=engine).fit(folder / "rows.npy")
    assert there.means_.tobytes() == here.means_.tobytes()
    assert there.lower_bounds_ == here.lower_bounds_


def test_the_program_of_the_page(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(compile(fenced("py"), str(PAGE), "exec"), names)  # noqa: S102 (our own page)
    assert names["gm"].record_.rows == 600


def test_strangers_are_turned_away(cluster: LocalCluster, strangers: Path) -> None:
    address = cluster.scheduler_address
    with pytest.raises(OSError, match=r"[Tt]imed out|certificate"):
        Client(address, security=of_client(strangers), timeout=2)
    with pytest.raises(OSError, match=r"[Tt]imed out|closed"):
        Client(address.replace("tls://", "tcp://"), timeout=2)


@pytest.fixture
def run(cluster: LocalCluster, folder: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(files: Path | None, out: Path) -> SimpleNamespace:
        argv = ["fit", str(folder / "rows.npy"), "-k", "2", "--out", str(out), "-q"]
        argv += ["--scheduler", cluster.scheduler_address]
        if files is not None:
            argv += ["--tls-ca-file", str(files / "ca.pem")]
            argv += ["--tls-cert", str(files / "cert.pem"), "--tls-key", str(files / "key.pem")]
        return SimpleNamespace(code=main(argv), err=capsys.readouterr().err)

    return run


def test_the_command_line(run: Any, folder: Path, tmp_path: Path) -> None:
    done = run(folder, tmp_path / "there")
    assert done.code == 0, done.err
    assert main(["fit", str(folder / "rows.npy"), "-k", "2", "--out", str(tmp_path / "here")]) == 0
    assert (tmp_path / "there").read_bytes() == (tmp_path / "here").read_bytes()


def test_certificates_of_others(
    run: Any, strangers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dgmm.cli.engines._CONNECT_SECONDS", 2)
    done = run(strangers, tmp_path / "m")
    assert done.code == 75
    assert "cannot reach the Dask scheduler" in done.err or "no TLS with" in done.err
    assert "PRIVATE KEY" not in done.err


def test_a_key_of_another_certificate(
    run: Any, folder: Path, strangers: Path, tmp_path: Path
) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(folder, mixed)
    shutil.copy(strangers / "key.pem", mixed / "key.pem")
    done = run(mixed, tmp_path / "m")
    assert done.code == 75
    assert "--tls-key belongs to --tls-cert" in done.err


def test_no_certificates(run: Any, tmp_path: Path) -> None:
    done = run(None, tmp_path / "m")
    assert done.code == 2
    assert "needs --tls-ca-file" in done.err
