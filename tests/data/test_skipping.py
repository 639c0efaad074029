"""Bad rows and damaged blocks that are skipped: the weights of a fit without them, and counted."""

from __future__ import annotations

import numpy as np
import pytest
from distributed import Client, LocalCluster

import dgmm
from dgmm.data.opening import open_dataset
from dgmm.errors import (
    DataChangedError,
    InvalidDataError,
    InvalidParameterError,
    MissingChunkError,
    SourceError,
)
from tests.data.zarr_arrays import CHECKED, write

N, D = 4000, 3
BAD = [7, 1503, 1504, 3999]
GM = {"n_components": 3, "random_state": 0, "max_iter": 8, "tol": 0.0}

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(c, 1, (N // 4, D)) for c in (-6, -2, 2, 6)])[
        rng.permutation(N)
    ]


@pytest.fixture
def spoilt(rows):
    spoilt = rows.copy()
    spoilt[BAD, [0, 1, 2, 0]] = [np.nan, np.inf, -np.inf, np.nan]
    return spoilt


@pytest.fixture
def damaged(rows, tmp_path):
    """Zarr of which blocks 2 (a flip) and 5 (missing) of eight cannot be read, and one bad row."""
    rows = rows.copy()
    rows[10, 1] = np.nan
    write(tmp_path / "x", rows, chunks=(500, D), **CHECKED)
    chunk = tmp_path / "x/c/2/0"
    data = bytearray(chunk.read_bytes())
    data[100] ^= 1
    chunk.write_bytes(bytes(data))
    (tmp_path / "x/c/5/0").unlink()
    return tmp_path / "x"


SKIP = {"on_bad_block": "skip", "on_bad_rows": "skip"}


def skipping(path, most=0.5, **options):
    return open_dataset(
        path, **{"block_bytes": 500 * D * 8, "max_skipped": most, **SKIP, **options}
    )


def assert_same(one, other):
    for name in ("weights_", "means_", "covariances_"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.lower_bound_ == other.lower_bound_


def test_bad_rows_have_weight_zero_to_the_bit(spoilt):
    dataset = open_dataset(spoilt, on_bad_rows="skip")
    weight = np.ones(N)
    weight[BAD] = 0.0
    found = dgmm.GaussianMixture(**GM).fit(dataset)
    assert_same(found, dgmm.GaussianMixture(**GM).fit(spoilt, sample_weight=weight))
    assert (found.record_.skipped_rows, found.record_.skipped_blocks) == (4, ())
    assert "skipped: 4 bad rows" in found.record_.notes
    with pytest.raises(InvalidDataError, match="row 7, feature 0 is nan"):
        dgmm.GaussianMixture(**GM).fit(spoilt)


def test_weights_and_labels_go_with_it(spoilt):
    weight, labels = np.random.default_rng(1).uniform(0.5, 2, N), np.full(N, -1)
    labels[:3] = 0, 1, 2
    weight[7] = 0.0  # not looked at, and not counted
    zeroed = np.where(np.isin(np.arange(N), BAD), 0.0, weight)
    dataset = open_dataset(spoilt, on_bad_rows="skip")
    one = dgmm.GaussianMixture(**GM).fit(dataset, sample_weight=weight, labels=labels)
    other = dgmm.GaussianMixture(**GM).fit(spoilt, sample_weight=zeroed, labels=labels)
    assert_same(one, other)
    assert one.record_.skipped_rows == 3


def test_damaged_blocks_are_named(damaged):
    # Threads read ahead: which of the two is met first is a matter of luck.
    with pytest.raises(SourceError, match=r"block rows (1000 to 1499 is dam|2500 to 2999 was nev)"):
        dgmm.GaussianMixture(**GM).fit(skipping(damaged, on_bad_block="raise"))
    with pytest.raises(InvalidDataError, match="row 10, feature 1 is nan"):
        dgmm.GaussianMixture(**GM).fit(skipping(damaged, on_bad_rows="raise"))
    record = dgmm.GaussianMixture(**GM).fit(skipping(damaged)).record_
    assert record.skipped_rows == 1001
    one, two = record.skipped_blocks
    assert "block rows 1000 to 1499 is damaged" in one
    assert "chunk c/5/0 of block rows 2500 to 2999 was never written" in two


def test_engines_agree_to_the_bit(damaged):
    fits = [
        dgmm.GaussianMixture(**GM, engine=dgmm.LocalEngine(n)).fit(skipping(damaged))
        for n in (1, 3)
    ]
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
        ) as c,
        Client(c) as client,
    ):
        engine = dgmm.DaskEngine(client)
        fits.append(dgmm.GaussianMixture(**GM, engine=engine).fit(skipping(damaged)))
    for other in fits[1:]:
        assert_same(fits[0], other)
        assert other.record_.skipped_rows == 1001
        assert other.record_.skipped_blocks == fits[0].record_.skipped_blocks


def test_a_share_that_is_too_large_is_refused(damaged, rows):
    message = (
        r"1001 of 4000 rows \(25.025%\) would be skipped, more than max_skipped=0.25.*2 blocks"
    )
    dataset = skipping(damaged, most=0.25)
    model = dgmm.GaussianMixture(**GM).fit(rows)
    for attempt in (
        lambda: dgmm.GaussianMixture(**GM).fit(dataset),
        lambda: model.score(dataset),
        lambda: dgmm.select_model(dataset, [1, 2]),
        lambda: dgmm.suggest_priors(dataset, n_components=2),
    ):
        with pytest.raises(InvalidDataError, match=message):
            attempt()


