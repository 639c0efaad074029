"""scikit-learn's own tests of its GaussianMixture, run on ours.

They are read from the installed package when these tests are collected; no line of them is kept
here. In their namespace ``GaussianMixture`` is ours, everything else is scikit-learn's.
"""

from __future__ import annotations

import importlib.util
import inspect
from types import ModuleType

import dgmm

_FUNCTION = "calls a private function of scikit-learn's alone, and no estimator of ours"
_METHOD = "calls private methods that exist in scikit-learn's class alone"

LEFT_OUT = {
    "test_suffstat_sk_full": _FUNCTION,
    "test_suffstat_sk_tied": _FUNCTION,
    "test_suffstat_sk_diag": _FUNCTION,
    "test_gaussian_suffstat_sk_spherical": _FUNCTION,
    "test_compute_log_det_cholesky": _FUNCTION,
    "test_gaussian_mixture_log_probabilities": _FUNCTION,
    "test_gaussian_mixture_precisions_init": _METHOD,
    "test_gaussian_mixture_all_init_does_not_estimate_gaussian_parameters": (
        "counts calls of a private function of scikit-learn's, which we never call"
    ),
    "test_gaussian_mixture_setting_best_params": (
        "with reg_covar=0 a component shrinks to one row, whose variance is 0; scikit-learn gets "
        "1e-16 from the 10 eps that it adds to counts and goes on, ours retires the restart"
    ),
    "test_gaussian_mixture_raises_where_array_api_not_implemented": (
        "asks that k-means starts be refused under array_api_dispatch; they work here on any array"
    ),
}

FLOAT64_ALONE = {
    "test_score": "asks for 1.5e-7 of a mean in float32, whose spacing there is 2.4e-7",
}


def _their_module() -> ModuleType:
    # A fresh copy under a name of its own: the one in sys.modules, if any, stays as it is.
    found = importlib.util.find_spec("sklearn.mixture.tests.test_gaussian_mixture")
    assert found is not None
    assert found.origin is not None
    spec = importlib.util.spec_from_file_location("_their_gaussian_mixture_tests", found.origin)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.GaussianMixture = dgmm.GaussianMixture  # type: ignore[attr-defined]
    return module


_THEIRS = {name: value for name, value in vars(_their_module()).items() if name.startswith("test_")}
if "scale the input data" not in inspect.getsource(_THEIRS["test_regularisation"]):
    LEFT_OUT["test_regularisation"] = "an older scikit-learn, whose sentence ended otherwise"
globals().update({name: test for name, test in _THEIRS.items() if name not in LEFT_OUT})


def test_most_of_their_tests_run_here() -> None:
    assert len(_THEIRS.keys() - LEFT_OUT.keys()) >= 25
