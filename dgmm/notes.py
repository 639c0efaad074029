"""What a user should know of a fit: warnings while it runs, notes in its record."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from dgmm.chains import Chain
from dgmm.data.dataset import Dataset
from dgmm.errors import ConstantFeatureWarning, EmptyComponentWarning
from dgmm.notices import warn_user
from dgmm.profile import Profile

__all__ = [
    "emptied_notes",
    "notes_of",
    "notes_of_restarts",
    "warn_of_constants",
    "warn_of_dropped",
    "warn_of_emptied",
    "warn_of_empty",
]

_MOST_LISTED = 8

_DONE = {
    "dropped": "dropped",
    "reseeded": "given a new place, at the sampled row that the mixture explained worst",
}


def warn_of_constants(profile: Profile, dataset: Dataset) -> None:
    """Warn of columns without variance, before the fit spends hours on them."""
    constant = profile.constant_features
    if not constant:
        return
    names = dataset.feature_names
    listed = [
        f"{i if names is None else repr(names[i])} ({profile.least[i]:g})"
        for i in constant[:_MOST_LISTED]
    ]
    more = f" and {len(constant) - _MOST_LISTED} more" if len(constant) > _MOST_LISTED else ""
    several = len(constant) > 1
    warn_user(
        f"column{'s' * several} {', '.join(listed)}{more} {'are' if several else 'is'} constant: "
        "no component is told from another by that, and the variance there is what reg_covar, "
        "covariance_floor or a prior makes it (in spherical families, part of the mean of all), "
        "so densities, scores and BIC follow from that choice; drop such columns, or set "
        "covariance_floor to the square of the precision of the data",
        ConstantFeatureWarning,
    )


def warn_of_emptied(chain: Chain) -> None:
    """Warn of what became of components of the result that were left without rows."""
    warn_of_empty(chain.kept_empty)
    listed = _listed(chain)
    if listed:
        warn_user(
            f"{'; '.join(listed)}: components were without rows; lower n_components, or start "
            "elsewhere (init_params, n_init)",
            EmptyComponentWarning,
        )


def warn_of_empty(components: Collection[int]) -> None:
    """Warn of components of the result that were left without rows and stayed."""
    if not components:
        return
    names = ", ".join(str(k) for k in sorted(components))
    several = len(components) > 1
    warn_user(
        f"component{'s' * several} {names} {'were' if several else 'was'} without rows: what no "
        "prior determines stayed as it was, and the weight may be 0; lower n_components, start "
        "elsewhere (init_params, n_init), set weight_concentration_prior above 1, or "
        "empty_components='reseed' or 'drop'",
        EmptyComponentWarning,
    )


def warn_of_dropped(components: Sequence[int]) -> None:
    """Warn of components that a batch left without rows and that were dropped."""
    several = len(components) > 1
    warn_user(
        f"component{'s' * several} {', '.join(map(str, components))} "
        f"{'were' if several else 'was'} left without rows and dropped",
        EmptyComponentWarning,
    )


def notes_of(profile: Profile, chains: Sequence[Chain]) -> tuple[str, ...]:
    """Constant columns, skipped rows, empty components, restarts that were given up."""
    notes = [
        f"feature {i} is constant ({profile.least[i]:g}): the fit gives it what variance it has"
        for i in profile.constant_features
    ]
    if profile.skipped.rows:
        notes.append(f"skipped: {profile.skipped}")
    for i, chain in enumerate(chains):
        notes.extend(f"restart {i}: {one}" for one in emptied_notes(chain))
        if chain.reason:
            notes.append(f"restart {i} retired: {chain.reason}")
    return tuple(notes)


def notes_of_restarts(asked: int, n_init: int) -> tuple[str, ...]:
    """That fewer restarts run than were asked for, because all would be the same."""
    if asked == n_init:
        return ()
    return (
        (
            f"n_init={asked}: the start is given and nothing is drawn, so that all restarts are "
            "one, which was run"
        ),
    )


def emptied_notes(chain: Chain) -> list[str]:
    """What became of components without rows, numbered as in the start."""
    notes = [f"{one} (without rows)" for one in _listed(chain)]
    if chain.empty:
        names = ", ".join(str(k) for k in sorted(chain.empty))
        notes.append(
            f"components {names} were without rows; what no prior determines of them stayed as it "
            "was"
        )
    return notes


def _listed(chain: Chain) -> list[str]:
    """What was done about components without rows, numbered as in the start."""
    listed = [
        f"component {one.component} was {_DONE[one.action]} after iteration {one.iteration}"
        for one in chain.emptied
        if one.action in _DONE and one.iteration >= 0
    ]
    more = len(listed) - _MOST_LISTED
    return [*listed[:_MOST_LISTED], f"and {more} more"] if more > 0 else listed
