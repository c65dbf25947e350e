"""How an edit is computed is recorded; random numbers come from the CPU, and float64 is nowhere on
a device.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pipelines import tiny_sd
from recipe_example import EXAMPLE

import forgetcli
from forgetcli import methods, models, recipe
from forgetcli.artifact import integrity, manifest
from forgetcli.checkpoint import base
from forgetcli.models import components
from forgetcli.models.tokens import tokenise
from forgetcli.pipeline.apply import apply
from forgetcli.process import numerics

CPU, CUDA = torch.device("cpu"), SimpleNamespace(type="cuda")
PACKAGE = Path(forgetcli.__file__).parent


def switches() -> tuple:
    cudnn = torch.backends.cudnn
    return (
        torch.get_deterministic_debug_mode(),
        torch.get_float32_matmul_precision(),
        (cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32),
        torch.utils.deterministic.fill_uninitialized_memory,
    )


def undetermined() -> None:
    torch.zeros(3).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))


def test_on_cuda_tf32_is_off_and_operations_that_are_not_deterministic_are_named():
    before = switches()
    assert before[2][2]  # the control: convolutions may use TF32 otherwise
    with numerics.recorded(CUDA) as found:
        assert switches() == (1, "highest", (False, True, False), False)
        undetermined()
        undetermined()
        torch.ones(2, 2) @ torch.ones(2, 2)  # warns of nothing
    assert switches() == before
    told = found.as_dict()
    assert told["nondeterministic"] == ["put_"] and told["deterministicAlgorithms"] == "warn"
    assert told["tf32"] == {"matmul": False, "cudnn": False}
    assert {"cuda", "cudnn", "attention", "cublasWorkspace"} <= told.keys()


def test_a_stricter_mode_stays_and_a_fault_restores_everything():
    before = switches()
    try:
        torch.use_deterministic_algorithms(True)
        with pytest.raises(RuntimeError, match="put_"), numerics.recorded(CUDA) as found:
            assert found.state["deterministicAlgorithms"] == "on"
            undetermined()
        assert torch.get_deterministic_debug_mode() == 2
    finally:
        torch.use_deterministic_algorithms(False)
    assert switches() == before


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("put_ does not have a deterministic implementation, but you set …", "put_"),
        (
            "Memory Efficient attention defaults to a non-deterministic algorithm. To …",
            "Memory Efficient attention",
        ),
        (
            "Deterministic behavior was enabled with either …, but this operation is\nnot "
            "deterministic because it uses CuBLAS and you have CUDA >= 10.2. …",
            "CuBLAS",
        ),
        ("something else, which is not deterministic", None),
    ],
)
def test_warnings_that_name_an_operation_are_not_shown_and_others_are(text: str, name: str | None):
    with warnings.catch_warnings(record=True) as shown, numerics.recorded(CUDA) as found:
        warnings.warn(text, stacklevel=1)
    assert found.operations == ({name} if name else set())
    assert len(shown) == (0 if name else 1)


def test_on_the_cpu_nothing_is_set_and_the_record_is_short_and_the_same():
    before = switches()
    with numerics.recorded(CPU) as found:
        assert switches() == before
        undetermined()
    assert found.as_dict() == {
        "deterministicAlgorithms": "off",
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "nondeterministic": [],
    }


# Every call that makes random numbers, by the name of the function.
RANDOM = {"randn", "rand", "randint", "randperm", "normal", "bernoulli", "multinomial"}
IN_PLACE = {"normal_", "uniform_", "random_", "bernoulli_", "exponential_"}


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield node.func.attr, node


def unseeded(source: str) -> list[int]:
    """Lines with a generator that is not on the CPU, or with random numbers of no generator."""
    lines = []
    for name, call in calls(ast.parse(source)):
        of_torch = isinstance(call.func.value, ast.Name) and call.func.value.id == "torch"
        named = {keyword.arg for keyword in call.keywords}
        on_a_device = name == "Generator" and of_torch and (call.args or call.keywords)
        of_none = (name in RANDOM and of_torch) or name in IN_PLACE
        if on_a_device or (of_none and ("generator" not in named or "device" in named)):
            lines.append(call.lineno)
    return lines


def test_random_numbers_come_from_generators_on_the_cpu():
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 300
    assert {str(f): lines for f in files if (lines := unseeded(f.read_text()))} == {}
    for wrong in (
        "torch.Generator('cuda')",
        "torch.randn(3)",
        "torch.randn(3, generator=g, device=d)",
        "x.normal_()",
    ):
        assert unseeded(wrong) == [1]


class WithoutFloat64(torch.Tensor):
    """A tensor on a device without float64, as Apple's GPUs are. What is computed of it is one."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        result = super().__torch_function__(function, types, args, kwargs or {})
        if function is torch.Tensor.cpu:
            return result.as_subclass(torch.Tensor)
        if isinstance(result, cls) and result.dtype == torch.float64:
            raise TypeError("this device has no float64")
        return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd(tmp_path_factory.mktemp("sd"))


