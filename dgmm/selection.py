"""Choosing the number of components and the covariance family, in the passes of one fit."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from dgmm.candidates import Candidate, fit_candidates
from dgmm.covariance import family_of
from dgmm.criteria import CRITERIA
from dgmm.errors import InvalidParameterError
from dgmm.estimator import GaussianMixture
from dgmm.notes import emptied_notes, warn_of_emptied
from dgmm.notices import warn_user
from dgmm.parameters import check_parameters
from dgmm.plotting import plot_criterion
from dgmm.selection_table import SelectionRow, SelectionTable
from dgmm.sources import open_rows

__all__ = [
    "CRITERIA",
    "Selection",
    "SelectionRow",
    "SelectionTable",
    "run_selection",
    "select_model",
]


@dataclass(frozen=True, eq=False)
class Selection:
    """What :func:`select_model` found.

    Attributes
    ----------
    best_ : GaussianMixture
        The best candidate, fitted. Its ``record_`` counts the passes of the whole selection.
    table : SelectionTable
        All candidates: a sequence of :class:`SelectionRow`, with ``to_pandas()``.
    criterion : str
        What the candidates were compared by.
    """

    best_: GaussianMixture
    table: SelectionTable
    criterion: str

    @property
    def best_row(self) -> SelectionRow:
        """The row of the best candidate."""
        return self.table[_best(self.table.rows, self.criterion)]

    plot = plot_criterion

    def __repr__(self) -> str:
        return f"<Selection of {len(self.table)} candidates: {self._said()}>"

    def __str__(self) -> str:
        return f"Best: {self._said()}\n\n{self.table}"

    def _repr_html_(self) -> str:
        return f"<p>Best: {escape(self._said())}</p>{self.table._repr_html_()}"

    def _said(self) -> str:
        best = self.best_row
        return f"{best.covariance_type}, {best.n_components} components by {self.criterion}"


def select_model(
    X: Any,
    n_components: int | Iterable[int] = range(1, 11),
    *,
    covariance_types: str | Iterable[str] = ("full",),
    criterion: str = "bic",
    holdout: float = 0.2,
    n_init: int = 1,
    random_state: Any = None,
    sample_weight: Any = None,
    labels: Any = None,
    **options: Any,
) -> Selection:
    """Fit every number of components and family, and keep the best by a criterion.

    All candidates and their restarts are evaluated in the same passes: the rows are read once to
    profile them, once for each iteration of the slowest candidate and once for the criteria. Only
    where the memory limit is too small for all of them does an iteration take several reads.

    Parameters
    ----------
    X : array-like, Dask array, Zarr array, path or URL, or Dataset
        Shape (n_rows, n_features).
    n_components : int or iterable of int, default=range(1, 11)
    covariance_types : str or iterable of str, default=("full",)
    criterion : {"bic", "aic", "icl", "heldout"}, default="bic"
        ``"bic"`` is −2 log L + p log n (Schwarz 1978), ``"aic"`` −2 log L + 2 p (Akaike 1974),
        ``"icl"`` BIC − 2 Σ log max_k r_nk (Biernacki, Celeux and Govaert 2000): lower is better.
        ``"heldout"`` is the log-likelihood per row of rows that were not fitted to: higher is
        better.
    holdout : float, default=0.2
        With ``"heldout"``, the expected share of the rows held out. Which ones follows from a
        hash of the seed and the row's position. The model is fitted to the others, and so are
        the other criteria's numbers.
    n_init : int, default=1
        Restarts of each candidate.
    random_state : int, RandomState or Generator, optional
    sample_weight : array-like, Dask array, Zarr array, path, URL, str or int, optional
        As in :meth:`dgmm.GaussianMixture.fit`. Log-likelihoods are sums over the rows by their
        weights, the n of BIC and ICL is the sum of the weights, and rows held out are scored by
        theirs: a row of weight 2 counts as two rows everywhere, except that both are held out or
        neither is.
    labels : array-like, Dask array, Zarr array, path, URL or str, optional
        As in :meth:`dgmm.GaussianMixture.fit`, below the smallest number of components. The
        likelihood that the criteria compare is then that of rows and known labels together.
    **options
        Any other parameter of :class:`~dgmm.GaussianMixture`, the same for all candidates:
        priors (numbers, or for ``mean_prior`` one for each feature; an array with a value for
        each component where there is one number of them), ``fixed`` (values from the starts of
        each candidate), ``algorithm``, ``acceleration`` and so on. ``checkpoint`` keeps the state
        of all of them together.

    Returns
    -------
    Selection

    Notes
    -----
    Criteria are those of the mixture that the algorithm gives, from its log-likelihood without
    priors (as Fraley and Raftery 2007 do for BIC at the mode of a posterior); what is fixed
    counts for no parameter, and neither does a component that was dropped.

    Raises
    ------
    InvalidParameterError
        If an argument is out of range, or options are not those of an estimator.
    SingularMixtureError
        If every restart of every candidate collapsed.
    EmptyComponentError
        If all were given up, with ``empty_components="raise"``.

    Examples
    --------
    >>> import numpy as np, dgmm
    >>> x = np.concatenate([np.random.default_rng(0).normal(c, 1, (500, 2)) for c in (-5, 5)])
    >>> found = dgmm.select_model(x, range(1, 5), covariance_types=("full", "diag"), random_state=0)
    >>> found.best_.n_components
    2
    """
    if "covariance_type" in options:
        raise InvalidParameterError(
            f"select_model has no covariance_type={options['covariance_type']!r}; its families are "
            "named by covariance_types, one or several"
        )
    try:
        template = GaussianMixture(n_init=n_init, random_state=random_state, **options)
    except TypeError as error:
        raise InvalidParameterError(f"select_model: {error}") from error
    return run_selection(
        template,
        X,
        n_components=n_components,
        covariance_types=covariance_types,
        criterion=criterion,
        holdout=holdout,
        sample_weight=sample_weight,
        labels=labels,
    )


def run_selection(
    template: GaussianMixture,
    X: Any,
    *,
    n_components: int | Iterable[int],
    covariance_types: str | Iterable[str],
    criterion: str,
    holdout: float = 0.2,
    sample_weight: Any = None,
    labels: Any = None,
) -> Selection:
    """:func:`select_model` with an estimator that carries the options and follows the events."""
    started = time.perf_counter()
    _check(template, criterion, holdout)
    estimators = _estimators(template, n_components, covariance_types)
    for one in estimators:
        check_parameters(one)
    dataset = open_rows(X, sample_weight, labels, template.device)
    for one in estimators:
        one._check_rows(dataset)
    candidates = fit_candidates(
        estimators,
        dataset,
        holdout=holdout if criterion == "heldout" else None,
        on_event=template._emit,
        stop=template._stop,
    )
    candidates = sorted(candidates, key=lambda one: _order(one, estimators))
    rows = tuple(_row(one) for one in candidates)
    chosen = candidates[_best(rows, criterion)]
    assert chosen.outcome is not None
    best: GaussianMixture = chosen.estimator
    warn_of_emptied(chosen.outcome.chain)
    best._keep(chosen.outcome, dataset, time.perf_counter() - started)
    if not best.converged_ and best.max_iter > 0 and best.algorithm != "sem":
        warn_user(
            "The best candidate did not converge: increase max_iter or tol.", ConvergenceWarning
        )
    return Selection(best, SelectionTable(rows), criterion)


def _check(template: GaussianMixture, criterion: Any, holdout: Any) -> None:
    if not isinstance(criterion, str) or criterion not in CRITERIA:
        known = ", ".join(repr(name) for name in CRITERIA)
        raise InvalidParameterError(f"criterion={criterion!r} is not known; use one of {known}")
    is_real = isinstance(holdout, float | int | np.floating)
    if not is_real or not 0.0 < holdout < 1.0:
        raise InvalidParameterError(f"holdout={holdout!r}; it must lie between 0 and 1")
    if template.warm_start:
        raise InvalidParameterError("warm_start=True: candidates have nothing to start from")


def _estimators(
    template: GaussianMixture,
    n_components: int | Iterable[int],
    covariance_types: str | Iterable[str],
) -> list[GaussianMixture]:
    """One for each number of components and family, families side by side."""
    counts, names = _listed(n_components), _listed(covariance_types)
    for k in counts:
        if not isinstance(k, Hashable):
            raise InvalidParameterError(f"n_components={k!r}; it must be an integer of at least 1")
    families = list(dict.fromkeys(family_of(name).name for name in names))
    common = template.get_params(deep=False)
    made = [
        type(template)(**(common | {"n_components": k, "covariance_type": family}))
        for k in dict.fromkeys(counts)
        for family in families
    ]
    if not made:
        raise InvalidParameterError("no candidates: n_components or covariance_types is empty")
    return made


def _listed(value: Any) -> list[Any]:
    """What an argument lists, or itself; what arrays hold as Python's own values."""
    value = value.tolist() if isinstance(value, np.ndarray) else value
    each = list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [value]
    return [one.item() if isinstance(one, np.generic) else one for one in each]