@pytest.mark.parametrize("criterion", ["bic", "heldout"])
def test_selection(damaged, criterion):
    found = dgmm.select_model(skipping(damaged), [1, 2], criterion=criterion, max_iter=5)
    assert found.best_.record_.skipped_rows == 1001


def test_scores_and_predictions(damaged, rows):
    model = dgmm.GaussianMixture(**GM).fit(rows)
    good = np.ones(N, bool)
    good[[10, *range(1000, 1500), *range(2500, 3000)]] = False
    found = model.evaluate(skipping(damaged))
    assert (found.rows, found.skipped_rows) == (N, 1001)
    assert found.log_likelihood == pytest.approx(model.score(rows[good]), rel=1e-12)
    for method, nothing in [("predict", -1), ("score_samples", np.nan), ("predict_proba", np.nan)]:
        expected = np.array(getattr(model, method)(rows))
        expected[~good] = nothing
        values = getattr(model, method)(skipping(damaged))
        np.testing.assert_allclose(values.compute(scheduler="synchronous"), expected, rtol=1e-9)
        streamed = getattr(model, method)(skipping(damaged), out=damaged.parent / method)
        np.testing.assert_allclose(streamed[:], expected, rtol=1e-9)


def test_rows_in_memory_give_arrays(spoilt, rows):
    model = dgmm.GaussianMixture(**GM).fit(rows)
    labels = model.predict(open_dataset(spoilt, on_bad_rows="skip"))
    assert np.flatnonzero(labels == -1).tolist() == BAD
    with pytest.raises(InvalidDataError, match="row 7"):
        model.predict(spoilt)


def test_a_block_that_is_lost_in_the_middle_of_a_fit(rows, tmp_path, monkeypatch):
    write(tmp_path / "x", rows, chunks=(500, D), **CHECKED)
    dataset = skipping(tmp_path / "x")
    model = dgmm.GaussianMixture(**GM, memory_limit="40MiB")
    from dgmm.data.zarr import ZarrHandle

    reads, read = [], ZarrHandle.read

    def failing(self, start, stop):
        reads.append(start)
        if start == 0 and reads.count(0) > 1:
            raise ValueError("checksum")
        return read(self, start, stop)

    monkeypatch.setattr(ZarrHandle, "read", failing)
    monkeypatch.setattr("dgmm.engine.cache.BlockCache.offer", lambda *_: None)
    with pytest.raises(DataChangedError, match="counted 3500 rows, and the first one 4000"):
        model.fit(dataset)


@pytest.mark.parametrize("lost_from", ["an iteration", "the last pass"])
@pytest.mark.parametrize("criterion", ["bic", "heldout"])
def test_a_block_that_is_lost_in_the_middle_of_a_selection(
    rows, tmp_path, monkeypatch, criterion, lost_from
):
    write(tmp_path / "x", rows, chunks=(500, D), **CHECKED)
    from dgmm.data.zarr import ZarrHandle

    # A profile, three iterations and the pass of the criteria.
    whole = 1 if lost_from == "an iteration" else 4
    reads, read = [], ZarrHandle.read

    def failing(self, start, stop):
        reads.append(start)
        if start == 0 and reads.count(0) > whole:
            raise ValueError("checksum")
        return read(self, start, stop)

    monkeypatch.setattr(ZarrHandle, "read", failing)
    monkeypatch.setattr("dgmm.engine.cache.BlockCache.offer", lambda *_: None)
    with pytest.raises(DataChangedError, match=r"counted \d+ rows, and the first one"):
        dgmm.select_model(
            skipping(tmp_path / "x"), [1, 2], criterion=criterion, max_iter=3, tol=0.0,
            random_state=0, memory_limit="40MiB",
        )  # fmt: skip
    assert reads.count(0) >= whole + 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_bad_rows": "drop"}, "on_bad_rows must be 'raise' or 'skip'"),
        ({"on_bad_block": None}, "on_bad_block must be"),
        ({"max_skipped": 2}, "max_skipped=2; it must be a share"),
        ({"max_skipped": "1%"}, "it must be a share"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(InvalidParameterError, match=message):
        open_dataset(np.ones((3, 2)), **options)


def test_partial_fit_does_not_skip(spoilt):
    with pytest.raises(InvalidParameterError, match="partial_fit does not skip"):
        dgmm.GaussianMixture(**GM).partial_fit(open_dataset(spoilt, on_bad_rows="skip"))


def test_nulls_of_parquet_are_bad_rows(tmp_path, rows):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {"a": pa.array(rows[:, 0]), "b": pa.array(np.arange(N) % 7, "int32")}
    whole = pa.table(columns)
    columns["b"] = pa.array([None if i in BAD else i % 7 for i in range(N)], "int32")
    parquet.write_table(whole, tmp_path / "whole.parquet", row_group_size=900)
    parquet.write_table(pa.table(columns), tmp_path / "nulls.parquet", row_group_size=900)
    weight = np.ones(N)
    weight[BAD] = 0.0
    one = dgmm.GaussianMixture(**GM).fit(
        open_dataset(tmp_path / "nulls.parquet", on_bad_rows="skip")
    )
    other = dgmm.GaussianMixture(**GM).fit(tmp_path / "whole.parquet", sample_weight=weight)
    assert_same(one, other)
    assert one.record_.skipped_rows == 4


def test_missing_chunks_are_errors_unless_skipped(damaged):
    (damaged / "c/2/0").unlink()
    with pytest.raises(MissingChunkError):
        dgmm.GaussianMixture(**GM).fit(open_dataset(damaged, on_bad_rows="skip"))
