"""Finding what the concept's tokens should put out: descent on one of the losses of `forgetcli.matching`."""
from __future__ import annotations

from contextlib import ExitStack, contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from forgetcli.closed_form import SiteProblem, Solution, pose
from forgetcli.errors import EditError
from forgetcli.matching import ContextMatcher, Matcher, Pairs
from forgetcli.progress import Observer


def run(model, problems: list[SiteProblem], pairs: Pairs, parameters, seed: int,
        observer: Observer) -> tuple[dict[str, Solution], list[float]]:
    """Solutions by site name, and the loss by step.

    Raises:
        EditError: the descent left the finite numbers.
    """
    if parameters.refine.mode == "copy":
        return copied(model, problems, pairs), []
    kind = {"denoiser": Matcher, "attention": ContextMatcher}[parameters.refine.match]
    matcher = kind.of(model, pairs, parameters.refine, seed, observer)
    descend = {"joint": joint, "sequential": sequential}[parameters.refine.mode]
    return descend(model, problems, pairs, matcher, parameters, observer)


def joint(model, problems, pairs, matcher, parameters, observer):
    """Descent on R through Δ = R A, all sites at once: the loss is that of the weights which will be written."""
    settings = parameters.refine
    steps = settings.joint_steps(len(pairs.concepts.prompts))
    residuals, maps, movable = {}, {}, {}
    for problem in problems:
        movable[problem.site.name] = pairs.of_encoder(problem.site.component).movable.to(model.device)
        size = problem.values.pow(2).mean().sqrt()
        maps[problem.site.name] = (problem.A * size).to(model.device, torch.float32)     # (n, d), R in units of the values' size
        residuals[problem.site.name] = torch.zeros(problem.values.shape, device=model.device, requires_grad=True)
    optimiser = torch.optim.Adam(residuals.values(), lr=settings.lr)
    losses = []
    observer.stage("refinement", steps)
    with ExitStack() as hooks:
        for problem in problems:
            name = problem.site.name
            hooks.enter_context(added(problem.site.module, lambda x, name=name: F.linear(
                F.linear(x.float(), maps[name]), residuals[name] * movable[name])))
        for step in range(steps):
            for group in optimiser.param_groups:                      # down to a tenth: the batches are noisy
                group["lr"] = settings.lr * (1 - 0.9 * step / steps)
            losses.append(descend_once(matcher, optimiser))
            observer.advance(loss=losses[-1])
    solutions = {}
    for problem in problems:
        size = problem.values.pow(2).mean().sqrt()
        residual = (residuals[problem.site.name].detach() * movable[problem.site.name]).double().cpu() * size
        solutions[problem.site.name] = Solution(problem.delta(residual), residual)
    return solutions, losses


def sequential(model, problems, pairs, matcher, parameters, observer):
    """The published form: V₁ is refined in place of the site's output, one site after the other, then solved for."""
    settings = parameters.refine
    total = {p.site.name: torch.zeros_like(p.weight) for p in problems}
    wanted = {p.site.name: torch.zeros_like(p.values) for p in problems}
    losses = []
    observer.stage("refinement", settings.epochs * settings.steps * len(problems))
    for _ in range(settings.epochs):
        for problem in problems:
            site, own = problem.site, pairs.of_encoder(problem.site.component)
            changed = {(p.site.component, p.site.parameter): p.weight + total[p.site.name] for p in problems}
            with model.weights(changed):
                keys = model.keys([site], pairs.concepts.ids)[site.name]
                now = pose(site, own.concepts, keys, problem.moment, problem.projector, parameters.edit, problem.held, problem.vocabulary)
                start = now.values
                shift = torch.zeros(start.shape, device=model.device, requires_grad=True)
                optimiser = torch.optim.Adam([shift], lr=settings.lr)
                with shifted(site.module, matcher, shift, own):
                    for _ in range(settings.steps):
                        losses.append(descend_once(matcher, optimiser))
                        observer.advance(loss=losses[-1])
                residual = shift.detach().double().cpu() * own.movable
                wanted[site.name] = total[site.name] @ problem.K1 + residual                # V₁ − W K₁ as last refined
                total[site.name] = total[site.name] + now.delta(residual)
    return {p.site.name: Solution(total[p.site.name], wanted[p.site.name]) for p in problems}, losses


def copied(model, problems, pairs) -> dict[str, Solution]:
    """V₁ = the target prompt's own outputs at the same positions: no descent, and known to fail on styles."""
    keys = model.keys([p.site for p in problems], pairs.targets.ids)
    solutions = {}
    for problem in problems:
        own = pairs.of_encoder(problem.site.component)
        outputs = keys[problem.site.name] @ problem.weight.T                             # (n, length, m)
        residual = (own.concepts.mean(outputs) - problem.values) * own.movable
        solutions[problem.site.name] = Solution(problem.delta(residual), residual)
    return solutions


def descend_once(matcher: Matcher, optimiser) -> float:
    loss = matcher.loss()
    value = loss.item()
    if not torch.isfinite(loss):
        raise EditError("edit.diverged", "the refinement's loss is no longer a finite number", "lower [refine] lr")
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return value


@contextmanager
def added(module, extra):
    """The module's output plus `extra(input)`, for the length of a `with`."""
    handle = module.register_forward_hook(lambda _, args, output: output + extra(args[0]).to(output.dtype))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def shifted(module, matcher: Matcher, shift: Tensor, pairs: Pairs | None = None):
    """The module's output moved by `shift` (m, distinct) at the concept prompts' tokens, whatever its input is.

    Args:
        pairs: what the module's encoder reads of the matcher's pairs, if there are several encoders.
    """
    pairs = pairs or matcher.pairs
    owner, movable = pairs.concepts.owner.to(shift.device), pairs.movable.to(shift.device)
    handle = module.register_forward_hook(
        lambda _, args, output: output + (shift * movable).T[owner[matcher.rows]].to(output.dtype))
    try:
        yield
    finally:
        handle.remove()
