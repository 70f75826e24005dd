"""What N ranks find, on both backends: products, probes, algorithms, counts of collectives, errors."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
from problems import BLOCKS, CUTS, VARIANTS, batches_of, counted_model, cuts_of, directions, make, operators_of
from recorded import Recorded, message_of
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from curvkit_core import (
    CurvatureTracker,
    HessianOperator,
    JacobianOperator,
    MSELoss,
    Problem,
    eigsh,
    solve,
    spectral_density,
    sweep,
    trace,
)
from curvkit_core.algorithms import checkpoint
from curvkit_core.backends import Segment
from curvkit_core.landscape import loss_plane, loss_slice
from curvkit_ddp import ReplicatedBackend, ShardedBackend, shard

CALLS = ("all_reduce", "all_gather", "broadcast", "reduce_scatter", "all_to_all_single", "all_gather_into_tensor")


def rank(folder: Path, *variants: str) -> None:
    """Everything in one launch; what one rank of one kind finds is under its name."""
    torch.set_num_threads(1)
    found = Recorded()
    replicated = ReplicatedBackend(timeout=60.0)
    size, me = replicated.world.size, replicated.world.rank
    sharded = ShardedBackend(timeout=60.0)
    for variant in variants:
        for cut in cuts_of(variant, size):
            products(found, variant, cut, replicated)
            products(found, variant, cut, sharded)
    wrapped(found, replicated)
    algorithms(found, "replicated", replicated)
    algorithms(found, "sharded", sharded)
    around_the_operator(found, "replicated", replicated)
    around_the_operator(found, "sharded", sharded)
    all_on_one_rank(found, sharded)
    counted(found, replicated)
    traffic(found, sharded)
    refused(found, replicated)
    kept_apart(found, replicated, folder)
    refused_on_shards(found, sharded)
    devices(found, "replicated", replicated)
    devices(found, "sharded", sharded)
    if size == 4:
        hybrid(found)
    found.save(folder, me)
    dist.destroy_process_group()


def problem_for(
    variant: str, cut: str, backend: ReplicatedBackend | ShardedBackend, blocks: tuple[str, ...] | None = None
) -> Problem:
    """This rank's problem."""
    name, options = VARIANTS[variant]
    case = make(name)
    if isinstance(backend, ShardedBackend):
        shard(case.model, blocks=BLOCKS[name] if blocks is None else blocks)
    own = batches_of(case, CUTS[backend.world.size][cut])[backend.world.rank]
    checks = "error" if variant == "tied-mlp" else "off"
    return Problem(case.model, own, case.loss, backend=backend, preflight=checks, **options)


def keep(found: Recorded, key: str, problem: Problem, rows: torch.Tensor) -> None:
    """Rows by parameter, so that shards can be put together."""
    for name, tensor in problem.parameters.to_named(rows).items():
        found.tensors[f"{key}/{name}"] = tensor


def products(found: Recorded, variant: str, cut: str, backend: ReplicatedBackend | ShardedBackend) -> None:
    """Every operator's products, and the probes."""
    kind = "sharded" if isinstance(backend, ShardedBackend) else "replicated"
    problem = problem_for(variant, cut, backend)
    before = {name: t.detach().clone() for name, t in problem.model.state_dict().items()}
    for name, op in operators_of(problem).items():
        keep(found, f"{kind}/{variant}/{cut}/{name}", problem, op.apply(directions(problem)))
    for probe in ("rademacher", "gaussian", "sphere"):
        keep(found, f"{kind}/{variant}/{cut}/{probe}", problem, problem.space.random(probe, 5, 2, 2))
    after = problem.model.state_dict()
    same = all(torch.equal(_here(before[name]), _here(after[name])) for name in before)
    found.facts[f"{kind}/{variant}/{cut}/untouched"] = same and all(p.grad is None for p in problem.model.parameters())


