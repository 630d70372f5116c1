"""Another probe at each validation, beside TabICL: logistic regression by default."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.utilities.seed import isolate_rng

from synthicl.distillation.callbacks.tabicl_evaluation import TabICLEvaluation
from synthicl.distillation.distiller import Distiller
from synthicl.probes import probe_factory
from synthicl.probes.probe import ProbeSetting
from synthicl.probes.score import fit_and_score


class ProbeEvaluation(L.Callback):
    """Fit a probe on the current context rows and log ``val/<probe>_accuracy``, on the queries that TabICL is asked.

    Every fit has one with ``linear``. One more: ``--trainer.callbacks+=synthicl.distillation.callbacks.\
probe_evaluation.ProbeEvaluation --trainer.callbacks.probe=knn``. It has its own random state and changes no image.

    Args:
        probe: name of the probe, one that needs embeddings only.

    Raises:
        UserError: there is no such probe.
    """

    def __init__(self, probe: str = "linear") -> None:
        self.probe = probe
        self._factory = probe_factory(probe)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Score on val; a collective call."""
        assert isinstance(pl_module, Distiller)
        if trainer.sanity_checking:
            return
        evaluation = TabICLEvaluation.of(trainer)
        queries, rows = evaluation.queries(trainer, pl_module, "val"), evaluation.rows(trainer, pl_module)
        accuracy = 0.0
        if trainer.is_global_zero:
            deployment = pl_module.deployment
            with isolate_rng():
                probe = self._factory(ProbeSetting(deployment, pl_module.device))
                accuracy = fit_and_score(probe, rows.cpu(), queries)[1]["accuracy"]
        pl_module.log(f"val/{self.probe}_accuracy", trainer.strategy.broadcast(accuracy))
