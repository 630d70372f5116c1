"""``compare``: contexts of equal size, and all data, with every probe on the same queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from synthicl.core.assets import obtain
from synthicl.core.errors import UserError, check_at_least, check_between
from synthicl.core.files import file_fingerprint
from synthicl.core.settings import MAX_DRAWS
from synthicl.probes import PROBES, probe_factory
from synthicl.probes.probe import Probe
from synthicl.probes.tabicl import TabICLProbe
from synthicl.studies.compare.parts import measure_parts, note_parts
from synthicl.studies.contexts import QUERY_SPLITS, real_contexts, synthetic_contexts
from synthicl.studies.results import Results
from synthicl.studies.scoring import Context, Job
from synthicl.studies.subject import Subject
from synthicl.tabicl.checkpoint import check_checkpoint, checkpoint_asset
from synthicl.tabicl.preprocessing import columns_of

WHATEVER_IPC = ("all", "class_mean", "neighbours")


def compare(
    subject: Subject,
    results: Results,
    contexts: Sequence[str] | None = None,
    probes: Sequence[str] | None = None,
    preprocessings: Sequence[str] = (),
    checkpoints: Sequence[str] = (),
    random_draws: int | None = None,
    ipc: int | None = None,
    reference_seeds: int = 5,
    splits: Sequence[str] = QUERY_SPLITS,
) -> None:
    """Score context sets beside real contexts of equal size and all data, with several probes, on val and test.

    Args:
        subject: what is evaluated.
        results: where rows go.
        contexts: which real contexts (names as in synthicl/coresets, and neighbours: the real images nearest to the
            synthetic ones); None for every one. Synthetic contexts always take part.
        probes: which classifiers; None for every one but linear_reference, which trains for a thousand epochs.
        preprocessings: preprocessings of TabICL to stand beside the context set's own, for example raw,pca16.
        checkpoints: TabICL checkpoints to stand beside the subject's own, for example mini_1, which no objective saw.
        random_draws: how many contexts are drawn at random; None for as many as the run's table had.
        ipc: images per class of real contexts; None for the context set's own.
        reference_seeds: fits of linear_reference on each context, of which the paper has five.
        splits: whose images are asked: val alone while you choose.

    Raises:
        UserError: an unknown split or preprocessing.
    """
    if unknown := set(splits) - set(QUERY_SPLITS):
        raise UserError(f"--splits={','.join(sorted(unknown))}: unknown. Choose among: {', '.join(QUERY_SPLITS)}.")
    check_between(1, MAX_DRAWS, "--", random_draws=random_draws, reference_seeds=reference_seeds)
    check_at_least(1, "--", ipc=ipc)
    for name in preprocessings:
        columns_of(name, "--preprocessings")
    ipc = ipc or subject.ipc
    draws = random_draws or subject.settings.random_draws
    made = make_probes(subject, probes, preprocessings, checkpoints)  # first: what they lack is said before a search
    chosen = real_contexts(subject, ipc, draws, contexts)
    # What does not depend on the number of images per class is filed under the context set's own.
    fixed = [context for context in chosen if context.name in WHATEVER_IPC] + list(synthetic_contexts(subject))
    varied = [context for context in chosen if context.name not in WHATEVER_IPC]
    queries = {split: subject.embedded(split) for split in splits}
    note_parts(results, subject.data, QUERY_SPLITS)
    for per_class, group in ((ipc, varied), (subject.ipc, fixed)):
        jobs = [job for probe in made for context in group for job in jobs_of(subject, probe, context, reference_seeds)]
        scorer = subject.scorer("compare", results, ipc=per_class)
        scorer.calibration = True
        scorer.score(jobs, queries)
    measure_parts(results, QUERY_SPLITS)
    results.save(subject.output)


def make_probes(
    subject: Subject, names: Sequence[str] | None, preprocessings: Sequence[str] = (), checkpoints: Sequence[str] = ()
) -> list[Probe]:
    """The probes called ``names``; TabICL first, once for each preprocessing and each checkpoint."""
    if names is None:
        names = PROBES.names()
    made = []
    for name in sorted(names, key=lambda name: name != "tabicl"):
        make = probe_factory(name)
        made.append(make(subject.probe_setting()))
        for preprocessing in preprocessings if name == "tabicl" else ():
            made.append(make(subject.probe_setting(subject.fit_preprocessing(preprocessing))))
        for checkpoint in checkpoints if name == "tabicl" else ():
            path = obtain(checkpoint_asset(checkpoint, flags=("--checkpoints", "--checkpoints")))
            check_checkpoint(path, "--checkpoints")
            deployment = replace(subject.deployment, checkpoint=checkpoint, model_path=path)
            probe = TabICLProbe(deployment, subject.device, name=f"tabicl {checkpoint}")
            probe.weights = file_fingerprint(path)
            made.append(probe)
    return made


def jobs_of(subject: Subject, probe: Probe, context: Context, seeds: int) -> list[Job]:
    """A context with a probe; one that looks at images and draws at random is fitted ``seeds`` times, as draws."""
    if not probe.needs_images:
        return [Job(context, probe)]
    if context.images is None:
        return []
    make = probe_factory(probe.name)
    if context.name == "random":  # every draw has a seed of its own
        return [Job(context, make(subject.probe_setting(seed=context.draw)))]
    return [Job(context._replace(draw=seed), make(subject.probe_setting(seed=seed))) for seed in range(seeds)]
