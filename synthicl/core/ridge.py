r"""Ridge regression in closed form, differentiable: what the ridge objective and the ridge probe have in common.

With Zc, Tc the embeddings and targets minus their means, W minimises

    ||Zc W - Tc||^2 + lambda s ||W||^2,    s = mean_n ||Zc_n||^2,    b = mean(T) - mean(Z) W,

so the intercept is not penalised, and lambda has no unit: embeddings twice as long give half the W and the same scores.
The solution is (Zc^T Zc + lambda s I)^-1 Zc^T Tc, or what equals it and is cheaper for n < D,
Zc^T (Zc Zc^T + lambda s I)^-1 Tc (C. Saunders, A. Gammerman and V. Vovk, "Ridge Regression Learning Algorithm in Dual
Variables", ICML 1998).
"""

from __future__ import annotations

import torch
from torch import Tensor


def ridge_weights(z: Tensor, targets: Tensor, regularisation: float | Tensor) -> tuple[Tensor, Tensor]:
    """Fit a ridge regression; scores of embeddings x are ``x @ W + b``.

    The system is solved in float64 by Cholesky. Rows that are equal, even all of them, give finite values and
    gradients: the penalty has a floor at the rounding of ``z``'s own type, below which rows cannot be told apart.

    Args:
        z: embeddings (n, D).
        targets: (n, C).
        regularisation: lambda > 0, without unit; a number or a scalar tensor.

    Returns:
        W (D, C) and b (C,), in the type of ``z``, differentiable with respect to all three arguments.
    """
    rows, aims = z.double(), targets.double()
    centre, middle = rows.mean(0), aims.mean(0)
    rows_c, aims_c = rows - centre, aims - middle
    spread = rows_c.square().sum(1).mean()
    floor = torch.finfo(z.dtype).eps * rows.detach().square().sum(1).mean()
    penalty = regularisation * spread + floor
    penalty = torch.where(penalty > 0, penalty, 1)  # all embeddings 0: then so is W, whatever the penalty
    if len(rows) <= rows.shape[1]:
        weight = rows_c.T @ _solve(rows_c @ rows_c.T, penalty, aims_c)
    else:
        weight = _solve(rows_c.T @ rows_c, penalty, rows_c.T @ aims_c)
    return weight.to(z.dtype), (middle - centre @ weight).to(z.dtype)


def _solve(gram: Tensor, penalty: Tensor, right: Tensor) -> Tensor:
    """(gram + penalty I)^-1 right."""
    system = gram + penalty * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    factor, failure = torch.linalg.cholesky_ex(system)  # which does not wait for the device to raise
    return torch.cholesky_solve(right, factor.where(failure == 0, torch.nan))
