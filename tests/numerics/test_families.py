"""The six families against the public conformance suite, each defined as a textbook would."""

from __future__ import annotations

import numpy as np

from dgmm.testing.families import FamilySuite


class TestFull(FamilySuite):
    covariance_type = "full"

    def expand(self, covariances, n_components):
        return covariances

    def estimate(self, scatters, counts):
        return scatters / counts[:, None, None]


class TestDiag(FamilySuite):
    covariance_type = "diag"

    def expand(self, covariances, n_components):
        return covariances[:, :, None] * np.eye(self.n_features)

    def estimate(self, scatters, counts):
        return np.einsum("kii->ki", scatters) / counts[:, None]


class TestSpherical(FamilySuite):
    covariance_type = "spherical"

    def expand(self, covariances, n_components):
        return covariances[:, None, None] * np.eye(self.n_features)

    def estimate(self, scatters, counts):
        return np.einsum("kii->k", scatters) / (self.n_features * counts)


class TestTiedFull(FamilySuite):
    covariance_type = "tied_full"

    def expand(self, covariances, n_components):
        return np.stack([covariances] * n_components)

    def estimate(self, scatters, counts):
        return scatters.sum(axis=0) / counts.sum()


class TestTiedDiag(FamilySuite):
    covariance_type = "tied_diag"

    def expand(self, covariances, n_components):
        return np.stack([np.diag(covariances)] * n_components)

    def estimate(self, scatters, counts):
        return np.diagonal(scatters.sum(axis=0)) / counts.sum()


class TestTiedSpherical(FamilySuite):
    covariance_type = "tied_spherical"

    def expand(self, covariances, n_components):
        return np.stack([covariances * np.eye(self.n_features)] * n_components)

    def estimate(self, scatters, counts):
        return np.trace(scatters.sum(axis=0)) / (self.n_features * counts.sum())


class TestManyFeatures(TestFull):
    """Wider than a SIMD register and than the tile's least number of columns."""

    n_features = 19
    n_components = 7
    n_rows = 900


class TestOneFeature(TestFull):
    """Where there are no pairs of features."""

    n_features = 1


class TestOneComponent(TestTiedFull):
    """Where every responsibility is one."""

    n_components = 2
    n_features = 9
