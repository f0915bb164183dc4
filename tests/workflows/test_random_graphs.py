"""Random graphs on a real server: each ends in a result, or in an error that says what to change."""

import collections
import time

import pytest

from pack.tests.workflows.graphs import PREFIX, DemoGraph, latents, outcome
from pack.tests.workflows.growing import Grower, inputs_of

pytestmark = [pytest.mark.timeout(900), pytest.mark.campaign, pytest.mark.slow]


HOST_S_OWN = {("LossGraphNode", "float division by zero")}  # of a loss that stays the same


def is_clear(error, graph):
    """Whether an error is one of the host's own, or is one of the pack's own checks and says what to change.

    A check names inputs of the pack's nodes in the graph, or of the node that failed.
    """
    if (error["node_type"], error["exception_message"].strip()) in HOST_S_OWN:
        return True
    names, _, advice = error["exception_message"].strip().partition(": ")
    classes = {node["class_type"] for node in graph.values() if node["class_type"].startswith(PREFIX)} | {error["node_type"]}
    slots = {slot.removesuffix("_name") for name in classes for slot, *_ in inputs_of(graph.info[name], name)}
    return (
        error["exception_type"] == "ValueError"
        and set(names.split(", ")) <= slots
        and len(advice) > 20
        and "semantic_latents" in error["traceback"][-1]
    )


def check_finite(client, run):
    """No NaN in what a run saved or showed."""
    assert all(latent.isfinite().all() for latent in latents(client, run)), "a latent with NaN or Inf"
    for output in run.outputs.values():
        assert not {"nan", "inf", "-inf"} & set(output.get("text", [])), output


def check_end(client, graph, spoilt=False):
    """How a graph ended; fails unless that was in a finite result or, with a mistake in the graph, in an error that says so."""
    found = outcome(client, graph)
    told = f"{found.kind}: {found.message}\n{''.join(found.error.get('traceback', []))}\n{graph}"
    assert (found.kind == "refused") == spoilt, told
    assert found.kind != "failed" or is_clear(found.error, graph), told
    if found.kind == "finished":
        check_finite(client, found.run)
    return found


@pytest.mark.campaign
def test_ends_in_a_result_or_a_clear_error(server, object_info, rounds, figures):
    own = sorted(name for name in object_info if name.startswith(PREFIX))
    count, ends, messages, wrong, started = rounds(40, 1000), collections.Counter(), collections.Counter(), [], time.monotonic()
    for seed in range(count):
        grower = Grower(object_info, seed)
        graph = grower.grown(own[seed % len(own)])
        try:
            found = check_end(server.client, graph, grower.spoilt)
        except AssertionError as problem:
            wrong.append(f"seed {seed}: {problem}")
            continue
        ends[found.kind] += 1
        messages[found.message.partition(":")[0]] += found.kind == "failed"
    assert not wrong, "\n\n".join(wrong)
    seconds = (time.monotonic() - started) / count
    named = ", ".join(f"{name} {times}" for name, times in messages.most_common(8))
    figures(
        "random graphs",
        f"{count}: {ends['finished']} finished, {ends['refused']} with a mistake refused by validation, "
        f"{ends['failed']} with a clear error ({named}); {seconds:.1f} s each",
    )


# What random graphs found


def prompts(graph, **changed):
    return {"model": graph.model, **graph.prompts, **changed, "latent": graph.empty(), "images": 2, "steps": 4}


def pictures(graph, **changed):
    return {**prompts(graph), "positive": graph.prompts["source"], "images": 3, "count": 2, **changed}


def limited(graph, kind, **limits):
    """The source prompt for a part of the run, or of the picture."""
    return graph.out(kind, conditioning=graph.prompts["source"], **limits)


def late(graph):
    return limited(graph, "ConditioningSetTimestepRange", start=0.5)


def partial(graph):
    """The source prompt, and once more for a quarter of the picture."""
    area = limited(graph, "ConditioningSetAreaPercentage", width=0.5, height=0.5)
    return graph.out("ConditioningCombine", conditioning_1=graph.prompts["source"], conditioning_2=area)


