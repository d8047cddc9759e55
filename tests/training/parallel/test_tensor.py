"""Tensor parallelism: shared by two or four processes, a model learns exactly as it does alone."""

from __future__ import annotations

import itertools
import tempfile
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.debug import CommDebugMode

from luban.data.batch import IGNORED, Batch, Origin
from luban.errors import ConfigError
from luban.models import FAMILIES, hf
from luban.training.config import OptimizerConfig, ParallelConfig
from luban.training.losses import linear_cross_entropy
from luban.training.masked import word_loss
from luban.training.optim import adamw
from luban.training.parallel.norms import global_norm, local
from luban.training.parallel.plans import matches, plan_for
from luban.training.parallel.spread import spread
from luban.training.parallel.tensor import CUTS, split
from luban.training.parallel.whole import gathered
from luban.training.parallel.world import World, joined
from luban.training.step import Accumulated, Objective, Step, Updater, next_token
from tests.ranks import run_ranks

VOCAB = 97  # not a multiple of anything
NUMBERS: dict[str, Any] = {"vocab": VOCAB, "dim": 32, "layers": 2, "heads": 4, "context": 64}
GROUPED: dict[str, Any] = NUMBERS | {"kv_heads": 2, "hidden": 48}
EXPERTS: dict[str, Any] = {"experts": 4, "experts_per_token": 2}
FAMILY_CONFIGS: dict[str, dict[str, Any]] = {
    "llama": GROUPED,
    "llama tied": GROUPED | {"tied": True},
    "mistral window": GROUPED | {"window": 5},
    "mixtral": GROUPED | EXPERTS,
    "qwen2": GROUPED,
    "qwen3": GROUPED | {"head_dim": 16},
    "gpt2": NUMBERS,
    "gpt2 untied": NUMBERS | {"tied": False},
    "bloom": NUMBERS,
    "bert": NUMBERS,
    "transformer": NUMBERS | {"decoder_start_id": 0},
    "bart": NUMBERS | {"decoder_start_id": 0},
    "t5 relu": NUMBERS | {"decoder_start_id": 0, "head_dim": 8, "hidden": 48},
    "t5 gated": NUMBERS
    | {"decoder_start_id": 0, "head_dim": 8, "hidden": 48, "mlp": "gated-gelu", "tied": False},
}
STEPS = 3


def built(case: str) -> Any:
    """The same random model wherever it is built; norms and biases are random too, or a mistake would not show."""
    family = FAMILIES[case.split()[0]]
    named = {"model_type": case.split()[0]} if "Llama" in family.config.__name__ else {}
    torch.manual_seed(1)
    model = family.model(family.config(**named, **FAMILY_CONFIGS[case]))
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=0.5, std=0.3)
    return model


def batch_of(number: int, rows: int = 2, *, seq: int = 12, packed: bool = True) -> Batch:
    """Random rows of two documents each, with ever other numbers of targets."""
    draw = torch.Generator().manual_seed(number)
    tokens = torch.randint(0, VOCAB, (rows, seq), generator=draw)
    targets = torch.randint(0, VOCAB, (rows, seq), generator=draw)
    targets[torch.rand(rows, seq, generator=draw) < 0.2 * (number % 3)] = IGNORED
    border = 5
    places = torch.cat([torch.arange(border), torch.arange(seq - border)]).expand(rows, -1)
    return Batch(
        tokens=tokens,
        targets=targets,
        positions=places,
        documents=(torch.arange(seq) >= border).long().expand(rows, -1),
        ids=[Origin("drawn", number)],
        packed=packed,
    )


def hidden_words(model: Any, batch: Batch) -> Step:
    states = model.hidden(batch.tokens, batch.positions, model.isolate(batch.documents))
    return Step(
        word_loss(model, states, batch.targets) + model.follows(states).square().sum(), batch.target_count
    )


def answered(model: Any, batch: Batch) -> Step:
    states = model.before_head(model.hidden(batch.tokens, model.encode(batch.tokens.flip(1))))
    loss = linear_cross_entropy(
        states.flatten(0, 1),
        model.head.weight,
        batch.targets.flatten(),
        bias=model.head_bias(),
        smoothing=0.1,
    )
    return Step(loss, batch.target_count)