def _order(candidate: Candidate, estimators: list[GaussianMixture]) -> tuple[int, int]:
    families = list(dict.fromkeys(one.covariance_type for one in estimators))
    one = candidate.estimator
    return families.index(one.covariance_type), one.n_components


def _row(candidate: Candidate) -> SelectionRow:
    one, outcome, fitted = candidate.estimator, candidate.outcome, candidate.fitted
    nan = float("nan")
    if outcome is None or fitted is None:
        return SelectionRow(
            one.covariance_type, one.n_components, 0, nan, nan, nan, nan, nan, False, 0,
            candidate.reason,
        )  # fmt: skip
    mixture = outcome.chain.mixture
    held_fixed = outcome.fixed.n_parameters(mixture.family, *mixture.means.shape)
    n_parameters = mixture.n_parameters - held_fixed
    total, held = fitted.log_likelihood, candidate.held
    bic = -2.0 * total + n_parameters * float(np.log(fitted.weight))
    return SelectionRow(
        covariance_type=one.covariance_type,
        n_components=one.n_components,
        n_parameters=n_parameters,
        log_likelihood=total / fitted.weight,
        bic=bic,
        aic=-2.0 * total + 2.0 * n_parameters,
        icl=bic - 2.0 * fitted.log_assignment,
        heldout=nan if held is None else held.log_likelihood / held.weight,
        converged=outcome.chain.status == "converged",
        n_iter=len(outcome.chain.lower_bounds),
        notes="; ".join(emptied_notes(outcome.chain)),
    )


def _best(rows: Sequence[SelectionRow], criterion: str) -> int:
    """Position of the best row; of equally good ones, that with the fewest parameters."""
    sign = CRITERIA[criterion]
    known = [i for i, row in enumerate(rows) if not np.isnan(getattr(row, criterion))]
    return max(known, key=lambda i: (sign * getattr(rows[i], criterion), -rows[i].n_parameters))