def own(graph, name, inputs):
    """The first output of a node of the pack with those of the inputs that it has."""
    slots = {slot for slot, *_ in inputs_of(graph.info[PREFIX + name], name)}
    return [graph.own(name, **{slot: value for slot, value in inputs.items() if slot in slots}), 0]


def contrast_of_a_prompt_for_late_steps(graph):
    return own(graph, "DirectionFromPrompts", prompts(graph, source=late(graph)))


def contrast_with_a_prompt_for_late_steps(graph):
    return own(graph, "DirectionFromPrompts", prompts(graph, source=graph.prompts["target"], target=late(graph)))


def contrast_of_a_prompt_for_an_area(graph):
    return own(graph, "DirectionFromPrompts", prompts(graph, source=partial(graph)))


def components_of_a_prompt_for_late_steps(graph):
    return own(graph, "DiscoverDirections", pictures(graph, positive=late(graph)))


def components_of_a_prompt_for_an_area(graph):
    return own(graph, "DiscoverDirections", pictures(graph, positive=partial(graph)))


def jacobian_of_a_prompt_for_late_steps(graph):
    return own(graph, "DiscoverDirections", pictures(graph, positive=late(graph), method="Jacobian", iterations=1))


def jacobian_under_freeu(graph):
    return own(
        graph, "DiscoverDirections", pictures(graph, model=graph.out("FreeU_V2", model=graph.model), method="Jacobian", iterations=1)
    )


def pullback_under_downscaling(graph):
    smaller = graph.out(
        "PatchModelAddDownscale",
        model=graph.model,
        block_number=3,
        downscale_factor=1.0,
        downscale_method="bislerp",
        upscale_method="bislerp",
    )
    return own(graph, "DiscoverDirections", pictures(graph, model=smaller, method="pullback", iterations=1))


def training_under_freeu(graph):
    graph.model = graph.out("FreeU_V2", model=graph.model)
    return own(graph, "TrainDirection", {**prompts(graph), "vae": graph.vae, "epochs": 1})


def loaded_attribute(graph):
    return [graph.own("LoadAttribute", file="portrait_attribute_sunglasses.safetensors"), 0]


def a_mix_of_an_attribute_with_itself(graph):
    attribute = loaded_attribute(graph)
    return [graph.own("MixAttributes", first=attribute, second=attribute), 0]


def decomposed(graph, layout="channel", size=64):
    return [graph.own("Decompose", samples=graph.drawn(steps=1, size=size), layout=layout), 0]


def exchange(graph, other, leading):
    mixed = graph.own("ExchangeSingularVectors", svd=decomposed(graph), other=other, leading=leading)
    return [graph.own("Compose", svd=[mixed, 0]), 0]


def an_exchange_of_too_many(graph):
    return exchange(graph, decomposed(graph), 9)


def an_exchange_between_layouts(graph):
    return exchange(graph, decomposed(graph, "joint"), 2)


def an_exchange_between_sizes(graph):
    return exchange(graph, decomposed(graph, size=32), 2)


def a_truncation_to_none(graph):
    none = graph.own("RescaleSingularValues", svd=decomposed(graph), mode="truncate", last=0)
    return [graph.own("Compose", svd=[none, 0]), 0]


def asymmetric(graph):
    """The model with an asymmetric edit."""
    return [
        graph.own(
            "ApplyDirection",
            model=graph.model,
            direction=[graph.own("LoadDirection", file="portrait_direction_sunglasses.safetensors"), 0],
            asymmetric=True,
        ),
        0,
    ]


def the_noise_of_an_edited_model(graph):
    return [
        graph.own("Invert", model=asymmetric(graph), positive=graph.prompts["source"], latent=graph.drawn(steps=1), sigmas=graph.sigmas(3)),
        1,
    ]


def an_attribute_in_a_run_that_ends_early(graph):
    first = graph.out("SplitSigmas", sigmas=graph.sigmas(4), step=2)
    sampler = [graph.own("ApplyAttribute", sampler=graph.sampler(), attribute=loaded_attribute(graph)), 0]
    return graph.drawn(sampler=sampler, sigmas=first, size=256)  # as the attribute was learned


