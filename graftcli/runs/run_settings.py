"""What determines the result of a run: its networks, images, recipe and options."""

from graftcli.graft.engine import weights_digest
from graftcli.models.network import Network
from graftcli.runs.prepare import PreparedRun
from graftcli.store.atomic import plain
from graftcli.store.run_record import CutNames, NetworkIdentity, RunSettings


def run_settings(prepared: PreparedRun) -> RunSettings:
    """Return everything that determines the result; a run resumes only if it is unchanged."""
    plan, options = prepared.plan, prepared.config.how
    return RunSettings(
        teacher=_identity(plan.teacher.network),
        student=_identity(plan.student.network),
        cuts=CutNames(
            teacher=tuple(cut.name for cut in plan.teacher.cuts), student=tuple(cut.name for cut in plan.student.cuts)
        ),
        blocks=prepared.blocks,
        frozen=prepared.frozen,
        images=prepared.train.digest,
        val_images=prepared.held_out.digest if prepared.held_out is not None else None,
        extra_images=prepared.extra.digest if prepared.extra is not None else None,
        preprocess=prepared.preprocess,
        recipe=prepared.recipe,
        seed=options.seed,
        device=options.device,
        amp=prepared.amp,
        compile=options.compile,
        cache_gb=options.cache_gb,
        device_cache_gb=options.device_cache_gb,
    )


def _identity(network: Network) -> NetworkIdentity:
    return NetworkIdentity(name=network.name, origin=plain(network.origin), weights=weights_digest(network.module))
