"""The mathematics of the edit: pure functions of float64 tensors, without models or files."""

from forgetcli.linalg.adversarial import adversarial_columns
from forgetcli.linalg.double_projection import left_null_map, left_null_space, safe_proxies
from forgetcli.linalg.drift import drift
from forgetcli.linalg.edit_operator import EditOperator, edit_operator
from forgetcli.linalg.memit import SpreadEdit, spread_edit
from forgetcli.linalg.moment import Moment
from forgetcli.linalg.preserve_set import augmented, centroids, most_moved, weak_directions
from forgetcli.linalg.procrustes import nearest_rotation, span
from forgetcli.linalg.projector import Projector, null_projector, null_space
from forgetcli.linalg.ridge import RidgeMap, ridge_map, ridge_map_of_moment
from forgetcli.linalg.spectrum import Spectrum
from forgetcli.linalg.speed import constrained_map
from forgetcli.linalg.whitening import Coordinates, coordinates, whitened

__all__ = [
    "Coordinates",
    "EditOperator",
    "Moment",
    "Projector",
    "RidgeMap",
    "Spectrum",
    "SpreadEdit",
    "adversarial_columns",
    "augmented",
    "centroids",
    "constrained_map",
    "coordinates",
    "drift",
    "edit_operator",
    "left_null_map",
    "left_null_space",
    "most_moved",
    "nearest_rotation",
    "null_projector",
    "null_space",
    "ridge_map",
    "ridge_map_of_moment",
    "safe_proxies",
    "span",
    "spread_edit",
    "weak_directions",
    "whitened",
]
