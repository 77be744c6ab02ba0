"""Which methods can be compared: found, and told, before anything is trained."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from graftcli.comparison.fingerprint import mark_of
from graftcli.comparison.grid import Cell, Draw, Grid, Method, methods_of
from graftcli.comparison.result_cache import ResultCache
from graftcli.errors import CheckpointError, PairError, UsageError
from graftcli.graft.initialize.frozen_blocks import frozen_blocks
from graftcli.graft.layerwise.layer_pairs import check_made
from graftcli.graft.training.tasks import check_tasks
from graftcli.recipe import Recipe, check_units
from graftcli.runs.config import RunConfig
from graftcli.runs.prepare import parse_blocks, plan_of, recipe_of


@dataclass(frozen=True)
class PairFacts:
    """What is known of two networks before anything is trained: how many blocks, and what the teacher costs."""

    blocks: int
    params: int
    macs: int
    frozen: Sequence[int] = ()


@dataclass(frozen=True)
class EligibleMethods:
    asked: RunConfig  # what the cells have in common
    grid: Grid
    draw: Draw  # whose images a student may be made by
    notebook: ResultCache

    @cached_property
    def found(self) -> tuple[list[Method], list[str]]:
        """The methods that can be done, and what is said of the others.

        A student that goes with some recipe may go without the others.
        """
        for recipe in self.grid.recipes:
            self._recipe(recipe)  # a fault in one of them is the user's, whatever else
        able, refused = [], []
        for method in methods_of(self.grid, self._blocks_of):
            try:
                planned = self.planned(method)
                chosen = parse_blocks(method.blocks, planned.blocks)
                check_tasks(self._recipe(method.recipe), planned.blocks, chosen, planned.frozen)
                able.append(method)
            except (PairError, UsageError, CheckpointError) as problem:
                refused.append((method, problem))
        return able, [self._note(method, fault, able) for method, fault in refused]

    def planned(self, method: Method) -> PairFacts:
        """What keeps the method from being done is raised."""
        asked = Cell(method, self.draw).asked(self.asked)

        def find() -> Any:
            recipe = recipe_of(asked.how)
            plan = plan_of(asked, recipe)
            check_units(recipe, len(plan.blocks))
            check_made(recipe, plan.student.network)
            return asdict(
                PairFacts(len(plan.blocks), plan.teacher.params, plan.teacher.macs, frozen_blocks(recipe, plan))
            )

        return PairFacts(**self.notebook.once("plans", mark_of(asked), find))

    def _blocks_of(self, student: str) -> int:
        """How many blocks the student has, by the first recipe that goes with it."""
        *others, last = dict.fromkeys(self.grid.recipes)
        for recipe in others:
            with suppress(PairError, UsageError, CheckpointError):
                return self.planned(Method(recipe, student)).blocks
        return self.planned(Method(last, student)).blocks

    def _recipe(self, name: str) -> Recipe:
        return recipe_of(replace(self.asked.how, recipe=name))

    @staticmethod
    def _note(method: Method, fault: PairError | UsageError | CheckpointError, able: Sequence[Method]) -> str:
        """A student that goes with no recipe is the user's fault."""
        if method.student not in {one.student for one in able}:
            raise fault
        return f"left out: {method.label} with {method.student_label}: {fault.found}"
