"""The host's largest seed, 2**64 - 1: nodes that count seeds up count around."""

import pytest
import torch

LARGEST = 2**64 - 1
DIRECTIONS = dict(images=2, steps=2, cfg=2.0)


@pytest.fixture
def place(demo, sampler_of):
    model = dict(model=demo.model, negative=demo.encode(""), latent=demo.empty())
    pair = dict(source=demo.encode("a portrait"), target=demo.encode("a portrait, beard"))
    sampled = dict(vae=demo.vae, sampler=sampler_of("euler"), sigmas=demo.sigmas(4))
    return model, pair, sampled, dict(positive=demo.encode("a portrait"))


def schema_defaults(pack_nodes, name):
    ports = pack_nodes[f"SemanticLatents_{name}"].define_schema().inputs
    return {port.id: port.default for port in ports if getattr(port, "default", None) is not None}


def from_prompts(run, place, **changes):
    model, pair, *_ = place
    return run("DirectionFromPrompts", **{**model, **pair, **DIRECTIONS, "batch_size": 2, **changes})[0]


def test_every_seed_reaches_as_far_as_the_host_s(pack_nodes):
    import nodes

    largest = nodes.KSampler.INPUT_TYPES()["required"]["seed"][1]["max"]
    found = {name: port.max for name, node in pack_nodes.items() for port in node.define_schema().inputs if port.id == "seed"}
    assert len(found) == 8
    assert set(found.values()) == {largest} == {LARGEST}


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_after_the_largest_comes_the_first(run, place, batch_size):
    """The mean over the seeds 2**64 - 1 and 0 is that of both alone."""
    both = from_prompts(run, place, seed=LARGEST, batch_size=batch_size)
    ends = [from_prompts(run, place, seed=seed, images=1) for seed in (LARGEST, 0)]
    torch.testing.assert_close(both.shifts, torch.stack([end.shifts for end in ends]).mean(0), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(ends[0].shifts, ends[1].shifts, rtol=1e-2)
    assert both.notes["seed"] == str(LARGEST)


def test_the_ddim_sampler_draws_its_noise_from_the_largest(demo, run):
    """On a CPU the host counts up the seed of a sampler by one."""
    ancestral = run("DDIMSampler", eta=1.0, boost_percent=1.0)[0]
    ends = [demo.sample(ancestral, seed=seed, steps=4) for seed in (LARGEST, LARGEST, LARGEST - 1)]
    assert torch.equal(ends[0], ends[1])
    assert torch.isfinite(ends[0]).all()
    assert not torch.allclose(ends[0], ends[2], atol=1e-2)


@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
def test_torch_takes_the_largest_for_minus_one(device):
    from pack.host.seeds import countable

    states = [torch.Generator(device).manual_seed(seed).get_state() for seed in (LARGEST, countable(LARGEST))]
    assert torch.equal(*states)
    assert countable(7) == 7
    assert countable(None) is None


@pytest.mark.parametrize("method", ["PCA", "Jacobian", "pullback"])
def test_directions_are_discovered_from_the_largest(run, place, method):
    model, *_, prompt = place
    settings = dict(method=method, count=1, percent=0.3, iterations=1, batch_size=1)
    directions = run("DiscoverDirections", **{**model, **prompt, **DIRECTIONS, **settings, "seed": LARGEST})[0]
    assert len(directions) == 1
    assert torch.isfinite(directions[0].shifts).all()


@pytest.mark.parametrize("solver", ["exact", "MLP"])
def test_an_attribute_is_learned_from_the_largest_on(run, place, pack_nodes, solver):
    from pack.core.svd.decomposition import compose

    model, pair, sampled, _ = place

    def learned(**changes):
        settings = dict(percent=0.3, branch=0.0, steps=2, solver=solver)
        given = {**schema_defaults(pack_nodes, "TrainAttribute"), **model, **pair, **sampled, **settings, **changes}
        return run("TrainAttribute", **given)[0].parts[0][0]

    both, *ends = learned(seed=LARGEST, seeds=2), learned(seed=LARGEST, seeds=1), learned(seed=0, seeds=1)
    assert both.notes["seeds"] == f"{LARGEST} to 0"
    if solver == "exact":  # the leading triplets of a mean are near the mean of theirs
        mean = torch.stack([compose(end.stored) for end in ends]).mean(0)
        assert torch.nn.functional.cosine_similarity(compose(both.stored).flatten(), mean.flatten(), dim=0) > 0.9


def test_a_direction_is_trained_from_the_largest_on(run, place, pack_nodes):
    model, pair, sampled, _ = place
    settings = dict(vae=sampled["vae"], images=2, epochs=1, steps=2, seed=LARGEST)
    given = {**schema_defaults(pack_nodes, "TrainDirection"), **model, **pair, **settings}
    direction = run("TrainDirection", **{key: [value] for key, value in given.items()})[0]
    assert direction.notes["seed"] == str(LARGEST)


def test_a_schedule_is_measured_from_the_largest_on(run, place, pack_nodes):
    model, _, sampled, prompt = place
    settings = dict(vae=sampled["vae"], images=2, steps=4, seed=LARGEST)
    assert 0 <= run("EditingSchedule", **{**schema_defaults(pack_nodes, "EditingSchedule"), **model, **prompt, **settings})[1] <= 1