def with_target(graph, sampler):
    """An attribute that runs its target prompt too."""
    return [graph.own("ApplyAttribute", sampler=sampler, attribute=loaded_attribute(graph), target=graph.prompts["target"]), 0]


def a_target_inside_an_edit_inside_a_target(graph):
    operation = [graph.own("SpectrumOperation"), 0]
    edited = [graph.own("EditDuringSampling", sampler=with_target(graph, graph.sampler()), operation=operation, target="x_t"), 0]
    return graph.drawn(sampler=with_target(graph, edited))


def guided(graph, name, sampler, sigmas, latent):
    guider = graph.out("CFGGuider", model=graph.model, positive=graph.prompts["source"], negative=graph.prompts["negative"])
    return graph.own(name, noise=graph.out("RandomNoise"), guider=guider, sampler=sampler, sigmas=sigmas, latent_image=latent)


def explored(graph, sampler, latent):
    return [guided(graph, "ExploreSingularVectors", sampler, graph.sigmas(3), latent), 0]


def variants_under_a_target(graph):
    return explored(graph, with_target(graph, graph.sampler()), graph.empty())


def variants_drawn_further(graph):
    one = graph.out("LatentFromBatch", samples=graph.empty(2), batch_index=1, length=1)
    variants = explored(graph, graph.sampler(), one)
    return [guided(graph, "SampleTrajectory", graph.sampler(), graph.sigmas(2, 0.5), variants), 0]


def a_trajectory_of_no_steps(graph):
    none = graph.out("SplitSigmas", sigmas=graph.sigmas(3), step=0)
    return [guided(graph, "SampleTrajectory", graph.sampler(), none, graph.empty()), 0]


def pullback_of_an_asymmetric_edit(graph):
    return own(graph, "DiscoverDirections", pictures(graph, model=asymmetric(graph), method="pullback", iterations=1))


FOUND = [
    a_target_inside_an_edit_inside_a_target,
    variants_under_a_target,
    variants_drawn_further,
    a_trajectory_of_no_steps,
    pullback_of_an_asymmetric_edit,
    contrast_of_a_prompt_for_late_steps,
    contrast_with_a_prompt_for_late_steps,
    contrast_of_a_prompt_for_an_area,
    components_of_a_prompt_for_late_steps,
    components_of_a_prompt_for_an_area,
    jacobian_of_a_prompt_for_late_steps,
    jacobian_under_freeu,
    pullback_under_downscaling,
    training_under_freeu,
    a_mix_of_an_attribute_with_itself,
    an_exchange_of_too_many,
    an_exchange_between_layouts,
    an_exchange_between_sizes,
    a_truncation_to_none,
    the_noise_of_an_edited_model,
    an_attribute_in_a_run_that_ends_early,
]
SAVERS = {
    "LATENT": ("SaveLatent", "samples"),
    "SEMANTIC_LATENTS_DIRECTION": ("SemanticLatents_SaveDirection", "direction"),
    "SEMANTIC_LATENTS_ATTRIBUTE": ("SemanticLatents_SaveAttribute", "attribute"),
    "SEMANTIC_LATENTS_SLIDER": ("SemanticLatents_SaveSlider", "slider"),
}


@pytest.mark.parametrize("grow", FOUND, ids=lambda grow: grow.__name__)
def test_found_before(grow, server, object_info):
    graph = DemoGraph(object_info)
    node, slot = grow(graph)
    saver, given = SAVERS[object_info[graph[node]["class_type"]]["output"][slot]]
    graph.add(saver, **{given: [node, slot]})
    check_end(server.client, graph)


def test_inverts_an_empty_latent_of_its_size(server, object_info):
    graph = DemoGraph(object_info)
    inverted = graph.own("Invert", model=graph.model, positive=graph.prompts["source"], latent=graph.empty(), sigmas=graph.sigmas(3))
    found = check_end(server.client, graph.save([inverted, 1]))
    assert [latent.shape for latent in latents(server.client, found.run)] == [(1, 4, 8, 8)]
