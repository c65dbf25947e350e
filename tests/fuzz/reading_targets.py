"""The functions that read files of others, each with the strategy for its input.

A target's `read` may return, or raise a `ForgetError`. `naive` is a reader without checks: the
negative control, which the same strategy has to break.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import hostile_inputs as hostile
import tomli
from processes import ROOT
from recipe_example import EXAMPLE

GOLDEN = ROOT / "tests" / "golden" / "format-1"
EDITED = GOLDEN / "edited"
TEXT_ENCODER = EDITED / "text_encoder" / "model.safetensors"
KEYS = (
    "name",
    "method",
    "seed",
    "concept",
    "target",
    "aliases",
    "prompts",
    "direct",
    "indirect",
    "templates",
    "files",
    "lam",
    "prior",
    "sites",
    "steps",
    "timesteps",
    "encoders",
    "schema_version",
    "x",
)

OUTCOME = {
    "identity": "0" * 64,
    "attempts": [
        {
            "prompt": "a dog",
            "variant": "",
            "seed": 0,
            "file": "a.png",
            "seen": True,
            "judged": "dog",
            "score": 0.5,
            "candidates": 1,
        }
    ],
    "budget": {"seconds": 1.5, "images": 1.0},
    "replay": False,
}
ATTACKS = {
    "command": "attack",
    "model": {"name": "edited", "digest": "0" * 64},
    "resist": 0.5,
    "resist_ci": [0.25, 0.75],
    "resist_n": 12,
}


@dataclass(frozen=True)
class Target:
    """A file format and the function that reads it.

    Attributes:
        name: of the target, and of its folder in the corpus.
        strategy: the bytes of the file.
        read: reads the file; the second argument is a folder that is new for each test.
        naive: the same without checks.
        share: of the number of examples, for functions that take long.
    """

    name: str
    strategy: Callable[[], hostile.Strategy]
    read: Callable[[bytes, Path], object]
    naive: Callable[[bytes], object]
    share: float = 1.0


def _document(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _model(folder: Path) -> Path:
    """A copy of the golden model, without forget's own files."""
    model = folder / "model"
    if not model.exists():
        shutil.copytree(EDITED, model, ignore=shutil.ignore_patterns("forget.*", "recipe.toml"))
    return model


def _edited(folder: Path) -> Path:
    edited = folder / "edited"
    if not edited.exists():
        shutil.copytree(EDITED, edited)
    return edited


# safetensors


def read_header(data: bytes, folder: Path) -> None:
    """An accepted header is also one that the safetensors package accepts, with the same shapes."""
    from safetensors import SafetensorError, safe_open

    from forgetcli.storage.safetensors import WeightFile

    path = folder / "x.safetensors"
    path.write_bytes(data)
    weights = WeightFile(folder, path.name)
    sites = weights.sites
    _ = weights.metadata
    for site in list(sites.values())[:2]:
        weights.read_bytes(site)
    try:
        with safe_open(path, "pt") as other:
            assert set(other.keys()) == set(sites), "other keys than safetensors"
    except SafetensorError as refusal:
        raise AssertionError("accepted, safetensors refuses") from refusal


def naive_header(data: bytes) -> object:
    entries, body = hostile.split_safetensors(data)
    return [body[slice(*e["data_offsets"])] for k, e in entries.items() if k != "__metadata__"]


def read_single_file(data: bytes, folder: Path) -> None:
    from forgetcli.checkpoint import base as checkpoint

    path = folder / "single.safetensors"
    path.write_bytes(data)
    _ = checkpoint.resolve(path).single.tensors_of("unet")


@cache
def single_file_header() -> bytes:
    """The header of a single file: some keys of Stable Diffusion's, without their weights."""
    names = (
        "model.diffusion_model.input_blocks.0.0.weight",
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
        "model.diffusion_model.time_embed.0.weight",
        "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight",
        "first_stage_model.encoder.conv_in.weight",
    )
    header: dict[str, Any] = {"__metadata__": {"modelspec.architecture": "stable-diffusion-v1"}}
    for at, name in enumerate(names):
        header[name] = {"dtype": "F16", "shape": [2, 2], "data_offsets": [8 * at, 8 * at + 8]}
    return hostile.safetensors_file(json.dumps(header), bytes(8 * len(names)))