@pytest.fixture
def without_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that networks compute is on a device without float64."""
    real = components.network

    def output(module, arguments, result):
        return result.as_subclass(WithoutFloat64) if isinstance(result, torch.Tensor) else result

    def network(*arguments):
        made = real(*arguments)
        for module in made.modules():
            if isinstance(module, torch.nn.Embedding | torch.nn.Linear | torch.nn.Conv2d):
                module.register_forward_hook(output)
        return made

    monkeypatch.setattr(components, "network", network)


# Every step of a training computes the same.
FEW_STEPS = {
    "emcid": {"refine": {"steps": 2, "latent_steps": 2}},
    "esd": {"train": {"steps": 2}, "sample": {"steps": 2}},
    "hirm": {"train": {"steps": 2}},
    "stereo": {
        "search": {"rounds": 1, "steps": 2, "budget": 2, "images": 2},
        "erase": {"steps": 2},
    },
}


@pytest.mark.parametrize("method", sorted(set(methods.names()) - {"none"}))
def test_an_edit_needs_no_float64_on_the_device(folder, tmp_path, without_float64, method):
    read = recipe.parse(EXAMPLE).model_copy(
        update={"method": method, "parameters": FEW_STEPS.get(method, {})}
    )
    apply(read, model=str(folder), output=tmp_path / "edited", device="cpu", strict=False)
    assert integrity.verify(tmp_path / "edited", base=str(folder)).ok


def test_the_tensor_without_float64_has_none():
    made = torch.ones(2).as_subclass(WithoutFloat64)
    assert type(made + 1) is WithoutFloat64 and type(made.cpu()) is torch.Tensor
    assert made.cpu().double().dtype == torch.float64
    double = torch.ones(2).double()
    for convert in (torch.Tensor.double, lambda x: x.to(torch.float64), lambda x: x.add(double)):
        with pytest.raises(TypeError, match="no float64"):
            convert(made)


def test_what_a_model_computes_is_on_that_device(folder, without_float64):
    model = models.load(base.resolve(folder), device="cpu")
    with torch.no_grad():
        context = model.encode(tokenise(model.tokenizer, ["a dog"]).ids)
        noisy = torch.zeros(1, *model.latent_shape)
        prediction = model.denoise(noisy, torch.tensor(5), context)
    for computed in (context.hidden, prediction):
        with pytest.raises(TypeError, match="no float64"):
            computed.double()


def test_the_manifest_says_how_it_was_computed(folder, tmp_path):
    read = recipe.parse(EXAMPLE)
    records = []
    for name in ("one", "two"):
        apply(read, model=str(folder), output=tmp_path / name, device="cpu", strict=False)
        details = manifest.load(tmp_path / name).run_details["metadata"]
        records.append(details["numerics"])
        assert details["device"] == "cpu" and details["dtype"] == "torch.float32"
    assert records[0] == records[1] == numerics.Numerics(numerics.state(CPU)).as_dict()