def _here(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def wrapped(found: Recorded, backend: ReplicatedBackend) -> None:
    """The same under DistributedDataParallel, one rank without data."""
    plain = problem_for("tied-mlp", next(iter(CUTS[backend.world.size])), backend)
    model = DistributedDataParallel(plain.model, find_unused_parameters=True)
    problem = Problem(model, plain.batches, plain.loss, backend=backend)
    found.facts["wrapped/names"] = list(problem.parameters.names)
    keep(found, "wrapped", problem, HessianOperator(problem).apply(directions(problem)))
    found.facts["wrapped/forward"] = "forward" in vars(model)


def algorithms(found: Recorded, kind: str, backend: ReplicatedBackend | ShardedBackend) -> None:
    """Iterated results, the same seed on each; the sharded model is one block, for the time it takes."""
    problem = problem_for("tied-mlp", "uneven", backend, blocks=())
    H = HessianOperator(problem)
    eig = eigsh(H, k=2, tol=1e-8, seed=0)
    found.tensors[f"{kind}/eigenvalues"] = eig.eigenvalues
    keep(found, f"{kind}/eigenvectors", problem, eig.eigenvectors)
    found.facts[f"{kind}/trace"] = [
        trace(H, method=m, num_matvecs=18, seed=1).estimate for m in ("hutchinson", "hutch++")
    ]
    found.facts[f"{kind}/stopped"] = eigsh(H, k=2, tol=0.0, seed=0, max_seconds=1e-9).info.interrupted
    density = spectral_density(H, method="slq", num_probes=2, steps=8, seed=0)
    found.tensors[f"{kind}/nodes"], found.tensors[f"{kind}/weights"] = density.nodes, density.weights
    b = problem.space.random("gaussian", 11, 0, 1)[0]
    solution = solve(H.shift(2.0), b, tol=1e-10).solution
    keep(found, f"{kind}/solution", problem, solution[None])
    rows = problem.space.random("gaussian", 3, 0, 3)
    rows[2] = rows[0]  # dependent
    Q, R = problem.space.orthonormalize(rows)
    found.tensors[f"{kind}/QQ"] = problem.space.gram(Q, Q)
    found.facts[f"{kind}/QR"] = float((R.T.to(rows) @ Q - rows).norm())


def around_the_operator(found: Recorded, kind: str, backend: ReplicatedBackend | ShardedBackend) -> None:
    """Losses, gradients and blocks: what is computed beside whole products. `slice` moves along a fixed vector."""
    problem = problem_for("tied-mlp", "uneven", backend, blocks=("last",))
    cut = loss_slice(problem, problem.space.random("gaussian", 4, 0, 1), radius=0.1, points=5)
    for name in ("losses", "parabola", "curvatures"):
        found.tensors[f"{kind}/slice/{name}"] = getattr(cut, name)
    plane = loss_plane(problem, *problem.space.random("gaussian", 4, 0, 2), radii=(0.1, 0.2), points=3)
    found.tensors[f"{kind}/plane"] = plane.losses
    row = CurvatureTracker(problem, tol=1e-3, max_matvecs=12, seed=0).measure(0)
    found.facts[f"{kind}/tracked"] = [row.loss, row.gradient_norm, row.eigenvalues[0], row.overlap]
    blocks = sweep(HessianOperator(problem), by=("first.*", "[ml]*"), k=1, num_probes=2, steps=3, seed=0)
    found.tensors[f"{kind}/sweep/norms"] = blocks.frobenius_norms
    rows = [[r.n, r.trace, r.eigenvalues[0] if r.eigenvalues else 0.0] for r in blocks.rows]
    found.tensors[f"{kind}/sweep/rows"] = torch.tensor(rows, dtype=torch.float64)


def all_on_one_rank(found: Recorded, backend: ShardedBackend) -> None:
    """Parameters of one row each: rank 0 has every element, and keeps step with ranks that have none."""
    torch.manual_seed(0)
    model = shard(nn.Linear(3, 1).double())
    problem = Problem(model, [(torch.ones(2, 3).double(), torch.ones(2, 1).double())], MSELoss(), backend=backend)
    found.facts["one rank"] = sweep(HessianOperator(problem), by=("*",), num_probes=2, seed=0).rows[0].eigenvalues[0]


def counted(found: Recorded, backend: ReplicatedBackend) -> None:
    """Collectives of one product, by size: with two batches a rank, after the checks of the first passes."""
    problem = problem_for("tied-mlp", "uneven", backend)
    H = HessianOperator(problem)
    V = directions(problem)
    H.apply(V)
    sent: list[int] = []
    originals = {name: getattr(dist, name) for name in CALLS}
    for name, original in originals.items():

        def spy(tensor, *arguments, original=original, **options):
            sent.append(tensor.numel() if isinstance(tensor, torch.Tensor) else -1)
            return original(tensor, *arguments, **options)

        setattr(dist, name, spy)
    try:
        H.apply(V)
        found.facts["sent by a product"] = list(sent)
        sent.clear()
        eigsh(H, k=1, tol=0.0, seed=0, max_matvecs=5, max_rows=1)
        found.facts["sent by 5 products"] = list(sent)
    finally:
        for name, original in originals.items():
            setattr(dist, name, original)
    found.facts["elements of a product"] = V.numel()


def traffic(found: Recorded, backend: ShardedBackend) -> None:
    """Gathers and reductions of one product of one row over one microbatch, and what is whole and what is held."""
    model = counted_model()
    whole = sum(p.numel() for p in model.parameters())
    shard(model, blocks=[f"layers.{i}" for i in range(6)])
    torch.manual_seed(1 + backend.world.rank)
    batch = (torch.randn(4, 8).double(), torch.randn(4, 8).double())
    problem = Problem(model, [batch], MSELoss(), backend=backend)
    for name, op in operators_of(problem).items():
        if name == "covariance":
            continue
        V = directions(problem, 1)
        op.apply(V)
        backend.traffic.reset()
        op.apply(V)
        t = backend.traffic
        found.facts[f"traffic/{name}"] = [t.weight_gathers, t.vector_gathers, t.reductions, t.most_whole]
    packing, backend.wholes.__class__.packing = backend.wholes.__class__.packing, lambda self: nullcontext()
    try:
        backend.traffic.reset()
        HessianOperator(problem).apply(directions(problem, 1))
        found.facts["traffic/unpacked"] = backend.traffic.most_whole
    finally:
        backend.wholes.__class__.packing = packing
        backend.wholes.forget()
    found.facts["traffic/sizes"] = [whole, problem.space.n, problem.space.n_local]
    basis = eigsh(HessianOperator(problem), k=2, ncv=4, seed=0, max_matvecs=4).eigenvectors
    found.facts["traffic/bytes"] = [sum(_here(p).untyped_storage().nbytes() for p in model.parameters()), basis.nbytes]


def refused(found: Recorded, backend: ReplicatedBackend) -> None:
    """Errors that every rank comes back from."""
    me = backend.world.rank
    problem = problem_for("tied-mlp", "uneven", backend)
    V = directions(problem)
    good = problem.batches
    if me == 1:
        problem.batches = [(torch.zeros(2, 3).double(), torch.zeros(2, dtype=torch.int64))]
    found.facts["one rank raises"] = message_of(lambda: HessianOperator(problem).apply(V))
    if me == 1:
        problem.batches = [(torch.full((2, 4), torch.nan).double(), torch.zeros(2, dtype=torch.int64))]
    found.facts["one rank is not finite"] = message_of(lambda: HessianOperator(problem).apply(V))
    problem.batches = good
    with torch.no_grad():
        bias = problem.model.last.bias
        bias += 1e-9 * me
    found.facts["values differ"] = message_of(lambda: HessianOperator(problem).apply(V))
    with torch.no_grad():
        bias -= 1e-9 * me
        bias.copy_(make("tied-mlp").model.last.bias)
    keep(found, "after the errors", problem, HessianOperator(problem).apply(V))
    only = ["first.*"] if me == 0 else ["last.*"]
    found.facts["parameters differ"] = message_of(lambda: problem.restrict(only))
    problem.batches = []
    found.facts["no data"] = message_of(lambda: HessianOperator(problem).apply(V))
    found.facts["compared"] = message_of(lambda: backend.compare({"plugins": "a" if me else "b"}))
    found.facts["shared"] = backend.share(f"text of rank {me}")
    if me == 1:
        problem.batches = [(torch.zeros(2, 3).double(), torch.zeros(2, dtype=torch.int64))]
    along = problem.space.random("gaussian", 4, 0, 1)
    found.facts["one rank raises in a slice"] = message_of(lambda: loss_slice(problem, along, radius=0.1))


def kept_apart(found: Recorded, backend: ReplicatedBackend, folder: Path) -> None:
    """Checkpoints in a folder that rank 0 alone sees, and on a disk of rank 0's that is full."""
    H = HessianOperator(problem_for("tied-mlp", "uneven", backend))
    rank_0s, own = folder / "checkpoint-of-0", folder / f"checkpoint-of-{backend.world.rank}"
    write_text = checkpoint.write_text

    def full(*_: object) -> None:
        msg = "No space left on device"
        raise OSError(28, msg)

    for name, place in {"first": rank_0s, "apart": own, "full": folder / "full", "together": rank_0s}.items():
        checkpoint.write_text = full if name == "full" else write_text
        found.facts[f"checkpoint/{name}"] = message_of(
            lambda at=place: eigsh(H, k=1, ncv=4, tol=1e-12, seed=0, max_rows=1, max_matvecs=3, checkpoint=at)
        )


class Laid:
    """A parameter of four elements that is said to be somewhere."""

    def __init__(self, device: str) -> None:
        self.segments = (Segment(name="w", numel=4),)
        self.dtype, self.device = torch.float32, torch.device(device)


def devices(found: Recorded, kind: str, backend: ReplicatedBackend | ShardedBackend) -> None:
    """Rank 1's model is on another device; then every rank's is where gloo does not reach."""
    me = backend.world.rank
    for other in ("meta", "cuda:0"):
        found.facts[f"{kind}/{other}"] = message_of(lambda at=other: backend.space(Laid(at if me == 1 else "cpu")))
    found.facts[f"{kind}/nowhere"] = message_of(lambda: backend.space(Laid("meta")))
    found.facts[f"{kind}/somewhere"] = message_of(lambda: backend.space(Laid("cpu")))


def refused_on_shards(found: Recorded, backend: ShardedBackend) -> None:
    """What does not go with shards: said before any rank waits for another."""
    problem = problem_for("tied-mlp", "uneven", backend, blocks=())
    plain = make("tied-mlp")
    for name, call in {
        "lean": lambda: HessianOperator(problem, strategy="lean"),
        "keep": lambda: HessianOperator(problem, cache="keep"),
        "compile": lambda: HessianOperator(problem, compile=True),
        "plain": lambda: Problem(plain.model, plain.batches(), plain.loss, backend=backend),
        "mask": lambda: problem.restrict(lambda name, p: torch.ones(p.shape).bool().triu()),
        "length": lambda: HessianOperator(problem) @ torch.zeros(problem.space.n).double(),
        "jacobian": lambda: JacobianOperator(problem),
    }.items():
        found.facts[f"sharded/{name}"] = message_of(call)


def hybrid(found: Recorded) -> None:
    """Two replicas of two shards each, as ``fully_shard`` takes a mesh of two axes."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    backend = ShardedBackend(mesh, timeout=60.0)
    case = make("tied-mlp")
    shard(case.model, mesh, blocks=BLOCKS["tied-mlp"])
    own = batches_of(case, CUTS[4]["uneven"])[backend.world.rank]
    problem = Problem(case.model, own, case.loss, backend=backend, preflight="off")
    for name, op in operators_of(problem).items():
        keep(found, f"hybrid/{name}", problem, op.apply(directions(problem)))
    found.facts["hybrid/sizes"] = [problem.space.n, problem.space.n_local]
    found.facts["hybrid/eigenvalue"] = float(eigsh(HessianOperator(problem), k=1, tol=1e-6, seed=0).eigenvalues[0])