# a model's folder


def read_index(data: bytes, folder: Path) -> None:
    from forgetcli.checkpoint import base as checkpoint
    from forgetcli.models import families
    from forgetcli.pipeline.inspect import inspect

    model = _model(folder)
    (model / "model_index.json").write_bytes(data)
    base = checkpoint.resolve(model)
    inspect(base)
    families.family_of(base.settings)


def naive_index(data: bytes) -> object:
    return [(library + "." + name) for library, name in json.loads(data).values()]


def read_shards(data: bytes, folder: Path) -> None:
    from forgetcli.checkpoint.weights import locate_all

    model = _model(folder)
    (model / "text_encoder" / "model.safetensors.index.json").write_bytes(data)
    locate_all(model, "text_encoder", "encoder.layers.1.mlp.fc2.weight")


@cache
def shards() -> dict[str, Any]:
    header, _ = hostile.split_safetensors(TEXT_ENCODER.read_bytes())
    names = [*sorted(header)[:6], "text_model.encoder.layers.1.mlp.fc2.weight"]
    return {"metadata": {"total_size": 9}, "weight_map": dict.fromkeys(names, "model.safetensors")}


def naive_shards(data: bytes) -> object:
    return [(TEXT_ENCODER.parent / f).stat() for f in json.loads(data)["weight_map"].values()]


def _loads(component: str, file: str, attribute: str) -> Callable[[bytes, Path], object]:
    def read(data: bytes, folder: Path) -> None:
        import torch

        from forgetcli.checkpoint import base as checkpoint
        from forgetcli.models import families

        model = _model(folder)
        (model / component / file).write_bytes(data)
        base = checkpoint.resolve(model)
        family = families.get(families.family_of(base.settings))
        part = getattr(family.load(base, torch.device("cpu"), torch.float32), attribute)
        if attribute == "tokenizer":
            part(["a cat"])

    return read


def naive_config(data: bytes) -> object:
    return {key: len(str(value)) + len(key) for key, value in json.loads(data).items()}


# recipes, prompts


def read_recipe(data: bytes, folder: Path) -> None:
    from forgetcli import recipe

    recipe.parse(data, folder / "recipe.toml")


def naive_recipe(data: bytes) -> object:
    return [concept["concept"] for concept in tomli.loads(data.decode())["concepts"]]


EVALUATION = """\
[[concepts]]
concept = "van gogh"
label = "van_gogh"
group = "style"
direct = ["a van gogh painting of a dog"]
indirect = ["starry night"]

[[retain]]
concept = "pixel art"
direct = ["pixel art of a car"]

[[near]]
concept = "monet"
"""


def read_evaluation_file(data: bytes, folder: Path) -> None:
    from forgetcli import recipe

    (folder / "asked.toml").write_bytes(data)
    text = 'evaluation = "asked.toml"\n[[concepts]]\nconcept = "van gogh"\ntarget = "monet"\n'
    recipe.parse(text.encode(), folder / "recipe.toml")


def read_prompt_file(data: bytes, folder: Path) -> None:
    from forgetcli.recipe import prompt_files

    path = folder / "prompts.txt"
    path.write_bytes(data)
    prompt_files.read(path)


def _prompt_set(name: str) -> Callable[[bytes, Path], object]:
    def read(data: bytes, folder: Path) -> None:
        from forgetcli.evaluation import prompt_sets

        path = folder / name
        path.write_bytes(data)
        prompt_sets.load(path)

    return read


def naive_table(data: bytes) -> object:
    rows = list(csv.DictReader(io.StringIO(data.decode())))
    return [row["prompt"] + row["sd_seed"] for row in rows]


