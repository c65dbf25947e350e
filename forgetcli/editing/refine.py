"""Finding the outputs for the concept's tokens: descent on one of the losses of
`forgetcli.editing.objectives`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from forgetcli.editing.closed_form import SiteProblem, Solution, pose
from forgetcli.editing.objectives import ContextMatcher, Matcher
from forgetcli.editing.pairs import Pairs
from forgetcli.errors import EditError
from forgetcli.models.base import LoadedModel
from forgetcli.models.unedited_layers import remembered
from forgetcli.progress import Observer


def run(
    model: LoadedModel,
    problems: list[SiteProblem],
    pairs: Pairs,
    parameters: Any,
    seed: int,
    observer: Observer,
) -> tuple[dict[str, Solution], list[float]]:
    """Solutions by site name, and the loss by step.

    Raises:
        EditError: the loss is no longer finite.
    """
    if parameters.refine.mode == "copy":
        return copied(model, problems, pairs), []
    kinds: dict[str, Any] = {"denoiser": Matcher, "attention": ContextMatcher}
    matcher = kinds[parameters.refine.match].of(model, pairs, parameters.refine, seed, observer)
    descend = {"joint": joint, "sequential": sequential}[parameters.refine.mode]
    return descend(model, problems, pairs, matcher, parameters, observer)


def joint(
    model: LoadedModel,
    problems: list[SiteProblem],
    pairs: Pairs,
    matcher: Matcher | ContextMatcher,
    parameters: Any,
    observer: Observer,
) -> tuple[dict[str, Solution], list[float]]:
    """Descent on R through Δ = R A, at all sites together.

    The loss is the mismatch of the weights as they will be written, relative to the unedited
    model's, plus `damping` times the penalty of the changes, relative to that of the weights.

    The search is L-BFGS (Nocedal & Wright, Numerical Optimization, algorithm 7.5, with the strong
    Wolfe conditions) in coordinates in which the penalty is a sum of squares (`linalg.whitening`).
    Every step uses all prompts, so only noisy images are random. The result does not depend on a
    learning rate, and little on the number of steps.
    """
    settings = parameters.refine
    movable = {p.site.name: pairs.of_encoder(p.site.component).movable for p in problems}
    # An encoder that reads the same tokens in concept and target prompts has nothing to change. If
    # no encoder has, `coordinates` raises the error.
    moving = [p for p in problems if movable[p.site.name].any()] or problems
    spaces = {p.site.name: p.coordinates(movable[p.site.name]) for p in moving}
    maps = {name: space.changes.to(model.device, torch.float32) for name, space in spaces.items()}
    objective = Objective(
        matcher, settings, maps, {p.site.name: len(p.weight) for p in moving}, observer
    )
    observer.stage("refinement", settings.steps)
    with ExitStack() as hooks:
        # The sites of an encoder are in the order of its blocks.
        first = {p.site.component: p.site for p in reversed(moving)}
        for component, site in first.items():
            hooks.enter_context(remembered(getattr(model, component), site))
        for problem in moving:
            change = partial(objective.changes.__getitem__, problem.site.name)
            hooks.enter_context(changed(problem.site.module, change))
        search = torch.optim.LBFGS(
            objective.values.values(),
            max_iter=settings.steps,
            max_eval=settings.steps,
            line_search_fn="strong_wolfe",
        )
        try:
            search.step(objective)
        except EditError:
            if not objective.losses:  # after a step that diverged, the best point is still known
                raise
    solutions = {}
    for problem in problems:
        name = problem.site.name
        if name in spaces:
            Z = objective.best[name].cpu().double() * objective.scale
            solutions[name] = Solution(Z @ spaces[name].changes, spaces[name].residual(Z))
        else:
            solutions[name] = Solution(
                torch.zeros_like(problem.weight), torch.zeros_like(problem.values)
            )
    return solutions, objective.losses


class Objective:
    """mismatch / initial mismatch + damping · ‖Z‖². A call leaves the gradient in `values`, as
    torch's L-BFGS requires.

    Attributes:
        values: Z / scale by site, shape (m, k).
        changes: Δ = Z E by site, shape (m, d), which the layers have beside their weights.
        scale: torch's first step is g / ‖g‖₁; in these units that is Polyak's, f / ‖g‖², of a loss
            whose minimum would be 0.
        best: the values with the smallest of `losses`.
    """

    def __init__(
        self,
        matcher: Matcher | ContextMatcher,
        settings: Any,
        maps: dict[str, Tensor],
        outputs: dict[str, int],
        observer: Observer,
    ) -> None:
        self.matcher = matcher
        self.settings = settings
        self.maps = maps
        self.observer = observer
        self.values = {name: E.new_zeros(outputs[name], len(E)) for name, E in maps.items()}
        self.changes: dict[str, Tensor] = {}
        self.best: dict[str, Tensor] = {}
        self.losses: list[float] = []
        self.unit = self.scale = 1.0

    def __call__(self) -> float:
        for name, value in self.values.items():
            self.changes[name] = (self.scale * value @ self.maps[name]).requires_grad_()
        mismatch = descend_all(self.matcher, self.settings.pictures)
        slopes = {
            name: change.grad @ self.maps[name].T for name, change in self.changes.items()
        }  # (m, k)
        # The first call is at zero, whatever the scale is.
        if not self.losses:
            self.unit = mismatch or 1.0
            absolute, square = (
                sum(float(g.abs().pow(p).sum()) for g in slopes.values()) for p in (1, 2)
            )
            self.scale = self.unit * absolute / square if square else 1.0
        weight = self.settings.damping * self.scale**2
        for name, value in self.values.items():
            value.grad = slopes[name] * (self.scale / self.unit) + 2 * weight * value
        cost = weight * sum(float(value.pow(2).sum()) for value in self.values.values())
        self.losses.append(mismatch / self.unit + cost)
        if self.losses[-1] == min(self.losses):
            self.best = {name: value.clone() for name, value in self.values.items()}
        if len(self.losses) <= self.settings.steps:  # the line search may take one more
            self.observer.advance(loss=self.losses[-1])
        return self.losses[-1]


def sequential(
    model: LoadedModel,
    problems: list[SiteProblem],
    pairs: Pairs,
    matcher: Matcher | ContextMatcher,
    parameters: Any,
    observer: Observer,
) -> tuple[dict[str, Solution], list[float]]:
    """The published form: V₁ replaces the site's output while it is refined, one site after the
    other. Then Δ is solved for.
    """
    settings = parameters.refine
    total = {p.site.name: torch.zeros_like(p.weight) for p in problems}
    wanted = {p.site.name: torch.zeros_like(p.values) for p in problems}
    losses: list[float] = []
    observer.stage("refinement", settings.epochs * settings.steps * len(problems))
    for _ in range(settings.epochs):
        for problem in problems:
            site, own = problem.site, pairs.of_encoder(problem.site.component)
            changed = {
                (p.site.component, p.site.parameter): p.weight + total[p.site.name]
                for p in problems
            }
            with model.weights(changed):
                keys = model.keys([site], pairs.concepts.ids)[site.name]
                now = pose(
                    site,
                    own.concepts,
                    keys,
                    problem.moment,
                    problem.projector,
                    parameters.edit,
                    problem.held,
                    problem.vocabulary,
                )
                start = now.values
                shift = torch.zeros(start.shape, device=model.device, requires_grad=True)
                optimiser = torch.optim.Adam([shift], lr=settings.lr)
                with shifted(site.module, matcher, shift, own):
                    for _ in range(settings.steps):
                        losses.append(descend_once(matcher, optimiser))
                        observer.advance(loss=losses[-1])
                residual = shift.detach().cpu().double() * own.movable
                wanted[site.name] = (
                    total[site.name] @ problem.K1 + residual
                )  # V₁ − W K₁ as last refined
                total[site.name] = total[site.name] + now.delta(residual)
    return {
        p.site.name: Solution(total[p.site.name], wanted[p.site.name]) for p in problems
    }, losses


def copied(model: LoadedModel, problems: list[SiteProblem], pairs: Pairs) -> dict[str, Solution]:
    """V₁ = the target prompt's outputs at the same positions. No descent; fails for styles."""
    keys = model.keys([p.site for p in problems], pairs.targets.ids)
    solutions = {}
    for problem in problems:
        own = pairs.of_encoder(problem.site.component)
        outputs = keys[problem.site.name] @ problem.weight.T  # (n, length, m)
        residual = (own.concepts.mean(outputs) - problem.values) * own.movable
        solutions[problem.site.name] = Solution(problem.delta(residual), residual)
    return solutions


