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
    """Descent on R through Δ = R A, all sites at once: what is minimised is the mismatch of the weights which will be written,
    relative to the unedited model's, and `damping` times what the changes cost, relative to what the weights do.

    L-BFGS (Nocedal & Wright, Numerical Optimization, algorithm 7.5, with the strong Wolfe conditions) in coordinates in which the
    cost is a plain sum of squares (`linalg.whitened`). All prompts count in every step, so nothing is random but noisy pictures,
    and the end does not depend on a rate or, much, on the number of steps.
    """
    settings = parameters.refine
    spaces = {p.site.name: p.coordinates(pairs.of_encoder(p.site.component).movable) for p in problems}
    maps = {name: space.changes.to(model.device, torch.float32) for name, space in spaces.items()}            # (k, d)
    values = {p.site.name: torch.zeros(len(p.weight), len(maps[p.site.name]), device=model.device) for p in problems}    # Z / scale
    changes, losses, best = {}, [], {}
    first = scale = None

    def objective() -> float:
        nonlocal first, scale
        for name, value in values.items():
            changes[name] = (value @ maps[name] * (scale or 1)).requires_grad_()
        mismatch = descend_all(matcher)
        slopes = {name: change.grad @ maps[name].T for name, change in changes.items()}                       # (m, k)
        if first is None:                                             # at zero: whatever the scale is
            first = mismatch or 1.0
            norms = [sum(float(g.abs().pow(p).sum()) for g in slopes.values()) / first**p for p in (1, 2)]
            # torch's first step is g / ‖g‖₁; in these units that is Polyak's, f / ‖g‖², of a loss whose minimum would be 0.
            scale = norms[0] / norms[1] if norms[1] else 1.0
        for name, value in values.items():
            value.grad = slopes[name] * (scale / first) + 2 * settings.damping * scale**2 * value
        cost = sum(float(value.pow(2).sum()) for value in values.values()) * scale**2
        losses.append(mismatch / first + settings.damping * cost)
        if losses[-1] == min(losses):
            best.update({name: value.clone() for name, value in values.items()})
        observer.advance(int(len(losses) <= settings.steps), loss=losses[-1])
        return losses[-1]

    observer.stage("refinement", settings.steps)
    with ExitStack() as hooks:
        for name, module in ((p.site.name, p.site.module) for p in problems):
            hooks.enter_context(added(module, lambda x, name=name: F.linear(x.float(), changes[name])))
        torch.optim.LBFGS(values.values(), max_iter=settings.steps, max_eval=settings.steps, line_search_fn="strong_wolfe").step(objective)
    solutions = {}
    for problem in problems:
        residual = (best[problem.site.name].double().cpu() * scale) @ spaces[problem.site.name].residuals
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


def descend_all(matcher) -> float:
    """The whole loss, with its gradients left where they belong; part by part, so that memory does not grow with the prompts."""
    total = 0.0
    for loss in matcher.losses():
        total += finite(loss, "raise [refine] damping")
        loss.backward()
    return total


def finite(loss: Tensor, hint: str) -> float:
    if not torch.isfinite(loss):
        raise EditError("edit.diverged", "the refinement's loss is no longer a finite number", hint)
    return loss.item()


def descend_once(matcher: Matcher, optimiser) -> float:
    loss = matcher.loss()
    value = finite(loss, "lower [refine] lr")
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
