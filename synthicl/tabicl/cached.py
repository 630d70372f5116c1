"""A fitted ``TabICLClassifier`` whose context is computed once: kept in it, and as a PyTorch module with it inside.

What a context gives to a query are keys and values: of the column stage, which condenses the context into a few vectors
per column, and of each block of the in-context stage. They do not depend on the query. tabicl computes them
(``kv_cache="kv"``) for as many classes as a checkpoint tells apart at once.
"""

from __future__ import annotations

import numpy as np
import torch
from tabicl import TabICLClassifier
from tabicl._model.kv_cache import KVCache, KVCacheEntry
from tabicl._sklearn.preprocessing import PreprocessingPipeline
from torch import Tensor, nn
from torch.nn.functional import linear

from synthicl.core.errors import UserError
from synthicl.tabicl.class_tree import ClassTree
from synthicl.tabicl.differentiable import yeo_johnson

MAX_CACHE = 2**30  # bytes; a context of 384 columns as they are, with 8 members of TabICL v2, takes 1.2 GB


def why_not_kept(classifier: TabICLClassifier | ClassTree) -> str:
    """Why the context of a fitted classifier cannot be kept as keys and values, in words; empty if it can."""
    if isinstance(classifier, ClassTree):
        return f"there are {len(classifier.classes_)} classes, and TabICL tells {classifier.outputs} apart at once"
    model, found = classifier.model_, classifier.n_classes_
    if found > model.max_classes:
        return f"there are {found} classes, and TabICL tells {model.max_classes} apart at once"
    column, icl = model.col_embedder, model.icl_predictor
    if column.affine or not column.feature_group:
        # Without a cache tabicl 2.2 gives the members of a batch after the first another order of columns than the one
        # drawn for them (`ColEmbedding.map_feature_shuffle`), with a cache the one drawn: other probabilities.
        return "its checkpoint has the layout of TabICL v1, for which tabicl predicts otherwise from a kept context"
    columns = int(classifier.ensemble_generator_.unique_filter_.n_features_out_) + column.reserve_cls_tokens
    numbers = len(column.tf_col.blocks) * columns * column.tf_col.blocks[0].num_inds * column.embed_dim
    numbers += len(icl.tf_icl.blocks) * classifier.n_samples_in_ * icl.decoder[0].in_features
    members = sum(map(len, classifier.ensemble_generator_.ensemble_configs_.values()))
    if (size := 2 * 4 * members * numbers) > MAX_CACHE:
        return f"the keys and values of the context take {size / 2**30:.1f} GiB, and {MAX_CACHE / 2**30:g} is the most"
    return ""


def keep_context(classifier: TabICLClassifier) -> bool:
    """Let a fitted classifier keep the keys and values of its context, so that a prediction computes queries alone.

    Its parameter ``kv_cache="kv"`` does so in ``fit``; whether it is possible is known only after that.

    Returns:
        Whether it keeps them, see `why_not_kept`. If not, each prediction computes the context again.
    """
    if why_not_kept(classifier):
        return False
    if classifier.model_kv_cache_ is None:
        classifier.cache_mode_ = "kv"
        classifier._build_kv_cache()
    return True


