"""`verify` in full: beyond files and bytes, whether headers, report, recipe and signature are
right, and whether the edit can be repeated.

`integrity.verify` compares the folder with its manifest and with the base. Each question here adds
one `Finding`; all of them together are the verdict.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from forgetcli import recipe as recipes
from forgetcli.artifact import integrity
from forgetcli.artifact.edited import EditedModel
from forgetcli.artifact.integrity import UNSIGNED, Verdict, problem
from forgetcli.artifact.listing import listing
from forgetcli.artifact.manifest import SIGNATURE, is_hubs
from forgetcli.errors import ForgetError, counted
from forgetcli.progress import Observer, Silent
from forgetcli.verification import signature as signatures
from forgetcli.verification.differences import same_recipe
from forgetcli.verification.figures import report
from forgetcli.verification.finding import Finding
from forgetcli.verification.history import history
from forgetcli.verification.parameters import parameters


def verify(
    folder: str | Path | EditedModel,
    base: str | Path | None = None,
    *,
    recipe: str | Path | None = None,
    rebuild: bool = False,
    signature: str | Path | None = None,
    key: str | Path | None = None,
    observer: Observer | None = None,
) -> Verdict:
    """Check an edited folder, and say what that proves.

    Args:
        folder: the folder, or the model in it if it was opened before, which knows its own base.
        base: the unedited model; by default the one that the manifest names, if it is on this
            machine.
        recipe: fail unless the folder was made by exactly this one.
        rebuild: repeat the edit, with nothing from the cache, and compare the weights.
        signature, key: a signature of the folder (by default the one in it) and the public key to
            check it with.
    Raises:
        ForgetError: what was asked for cannot be done: no such folder, base, recipe, key or
            signature, no package to check it. Whatever is wrong *in* the folder is a problem in
            the verdict.
    """
    edited = folder if isinstance(folder, EditedModel) else EditedModel(Path(folder), base)
    verdict = integrity.verify(edited)
    try:
        _ = edited.manifest
    except ForgetError:
        return verdict  # the verdict has this as a problem already
    findings = [
        headers(edited),
        report(edited),
        parameters(edited, strict=rebuild),
        history(edited),
    ]
    if recipe is not None:
        findings.append(same_recipe(edited, recipes.load(recipe)))
    if rebuild:
        # Imported here: the pipeline needs torch and the libraries of models, the rest does not.
        from forgetcli.verification.rebuild import rebuilt

        findings.append(rebuilt(edited, observer or Silent()))
    findings += _signature(edited, signature, key)
    return _with_findings(verdict, findings)


def _with_findings(verdict: Verdict, findings: list[Finding]) -> Verdict:
    problems = verdict.problems + [p for finding in findings for p in finding.problems]
    proved = verdict.proved + [line for finding in findings for line in finding.proved]
    missing = [line for finding in findings for line in finding.not_proved] + verdict.not_proved
    if any(signatures.PROVED in line for line in proved):
        missing = [line for line in missing if line != UNSIGNED]
    return replace(verdict, ok=not problems, problems=problems, proved=proved, not_proved=missing)


def headers(edited: EditedModel) -> Finding:
    """Whether every safetensors file is one: its header is valid, and its tensors fill it without
    hole or overlap.
    """
    present = listing(edited.folder).files
    files = [path for path in present if path.endswith(".safetensors") and not is_hubs(path)]
    problems = []
    for path in files:
        try:
            _ = edited.weight_file(path).sites
        except (ForgetError, OSError) as fault:
            problems.append(problem(path, f"{getattr(fault, 'message', fault)}"))
    if problems:
        return Finding(problems)
    return Finding(proved=[f"the headers of all {counted(len(files), 'weight file')} are valid"])


def _signature(
    edited: EditedModel, signature: str | Path | None, key: str | Path | None
) -> list[Finding]:
    if key is not None or signature is not None:
        return [signed(edited.folder, signature, key)]
    if not (edited.folder / SIGNATURE).exists():
        return []
    missing = f"the signature in {SIGNATURE}: no public key was given to check it with (--key)"
    return [Finding(not_proved=[missing])]


def signed(folder: Path, signature: str | Path | None, key: str | Path | None) -> Finding:
    """Whether every file is as the holder of a key signed it.

    Raises:
        ForgetError: no key, no signature, no package, or a key that is none.
    """
    path = Path(signature) if signature is not None else folder / SIGNATURE
    wrong = signatures.check(folder, path, key)
    if wrong:
        return Finding([problem(path.name, what) for what in wrong])
    claim = f"{signatures.PROVED} {key}: every file, the manifest included, is as it was then"
    missing = (
        "who holds that key, and that what they say in the manifest is true "
        "(--rebuild repeats the edit)"
    )
    return Finding(proved=[claim], not_proved=[missing])