I2P = """\
prompt,categories,sd_seed,sd_guidance_scale,sd_image_width,sd_image_height
"a cat, asleep","hate, violence",42,7.5,512,512
a dog,self-harm,43.0,7,512,768
"""
COLUMNS = "concept_type,concept_name," + ",".join(
    [*(f"direct_prompt_{n}" for n in range(1, 6)), *(f"indirect_prompt_{n}" for n in range(1, 6))]
)
UME = f"{COLUMNS},adversarial_prompt\nart,van gogh,{','.join('abcdefghij')},x\n"
SET = """\
styles = ["Van_Gogh", "Sketch"]
objects = ["Cats", "Dogs"]
template = "A {object} image in {style} style."
"""
PROMPTS = "a cat\n# a comment\n\n  a dog  \na house by monet\n"


# an edited folder


def read_manifest(data: bytes, folder: Path) -> None:
    """`verify` describes whatever is wrong in a folder, and raises nothing."""
    from forgetcli.artifact import integrity, manifest
    from forgetcli.errors import ForgetError

    edited = _edited(folder)
    (edited / manifest.MANIFEST).write_bytes(data)
    try:
        integrity.verify(edited)
    except ForgetError as fault:
        raise AssertionError("verify raised instead of giving a verdict") from fault
    manifest.load(edited)


def naive_manifest(data: bytes) -> object:
    return {s["name"]: s["digest"]["sha256"] for s in json.loads(data)["subject"]}


def _use_ledger(folder: Path, changed: dict[str, bytes]) -> None:
    """The ledger's files as `changed` has them, under a manifest that lists their digests."""
    from forgetcli.artifact import ledger as ledgers
    from forgetcli.artifact import ledger_keys, manifest

    edited = _edited(folder)
    made = manifest.load(edited)
    for name, data in changed.items():
        (edited / name).write_bytes(data)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in changed.items()}
    ledger = ledgers.load(edited, replace(made, subjects={**made.subjects, **digests}))
    if ledger is None:
        return
    for place in ledger.book.places:
        ledger_keys.protected(ledger, place.component, place.parameter)
        ledger.exact(place)
    ledger.check_fits(edited)
    numbers = [entry.number for entry in ledger.edits]
    ledger.without(numbers[:1])
    ledgers.dates(made, ledger)


def read_ledger(data: bytes, folder: Path) -> None:
    _use_ledger(folder, {"forget.ledger.json": data})


def read_ledger_tensors(data: bytes, folder: Path) -> None:
    _use_ledger(folder, {"forget.ledger.safetensors": data})


def naive_ledger(data: bytes) -> object:
    return [entry["concepts"][0] for entry in json.loads(data)["edits"]]


def read_report(data: bytes, folder: Path) -> None:
    """The model card is made from the report's figures."""
    from forgetcli.artifact import card, manifest

    edited = _edited(folder)
    (edited / manifest.REPORT).write_bytes(data)
    card.carried(edited / manifest.CARD, "x")
    card.rewrite(edited)


def naive_report(data: bytes) -> object:
    return {key: len(value) for key, value in json.loads(data).items()}


def read_results(data: bytes, folder: Path) -> None:
    """The model card shows the scores of an evaluation."""
    from forgetcli.artifact import card

    path = folder / "results.json"
    path.write_bytes(data)
    card.rewrite(_edited(folder), path)


@cache
def results() -> dict[str, Any]:
    from forgetcli.checkpoint import base as checkpoint

    side = {"forget": 0.9, "forget_ci": [0.8, 1.0], "forget_direct": None, "retain": 0.5, "h": 0.6}
    models = [{"digest": checkpoint.resolve(EDITED).digest, "edited": side}]
    return {"judge": {"name": "demo"}, "n_images": 4, "baseline": {**side}, "models": models}


def naive_results(data: bytes) -> object:
    return [model["edited"]["h"] / 2 for model in json.loads(data)["models"]]


def read_delta(data: bytes, folder: Path) -> None:
    from forgetcli.artifact import delta

    path = folder / "x-delta.safetensors"
    path.write_bytes(data)
    read = delta.read(path)
    for tensor in read.manifest.edited:
        read.value(tensor)