def descend_all(matcher: Matcher | ContextMatcher, images: int) -> float:
    """The whole loss, with its gradients accumulated. It is computed in parts, so that memory does
    not grow with the number of prompts.
    """
    total = 0.0
    for loss in matcher.losses(images):
        total += finite(loss, "check the model's weights, or run it with --dtype float32")
        loss.backward()
    return total


def finite(loss: Tensor, hint: str) -> float:
    """The value of a loss.

    Raises:
        EditError: it is not finite.
    """
    if not torch.isfinite(loss):
        raise EditError("edit.diverged", "the refinement's loss is no longer a finite number", hint)
    return loss.item()


def descend_once(matcher: Any, optimiser: torch.optim.Optimizer) -> float:
    """One step of the optimiser on `matcher.loss()`; returns the loss before it."""
    loss = matcher.loss()
    value = finite(loss, "lower [refine] lr")
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return value


@contextmanager
def changed(module: torch.nn.Linear, change: Callable[[], Tensor]) -> Iterator[None]:
    """A context in which the layer has its weight plus `change()`, computed in float32."""

    def forward(inputs: Tensor) -> Tensor:
        bias = None if module.bias is None else module.bias.float()
        output = F.linear(inputs.float(), module.weight.float() + change(), bias)
        return output.to(inputs.dtype)

    # An attribute of the instance, which `del` removes again.
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        del module.__dict__["forward"]


@contextmanager
def shifted(
    module: torch.nn.Module,
    matcher: Matcher | ContextMatcher,
    shift: Tensor,
    pairs: Pairs | None = None,
) -> Iterator[None]:
    """A context in which `shift`, (m, distinct), is added to the module's output at the concept
    prompts' tokens, whatever its input is.

    Args:
        pairs: the matcher's pairs as the module's encoder reads them, if there are several
            encoders.
    """
    pairs = pairs or matcher.pairs
    owner, movable = pairs.concepts.owner.to(shift.device), pairs.movable.to(shift.device)
    handle = module.register_forward_hook(
        lambda _, args, output: output + (shift * movable).T[owner[matcher.rows]].to(output.dtype)
    )
    try:
        yield
    finally:
        handle.remove()