def objective_of(model: Any) -> Objective:
    kinds = {"causal": next_token(), "masked": hidden_words, "seq2seq": answered}
    return kinds[FAMILIES[model.config.model_type].kind]


# A weight whose gradient is 0 but for rounding (keys' biases) would be moved by Adam as far as any other.
OPTIMIZER = OptimizerConfig(adam_epsilon=1e-3)


def learn(updater: Updater, place: int, copies: int) -> list[tuple[float, float]]:
    """Loss and gradient norm of each step; a step is of four batches, of which each copy has its share."""
    told = []
    for step in range(STEPS):
        mine = [batch_of(4 * step + number) for number in range(place, 4, copies)]
        update = updater.update(mine, learning_rate=1e-2)
        told.append((update.loss, update.grad_norm))
    return told


def gap(case: str, world: World, config: ParallelConfig, save: Path | None = None) -> tuple[float, float]:
    """How far a shared model is from one that is trained alone: its losses and norms, its weights afterwards."""
    alone, parts = built(case), spread(built(case), world, config)
    objective = objective_of(alone)
    single = Updater(adamw(alone, OPTIMIZER), Accumulated(alone, objective), max_grad_norm=0.1)
    shared = Updater(parts.optimizer(OPTIMIZER), parts.gradients(objective), max_grad_norm=0.1)
    expected, told = learn(single, 0, 1), learn(shared, world.place("dp"), world.dp)
    figures = (torch.tensor(expected) - torch.tensor(told)).abs().max().item()
    whole = gathered(parts.model, world)
    if whole is None:
        return figures, 0.0  # the main process has the weights
    if save:
        hf.save(whole, save)
        whole = hf.load(save)
    weights = dict(whole.named_parameters())
    far = max((weights[name] - value).abs().max().item() for name, value in alone.named_parameters())
    return figures, far


def loss_gap(world: World, *, smoothing: float, biased: bool, chunk_tokens: int) -> float:
    """How far the loss over parts of a vocabulary, and its gradients, are from PyTorch's over all logits."""
    torch.manual_seed(0)
    hidden, targets = torch.randn(11, 6, requires_grad=True), torch.randint(0, VOCAB, (11,))
    targets[2] = targets[10] = IGNORED
    head = nn.Linear(6, VOCAB, bias=biased)
    logits = F.linear(hidden, head.weight, head.bias)
    whole = F.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)
    expected = torch.autograd.grad(3 * whole, (hidden, *head.parameters()))
    part = split_head(world, head)
    ours = linear_cross_entropy(
        hidden, part.weight, targets, bias=part.bias, chunk_tokens=chunk_tokens, smoothing=smoothing
    )
    gradients: Any = torch.autograd.grad(3 * ours, (hidden, *part.parameters()))
    told = [gradients[0], *(gradient.full_tensor() for gradient in gradients[1:])]
    furthest = max((a - b).abs().max().item() for a, b in zip(told, expected, strict=True))
    return max(furthest, abs(ours.item() - whole.item()) / 10)


def split_head(world: World, head: nn.Linear) -> Any:
    from luban.nn.linear import Linear
    from luban.training.parallel.tensor import _Part

    ours = Linear(head.in_features, head.out_features, bias=head.bias is not None)
    ours.load_state_dict(head.state_dict())
    return CUTS["vocabulary"](ours, _Part(world))


def traffic(world: World, layers: int) -> tuple[int, int]:
    """How many sums between processes the loss of a LLaMA takes on the way forward, and on the way back."""
    torch.manual_seed(1)
    model = split(FAMILIES["llama"].model(FAMILIES["llama"].config(**(GROUPED | {"layers": layers}))), world)
    with CommDebugMode() as forward:
        step = next_token()(model, batch_of(1))
    with CommDebugMode() as backward:
        step.loss.backward()
    return forward.get_total_counts(), backward.get_total_counts()


def compiled_gap(world: World) -> float:
    """How far the gradients of a shared model are when its pass is traced as one graph, sums and all."""
    gradients = []
    for compiled in (False, True):
        model = split(built("qwen3"), world)
        traced = torch.compile(model.hidden, backend="aot_eager", fullgraph=True) if compiled else None
        next_token(traced)(model, batch_of(1)).loss.backward()
        gradients.append([local(p.grad) for p in model.parameters() if p.grad is not None])
    return max((a - b).abs().max().item() for a, b in zip(*gradients, strict=True))


