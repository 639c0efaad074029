"""Clusters that dgmm starts by itself, encrypted."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from distributed import Client, Security

import dgmm
from dgmm import EngineError, InvalidParameterError, MissingDependencyError
from dgmm.cli import main
from dgmm.engine.dask_local import start_cluster

pytest.importorskip("cryptography")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.npy"
    x = np.random.default_rng(0).normal(size=(600, 3))
    x[:200] += 9
    np.save(path, x)
    return path


@pytest.fixture(scope="module")
def temporary() -> Security:
    return Security.temporary()


@pytest.fixture(scope="module")
def files(temporary: Security, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("tls")
    (folder / "ca.pem").write_text(temporary.tls_ca_file)
    (folder / "cert.pem").write_text(temporary.tls_client_cert)
    (folder / "key.pem").write_text(temporary.tls_client_key)
    return {name: str(folder / f"{name}.pem") for name in ("ca", "cert", "key")}


@pytest.fixture(scope="module")
def engine() -> Iterator[dgmm.DaskEngine]:
    with dgmm.DaskEngine(n_workers=1, security=True) as engine:
        yield engine


def test_the_bits_of_a_fit_are_the_same(engine: dgmm.DaskEngine, rows: Path) -> None:
    here = dgmm.GaussianMixture(2, random_state=0).fit(rows)
    there = dgmm.GaussianMixture(2, random_state=0, engine=engine).fit(rows)
    client = engine._own._client
    addresses = [client.scheduler.address, *client.nthreads()]
    assert all(address.startswith("tls://127.0.0.1") for address in addresses)
    assert there.means_.tobytes() == here.means_.tobytes()
    assert there.lower_bounds_ == here.lower_bounds_


def test_who_has_no_certificate_of_it_is_refused(
    engine: dgmm.DaskEngine, temporary: Security
) -> None:
    address = engine._own.client().scheduler.address
    with pytest.raises(OSError, match=r"[Tt]imed out|closed"):
        Client(address.replace("tls://", "tcp://"), timeout=2)
    with pytest.raises(OSError, match=r"[Tt]imed out|certificate|closed"):
        Client(address, security=temporary, timeout=2)


def test_a_cluster_that_is_started_again_is_encrypted_too(rows: Path) -> None:
    fits = []
    with dgmm.DaskEngine(n_workers=1, security=True) as engine:
        for _ in range(2):
            fits.append(dgmm.GaussianMixture(2, random_state=0, engine=engine).fit(rows))
            first = engine._own._client
            assert first.scheduler.address.startswith("tls://")
            first.cluster.close()
    assert fits[0].means_.tobytes() == fits[1].means_.tobytes()


def test_certificates_of_the_caller(temporary: Security, rows: Path) -> None:
    with dgmm.DaskEngine(n_workers=1, security=temporary) as engine:
        dgmm.GaussianMixture(2, random_state=0, engine=engine).fit(rows)
        address = engine._own._client.scheduler.address
        with Client(address, security=temporary, timeout=30) as another:
            assert len(another.nthreads()) == 1


def configuration(files: dict[str, str]) -> dict[str, str]:
    pairs = {
        f"distributed.comm.tls.{role}.{kind}": files[kind]
        for role in ("client", "scheduler", "worker")
        for kind in ("cert", "key")
    }
    return {"distributed.comm.tls.ca-file": files["ca"], **pairs}


def test_certificates_of_the_configuration(files: dict[str, str], temporary: Security) -> None:
    with (
        dask.config.set(configuration(files)),
        start_cluster(0, security=True, silence_logs=50) as cluster,
        # It knows the certificate in memory: that of the files.
        Client(cluster.scheduler_address, security=temporary, timeout=30) as client,
    ):
        assert client.scheduler.address.startswith("tls://")


def test_encryption_that_the_configuration_demands(files: dict[str, str]) -> None:
    demanded = {"distributed.comm.require-encryption": True, **configuration(files)}
    with dask.config.set(demanded), start_cluster(0, silence_logs=50) as cluster:
        assert cluster.scheduler_address.startswith("tls://")


def test_the_command_line(
    rows: Path, tmp_path: Path, files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Any] = []

    def start(*arguments: Any, **options: Any) -> Any:
        found.append(cluster := start_cluster(*arguments, **options))
        addresses.append(cluster.scheduler_address)
        return cluster

    addresses: list[str] = []
    monkeypatch.setattr("dgmm.engine.dask_local.start_cluster", start)
    fit = ["fit", str(rows), "-k", "2", "-q", "--out"]
    own = ["--tls-ca-file", files["ca"], "--tls-cert", files["cert"], "--tls-key", files["key"]]
    assert main([*fit, str(tmp_path / "here")]) == 0
    for name, options in (("made", ["--tls"]), ("given", own)):
        assert main([*fit, str(tmp_path / name), "--n-workers", "1", *options]) == 0
        assert (tmp_path / name).read_bytes() == (tmp_path / "here").read_bytes()
    assert [address.split(":")[0] for address in addresses] == ["tls", "tls"]
    assert found[1].security.tls_worker_key == files["key"]


def test_files_that_do_not_fit(
    rows: Path, tmp_path: Path, files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.pem"
    other.write_text(Security.temporary().tls_client_key)
    argv = ["fit", str(rows), "-k", "2", "-q", "--out", str(tmp_path / "m"), "--n-workers", "1"]
    argv += ["--tls-ca-file", files["ca"], "--tls-cert", files["cert"], "--tls-key", str(other)]
    assert main(argv) == 75
    said = capsys.readouterr().err
    assert "the key belongs to the certificate" in said
    assert said.count("\n") == 1
    assert "PRIVATE KEY" not in said


def test_a_role_without_a_certificate(files: dict[str, str]) -> None:
    half = Security(tls_ca_file=files["ca"], tls_client_cert=files["cert"])
    with (
        pytest.raises(EngineError, match="TLS files"),
        dgmm.DaskEngine(n_workers=1, security=half) as engine,
    ):
        engine._own.client()


def test_without_cryptography(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'dgmm\[tls\]'"):
        start_cluster(1, security=True)
    argv = ["fit", str(rows), "-k", "2", "--out", str(tmp_path / "m"), "--n-workers", "1", "--tls"]
    assert main([*argv, "-q"]) != 0
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("value", [False, "yes", 1, object()])
def test_what_is_no_security(value: Any) -> None:
    with pytest.raises(InvalidParameterError, match="security"):
        dgmm.DaskEngine(n_workers=1, security=value)


def test_a_client_has_its_own(engine: dgmm.DaskEngine) -> None:
    with pytest.raises(InvalidParameterError, match="give it to the client"):
        dgmm.DaskEngine(engine._own.client(), security=True)


def test_pickles_hold_no_keys(temporary: Security, files: dict[str, str]) -> None:
    again = pickle.loads(pickle.dumps(dgmm.DaskEngine(n_workers=2, security=True)))
    assert (again.n_workers, again.security) == (2, True)
    named = Security(tls_ca_file=files["ca"], tls_client_cert=files["cert"])
    again = pickle.loads(pickle.dumps(dgmm.DaskEngine(security=named)))
    assert again.security.tls_client_cert == files["cert"]
    with pytest.raises(pickle.PicklingError, match="private keys"):
        pickle.dumps(dgmm.DaskEngine(security=temporary))
    assert "PRIVATE" not in repr(dgmm.DaskEngine(security=temporary))


@pytest.mark.parametrize(
    "options", [["--tls"], ["--tls", "--scheduler", "tls://a:1"], ["--tls", "--engine", "local"]]
)
def test_tls_is_of_a_cluster_that_is_started(
    options: list[str], rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", str(rows), "-k", "2", "--out", str(tmp_path / "m"), *options]) == 2
    assert "--tls goes with --n-workers" in capsys.readouterr().err
