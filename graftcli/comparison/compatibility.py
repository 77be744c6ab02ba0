"""Find the methods of a comparison that can run, before any training."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property

from graftcli.comparison.fingerprint import fingerprint
from graftcli.comparison.grid import Cell, Draw, Grid, Method, methods_of
from graftcli.comparison.result_cache import ResultCache
from graftcli.errors import CheckpointError, PairError, UsageError
from graftcli.graft.initialize.frozen_blocks import frozen_blocks
from graftcli.graft.layerwise.layer_pairs import check_derived
from graftcli.graft.training.tasks import check_tasks
from graftcli.recipe import Recipe, check_units
from graftcli.runs.config import RunConfig
from graftcli.runs.prepare import parse_blocks, plan_of, recipe_of


@dataclass(frozen=True)
class PairFacts:
    """Facts about teacher and student that are known before training; `params` and `macs` are of the teacher."""

    blocks: int
    params: int
    macs: int
    frozen: Sequence[int] = ()


@dataclass(frozen=True)
class EligibleMethods:
    """The methods of a grid that are compatible with the networks, and why the others are not."""

    config: RunConfig  # shared by all cells
    grid: Grid
    draw: Draw  # the draw whose images determine the channels of derived students
    cache: ResultCache

    @cached_property
    def selection(self) -> tuple[list[Method], list[str]]:
        """The compatible methods, and a note for each of the others.

        A student must be compatible with at least one recipe.
        """
        for recipe in self.grid.recipes:
            self._load_recipe(recipe)  # raises if a recipe is faulty
        compatible, refused = [], []
        for method in methods_of(self.grid, self._blocks_of):
            try:
                facts = self.pair_facts(method)
                chosen = parse_blocks(method.blocks, facts.blocks)
                check_tasks(self._load_recipe(method.recipe), facts.blocks, chosen, facts.frozen)
                compatible.append(method)
            except (PairError, UsageError, CheckpointError) as error:
                refused.append((method, error))
        return compatible, [self._reason_left_out(method, error, compatible) for method, error in refused]

    def pair_facts(self, method: Method) -> PairFacts:
        """Return the facts about the networks of a method; raise if they are incompatible with the recipe."""
        config = Cell(method, self.draw).config(self.config)

        def compute() -> object:
            recipe = recipe_of(config.how)
            plan = plan_of(config, recipe)
            check_units(recipe, len(plan.blocks))
            check_derived(recipe, plan.student.network)
            teacher = plan.teacher
            return asdict(PairFacts(len(plan.blocks), teacher.params, teacher.macs, frozen_blocks(recipe, plan)))

        return PairFacts(**self.cache.get_or_compute("plans", fingerprint(config), compute))

    def _blocks_of(self, student: str) -> int:
        """Return the number of blocks of the student with the first compatible recipe."""
        *others, last = dict.fromkeys(self.grid.recipes)
        for recipe in others:
            with suppress(PairError, UsageError, CheckpointError):
                return self.pair_facts(Method(recipe, student)).blocks
        return self.pair_facts(Method(last, student)).blocks

    def _load_recipe(self, name: str) -> Recipe:
        return recipe_of(replace(self.config.how, recipe=name))

    @staticmethod
    def _reason_left_out(
        method: Method, error: PairError | UsageError | CheckpointError, compatible: Sequence[Method]
    ) -> str:
        """Return the note for a method that is left out; raise if its student has no compatible recipe."""
        if method.student not in {other.student for other in compatible}:
            raise error
        return f"left out: {method.label} with {method.student_label}: {error.message}"