class CachedTabICL(nn.Module):
    """A fitted classifier with its context inside: columns (q, k) to probabilities (q, C), as its ``predict_proba``.

    One difference: where the power transform overflows for a query, that query is clipped to the range of the context.
    The classifier then clips all queries of the call.

    Args:
        classifier: fitted on the CPU, on n rows of k columns.
        temperature: probabilities p become p^(1 / temperature), normalised.

    Raises:
        UserError: its context cannot be kept, see `why_not_kept`.
    """

    kept: Tensor
    classes: Tensor

    def __init__(self, classifier: TabICLClassifier, temperature: float = 1.0) -> None:
        super().__init__()
        if not keep_context(classifier):
            raise UserError(f"The context cannot be kept: {why_not_kept(classifier)}. Classify with synthicl predict.")
        ensemble, caches = classifier.ensemble_generator_, classifier.model_kv_cache_
        self.register_buffer("kept", torch.as_tensor(np.flatnonzero(ensemble.unique_filter_.features_to_keep_)))
        self.pipelines = nn.ModuleList(
            FittedPipeline(ensemble.preprocessors_[method], [order for order, _ in members])
            for method, members in ensemble.ensemble_configs_.items()
        )
        labels = [classes for members in ensemble.ensemble_configs_.values() for _, classes in members]
        self.register_buffer("classes", torch.tensor(np.array(labels)))
        self.network = classifier.model_
        skipped = self.network.col_embedder.reserve_cls_tokens  # columns that only hold a place
        self.column_stage = _entries([cache.col_cache for cache in caches.values()], skipped)
        self.context_stage = _entries([cache.icl_cache for cache in caches.values()])
        self.temperature = classifier.softmax_temperature * temperature

    def forward(self, columns: Tensor) -> Tensor:
        """Classify queries.

        Args:
            columns: (q, k), as `synthicl.tabicl.preprocessing.Preprocessing` gives them.

        Returns:
            (q, C), float32, columns in the order of the classifier's ``classes_``.
        """
        shown = columns.double()[:, self.kept]
        x = torch.cat([pipeline(shown) for pipeline in self.pipelines]).float()  # (M, q, columns kept)
        logits = self._icl(self._rows(x))  # (M, q, max_classes), classes as each member knows them
        index = self.classes[:, None].expand(-1, columns.shape[0], -1)
        probabilities: Tensor = (logits.gather(2, index).mean(0) / self.temperature).softmax(-1)
        return probabilities

    def _rows(self, x: Tensor) -> Tensor:
        """Representations of rows (M, q, R): tabicl's column stage without what it skips, then its row stage."""
        stage, rows = self.network.col_embedder, self.network.row_interactor
        features = stage.feature_grouping(x).transpose(1, 2)  # (M, G, q, size)
        embedded = linear(features, stage.in_linear.weight, stage.in_linear.bias)
        for block, known in zip(stage.tf_col.blocks, self.column_stage, strict=True):
            embedded = block.multihead_attn2(embedded, cached_kv=known())
        tokens = rows.cls_tokens.expand(*x.shape[:2], -1, -1)
        out: Tensor = rows._aggregate_embeddings(torch.cat([tokens, embedded.transpose(1, 2)], 2))
        return out

    def _icl(self, rows: Tensor) -> Tensor:
        """Logits of queries (M, q, max_classes)."""
        stage = self.network.icl_predictor
        for block, known in zip(stage.tf_icl.blocks, self.context_stage, strict=True):
            rows = block(rows, cached_kv=known())
        logits: Tensor = stage.decoder(stage.ln(rows) if stage.norm_first else rows)
        return logits


class FittedPipeline(nn.Module):
    """A fitted ``PreprocessingPipeline`` of tabicl, and the order in which each of its members sees the columns.

    It is for double precision: ONNX has neither log1p nor expm1, and without them float32 is not enough.
    """

    orders: Tensor
    mean: Tensor
    scale: Tensor
    lower: Tensor
    upper: Tensor
    least: Tensor
    most: Tensor
    exponents: Tensor
    power_mean: Tensor
    power_scale: Tensor

    def __init__(self, pipeline: PreprocessingPipeline, orders: list[list[int]]) -> None:
        super().__init__()
        scaler, power, bounds = pipeline.standard_scaler_, pipeline.normalizer_, pipeline.outlier_remover_
        self.power = power is not None
        statistics = {"mean": scaler.mean_, "scale": scaler.scale_}
        statistics |= {"lower": bounds.lower_bounds_, "upper": bounds.upper_bounds_}
        if power is not None:
            statistics |= {"least": pipeline.X_min_[0], "most": pipeline.X_max_[0], "exponents": power.lambdas_}
            statistics |= {"power_mean": power._scaler.mean_, "power_scale": power._scaler.scale_}
        for name, values in statistics.items():
            self.register_buffer(name, torch.as_tensor(np.asarray(values, dtype=np.float64)))
        self.register_buffer("orders", torch.tensor(np.array(orders)))

    def forward(self, x: Tensor) -> Tensor:
        """Columns (q, k), float64, to what each member sees (M, q, k)."""
        x = ((x - self.mean) / self.scale).clamp(-100, 100)
        if self.power:
            # What overflows is what does in float32, as the classifier computes.
            finite = yeo_johnson(x, self.exponents).float().isfinite().all(-1, keepdim=True)
            x = torch.where(finite, x, x.clamp(self.least, self.most))
            x = (yeo_johnson(x, self.exponents) - self.power_mean) / self.power_scale
        x = torch.maximum(-torch.log1p(x.abs()) + self.lower, x)
        x = torch.minimum(torch.log1p(x.abs()) + self.upper, x)
        return x[:, self.orders].transpose(0, 1)


class _Entry(nn.Module):
    """Keys and values of an attention, (M, ..., heads, n, d), as buffers."""

    keys: Tensor
    values: Tensor

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.register_buffer("keys", keys)
        self.register_buffer("values", values)

    def forward(self) -> KVCacheEntry:
        """What tabicl's blocks take."""
        return KVCacheEntry(self.keys, self.values)


def _entries(caches: list[KVCache], skipped: int = 0) -> nn.ModuleList:
    """The entries of a stage block by block, all members in one; of columns, the first are left out."""
    entries = []
    for number in sorted(caches[0].kv):
        joined = KVCacheEntry.concat([cache.kv[number] for cache in caches])
        entries.append(_Entry(*(tensor[:, skipped:] if skipped else tensor for tensor in (joined.key, joined.value))))
    return nn.ModuleList(entries)