def forgets_the_whole(world: World) -> bool:
    """Whether what a process does not hold is gone from its memory."""
    model = built("llama")
    whole = weakref.ref(model.blocks[0].attention.q.weight)
    split(model, world)
    return whole() is None


def of_two(folder: Path) -> dict[str, Any]:
    with joined(ParallelConfig(tp=2), torch.device("cpu")) as world, torch.random.fork_rng():
        found: dict[str, Any] = {}
        for case in FAMILY_CONFIGS:
            found[case] = gap(case, world, ParallelConfig(tp=2), folder if case == SAVED else None)
        model = split(built("llama"), world)
        parts = [local(parameter.detach()) for parameter in model.parameters()]
        found["bytes"] = sum(part.untyped_storage().nbytes() for part in parts)
        with torch.no_grad():
            tokens = batch_of(1).tokens
            found["logits"] = (model(tokens) - built("llama")(tokens)).abs().max().item()
        found["losses"] = [
            loss_gap(world, smoothing=smoothing, biased=biased, chunk_tokens=chunk_tokens)
            for smoothing, biased, chunk_tokens in itertools.product((0.0, 0.1), (False, True), (3, 64))
        ]
        found["traffic"] = [traffic(world, layers) for layers in (1, 2)]
        found["compiled"] = compiled_gap(world)
        found["forgotten"] = forgets_the_whole(world)
        unknown = torch.tensor([[VOCAB if world.place("tp") else -1]])
        with pytest.raises(IndexError):
            model.embedding(unknown)
        return found


def norm_of_ones(world: World) -> float:
    """The norm of gradients of ones: 3 whole, 2 on each of `tp`, 5 on each of `dp`, 1 on each of both."""
    assert world.mesh is not None
    parameters = [nn.Parameter(torch.ones(3))]
    for axes, count in ((("tp",), 2), (("dp",), 5), (("dp", "tp"), 1)):
        part = DTensor.from_local(
            torch.ones(count), world.mesh[axes], [Shard(0)] * len(axes), run_check=False
        )
        parameters.append(nn.Parameter(part))
    for parameter in parameters:
        parameter.grad = parameter.detach()
    return global_norm(parameters, world)


OF_COPIES = (
    (ParallelConfig(tp=2), ("llama tied", "mixtral")),
    (ParallelConfig(tp=2, zero=2), ("qwen3",)),
    (ParallelConfig(tp=2, zero=3), ("llama tied", "bloom")),
)


def of_four() -> dict[str, Any]:
    with joined(ParallelConfig(tp=2), torch.device("cpu")) as world:
        found: dict[Any, Any] = {
            (case, config.zero): gap(case, world, config) for config, cases in OF_COPIES for case in cases
        }
        four, stages = (
            World(
                rank=world.rank,
                size=4,
                pp=pp,
                tp=tp,
                mesh=init_device_mesh("cpu", (pp, 1, tp), mesh_dim_names=("pp", "dp", "tp")),
            )
            for pp, tp in ((1, 4), (2, 2))
        )
        for case in ("gpt2", "bloom", "t5 gated"):
            found[case, "tp 4"] = gap(case, four, ParallelConfig(tp=4))
        found["norms"] = [norm_of_ones(world), norm_of_ones(four), norm_of_ones(stages)]
        found["losses"] = [loss_gap(four, smoothing=0.1, biased=True, chunk_tokens=3)]
        return found


SAVED = "gpt2"  # its files hold q, k and v as one, transposed


@pytest.fixture(scope="module")
def two() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        return run_ranks(2, of_two, Path(folder) / "model")


@pytest.fixture(scope="module")
def four() -> list[dict[str, Any]]:
    return run_ranks(4, of_four)


@pytest.mark.slow
@pytest.mark.parametrize("case", FAMILY_CONFIGS)
def test_two_processes_that_share_every_layer_learn_as_one_does(two: list[dict[str, Any]], case: str) -> None:
    for rank in two:
        figures, weights = rank[case]
        assert figures < 1e-6
        assert weights < 1e-6


