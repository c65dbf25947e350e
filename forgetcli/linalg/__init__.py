"""The mathematics of the edit: pure float64 functions. No model, no disk, no choice of device."""
from forgetcli.linalg.moment import Moment
from forgetcli.linalg.projector import Projector, null_projector
from forgetcli.linalg.ridge import RidgeMap, ridge_map
from forgetcli.linalg.solve import EditOperator, edit_operator

__all__ = ["EditOperator", "Moment", "Projector", "RidgeMap", "edit_operator", "null_projector", "ridge_map"]
