"""scikit-learn's own checks of estimators, all of them."""

from __future__ import annotations

from sklearn.utils.estimator_checks import parametrize_with_checks

import pyjuice_bridge as pj


@parametrize_with_checks(
    [
        pj.HCLT(latents=2, epochs=2),
        pj.HCLT(latents=2, epochs=2, bins=8),
        pj.HMM(states=2, epochs=2),
        pj.RegionCircuit(depth=1, replicas=1, sums=2, epochs=2),
    ]
)
def test_estimators_keep_the_conventions(estimator, check) -> None:
    check(estimator)
