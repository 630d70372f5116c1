"""TabICL's forward with gradients to its context, as ``TabICLClassifier`` deploys it.

With `synthicl.tabicl.cached` the package's only use of tabicl's private modules.

The wrapper goes through NumPy and runs under ``no_grad``; this is the same computation in PyTorch. Its preprocessing is
refitted on the context: standardisation and clipping bounds are differentiated, the exponents of the power
transform are constants of a step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tabicl import TabICLClassifier
from tabicl._model.tabicl import TabICL
from torch import Tensor

from synthicl.core.devices import to_device

EXPONENTS, GRID, REFINEMENTS = 128.0, 65, 9  # largest exponent, exponents in a grid, grids: each is 32 times finer


@dataclass(frozen=True)
class Member:
    """One member of the wrapper's ensemble.

    Attributes:
        power: whether columns go through a Yeo-Johnson transform.
        features: indices on the CPU of the columns that the model sees, in its order; of these, the ones that do not
            vary in a context are left out there.
        classes: (C,), the label that the model sees for each class.
    """

    power: bool
    features: Tensor
    classes: Tensor


def random_member(columns: int, classes: int, generator: torch.Generator) -> Member:
    """Draw a member as the wrapper's defaults do: any order of columns, cyclically shifted labels, half with power.

    The wrapper draws an order of the columns that vary. Any order of all, without those that do not, is the same draw.
    """
    shift = int(torch.randint(classes, (), generator=generator))
    return Member(
        bool(torch.rand((), generator=generator) < 0.5),
        torch.randperm(columns, generator=generator),
        (torch.arange(classes) + shift) % classes,
    )


def members_of(classifier: TabICLClassifier) -> list[Member]:
    """The members of a fitted ``TabICLClassifier``, in the order in which it averages them."""
    ensemble = classifier.ensemble_generator_
    kept = np.flatnonzero(ensemble.unique_filter_.features_to_keep_)  # the wrapper counts columns after its filter
    return [
        Member(method == "power", torch.as_tensor(kept[list(features)]), torch.as_tensor(np.array(classes)))
        for method, configurations in ensemble.ensemble_configs_.items()
        for features, classes in configurations
    ]


def misfit(config: object, state: object) -> str:
    """Why TabICL cannot be built and filled from the parts of a checkpoint, in words; empty if it can."""
    if not isinstance(config, dict) or not isinstance(state, dict):
        return "config or state_dict is not a table"
    for name, tensor in state.items():
        if not isinstance(tensor, torch.Tensor):
            return f"{name} is not a tensor"
        if tensor.is_floating_point() and not tensor.isfinite().all():
            return f"{name} holds NaN or infinite numbers"
    try:
        with torch.device("meta"):  # no memory, whatever sizes it says
            expected = TabICL(**config).state_dict()
    except Exception as error:  # the network checks its settings in many ways
        return f"its config is that of another network ({type(error).__name__}: {' '.join(str(error).split())[:100]})"
    for name, tensor in expected.items():
        if name not in state:
            return f"{name} is missing"
        if state[name].shape != tensor.shape:
            return f"{name} has shape {tuple(state[name].shape)}, not {tuple(tensor.shape)}"
    return next((f"{name} has no place in it" for name in state if name not in expected), "")


class DifferentiableTabICL:
    """A frozen TabICL whose logits can be differentiated with respect to context and queries.

    Args:
        model_path: checkpoint in tabicl's format, loaded with ``weights_only``.
        device: where it runs.
    """

    def __init__(self, model_path: Path, device: torch.device | str = "cpu") -> None:
        checkpoint = torch.load(model_path, map_location="cpu", weights_only=True)
        self.model = TabICL(**checkpoint["config"])
        self.model.load_state_dict(checkpoint["state_dict"])
        # In evaluation mode tabicl runs under no_grad. There is no dropout: both modes give the same logits.
        self.model.to(device).train().requires_grad_(False)
        self.max_classes: int = self.model.max_classes
        self.outlier_threshold: float = TabICLClassifier().outlier_threshold

    def logits(self, context: Tensor, labels: Tensor, queries: Tensor, member: Member) -> Tensor:
        """Logits of one member.

        Columns that are constant in a context are left out of it, as the wrapper does, and get no gradient. Contexts
        that keep the same columns are one batch; where they do not, each goes through the network on its own.

        Args:
            context: (B, n, k), columns after the preprocessing, for B contexts.
            labels: (n,), class indices in ``range(C)``, C at most ``max_classes``; each occurs.
            queries: (B, q, k).
            member: which member.

        Returns:
            (B, q, C), columns in the order of the classes.
        """
        known, unknown = preprocess(context, queries, member.power, self.outlier_threshold)
        classes = to_device(member.classes, labels.device)
        rows, seen = torch.cat([known, unknown], 1), classes[labels]
        dtype = next(self.model.parameters()).dtype  # the rest of a run may be in double precision

        def forward(rows: Tensor, columns: list[int]) -> Tensor:
            rows = rows[..., to_device(torch.tensor(columns), rows.device)]
            logits: Tensor = self.model(rows.to(dtype), seen.expand(len(rows), -1).to(dtype))
            return logits[..., classes].to(rows.dtype)

        columns = columns_shown(context, member)
        if columns.count(columns[0]) == len(columns):
            return forward(rows, columns[0])
        return torch.cat([forward(*part) for part in zip(rows.split(1), columns, strict=True)])

    @torch.no_grad()
    def attention(self, context: Tensor, labels: Tensor, queries: Tensor, member: Member) -> Tensor:
        """How much each query attends to each context row in the blocks of the in-context stage, mean over heads.

        The forward is that of `logits`; what goes into each block's attention is read on the way, and the weights are
        computed from it by `attention_weights`.

        Args:
            context: (B, n, k), likewise.
            labels: (n,).
            queries: (B, q, k).
            member: which member; it permutes columns and labels, never rows.

        Returns:
            (B, L, q, n) for L blocks; rows sum to 1, since queries see the context and nothing else.
        """
        layers: list[Tensor] = []

        def read(attention: torch.nn.MultiheadAttention, inputs: tuple[Tensor, ...]) -> None:
            layers.append(attention_weights(attention, inputs[0], inputs[1])[..., context.shape[1] :, :].mean(-3))

        blocks = self.model.icl_predictor.tf_icl.blocks
        hooks = [block.attn.register_forward_pre_hook(read) for block in blocks]
        try:
            self.logits(context, labels, queries, member)
        finally:
            for hook in hooks:
                hook.remove()
        forwards = [layers[first : first + len(blocks)] for first in range(0, len(layers), len(blocks))]
        return torch.cat([torch.stack(forward, 1) for forward in forwards])


def attention_weights(attention: torch.nn.MultiheadAttention, rows: Tensor, known: Tensor) -> Tensor:
    """The weights inside a ``MultiheadAttention`` of tabicl, which its fused kernel never writes out.

    softmax(Q K^T / sqrt(d)) per head (A. Vaswani et al., 2017, equation 1), Q after tabicl's scalable softmax, which
    multiplies it by a function of log n. The in-context stage knows no positions: there is no rotary embedding in it.

    Args:
        attention: the module, of H heads.
        rows: what attends, (B, T, E).
        known: what is attended to, (B, n, E).

    Returns:
        (B, H, T, n).
    """
    (weight_q, weight_k, _), (bias_q, bias_k, _) = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    heads = (attention.num_heads, attention.head_dim)
    q = (rows @ weight_q.T + bias_q).unflatten(-1, heads).transpose(1, 2)
    k = (known @ weight_k.T + bias_k).unflatten(-1, heads).transpose(1, 2)
    if attention.ssmax_layer is not None:
        q = attention.ssmax_layer(q, known.shape[1])  # type: ignore[operator]  # torch does not know it is a module
    weights: Tensor = (q @ k.mT / attention.head_dim**0.5).softmax(-1)
    return weights


def varying(context: Tensor) -> Tensor:
    """Which columns the wrapper keeps, by its ``UniqueFeatureFilter``: those that are not constant in a context.

    Where all are constant it keeps the first, and where there is one row, all.

    Args:
        context: (B, n, k).

    Returns:
        (B, k), boolean.
    """
    if context.shape[1] == 1:
        return torch.ones_like(context[:, 0], dtype=torch.bool)
    kept = (context != context[:, :1]).any(1)
    kept[:, 0] |= ~kept.any(1)
    return kept


def columns_shown(context: Tensor, member: Member) -> list[list[int]]:
    """Indices of the columns that a member's model sees of each context (B, n, k), in its order.

    How many there are depends on values, so the CPU waits for the device here. It costs little: what comes next is
    TabICL's network, which begins by waiting for values itself, for columns to skip and for the largest label.
    """
    features = member.features.tolist()
    return [[column for column in features if kept[column]] for kept in varying(context).tolist()]


def preprocess(context: Tensor, queries: Tensor, power: bool, threshold: float) -> tuple[Tensor, Tensor]:
    """TabICL's ``PreprocessingPipeline`` fitted on the context, differentiable.

    It treats every column by itself; the wrapper has dropped constant ones before, see `varying`.

    Args:
        context: (B, n, k).
        queries: (B, q, k).
        power: whether columns go through a Yeo-Johnson transform with exponents fitted on the context.
        threshold: standard deviations beyond which values are pulled in.

    Returns:
        Context and queries, transformed.
    """
    both = torch.cat([context, queries], 1)
    n = context.shape[1]
    mean = both[:, :n].mean(1, keepdim=True)
    scale = both[:, :n].std(1, keepdim=True, unbiased=False) + 1e-6
    both = ((both - mean) / scale).clamp(-100, 100)
    if power:
        exponents = fit_exponents(both[:, :n])
        both = yeo_johnson(within_range(both, n, exponents), exponents)
        mean, spread = both[:, :n].mean(1, keepdim=True), both[:, :n].std(1, keepdim=True, unbiased=False)
        # scikit-learn's StandardScaler divides a constant column by 1.
        varies = (both[:, :n] != both[:, :1]).any(1, keepdim=True) & (spread > 0)
        both = (both - mean) / torch.where(varies, spread, 1)
    # Two stages: bounds without what lies outside the first bounds, pulled in logarithmically.
    known = both[:, :n]
    centre, spread = known.mean(1, keepdim=True), known.std(1, keepdim=True, correction=min(1, n - 1)).clamp_min(1e-6)
    inside = ((known - centre).abs() <= threshold * spread).to(known)
    count = inside.sum(1, keepdim=True)
    centre = (known * inside).sum(1, keepdim=True) / count
    variance = ((known - centre).square() * inside).sum(1, keepdim=True) / (count - 1).clamp_min(1)
    spread = variance.clamp_min(1e-12).sqrt()
    both = torch.maximum(-torch.log1p(both.abs()) + centre - threshold * spread, both)
    both = torch.minimum(torch.log1p(both.abs()) + centre + threshold * spread, both)
    return both[:, :n], both[:, n:]


def within_range(both: Tensor, n: int, exponents: Tensor) -> Tensor:
    """Rows whose queries the power transform can take.

    Where it overflows for one query, the wrapper clips all of them, in every column, to the range of the context.

    Args:
        both: n context rows, then queries, (B, n + q, k), standardised.
        n: how many.
        exponents: (B, 1, k).

    Returns:
        The rows, (B, n + q, k).
    """
    finite = yeo_johnson(both[:, n:].detach(), exponents).isfinite().all(2, keepdim=True).all(1, keepdim=True)
    clipped = both.clamp(both[:, :n].amin(1, keepdim=True), both[:, :n].amax(1, keepdim=True))
    return torch.where(finite, both, clipped)


def fit_exponents(context: Tensor) -> Tensor:
    """Yeo-Johnson exponents of the columns of each context (B, n, k), by maximum likelihood: (B, 1, k), constants.

    The likelihood has one maximum in the exponent, of which it is found where it lies within +- 128: by looking at a
    grid of exponents, and at finer ones around the best, on the device and without waiting for it. scikit-learn's are
    those of ``scipy.stats.yeojohnson``, which looks between bounds that keep float32, or what the context has, from
    overflowing; a constant column has exponent 1.
    """
    x = context.detach().double()
    slope = (x.sign() * x.abs().log1p()).sum(1, keepdim=True)
    steps = torch.linspace(0, 1, GRID, dtype=x.dtype, device=x.device)[:, None, None, None]
    low, high = -EXPONENTS * torch.ones_like(slope), EXPONENTS * torch.ones_like(slope)
    for _ in range(REFINEMENTS):
        grid = low + steps * (high - low)  # (G, B, 1, k)
        y = yeo_johnson(x.expand(GRID, -1, -1, -1), grid)
        spread, mean = y.std(2, correction=0, keepdim=True), y.mean(2, keepdim=True)
        likelihood = (grid - 1) * slope - x.shape[1] * spread.log()
        sound = (
            spread > 1e-7 * mean.abs()
        )  # false where values saturate and their differences are rounding, and for NaN
        best = likelihood.where(sound, -torch.inf).argmax(0, keepdim=True)
        low, high = (grid.gather(0, (best + side).clamp(0, GRID - 1))[0] for side in (-1, 1))
    spread, rounding = x.std(1, correction=0, keepdim=True), x.shape[1] * torch.finfo(x.dtype).eps
    constant = spread <= rounding * x.mean(1, keepdim=True).abs()
    low_bound, high_bound = exponent_bounds(context)
    return torch.where(constant, 1, ((low + high) / 2).clamp(low_bound, high_bound)).to(context)


def exponent_bounds(context: Tensor) -> tuple[Tensor, Tensor]:
    """The bounds that ``scipy.stats.yeojohnson_normmax`` sets on the exponents, for columns of (B, n, k): (B, 1, k).

    Values of up to 20 times the largest, transformed, are to be squared within the range of their type.
    """
    x, kind = context.detach().double(), torch.finfo(context.dtype)
    span = (20 * x.abs().amax(1, keepdim=True)).log1p()
    low = (math.log(kind.tiny) - math.log(kind.eps)) / 2 / span
    high = (math.log(kind.max) + math.log(kind.eps)) / 2 / span
    negative, mixed = (x < 0).all(1, keepdim=True), (x < 0).any(1, keepdim=True)
    return (
        torch.where(negative, 2 - high, torch.where(mixed, torch.maximum(2 - high, low), low)),
        torch.where(negative, 2 - low, torch.where(mixed, torch.minimum(2 - low, high), high)),
    )


def yeo_johnson(x: Tensor, exponent: Tensor) -> Tensor:
    """The transform of I.-K. Yeo and R. A. Johnson, Biometrika 87, 2000, element by element.

    Args:
        x: (B, n, k).
        exponent: (B, 1, k).

    Returns:
        (B, n, k).
    """
    tiny = torch.finfo(x.dtype).eps
    # Not clamp_min, whose gradient at 0 is none: the transform's is 1 there.
    log_positive, log_negative = torch.log1p(torch.where(x < 0, 0, x)), torch.log1p(torch.where(x >= 0, 0, -x))

    def power(log_base: Tensor, e: Tensor) -> Tensor:
        safe = torch.where(e.abs() < tiny, torch.ones_like(e), e)
        return torch.where(e.abs() < tiny, log_base, torch.expm1(log_base * safe) / safe)

    return torch.where(x >= 0, power(log_positive, exponent), -power(log_negative, 2 - exponent))