@pytest.mark.slow
def test_four_processes_learn_as_one_does_whether_all_share_layers_or_two_copies_do(
    four: list[dict[str, Any]],
) -> None:
    for rank in four:
        assert {
            case: told for case, told in rank.items() if isinstance(told, tuple) and max(told) >= 1e-6
        } == {}


@pytest.mark.slow
def test_a_norm_counts_every_number_once(four: list[dict[str, Any]]) -> None:
    of_copies = 3 + 2 * 2 + 5 * 2 + 1 * 4
    of_four, of_stages = 3 + 2 * 4 + 5 + 1 * 4, 2 * (3 + 2 * 2 + 5 + 1 * 2)
    for rank in four:
        assert [norm**2 for norm in rank["norms"]] == pytest.approx([of_copies, of_four, of_stages])


@pytest.mark.slow
def test_the_loss_over_parts_of_a_vocabulary_is_that_over_the_whole(
    two: list[dict[str, Any]], four: list[dict[str, Any]]
) -> None:
    assert max(told for rank in (*two, *four) for told in rank["losses"]) < 2e-6


@pytest.mark.slow
def test_who_asks_the_head_itself_gets_all_logits(two: list[dict[str, Any]]) -> None:
    assert all(rank["logits"] < 1e-6 for rank in two)


@pytest.mark.slow
def test_a_shared_model_compiles_into_one_graph(two: list[dict[str, Any]]) -> None:
    assert all(rank["compiled"] < 1e-6 for rank in two)


@pytest.mark.slow
def test_a_process_holds_its_share_of_what_is_cut_and_the_whole_of_norms(two: list[dict[str, Any]]) -> None:
    block = 32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 48  # q, k and v of half as many heads, o, the MLP
    norms = 5 * 32
    shares = [
        4 * (2 * rows * 32 + 2 * block // 2 + norms) for rows in (49, 48)
    ]  # embedding, head: of 97 rows
    assert [rank["bytes"] for rank in two] == shares
    assert all(rank["forgotten"] for rank in two)


@pytest.mark.slow
def test_a_block_takes_two_sums_forward_and_two_back(two: list[dict[str, Any]]) -> None:
    one_layer, two_layers = two[0]["traffic"]
    assert two_layers[0] - one_layer[0] == 2
    assert two_layers[1] - one_layer[1] == 2
    assert one_layer == (1 + 2 + 2, 2 + 1)  # the embedding's and the loss's two; the gradient of its states


def test_a_family_without_a_plan_names_those_that_have_one() -> None:
    config = FAMILIES["lstm"].config(model_type="lstm", vocab=VOCAB, dim=32, layers=2, context=64)
    with pytest.raises(ConfigError, match="'lstm' model cannot be shared by 2 processes") as caught:
        plan_for(config, 2)
    assert caught.value.hint is not None
    assert "gpt2, llama" in caught.value.hint


@pytest.mark.parametrize(
    ("changes", "tp", "what"),
    [
        ({}, 3, "heads 4 cannot be dealt out evenly to 3 processes"),
        ({}, 4, "kv_heads 2 cannot be dealt out evenly to 4 processes"),
        ({"hidden": 45}, 2, "hidden 45 cannot be dealt out evenly to 2 processes"),
        ({"kv_heads": 4, "vocab": 5}, 4, "vocab 5 leaves one of 4 processes without a token"),
    ],
)
def test_numbers_that_cannot_be_dealt_out_are_named(changes: dict[str, Any], tp: int, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        plan_for(FAMILIES["llama"].config(**(GROUPED | changes)), tp)


@pytest.mark.parametrize("case", FAMILY_CONFIGS)
def test_a_plan_names_only_what_is_there_and_leaves_no_product_in_a_block_out(case: str) -> None:
    modules = dict(built(case).named_modules())
    plan = FAMILIES[case.split()[0]].tp_plan
    assert plan is not None
    assert set(plan.values()) <= set(CUTS)
    planned = {name for pattern in plan for name in modules if matches(pattern, name)}
    assert all(any(matches(pattern, name) for name in modules) for pattern in plan)
    products = {name for name, module in modules.items() if isinstance(module, nn.Linear)}
    whole = {name for name in products - planned if "blocks" in name or "encoder" in name}
    assert all(name.endswith(".router") for name in whole)