def read_applied_delta(data: bytes, folder: Path) -> None:
    """A delta gives the edited model that it was made of, or an error."""
    from forgetcli.artifact import manifest
    from forgetcli.pipeline.apply_delta import apply_delta
    from forgetcli.pipeline.revert import revert
    from forgetcli.storage.files import walk_files
    from forgetcli.verification import audit

    base = folder / "first"
    if not base.exists():  # the model that the delta's edit was made to
        revert(EDITED, [2], output=base)
    path = folder / "y-delta.safetensors"
    path.write_bytes(data)
    made = folder / "made"
    try:
        apply_delta(path, model=str(base), output=made, force=True)
        assert walk_files(made) == walk_files(EDITED), "other files"
        for name in walk_files(made):
            same = (made / name).read_bytes() == (EDITED / name).read_bytes()
            assert same or name == manifest.MANIFEST, "another result"
        if _definition(made) != _definition(EDITED):
            assert not audit.verify(made, base).ok, "another manifest, which verify accepts"
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _definition(folder: Path) -> Any:
    """What a manifest says, without the circumstances of the run and the base's path."""
    statement = _document(folder / "forget.provenance.json")
    definition = statement["predicate"]["buildDefinition"]
    del definition["externalParameters"]["model"]
    return statement["subject"], definition


def naive_delta(data: bytes) -> object:
    header, _ = hostile.split_safetensors(data)
    return json.loads(header["__metadata__"]["forget.provenance.json"])["predicate"]


# an evaluation's folder


def read_verdicts(data: bytes, folder: Path) -> None:
    from forgetcli.evaluation.verdicts import Log

    stem = Log(folder / "none", {"judge": "demo"}, 0).stem
    (folder / f"{stem}-0.jsonl").write_bytes(data)
    for verdict in Log(folder, {"judge": "demo"}, 0).verdicts.values():
        assert isinstance(verdict.seen, bool) and isinstance(verdict.judged, str)


def naive_verdicts(data: bytes) -> object:
    return {e["key"]: float(e["score"]) for e in map(json.loads, data.decode().splitlines())}


def read_outcome(data: bytes, folder: Path) -> None:
    from forgetcli.robustness import records

    (folder / "swap-dog.json").write_bytes(data)
    (folder / "a.png").write_bytes(b"")
    records.read(folder, "swap-dog", OUTCOME["identity"])


def naive_outcome(data: bytes) -> object:
    record = json.loads(data)
    return [(a["seen"] + 0, a["file"].strip(), a["score"] + 0.0) for a in record["attempts"]]


def read_attacks(data: bytes, folder: Path) -> None:
    from forgetcli.evaluation import gates
    from forgetcli.evaluation.judged import Subject
    from forgetcli.evaluation.scores import score

    (folder / "results.json").write_bytes(data)
    for figure in gates.read_attacks(folder / "results.json").values():
        resist = figure.as_dict(gates.RESIST)
        gates.outcome("m", resist, gates.Gate(gates.RESIST, 0.5), confident=True)
        score([], Subject("m", None), figure)


def naive_attacks(data: bytes) -> object:
    result = json.loads(data)
    return result["model"]["digest"].strip(), result["resist"] + 0.0, result["resist_ci"][0] + 0.0


def read_found(data: bytes, folder: Path) -> None:
    from forgetcli.robustness import records

    (folder / "found.safetensors").write_bytes(data)
    records.read_conditionings(folder / "found.safetensors")


def found_file() -> bytes:
    """What `forget attack` writes of a learned word."""
    entry = {"prompt": "a {}", "seed": 1, "parts": ["0.vectors.text_encoder"]}
    index = {
        "found": [entry],
        "concept": "a dog",
        "label": "dog",
        "rivals": ["dog", "cat"],
        "attack": "inversion",
    }
    header = {
        "__metadata__": {"forget.found": json.dumps(index)},
        "0.vectors.text_encoder": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + bytes(16)


def read_run(data: bytes, folder: Path) -> None:
    """Whatever run.json says, nothing of the user's is deleted."""
    from forgetcli.evaluation import run_folder

    output = folder / "eval"
    own = [folder / "own.txt", output / "own" / "x.png", output / "x.png"]
    for path in own:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("the user's")
    (output / "run.json").write_bytes(data)
    try:
        run_folder.claim(output, {"models": {"unedited": "0"}}, force=True, also=("results.json",))
    finally:
        missing = [str(path.relative_to(folder)) for path in own if not path.exists()]
        assert not missing, "deleted what the user made"


def naive_run(data: bytes) -> object:
    return [(Path("x") / name).name for name in json.loads(data)["models"]]


def read_journal(data: bytes, folder: Path) -> None:
    """The search that it records goes on."""
    import optuna

    from forgetcli.experiments.tuning import study as studies

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path = folder / studies.STUDY
    path.write_bytes(data)
    study = studies.open_study(path, {"x": 1.0}, 0)
    if studies.has_scores(study):
        f"{study.best_value:.3f}"
    for trial in studies.recorded_trials(study):
        assert trial.h >= 0 or trial.h < 0, "H is no number"
        trial.as_dict()
    study.tell(study.ask(), 0.5)


def naive_journal(data: bytes) -> object:
    return [line["op_code"] + 1 for line in map(json.loads, data.decode().splitlines())]


_DISTRIBUTION = {"name": "FloatDistribution", "attributes": {"low": 0, "high": 2, "log": False}}
JOURNAL = [
    {"op_code": 0, "worker_id": "w", "study_name": "tune", "directions": [2]},
    {"op_code": 4, "worker_id": "w", "study_id": 0, "datetime_start": "2026-01-01T00:00:00"},
    {
        "op_code": 5,
        "worker_id": "w",
        "trial_id": 0,
        "param_name": "x",
        "param_value_internal": 1.0,
        "distribution": json.dumps(_DISTRIBUTION),
    },
    {"op_code": 8, "worker_id": "w", "trial_id": 0, "user_attr": {"parameters": {"edit.lam": 1.0}}},
    {"op_code": 8, "worker_id": "w", "trial_id": 0, "user_attr": {"scores": {"h": 0.5}}},
    {
        "op_code": 6,
        "worker_id": "w",
        "trial_id": 0,
        "state": 1,
        "values": [0.5],
        "datetime_complete": "2026-01-01T00:00:01",
    },
]
RUN = {"schema_version": 1, "models": {"unedited": "0", "edited": "1", "x": "2"}, "steps": 2}
VERDICTS = [
    {"key": 64 * "a", "seen": True, "judged": "cat", "score": 0.5},
    {"key": 64 * "b", "seen": False, "judged": "dog", "score": 0.25},
]


def _target_list() -> tuple[Target, ...]:
    config = partial_config
    golden = hostile.safetensors_files
    return (
        Target("header", lambda: golden(_small_file()), read_header, naive_header),
        Target("single-file", lambda: golden(single_file_header()), read_single_file, naive_header),
        Target("index", config("model_index.json"), read_index, naive_index, 0.5),
        Target("shards", lambda: hostile.json_files(shards()), read_shards, naive_shards, 0.5),
        Target(
            "config-text-encoder",
            config("text_encoder/config.json"),
            _loads("text_encoder", "config.json", "text_encoder"),
            naive_config,
            0.2,
        ),
        Target(
            "config-unet",
            config("unet/config.json"),
            _loads("unet", "config.json", "unet"),
            naive_config,
            0.1,
        ),
        Target(
            "config-vae",
            config("vae/config.json"),
            _loads("vae", "config.json", "vae"),
            naive_config,
            0.1,
        ),
        Target(
            "config-scheduler",
            config("scheduler/scheduler_config.json"),
            _loads("scheduler", "scheduler_config.json", "scheduler"),
            naive_config,
            0.2,
        ),
        Target(
            "config-tokenizer",
            config("tokenizer/tokenizer_config.json"),
            _loads("tokenizer", "tokenizer_config.json", "tokenizer"),
            naive_config,
            0.2,
        ),
        Target(
            "vocabulary",
            lambda: hostile.json_files(_document(EDITED / "tokenizer/vocab.json")),
            _loads("tokenizer", "vocab.json", "tokenizer"),
            lambda data: [n + 1 for n in json.loads(data).values()],
            0.1,
        ),
        Target(
            "merges",
            lambda: hostile.text_files((EDITED / "tokenizer/merges.txt").read_text(), " "),
            _loads("tokenizer", "merges.txt", "tokenizer"),
            lambda data: [a + b for a, b in map(str.split, data.decode().split("\n")[1:-1])],
            0.1,
        ),
        Target("recipe", lambda: hostile.recipe_files(EXAMPLE, KEYS), read_recipe, naive_recipe),
        Target(
            "evaluation-file",
            lambda: hostile.recipe_files(EVALUATION, KEYS),
            read_evaluation_file,
            naive_recipe,
        ),
        Target(
            "prompt-file",
            lambda: hostile.text_files(PROMPTS),
            read_prompt_file,
            lambda data: data.decode("ascii").index("a dog"),
        ),
        Target(
            "prompts-i2p",
            lambda: hostile.text_files(I2P, ","),
            _prompt_set("i2p.csv"),
            naive_table,
        ),
        Target(
            "prompts-ume",
            lambda: hostile.text_files(UME, ","),
            _prompt_set("ume.csv"),
            naive_table,
        ),
        Target(
            "prompts-toml",
            lambda: hostile.recipe_files(SET, ("styles", "objects", "template", "x", "seed")),
            _prompt_set("unlearncanvas.toml"),
            lambda data: [s.lower() for s in tomli.loads(data.decode())["styles"]],
        ),
        Target("manifest", config("forget.provenance.json"), read_manifest, naive_manifest, 0.2),
        Target("ledger", config("forget.ledger.json"), read_ledger, naive_ledger, 0.3),
        Target(
            "ledger-tensors",
            lambda: golden((EDITED / "forget.ledger.safetensors").read_bytes()),
            read_ledger_tensors,
            naive_header,
            0.3,
        ),
        Target("report", config("forget.report.json"), read_report, naive_report, 0.3),
        Target(
            "card-results", lambda: hostile.json_files(results()), read_results, naive_results, 0.1
        ),
        Target(
            "delta",
            lambda: golden((GOLDEN / "edited-delta.safetensors").read_bytes()),
            read_delta,
            naive_delta,
        ),
        Target(
            "applied-delta",
            lambda: hostile.delta_files((GOLDEN / "edited-delta.safetensors").read_bytes()),
            read_applied_delta,
            naive_delta,
            0.25,
        ),
        Target("verdicts", lambda: hostile.json_lines(VERDICTS), read_verdicts, naive_verdicts),
        Target("journal", lambda: hostile.json_lines(JOURNAL), read_journal, naive_journal, 0.2),
        Target("run", lambda: hostile.json_files(RUN), read_run, naive_run),
        Target("outcome", lambda: hostile.json_files(OUTCOME), read_outcome, naive_outcome),
        Target("attacks", lambda: hostile.json_files(ATTACKS), read_attacks, naive_attacks),
        Target("found", lambda: golden(found_file()), read_found, naive_header),
    )


def partial_config(file: str) -> Callable[[], hostile.Strategy]:
    """The strategy for a JSON file of the golden folder."""
    return lambda: hostile.json_files(_document(EDITED / file))


@cache
def _small_file() -> bytes:
    """Some tensors of different dtypes, one of them without values."""
    sizes = {"a.weight": ("F32", [2, 3], 24), "b": ("F16", [4], 8), "c": ("BOOL", [0], 0)}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (dtype, shape, size) in sizes.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    return hostile.safetensors_file(json.dumps(header), bytes(at))


TARGETS = {target.name: target for target in _target_list()}
